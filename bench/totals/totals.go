// Package totals is the bench fold as a processor of Regent's runtime.
package totals

import (
	"fmt"

	"github.com/regent-infra/regent/bench/workload"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

// table is the name of the state.
const table = "totals"

// Definition returns the processor that folds an input topic into an output topic, which is its changelog too.
func Definition(input, output string) (stream.Definition, error) {
	codec, err := workload.Codec()
	if err != nil {
		return stream.Definition{}, err
	}
	return stream.Definition{
		Name:      "bench",
		Inputs:    []stream.Input{{Topic: input, Looks: table}},
		Changelog: output,
		Tables:    []stream.Table{{Name: table, Source: output}},
		DeadLetter: func(rec *record.Record, reason string, cause error) (record.Record, error) {
			return record.Record{}, fmt.Errorf("record %s/%d@%d of the benchmark cannot be processed: %s: %w", rec.Topic, rec.Partition, rec.Offset, reason, cause)
		},
		NewMachine: func(int32) stream.Machine { return &machine{folder: workload.NewFolder(codec), output: output} },
	}, nil
}

// machine keeps the running totals per key.
type machine struct {
	folder *workload.Folder
	output string
}

// Process implements [stream.Machine].
func (m *machine) Process(task stream.Task, rec *record.Record) error {
	before, err := task.Get(table, rec.Key)
	if err != nil {
		return err
	}
	state, err := m.folder.Fold(before, rec.Value)
	if err != nil {
		return err
	}
	task.Emit(record.Record{Topic: m.output, Partition: stream.OwnPartition, Key: rec.Key, Value: state})
	return nil
}
