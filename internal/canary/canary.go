// Package canary proves that secrets do not leak. A test gives the system secrets that are canaries, lets it work, and then looks for them wherever bytes
// come to rest: topics, data directories, logs, traces, the output of commands.
//
//	cage := canary.New()
//	password := cage.Secret("superuser password")        // hand it to the system
//	…
//	findings, err := cage.ScanTopics(ctx, admin)          // keys, values and headers of all records
//	more, err := cage.ScanDir(dataDir)                    // every file below
//	cage.Scan("agent's log", output)                      // anything else
//
// A canary is found as it is, in hexadecimal, in base64 at any alignment, percent-encoded or escaped as JSON: what programs do to bytes without
// meaning to hide them. What is compressed or encrypted is not looked into, so write canaries where compression is off: the broker's log is by default, a
// store of sorted tables is not.
//
// It is a package for tests; nothing that ships imports it.
package canary

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
)

// Cage keeps the canaries of one test. It is safe for concurrent use.
type Cage struct {
	mu       sync.Mutex
	canaries []canary
}

type canary struct {
	name string
	// shapes are the byte strings that give it away.
	shapes [][]byte
}

// Finding is a place where a canary was found.
type Finding struct {
	// Secret is the canary's name.
	Secret string
	// Where says which topic, file or text holds it.
	Where string
	// Offset is the position in those bytes.
	Offset int
}

// String implements fmt.Stringer.
func (f Finding) String() string {
	return fmt.Sprintf("%s was found in %s at byte %d", f.Secret, f.Where, f.Offset)
}

// New returns an empty cage.
func New() *Cage { return &Cage{} }

// Secret makes a canary and returns its value, which contains characters that encodings change. The name is for findings.
func (c *Cage) Secret(name string) string {
	var raw [12]byte
	_, _ = rand.Read(raw[:]) // never fails (crypto/rand)
	value := "canary/" + base64.RawStdEncoding.EncodeToString(raw[:]) + `"<&`
	c.Add(name, value)
	return value
}

// Add watches for a value that the test has made up itself. Values shorter than eight bytes would be found by chance, so they panic.
func (c *Cage) Add(name, value string) {
	if len(value) < 8 {
		panic(fmt.Sprintf("canary %s has %d bytes, expected at least 8", name, len(value)))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.canaries = append(c.canaries, canary{name: name, shapes: shapes(value)})
}

// shapes lists what common encodings make of a value, each once.
func shapes(value string) [][]byte {
	escaped, err := json.Marshal(value)
	if err != nil {
		escaped = []byte(`""`)
	}
	texts := []string{
		value, hex.EncodeToString([]byte(value)), strings.ToUpper(hex.EncodeToString([]byte(value))),
		url.QueryEscape(value), url.PathEscape(value), string(escaped[1 : len(escaped)-1]),
		strings.ReplaceAll(value, `"`, `\"`),
	}
	// Base64 of a text that contains the value depends on where in a group of three bytes it begins; the first and last characters
	// also depend on the neighbours, so they are left out.
	for shift := range 3 {
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			padded := encoding.EncodeToString(append(make([]byte, shift), value...))
			texts = append(texts, padded[(shift*8+5)/6:len(padded)-2])
		}
	}
	slices.Sort(texts)
	var out [][]byte
	for _, text := range slices.Compact(texts) {
		if len(text) >= 8 {
			out = append(out, []byte(text))
		}
	}
	return out
}

// Scan looks for canaries in some bytes and returns the first place of each.
func (c *Cage) Scan(where string, data []byte) []Finding {
	c.mu.Lock()
	defer c.mu.Unlock()
	var findings []Finding
	for _, bird := range c.canaries {
		for _, shape := range bird.shapes {
			if at := bytes.Index(data, shape); at >= 0 {
				findings = append(findings, Finding{Secret: bird.name, Where: where, Offset: at})
				break
			}
		}
	}
	return findings
}

// ScanDir looks into every regular file below a directory. Files that disappear meanwhile are passed over.
func (c *Cage) ScanDir(dir string) ([]Finding, error) {
	var findings []Finding
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil
			}
			return err
		}
		findings = append(findings, c.Scan("the name of "+path, []byte(path))...)
		if !entry.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		findings = append(findings, c.Scan(path, data)...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for secrets below %s: %w", dir, err)
	}
	return findings, nil
}

// ScanTopics looks into the key, the value and the headers of every committed record of every topic, internal ones too. It also returns how many
// records it saw, so that a test can tell an empty search from a clean one.
func (c *Cage) ScanTopics(ctx context.Context, admin *kafka.Admin) (findings []Finding, records int, err error) {
	found, err := admin.Topics(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("look for secrets in topics: %w", err)
	}
	for name := range found {
		ends, err := admin.EndOffsets(ctx, name)
		if err != nil {
			return nil, 0, fmt.Errorf("look for secrets in topics: %w", err)
		}
		starts, err := admin.StartOffsets(ctx, name)
		if err != nil {
			return nil, 0, fmt.Errorf("look for secrets in topics: %w", err)
		}
		for tp, end := range ends {
			err := admin.Scan(ctx, tp, starts[tp], end, func(batch []record.Record, _ int64) error {
				records += len(batch)
				for i := range batch {
					findings = append(findings, c.scanRecord(&batch[i])...)
				}
				return nil
			})
			if err != nil {
				return nil, 0, fmt.Errorf("look for secrets in topics: %w", err)
			}
		}
	}
	return findings, records, nil
}

func (c *Cage) scanRecord(rec *record.Record) []Finding {
	where := fmt.Sprintf("%s/%d at offset %d", rec.Topic, rec.Partition, rec.Offset)
	findings := slices.Concat(c.Scan("the key of "+where, rec.Key), c.Scan("the value of "+where, rec.Value))
	for _, header := range rec.Headers {
		findings = append(findings, c.Scan("header "+header.Key+" of "+where, header.Value)...)
	}
	return findings
}
