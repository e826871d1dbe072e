package event

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestTraceFollowsFromTheEvent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		correlation, id := rapid.String().Draw(t, "correlation"), rapid.String().Draw(t, "id")
		trace := Trace(correlation, id)
		if _, err := ParseTraceparent(string(trace)); err != nil {
			t.Fatal(err)
		}
		if trace != Trace(correlation, id) || !trace.Sampled() {
			t.Fatalf("%s is not stable or not sampled", trace)
		}
		other := Trace(correlation, id+"x")
		if other.TraceID() != trace.TraceID() || other.SpanID() == trace.SpanID() {
			t.Fatalf("%s and %s: want one trace and two spans", trace, other)
		}
	})
}

func TestChildKeepsTheTraceOfAStranger(t *testing.T) {
	t.Parallel()
	const parent Traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
	child := parent.Child("c", "e")
	if child.TraceID() != parent.TraceID() || child.SpanID() != Trace("c", "e").SpanID() || child.Sampled() {
		t.Errorf("child is %s", child)
	}
	if got := Traceparent("junk").Child("c", "e"); got != Trace("c", "e") {
		t.Errorf("child of junk is %s", got)
	}
}

func TestParseTraceparent(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01":       "",
		"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later": "",
		"": "expected version-traceid-parentid-flags",
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01":       "lower-case",
		"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01":       "version ff is invalid",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later": "version 00 has four parts",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01":       "an id of zeros is invalid",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01":       "an id of zeros is invalid",
		strings.Repeat("0", 1000):                                       "expected version",
	} {
		_, err := ParseTraceparent(value)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("ParseTraceparent(%.80q) = %v, want %q", value, err, want)
		}
	}
}

// The form as a regular expression, which is easier to read than to run.
var traceparentPattern = regexp.MustCompile(`^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$`)

func TestSplitIsTheRegularExpression(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.StringMatching(`[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[a-z\n]*)?`).Draw(t, "value")
		for range rapid.IntRange(0, 2).Draw(t, "changes") {
			at := rapid.IntRange(0, len(value)).Draw(t, "at")
			value = value[:at] + rapid.SampledFrom([]string{"", "-", "0", "g", "A", "\n", "\xff"}).Draw(t, "with") + value[min(at+rapid.IntRange(0, 1).Draw(t, "over"), len(value)):]
		}
		p, ok := split(value)
		want := traceparentPattern.FindStringSubmatch(value)
		if ok != (want != nil) {
			t.Fatalf("%q: %v, want %v", value, ok, want)
		}
		if ok && (parts{want[1], want[2], want[3], want[4], want[5]}) != p {
			t.Fatalf("%q: %q, want %q", value, p, want)
		}
	})
}
