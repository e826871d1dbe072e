// Package secret holds values that must never be seen: passwords, tokens, keys.
//
// A [Value] masks itself wherever Go prints things by itself: fmt verbs (%v, %+v, %#v, %s, %q, %x), slog, JSON, text
// marshalling and errors that carry it. The bytes come out through [Value.Reveal] alone, so that a search for that name finds every
// place where a secret leaves the type. A [Masker] cleans text that comes from elsewhere (a server's log line, a tool's output).
//
// Invariants: (1) no formatting or marshalling of a Value yields one of its bytes or its length; (2) the zero Value is
// "no secret"; (3) decoding into a Value works (configuration files), encoding out of it yields the mask.
package secret

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"log/slog"
	"sort"
	"strings"
)

// Mask is what is printed in place of a secret.
const Mask = "[secret]"

// minMaskable is the shortest secret that a [Masker] looks for: shorter ones would blot out ordinary words.
const minMaskable = 4

// Value is one secret. It is immutable and comparable by [Value.Equal] only.
type Value struct {
	// A pointer keeps reflection-based printers (which ignore methods on unexported fields) from reaching the bytes.
	text *string
}

var (
	_ fmt.Formatter  = Value{}
	_ fmt.Stringer   = Value{}
	_ fmt.GoStringer = Value{}
	_ slog.LogValuer = Value{}
	_ json.Marshaler = Value{}
)

// New wraps text. New("") is the zero Value: no secret.
func New(text string) Value {
	if text == "" {
		return Value{}
	}
	return Value{text: &text}
}

// Reveal returns the secret itself. Hand it to the system that needs it and to nothing else.
func (v Value) Reveal() string {
	if v.text == nil {
		return ""
	}
	return *v.text
}

// IsZero says whether there is no secret.
func (v Value) IsZero() bool { return v.text == nil }

// Equal compares two secrets in constant time.
func (v Value) Equal(w Value) bool {
	return subtle.ConstantTimeCompare([]byte(v.Reveal()), []byte(w.Reveal())) == 1
}

// String implements fmt.Stringer with the mask.
func (v Value) String() string {
	if v.text == nil {
		return ""
	}
	return Mask
}

// GoString implements fmt.GoStringer with the mask.
func (v Value) GoString() string { return "secret.Value{" + v.String() + "}" }

// Format implements fmt.Formatter, so that no verb (%x, %d, %#v) reaches the bytes.
func (v Value) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(v.String())) }

// LogValue implements slog.LogValuer with the mask.
func (v Value) LogValue() slog.Value { return slog.StringValue(v.String()) }

// MarshalText implements encoding.TextMarshaler with the mask.
func (v Value) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// MarshalJSON implements json.Marshaler with the mask.
func (v Value) MarshalJSON() ([]byte, error) { return json.Marshal(v.String()) }

// UnmarshalText implements encoding.TextUnmarshaler: configuration may carry a secret in.
func (v *Value) UnmarshalText(text []byte) error {
	*v = New(string(text))
	return nil
}

// Masker replaces known secrets in text. The zero Masker replaces nothing. It is immutable and safe for concurrent use.
type Masker struct {
	replacer *strings.Replacer
}

// NewMasker returns a Masker for values. Empty ones and those shorter than four bytes are not looked for.
func NewMasker(values ...Value) *Masker {
	texts := make([]string, 0, len(values))
	for _, v := range values {
		if len(v.Reveal()) >= minMaskable {
			texts = append(texts, v.Reveal())
		}
	}
	// The longest first, so that a secret which contains another one is replaced whole.
	sort.Slice(texts, func(i, j int) bool { return len(texts[i]) > len(texts[j]) })
	pairs := make([]string, 0, 2*len(texts))
	for _, t := range texts {
		pairs = append(pairs, t, Mask)
	}
	return &Masker{replacer: strings.NewReplacer(pairs...)}
}

// Clean returns text with every known secret replaced by [Mask].
func (m *Masker) Clean(text string) string {
	if m == nil || m.replacer == nil {
		return text
	}
	return m.replacer.Replace(text)
}
