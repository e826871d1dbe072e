package reducer

import (
	"fmt"
	"strconv"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// maxDeadBytes is how much of a dead record's value and key is kept, so that a dead letter itself is never too big.
const maxDeadBytes = 256 << 10

// deadLetter builds the record that tells of an input that cannot be processed.
func deadLetter(config *Config, name string) func(*record.Record, string, error) (record.Record, error) {
	return func(rec *record.Record, reason string, cause error) (record.Record, error) {
		origin := rec.Topic + "/" + strconv.Itoa(int(rec.Partition)) + "/" + strconv.FormatInt(rec.Offset, 10)
		letter := &schemas.DeadLetter{
			Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset, Timestamp: rec.Timestamp,
			Reader: name, Reason: reason, Error: cause.Error(), ValueSize: int64(len(rec.Value)),
			Key: cut(rec.Key), Value: cut(rec.Value),
		}
		letter.Truncated = len(rec.Value) > maxDeadBytes || len(rec.Key) > maxDeadBytes
		if len(letter.Error) > maxDeadBytes {
			letter.Error = letter.Error[:maxDeadBytes]
		}
		e := event.New(schemas.EnvelopeHeader{
			ID: event.DeriveID(rec.Timestamp, name+"/"+origin), Source: name, OccurredAt: rec.Timestamp,
			Sequence: rec.Offset, BootID: config.Instance,
		}, letter)
		value, err := config.Codec.Encode(topics.DeadLetter, e)
		if err != nil {
			return record.Record{}, fmt.Errorf("build the dead letter of %s: %w", origin, err)
		}
		return record.Record{Topic: topics.DeadLetter, Partition: 0, Key: []byte(origin), Value: value, Headers: config.Headers(e, rec)}, nil
	}
}

// cut returns at most maxDeadBytes, or nil for nil.
func cut(b []byte) *[]byte {
	if b == nil {
		return nil
	}
	b = b[:min(len(b), maxDeadBytes)]
	return &b
}

// tick returns what makes time pass on an idle task of a kind's heartbeats.
func tick(config *Config, name, topic string) *stream.Tick {
	return &stream.Tick{
		Topic: topic,
		Every: config.TickEvery,
		Make: func(task int32) (record.Record, error) {
			e := event.New(schemas.EnvelopeHeader{
				ID: event.NewID(), Source: name + "/" + strconv.Itoa(int(task)), BootID: config.Instance,
			}, &schemas.StreamTicked{Task: task, Instance: config.Instance})
			value, err := config.Codec.Encode(topic, e)
			if err != nil {
				return record.Record{}, fmt.Errorf("make a tick for task %d: %w", task, err)
			}
			return record.Record{Topic: topic, Partition: task, Key: []byte("tick/" + strconv.Itoa(int(task))), Value: value}, nil
		},
	}
}
