package stream

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
)

// Digest tells whether two tables are equal, byte for byte.
type Digest struct {
	// Entries is how many there are.
	Entries int64 `json:"entries"`
	// Sum is the SHA-256, in hexadecimal, over each key and value in key order, each after its length as 4 bytes, big endian.
	Sum string `json:"sum"`
}

// Digester makes a [Digest] of entries that are added in key order.
type Digester struct {
	h hash.Hash
	n int64
}

// NewDigester returns a digester of an empty table.
func NewDigester() *Digester { return &Digester{h: sha256.New()} }

// Add takes the next entry in.
func (d *Digester) Add(key, value []byte) {
	var length [4]byte
	for _, b := range [][]byte{key, value} {
		binary.BigEndian.PutUint32(length[:], uint32(len(b)))
		d.h.Write(length[:])
		d.h.Write(b)
	}
	d.n++
}

// Sum returns the digest of what was added.
func (d *Digester) Sum() Digest {
	return Digest{Entries: d.n, Sum: hex.EncodeToString(d.h.Sum(nil))}
}
