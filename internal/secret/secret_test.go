package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

const canary = "canary-7f3a9c"

func TestValueNeverPrintsItself(t *testing.T) {
	t.Parallel()
	type holder struct {
		Name     string
		Password Value
		Pointer  *Value
		hidden   Value
	}
	v := New(canary)
	h := holder{Name: "n", Password: v, Pointer: &v, hidden: v}
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("login", "password", v, "holder", h)
	logger.Info("login", slog.Any("values", []Value{v}))
	encoded, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	outputs := []string{log.String(), string(encoded), fmt.Errorf("connect: %w", fmt.Errorf("with %v", v)).Error()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
		outputs = append(outputs, fmt.Sprintf(verb, v), fmt.Sprintf(verb, h), fmt.Sprintf(verb, []Value{v}))
	}
	for _, out := range outputs {
		for _, leak := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary)} {
			if strings.Contains(out, leak) {
				t.Errorf("the secret shows in %q", out)
			}
		}
	}
	if v.Reveal() != canary {
		t.Errorf("Reveal: want the secret back, got %q", v.Reveal())
	}
}

func TestValueDecodes(t *testing.T) {
	t.Parallel()
	var in struct{ Password Value }
	if err := json.Unmarshal([]byte(`{"Password":"`+canary+`"}`), &in); err != nil {
		t.Fatal(err)
	}
	if !in.Password.Equal(New(canary)) || in.Password.Equal(New("other")) || in.Password.IsZero() {
		t.Errorf("decoded a different secret")
	}
	if !New("").IsZero() || New("").String() != "" {
		t.Errorf("the empty secret must be the zero Value")
	}
}

func TestMaskerReplacesTheLongestFirst(t *testing.T) {
	t.Parallel()
	m := NewMasker(New("pass"), New("password-long"), New("abc"), Value{})
	got := m.Clean("a password-long and a pass and abc")
	if want := "a [secret] and a [secret] and abc"; got != want {
		t.Errorf("Clean: want %q, got %q", want, got)
	}
	var zero *Masker
	if zero.Clean("x") != "x" || (&Masker{}).Clean("x") != "x" {
		t.Errorf("a zero Masker must change nothing")
	}
}
