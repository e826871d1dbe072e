package brokerdisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
)

// ErrFormat means that a file is not in the format that this binary knows.
var ErrFormat = errors.New("unknown format")

// kfakeFormat is the format version of kfake's files that this package was written for.
const kfakeFormat = 1

// frameHeaderSize is the length of the head of an entry in groups.log and pids.log: length, checksum, version.
const frameHeaderSize = 10

// readFrames splits the content of groups.log or pids.log into its entries, and returns where the sound part ends.
func readFrames(name string, raw []byte) (entries [][]byte, sound int, err error) {
	for pos := 0; ; {
		rest := raw[pos:]
		if len(rest) < frameHeaderSize {
			return entries, pos, nil
		}
		length := int64(binary.LittleEndian.Uint32(rest))
		if length < 2 || 8+length > int64(len(rest)) {
			return entries, pos, nil
		}
		if crc32.Checksum(rest[8:8+length], castagnoli) != binary.LittleEndian.Uint32(rest[4:]) {
			return entries, pos, nil
		}
		if v := binary.LittleEndian.Uint16(rest[8:]); v != kfakeFormat {
			return nil, 0, fmt.Errorf("read %s: %w: entry at byte %d has version %d, %d expected; use the binary that wrote it", name, ErrFormat, pos, v, kfakeFormat)
		}
		entries = append(entries, rest[frameHeaderSize:8+length])
		pos += 8 + int(length)
	}
}

func appendFrame(b, data []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, frameHeaderSize)...)
	b = append(b, data...)
	binary.LittleEndian.PutUint32(b[at:], uint32(2+len(data)))
	binary.LittleEndian.PutUint16(b[at+8:], kfakeFormat)
	binary.LittleEndian.PutUint32(b[at+4:], crc32.Checksum(b[at+8:], castagnoli))
	return b
}

// readOptional reads a file that may be missing.
func readOptional(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return raw, nil
}

// replaceFile replaces a file in one step, durably.
func replaceFile(path string, content []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.Write(content)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}

// cutFile shortens a file and makes that durable.
func cutFile(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Sync(), f.Close())
	}
	if err != nil {
		return fmt.Errorf("cut %s to %d bytes: %w", path, size, err)
	}
	return nil
}

// appendFile adds to the end of a file, durably.
func appendFile(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.Write(content)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		return fmt.Errorf("append to %s: %w", path, err)
	}
	return nil
}
