package telemetry

import (
	"context"
	"encoding"
	"fmt"
	"log/slog"
	"regexp"
	"strings"

	"github.com/regent-infra/regent/internal/secret"
)

// secretKeys are parts of attribute keys whose values are never printed.
var secretKeys = []string{"password", "passwd", "secret", "token", "credential", "private_key", "api_key"}

var (
	// urlPassword finds the password in scheme://user:password@host.
	urlPassword = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://[^/\s:@]*):[^@\s/]+@`)
	// keyPassword finds the password in a connection string such as host=a password=b, and in password: b.
	keyPassword = regexp.MustCompile(`(?i)\b(password|passwd|pwd|secret|token)(\s*[=:]\s*)('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,;&]+)`)
)

// masking is a handler that cleans everything before the next one sees it.
type masking struct {
	next   slog.Handler
	masker *secret.Masker
}

func newMasking(next slog.Handler, masker *secret.Masker) *masking {
	return &masking{next: next, masker: masker}
}

var _ slog.Handler = (*masking)(nil)

// Enabled implements slog.Handler.
func (m *masking) Enabled(ctx context.Context, level slog.Level) bool {
	return m.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (m *masking) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time, r.Level, m.text(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(m.attr(a))
		return true
	})
	return m.next.Handle(ctx, clean)
}

// WithAttrs implements slog.Handler.
func (m *masking) WithAttrs(attrs []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = m.attr(a)
	}
	return &masking{next: m.next.WithAttrs(clean), masker: m.masker}
}

// WithGroup implements slog.Handler.
func (m *masking) WithGroup(name string) slog.Handler {
	return &masking{next: m.next.WithGroup(name), masker: m.masker}
}

func (m *masking) attr(a slog.Attr) slog.Attr {
	key := strings.ToLower(a.Key)
	for _, part := range secretKeys {
		if strings.Contains(key, part) {
			return slog.String(a.Key, secret.Mask)
		}
	}
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindString:
		return slog.String(a.Key, m.text(v.String()))
	case slog.KindGroup:
		group := v.Group()
		clean := make([]slog.Attr, len(group))
		for i, inner := range group {
			clean[i] = m.attr(inner)
		}
		return slog.Attr{Key: a.Key, Value: slog.GroupValue(clean...)}
	case slog.KindAny:
		return slog.String(a.Key, m.text(anyText(v.Any())))
	default:
		return slog.Attr{Key: a.Key, Value: v}
	}
}

// anyText turns a value of any type into text: a handler that printed it by reflection could not be cleaned.
func anyText(v any) string {
	switch v := v.(type) {
	case error:
		return v.Error()
	case fmt.Stringer:
		return v.String()
	case encoding.TextMarshaler:
		if b, err := v.MarshalText(); err == nil {
			return string(b)
		}
	case []byte:
		return fmt.Sprintf("%d bytes", len(v))
	}
	return fmt.Sprintf("%+v", v)
}

func (m *masking) text(s string) string { return clean(m.masker, s) }

func clean(masker *secret.Masker, s string) string {
	s = masker.Clean(s)
	if strings.Contains(s, "://") {
		s = urlPassword.ReplaceAllString(s, "${1}:"+secret.Mask+"@")
	}
	return keyPassword.ReplaceAllString(s, "${1}${2}"+secret.Mask)
}

// CleanText masks the passwords of URLs and connection strings in text that is on its way to a person.
func CleanText(s string) string { return clean(nil, s) }
