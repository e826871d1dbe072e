// Package workload is what every contender of the benchmark is given and held against: the records, the fold, and the
// reference that the outputs must agree with.
//
// An input is an observation of one resource: an event of the topic [Input] with the counters of [schemas.QueryMetrics], written
// by Regent's own codec, about 295 bytes. The fold keeps the running totals per resource: it decodes the input, decodes the
// resource's state, adds, raises the sequence by one, encodes, and says the new state, about 232 bytes, for every input.
//
// The whole stream follows from a [Spec]: the same seed gives the same records, so that the reference needs no reading of what was
// loaded. The sequence of a state counts the inputs of its key, which makes gaps and doubles visible in the output alone.
package workload

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// Names of the topics for the codec. A contender's own output topic has another name, but the same schema.
const (
	Input = "infra.observations.bench.v1"
	State = "infra.state.bench.v1"
)

// SchemaID is the registry id of both topics' schema: they carry the same payload.
const SchemaID = 1

const declaration = `
version: 1
replication_factor: 1
kinds:
  bench: {partitions: 4}
topics:
  - {name: ` + Input + `, kind: bench, description: Counters of a resource., owner: agent, key: resource,
     payloads: [QueryMetrics], compatibility: BACKWARD_TRANSITIVE, cleanup: delete}
  - {name: ` + State + `, kind: bench, description: Totals of a resource., owner: reducer, key: resource,
     payloads: [QueryMetrics], compatibility: BACKWARD_TRANSITIVE, cleanup: compact}
`

// Codec returns the codec of both topics, over a registry in memory.
func Codec() (*avrocodec.Codec, error) {
	set, err := topics.Parse("the benchmark's topics", []byte(declaration))
	if err != nil {
		return nil, err
	}
	return avrocodec.Standalone(set), nil
}

// Spec describes a stream of inputs.
type Spec struct {
	// Seed chooses everything that is random.
	Seed uint64
	// Records is how many there are, Keys how many resources they are about, Partitions how many partitions those live in.
	Records, Keys int
	Partitions    int32
}

// Stream makes the inputs of a spec one after the other.
type Stream struct {
	spec  Spec
	codec *avrocodec.Codec
	rng   *rand.ChaCha8
	made  int
}

// NewStream returns a stream at its beginning.
func NewStream(spec Spec) (*Stream, error) {
	codec, err := Codec()
	if err != nil {
		return nil, err
	}
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], spec.Seed)
	return &Stream{spec: spec, codec: codec, rng: rand.NewChaCha8(seed)}, nil
}

// Observation is one input.
type Observation struct {
	Key       string
	Partition int32
	Number    int // of the key
	Counters  schemas.QueryMetrics
}

// Key returns the record key of a resource.
func Key(number int) string { return fmt.Sprintf("bench/cluster-%07d/node/n1", number) }

// draw makes the next observation's decisions. Every resource comes once before any is repeated at random, so that all of them
// exist.
func (s *Stream) draw() Observation {
	r := s.rng.Uint64()
	n := s.made
	if n >= s.spec.Keys {
		n = int(r % uint64(s.spec.Keys)) //nolint:gosec // below an int
	}
	s.made++
	small := func(shift uint) int64 { return int64(r >> shift & 0xff) } //nolint:gosec // eight bits
	return Observation{
		Number: n,
		Counters: schemas.QueryMetrics{
			Commits: small(0), Rollbacks: small(4) & 3, BlocksHit: small(8) * 16, BlocksRead: small(12), RowsReturned: small(16) * 8,
			RowsInserted: small(20), RowsUpdated: small(24), RowsDeleted: small(28) & 7, Deadlocks: small(32) & 1, TempBytes: small(36) * 1024,
			WalBytes: small(40) * 512, ChecksumFailures: 0,
		},
	}
}

// Next appends the next input's value to dst. at is when it is said to have happened, which the fold carries over to the state: the
// generator of the latency runs puts the moment there at which the record should have been sent.
func (s *Stream) Next(dst []byte, at time.Time) (Observation, []byte, error) {
	o := s.draw()
	o.Key = Key(o.Number)
	o.Partition = event.Partition(event.ClusterID(o.Key), s.spec.Partitions)
	e := event.New(schemas.EnvelopeHeader{
		ID: s.id(), Source: "agent/bench/orders-eu-west-1/n1.example.net", Cluster: o.Key[:len("bench/cluster-0000000")], Resource: o.Key, OccurredAt: at,
		CorrelationID: s.id(), CausationID: s.id(), Sequence: int64(s.made), BootID: bootID,
	}, &o.Counters)
	value, err := s.codec.AppendEncode(dst, Input, e)
	return o, value, err
}

// idsPerInput is how many ids [Stream.Next] draws.
const idsPerInput = 3

const bootID = "01890a5d-ac96-774b-bcce-b302099a8057"

// id returns a random id in the form of a UUID.
func (s *Stream) id() string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], s.rng.Uint64())
	binary.BigEndian.PutUint64(raw[8:], s.rng.Uint64())
	raw[6], raw[8] = raw[6]&0x0f|0x70, raw[8]&0x3f|0x80
	var text [36]byte
	hex.Encode(text[:8], raw[:4])
	hex.Encode(text[9:13], raw[4:6])
	hex.Encode(text[14:18], raw[6:8])
	hex.Encode(text[19:23], raw[8:10])
	hex.Encode(text[24:], raw[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
