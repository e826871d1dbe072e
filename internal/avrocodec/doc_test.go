package avrocodec

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// The example in docs/formats-wire.md is what the codec writes.
func TestTheDocumentedExampleIsTrue(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/formats-wire.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```hex\n")
	block, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("docs/formats-wire.md has no example")
	}
	var text strings.Builder
	for line := range strings.Lines(block) {
		digits, _, _ := strings.Cut(line, "   ") // the explanation follows after a gap
		text.WriteString(strings.ReplaceAll(strings.TrimSpace(digits), " ", ""))
	}
	documented, err := hex.DecodeString(text.String())
	if err != nil {
		t.Fatal(err)
	}
	codec := Standalone(topics.Default())
	written, err := codec.Encode(heartbeats, event.New(schemas.EnvelopeHeader{
		ID: "018bcfe5-6800-7abc-8def-0123456789ab", Source: "reducer.postgres/2", Cluster: "postgres/orders", Resource: "postgres/orders",
		OccurredAt: time.UnixMicro(1_700_000_000_000_000), CorrelationID: "c", Sequence: 64, BootID: "b",
	}, &schemas.StreamTicked{Task: 2, Instance: "i1"}))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(written, documented) {
		t.Errorf("the document says\n% x\nthe codec writes\n% x", documented, written)
	}
}
