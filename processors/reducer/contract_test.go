package reducer

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/regent-infra/regent/internal/contract"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// TestContractsHold: the contracts agree with topics.yaml, schemas/ and the definitions, and every departure from that is named.
func TestContractsHold(t *testing.T) {
	t.Parallel()
	def, err := Postgres(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	fleet, err := Fleet(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		def          *stream.Definition
		raw          []byte
		old, changed string
		want         string
	}{
		"name":       {&def, postgresContract, "name: reducer.postgres", "name: reducer.other", "and the code of reducer.postgres"},
		"unknown":    {&def, postgresContract, "version: 1.0.0", "version: 1.0.0\nowner: me", "owner"},
		"consumed":   {&fleet, fleetContract, "- topic: infra.state.postgres.v1", "- topic: infra.observations.postgres.v1", "the code consumes infra.state.postgres.v1, and contract x.yaml does not say so"},
		"produced":   {&fleet, fleetContract, "- topic: infra.deadletter.v1", "- topic: infra.leases.postgres.v1", "contract x.yaml produces infra.leases.postgres.v1, and the code does not"},
		"no topic":   {&def, postgresContract, "- topic: infra.deadletter.v1", "- topic: infra.nowhere.v1", "infra.nowhere.v1 is not declared"},
		"no payload": {&def, postgresContract, "[NodeHeartbeat, StreamTicked]", "[NodeHeartbeat]", "also carries StreamTicked"},
	} {
		changed := bytes.Replace(c.raw, []byte(c.old), []byte(c.changed), 1)
		if bytes.Equal(changed, c.raw) {
			t.Fatalf("%s: %q does not occur", what, c.old)
		}
		if err := conform(c.def, "x.yaml", changed); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v does not say %q", what, err, c.want)
		}
	}
}

// TestEveryConsumedRecordIsHandled: what the contract says is acted upon is, and other payloads are poison.
func TestEveryConsumedRecordIsHandled(t *testing.T) {
	t.Parallel()
	c, err := contract.Parse("contract.yaml", postgresContract)
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range c.Consumes {
		for _, name := range schemaNames() {
			broken := &brokenCodec{Codec: codec, swap: schemas.NewRecord(name)}
			if o, ok := broken.swap.(*schemas.PostgresNodeObserved); ok {
				*o = *runningPrimary("pg-1")
			}
			config := testConfig()
			config.Codec = broken
			task := newPostgresTask(t, config)
			rec := observation(t, node1, 1, epoch, 1, runningPrimary("pg-1"))
			if in.Topic == heartbeatsTopic {
				rec = heartbeat(t, node1, epoch, 1, 1, 1)
			}
			_, err := task.process(&record.Record{Topic: in.Topic, Key: rec.Key, Value: rec.Value, Timestamp: epoch})
			if handled := poisonReason(err) != reasonMalformed; handled != slices.Contains(in.Records, name) {
				t.Errorf("%s of %s: handled %v (%v)", name, in.Topic, handled, err)
			}
		}
	}
}

// schemaNames returns the records that any topic carries.
func schemaNames() []string {
	var names []string
	for _, topic := range topics.Default().All() {
		names = append(names, topic.Payloads...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// TestFoldVersionIsDeclared: a redo log of another fold is recognised by it.
func TestFoldVersionIsDeclared(t *testing.T) {
	t.Parallel()
	def, _ := Postgres(testConfig())
	if def.FoldVersion < 1 || def.Changelog != topics.State(event.KindPostgres) {
		t.Errorf("%+v", def)
	}
}
