package envelope

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestSchemaStandsOnItsOwnAndIsStable(t *testing.T) {
	t.Parallel()
	payloads := []string{"StopPostgres", "StartPostgres"}
	first, err := Schema(payloads)
	if err != nil {
		t.Fatal(err)
	}
	if second, _ := Schema(payloads); first != second {
		t.Error("the same payloads gave other bytes")
	}
	var v any
	if err := json.Unmarshal([]byte(first), &v); err != nil {
		t.Fatalf("not JSON: %v", err)
	}
	if n := strings.Count(first, `"name":"OrderMeta"`); n != 1 {
		t.Errorf("OrderMeta is defined %d times, want once", n)
	}
	if !strings.Contains(first, `"type":"io.regent.v1.OrderMeta"`) {
		t.Error("the second use of OrderMeta does not refer to it by full name")
	}
	if !strings.HasSuffix(first, `"doc":"What happened, is wanted or came of it."}]}`) {
		t.Error("payload is not the last field")
	}
}

func TestSchemaRefusesWhatIsNoPayload(t *testing.T) {
	t.Parallel()
	for want, payloads := range map[string][]string{
		"there are no payloads":                             nil,
		`payload "Nonsense" is no record in schemas/`:       {"Nonsense"},
		`payload "BreakerState" is no record in schemas/`:   {"BreakerState"},
		"payload NodeHeartbeat is listed twice":             {"NodeHeartbeat", "NodeHeartbeat"},
		`payload "EnvelopeHeader2" is no record in schemas`: {"NodeHeartbeat", "EnvelopeHeader2"},
	} {
		if _, err := Schema(payloads); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Schema(%v) = %v, want %q in it", payloads, err, want)
		}
	}
}

func TestRecordKeepsEveryDoc(t *testing.T) {
	t.Parallel()
	for _, name := range Names() {
		text, err := Record(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(text, `"doc":""`) {
			t.Errorf("%s has a field or type without doc", name)
		}
	}
	if _, err := Record("Nonsense"); err == nil {
		t.Error("Record accepted a name that is none")
	}
}
