package checkpoint

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/regent-infra/regent/internal/replay"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore"
)

// Base returns what the checkpoint holds of one partition of a processor's changelog table, for [replay.Replayer.At]; false if it does not hold it.
func (c *Checkpoint) Base(name, processor, table string, task int32) (replay.Base, bool) {
	t, ok := c.Task(processor, task)
	if !ok {
		return replay.Base{}, false
	}
	b := replay.Base{Name: name, At: c.CreatedAt, Out: t.Out}
	if id, err := hex.DecodeString(t.ChangelogID); err != nil || copy(b.Topic[:], id) != len(b.Topic) {
		return replay.Base{}, false
	}
	prefix := statestore.PartitionPrefix(stream.StoreName(processor, table), task)
	b.Entries = func(yield func(key, value []byte) error) error { return c.entries(prefix, yield) }
	return b, true
}

// entries yields the entries of the store under a prefix, without it.
func (c *Checkpoint) entries(prefix []byte, yield func(key, value []byte) error) (err error) {
	s, err := c.OpenStore()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	it, err := s.Scan(prefix, statestore.PrefixEnd(prefix))
	if err != nil {
		return fmt.Errorf("read the state in the checkpoint %s: %w", c.dir, err)
	}
	defer func() { err = errors.Join(err, it.Err(), it.Close()) }()
	for it.Next() {
		if err := yield(it.Key()[len(prefix):], it.Value()); err != nil {
			return err
		}
	}
	return nil
}
