package statestore

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// FormatVersion is the version of the layout of keys and of the records that the runtime keeps in a store. A store with
// another one is refused, because reading it wrongly would look like lost state.
const FormatVersion uint16 = 1

// Meta is the store's record about itself.
type Meta struct {
	// Format is the [FormatVersion] it was written with.
	Format uint16
	// ClusterID is the Kafka cluster whose topics the state was made from.
	ClusterID string
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC-32C that closes each binary record in a store.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// Encode returns the record's bytes, see docs/formats-store.md.
func (m Meta) Encode() []byte {
	b := binary.BigEndian.AppendUint16(nil, m.Format)
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.ClusterID)))
	b = append(b, m.ClusterID...)
	return binary.BigEndian.AppendUint32(b, Checksum(b))
}

// DecodeMeta reads what Encode wrote. An unknown format is an error that wraps [ErrVersion].
func DecodeMeta(b []byte) (Meta, error) {
	if len(b) < 2 {
		return Meta{}, fmt.Errorf("decode the store's meta record: expected at least 2 bytes, got %d", len(b))
	}
	format := binary.BigEndian.Uint16(b)
	if format != FormatVersion {
		return Meta{}, fmt.Errorf("%w: it has version %d, this program reads version %d", ErrVersion, format, FormatVersion)
	}
	if len(b) < 8 {
		return Meta{}, fmt.Errorf("decode the store's meta record: expected at least 8 bytes, got %d", len(b))
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if len(b) != 4+n+4 {
		return Meta{}, fmt.Errorf("decode the store's meta record: expected %d bytes, got %d", 4+n+4, len(b))
	}
	if got, want := Checksum(b[:4+n]), binary.BigEndian.Uint32(b[4+n:]); got != want {
		return Meta{}, fmt.Errorf("decode the store's meta record: checksum %08x does not match %08x", got, want)
	}
	return Meta{Format: format, ClusterID: string(b[4 : 4+n])}, nil
}

// ReadMeta returns the store's meta record, and false if there is none (the store is new).
func ReadMeta(s Store) (Meta, bool, error) {
	b, ok, err := s.Get(MetaKey())
	if err != nil {
		return Meta{}, false, fmt.Errorf("read the store's meta record: %w", err)
	}
	if !ok {
		return Meta{}, false, nil
	}
	m, err := DecodeMeta(b)
	if err != nil {
		return Meta{}, false, err
	}
	return m, true, nil
}

// Bind ties the store to a Kafka cluster: a new store is marked with its id, any other must carry the same one, else the error
// wraps [ErrCluster]. Positions of one cluster mean nothing in another.
func Bind(s Store, clusterID string) error {
	m, ok, err := ReadMeta(s)
	if err != nil {
		return err
	}
	if ok {
		if m.ClusterID != clusterID {
			return fmt.Errorf("%w: its positions are of cluster %q, the brokers belong to cluster %q; "+
				"point the process at the right brokers, or give it another data directory", ErrCluster, m.ClusterID, clusterID)
		}
		return nil
	}
	var b Batch
	b.Put(MetaKey(), Meta{Format: FormatVersion, ClusterID: clusterID}.Encode())
	if err := s.Apply(&b); err != nil {
		return fmt.Errorf("mark the store with cluster %q: %w", clusterID, err)
	}
	return nil
}
