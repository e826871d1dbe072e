package workload

import (
	"fmt"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

// source is who says the states.
const source = "reducer.bench/0"

// Folder folds one input after the other. It must not be used by two goroutines at a time.
type Folder struct {
	codec          *avrocodec.Codec
	inputs, states event.Decoder // two, because an input and a state are looked at together
}

// NewFolder returns a folder that reads and writes with a codec.
func NewFolder(codec *avrocodec.Codec) *Folder {
	return &Folder{codec: codec, inputs: codec.NewDecoder(), states: codec.NewDecoder()}
}

// Fold returns the state that follows from an input and the state before it, which is nil for a new resource. The Java contender
// has the same fold, and gives the same bytes.
func (f *Folder) Fold(before, input []byte) ([]byte, error) {
	in, err := f.inputs.Decode(Input, input)
	if err != nil {
		return nil, fmt.Errorf("decode an input: %w", err)
	}
	totals := in.Payload.(*schemas.QueryMetrics) // the event is ours, so that it may be added to in place
	sequence := int64(1)
	if before != nil {
		state, err := f.states.Decode(State, before)
		if err != nil {
			return nil, fmt.Errorf("decode a state: %w", err)
		}
		add(totals, state.Payload.(*schemas.QueryMetrics))
		sequence = state.Sequence + 1
	}
	return f.codec.Encode(State, event.New(schemas.EnvelopeHeader{
		ID: in.ID, Source: source, Cluster: in.Cluster, Resource: in.Resource, OccurredAt: in.OccurredAt,
		CorrelationID: in.CorrelationID, CausationID: in.CausationID, Sequence: sequence, BootID: "",
	}, totals))
}

func add(to, more *schemas.QueryMetrics) {
	to.Commits += more.Commits
	to.Rollbacks += more.Rollbacks
	to.BlocksHit += more.BlocksHit
	to.BlocksRead += more.BlocksRead
	to.RowsReturned += more.RowsReturned
	to.RowsInserted += more.RowsInserted
	to.RowsUpdated += more.RowsUpdated
	to.RowsDeleted += more.RowsDeleted
	to.Deadlocks += more.Deadlocks
	to.TempBytes += more.TempBytes
	to.WalBytes += more.WalBytes
	to.ChecksumFailures += more.ChecksumFailures
}
