package memstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// checkpointFile holds the entries of a checkpoint: key and value in turn, each after its length as a uvarint.
const checkpointFile = "entries"

var errShort = errors.New("file ends inside of an entry")

func appendChunk(dst, chunk []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(chunk))), chunk...)
}

func takeChunk(b []byte) (chunk, rest []byte, err error) {
	n, w := binary.Uvarint(b)
	if w <= 0 || uint64(len(b)-w) < n {
		return nil, nil, errShort
	}
	return b[w : w+int(n)], b[w+int(n):], nil
}

// Restore returns a store with what a checkpoint in dir holds.
func Restore(dir string) (*Store, error) {
	b, err := os.ReadFile(filepath.Join(dir, checkpointFile)) //nolint:gosec // the caller names its own checkpoint
	if err != nil {
		return nil, fmt.Errorf("restore the checkpoint in %s: %w", dir, err)
	}
	s := New()
	for len(b) > 0 {
		var k, v []byte
		if k, b, err = takeChunk(b); err == nil {
			v, b, err = takeChunk(b)
		}
		if err != nil {
			return nil, fmt.Errorf("restore the checkpoint in %s: %w", dir, err)
		}
		s.put(k, v)
	}
	return s, nil
}
