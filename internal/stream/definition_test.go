package stream_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/stream"
)

func TestNewReportsAllFaultsTogether(t *testing.T) {
	def := definition()
	def.Name, def.NewMachine, def.DeadLetter, def.FoldVersion = "", nil, nil, -1
	def.Inputs = []stream.Input{{Topic: "a"}, {Topic: "a", Table: "nowhere"}, {}}
	def.Outputs = []string{"", stateTopic, "x", "x"}
	def.Tables = []stream.Table{{Name: "t", Source: ""}, {Name: "t", Source: stateTopic}, {Name: "u", Source: stateTopic}, {Name: "", Source: "z"}}
	def.Tick = &stream.Tick{Topic: "q"}
	_, err := stream.New(def, stream.Options{CommitRecords: -1, RetryMin: 2 * time.Second, RetryMax: time.Second, FlushInterval: -1, CommitMinAge: time.Minute})
	for _, want := range []string{
		"Name is empty", "FoldVersion is -1", "NewMachine is nil", "DeadLetter is nil", `input "a" is named twice`, "an input has no topic",
		`output ""`, `output "test.state"`, `output "x" is named twice`, `table "t" has no redo source`, `table "t" is named twice`,
		"share the redo source", `table ""`, `names the table "nowhere"`, "Tick.Topic", "Tick.Every", "Tick.Make",
		"Log is nil", "Store is nil", "CommitRecords is -1", "RetryMin 2s is above", "FlushInterval is -1", "CommitMinAge 1m0s is above",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	def = definition()
	def.Inputs = append(def.Inputs, stream.Input{Topic: stateTopic})
	if _, err := stream.New(def, stream.Options{}); err == nil || !strings.Contains(err.Error(), "cannot read its own redo log") {
		t.Errorf("a changelog as input: %v", err)
	}
	def = definition()
	def.Inputs = nil
	if _, err := stream.New(def, stream.Options{}); err == nil || !strings.Contains(err.Error(), "Inputs is empty") {
		t.Errorf("no inputs: %v", err)
	}
}

func TestTopicsAreChecked(t *testing.T) {
	def := definition()
	def.Inputs[0].Table = "copy"
	def.Tables = append(def.Tables, stream.Table{Name: "copy", Source: factsTopic})
	info := map[string]stream.TopicInfo{
		factsTopic: {Partitions: 2}, stateTopic: {Partitions: 3, Compacted: true}, sideTopic: {Partitions: 1}, deadTopic: {Partitions: 1},
	}
	if err := def.ValidateTopics(info); err == nil || !strings.Contains(err.Error(), `"test.facts" is not compacted`) {
		t.Errorf("a table on a topic that expires: %v", err)
	}
	info[factsTopic] = stream.TopicInfo{Partitions: 2, Compacted: true}
	if err := def.ValidateTopics(info); err == nil || !strings.Contains(err.Error(), `changelog "test.state" has 3 partitions`) {
		t.Errorf("a changelog of another size: %v", err)
	}
	def.SingleTask = true
	if err := def.ValidateTopics(info); err == nil || !strings.Contains(err.Error(), "of a single task has 3 partitions") {
		t.Errorf("a single task's changelog: %v", err)
	}
}

func TestWordsForPeople(t *testing.T) {
	for o, want := range map[stream.Outcome]string{
		stream.TransactionCommitted: "committed", stream.TransactionAborted: "aborted", stream.TransactionUnknown: "unknown", 0: "invalid",
	} {
		if o.String() != want {
			t.Errorf("outcome %d is %q", o, o)
		}
	}
	cause := errors.New("cause")
	for _, err := range []error{&stream.FatalError{Err: cause}, &stream.Poison{Reason: "r", Err: cause}} {
		if !errors.Is(err, cause) || !strings.Contains(err.Error(), "cause") {
			t.Errorf("%v does not name its cause", err)
		}
	}
	if !stream.Fatal(&stream.FatalError{Err: cause}) || stream.Fatal(cause) {
		t.Error("what is fatal is not")
	}
	if (stream.RebuildProgress{}).Rate() != 0 || (stream.RebuildProgress{Records: 10, Elapsed: time.Second}).Rate() != 10 {
		t.Error("rates are wrong")
	}
}
