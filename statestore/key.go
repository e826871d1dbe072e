package statestore

import (
	"encoding/binary"
	"fmt"
)

// The first byte of every key. docs/formats-store.md documents the layout byte by byte; a change of it needs a new
// [FormatVersion].
const (
	kindMeta     byte = 0x01
	kindPosition byte = 0x02
	kindData     byte = 0x03
	kindShadow   byte = 0x04
)

// maxName bounds the names inside keys, because their length is one byte.
const maxName = 255

// MetaKey is the key of the store's own record, see [Meta].
func MetaKey() []byte { return []byte{kindMeta} }

// CheckName returns an error unless name can stand in a key: 1 to 255 bytes.
func CheckName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("name %q for a store key: expected 1 to %d bytes, got %d", name, maxName, len(name))
	}
	return nil
}

// PositionKey is the key of the position record of one task of the named processor.
func PositionKey(processor string, task int32) []byte {
	return appendScope(nil, kindPosition, processor, task)
}

// PartitionPrefix is what all keys of one partition of a table start with; the record's key follows.
func PartitionPrefix(table string, partition int32) []byte {
	return appendScope(nil, kindData, table, partition)
}

// ShadowPrefix is what all keys start with under which one partition of a table is rebuilt beside, before it is swapped in.
func ShadowPrefix(table string, partition int32) []byte {
	return appendScope(nil, kindShadow, table, partition)
}

// Key is the key of one entry of a table.
func Key(table string, partition int32, key []byte) []byte {
	return append(PartitionPrefix(table, partition), key...)
}

// PrefixEnd returns the smallest key that is greater than every key with the given prefix; nil if there is none.
func PrefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] != 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}

func appendScope(dst []byte, kind byte, name string, number int32) []byte {
	dst = append(dst, kind, byte(len(name)))
	dst = append(dst, name...)
	return binary.BigEndian.AppendUint32(dst, uint32(number))
}

// ParseKey takes a key of a table apart. It returns an error for every other key.
func ParseKey(k []byte) (table string, partition int32, key []byte, err error) {
	if len(k) < 2 || k[0] != kindData {
		return "", 0, nil, fmt.Errorf("parse store key %x: expected kind %#x and a name", k, kindData)
	}
	n := int(k[1])
	if n == 0 || len(k) < 2+n+4 {
		return "", 0, nil, fmt.Errorf("parse store key %x: expected a name of %d bytes and a partition", k, n)
	}
	table = string(k[2 : 2+n])
	partition = int32(binary.BigEndian.Uint32(k[2+n:]))
	return table, partition, k[2+n+4:], nil
}

// PositionsPrefix is what the keys of all position records start with.
func PositionsPrefix() []byte { return []byte{kindPosition} }

// ParsePositionKey takes the key of a position record apart. It returns an error for every other key.
func ParsePositionKey(k []byte) (processor string, task int32, err error) {
	if len(k) < 2 || k[0] != kindPosition {
		return "", 0, fmt.Errorf("parse store key %x: expected kind %#x and a name", k, kindPosition)
	}
	n := int(k[1])
	if n == 0 || len(k) != 2+n+4 {
		return "", 0, fmt.Errorf("parse store key %x: expected a name of %d bytes and a task", k, n)
	}
	return string(k[2 : 2+n]), int32(binary.BigEndian.Uint32(k[2+n:])), nil
}
