package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/invariant"
)

// check says whether a decoded value is accepted by the setting's check tag. Empty text and an empty list pass: what must not be empty
// depends on the subcommand.
func (s Setting) check(value any) error {
	kind, argument, _ := strings.Cut(s.Check, "=")
	switch kind {
	case "":
		return nil
	case "enum":
		return oneOf(value.(string), strings.Split(argument, "|"))
	case "enums":
		for _, item := range value.([]string) {
			if err := oneOf(item, strings.Split(argument, "|")); err != nil {
				return err
			}
		}
		return nil
	case "url":
		return checkURL(value.(string))
	case "hostport":
		return checkHostPort(value.(string))
	case "hostports":
		for _, item := range value.([]string) {
			if err := checkHostPort(item); err != nil {
				return err
			}
		}
		return nil
	case "range":
		return checkRange(value, argument)
	default:
		invariant.Assert(false, "the check %q of %s is known", s.Check, s.Key)
		return nil
	}
}

func oneOf(value string, allowed []string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%q, expected one of %s%s", value, strings.Join(allowed, ", "), didYouMean(value, allowed))
}

func checkURL(value string) error {
	if value == "" {
		return nil
	}
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		// The text may carry a password, and a text that does not parse cannot be masked for sure.
		return fmt.Errorf("not a URL, expected http://host:port or https://host:port")
	}
	return nil
}

func checkHostPort(value string) error {
	if value == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(value)
	n, convErr := strconv.Atoi(port)
	if err != nil || convErr != nil || n < 0 || n > 65535 || strings.ContainsAny(host, "/@ ") {
		return fmt.Errorf("%q, expected host:port such as 127.0.0.1:9092", value)
	}
	return nil
}

func checkRange(value any, bounds string) error {
	low, high, _ := strings.Cut(bounds, "..")
	var ok bool
	switch v := value.(type) {
	case time.Duration:
		ok = v >= mustDuration(low) && v <= mustDuration(high)
	case Size:
		ok = int64(v) >= mustInt(low) && int64(v) <= mustInt(high)
		low, high = Size(mustInt(low)).String(), Size(mustInt(high)).String()
	case int64:
		ok = v >= mustInt(low) && v <= mustInt(high)
	}
	if !ok {
		return fmt.Errorf("%s, expected %s to %s", Format(value), low, high)
	}
	return nil
}

func mustDuration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	invariant.Assert(err == nil, "the bound %q of a check tag is a duration", text)
	return d
}

func mustInt(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	invariant.Assert(err == nil, "the bound %q of a check tag is a number", text)
	return n
}

// didYouMean returns a hint if one of the candidates is nearly value, or "".
func didYouMean(value string, candidates []string) string {
	best, distance := "", 0
	for _, c := range candidates {
		d := editDistance(value, c)
		if d <= max(1, len(c)/3) && (best == "" || d < distance) {
			best, distance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// editDistance counts the insertions, deletions, replacements and swaps of neighbours that turn a into b.
func editDistance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		now := make([]int, len(b)+1)
		now[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			now[j] = min(last[j]+1, now[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				now[j] = min(now[j], before[j-2]+1)
			}
		}
		before, last = last, now
	}
	return last[len(b)]
}
