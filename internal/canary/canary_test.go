package canary_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/regent-infra/regent/internal/canary"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafka/kafkatest"
	"github.com/regent-infra/regent/internal/record"
)

func TestACanaryIsFoundHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	cage := canary.New()
	secret := cage.Secret("password")
	quoted, err := json.Marshal(map[string]string{"dsn": "user:" + secret + "@host"})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"plain":          "before " + secret + " after",
		"hexadecimal":    hex.EncodeToString([]byte("x" + secret + "y")),
		"upper case":     strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"JSON":           string(quoted),
		"query":          "?p=" + url.QueryEscape(secret),
		"path":           "/" + url.PathEscape(secret),
		"base64":         base64.StdEncoding.EncodeToString([]byte(secret + "tail")),
		"base64, 1 off":  base64.StdEncoding.EncodeToString([]byte("a" + secret + "tail")),
		"base64, 2 off":  base64.URLEncoding.EncodeToString([]byte("ab" + secret + "tail")),
		"base64, 4 off":  base64.RawStdEncoding.EncodeToString([]byte("abcd" + secret)),
		"escaped quotes": strings.ReplaceAll(secret, `"`, `\"`),
	} {
		if found := cage.Scan(name, []byte(text)); len(found) != 1 || found[0].Secret != "password" || found[0].Where != name {
			t.Errorf("%s: found %v in %s", name, found, text)
		}
	}
	other := canary.New().Secret("another")
	if found := cage.Scan("other", []byte(other)); len(found) != 0 {
		t.Errorf("found %v in another secret", found)
	}
}

func TestScanDirLooksIntoFilesAndNames(t *testing.T) {
	t.Parallel()
	cage := canary.New()
	cage.Add("token", "token-1234567")
	dir := t.TempDir()
	for path, content := range map[string]string{"a/clean": "nothing", "a/log": "used token-1234567\n", "token-1234567": "x"} {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := cage.ScanDir(dir)
	if err != nil || len(found) != 2 {
		t.Errorf("found %v, err %v, want the log and the file's name", found, err)
	}
	if _, err := cage.ScanDir(filepath.Join(dir, "nowhere")); err != nil {
		t.Errorf("a directory that is gone: %v", err)
	}
}

func TestScanTopicsLooksIntoEveryPart(t *testing.T) {
	t.Parallel()
	_, config := kafkatest.Start(t, kfake.SeedTopics(2, "a", "b"))
	cage := canary.New()
	secret := cage.Secret("password")
	producer, err := kafka.NewProducer(config, kafka.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	err = producer.Produce(t.Context(),
		record.Record{Topic: "a", Value: []byte("clean")},
		record.Record{Topic: "a", Partition: 1, Key: []byte(secret), Value: []byte("v")},
		record.Record{Topic: "b", Value: []byte("x" + secret)},
		record.Record{Topic: "b", Partition: 1, Headers: []record.Header{{Key: "h", Value: []byte(secret)}}},
	)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := kafka.NewAdmin(config)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	found, records, err := cage.ScanTopics(t.Context(), admin)
	if err != nil || records != 4 || len(found) != 3 {
		t.Fatalf("found %v in %d records, err %v", found, records, err)
	}
	var all strings.Builder
	for _, f := range found {
		all.WriteString(f.String() + "\n")
	}
	for _, want := range []string{"password was found in the key of a/1 at offset 0", "the value of b/0 at offset 0 at byte 1", "header h of b/1 at offset 0"} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("missing %q in\n%s", want, all.String())
		}
	}
}

func TestShortCanariesAreRefused(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("a canary of three bytes was taken")
		}
	}()
	canary.New().Add("pin", "123")
}
