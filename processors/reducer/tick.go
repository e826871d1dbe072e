package reducer

import (
	"fmt"
	"strconv"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/schemas"
)

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
