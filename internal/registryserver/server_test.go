package registryserver_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafka/kafkatest"
	"github.com/regent-infra/regent/internal/registryserver"
	"github.com/regent-infra/regent/internal/secret"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/twmb/franz-go/pkg/kgo.(*Client).reapConnectionsLoop"))
}

const patience = 30 * time.Second

func configure(config kafka.Config) registryserver.Config {
	return registryserver.Config{
		Kafka: config, Listen: "127.0.0.1:0",
		Compatible: func(writer, reader string) error { return avrocodec.Compatible(reader, writer) },
	}
}

func open(t *testing.T, cfg registryserver.Config) *registryserver.Server {
	t.Helper()
	s, err := registryserver.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return s
}

func client(t *testing.T, s *registryserver.Server, user, password string) *avrocodec.Client {
	t.Helper()
	c, err := avrocodec.NewClient(avrocodec.ClientConfig{URLs: []string{s.URL()}, User: user, Password: secret.New(password)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

const schema = `{"type":"record","name":"A","fields":[{"name":"x","type":"long"}]}`

func register(t *testing.T, c *avrocodec.Client, subject, text string) (int32, error) {
	t.Helper()
	return c.Register(t.Context(), subject, text)
}

func TestIDsSurviveARestart(t *testing.T) {
	t.Parallel()
	_, config := kafkatest.Start(t)
	first := open(t, configure(config))
	c := client(t, first, "", "")
	a, err := register(t, c, "a", schema)
	if err != nil {
		t.Fatal(err)
	}
	b, err := register(t, c, "b", `"string"`)
	if err != nil || a == b {
		t.Fatalf("ids %d and %d, %v", a, b, err)
	}
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c = client(t, open(t, configure(config)), "", "")
	if got, err := register(t, c, "b", `"string"`); err != nil || got != b {
		t.Errorf("after a restart b has the id %d, %v; want %d", got, err, b)
	}
	if text, err := c.SchemaByID(t.Context(), a); err != nil || !strings.Contains(text, `"A"`) {
		t.Errorf("after a restart %d is %q, %v", a, text, err)
	}
	if _, err := register(t, c, "a", `"string"`); err == nil {
		t.Error("an incompatible schema was registered")
	}
}

func TestTheReplacedInstanceEnds(t *testing.T) {
	t.Parallel()
	_, config := kafkatest.Start(t)
	first := open(t, configure(config))
	if _, err := register(t, client(t, first, "", ""), "a", schema); err != nil {
		t.Fatal(err)
	}
	second := open(t, configure(config))
	if _, err := register(t, client(t, first, "", ""), "b", schema); err == nil {
		t.Error("the instance that was replaced has registered a schema")
	}
	ended(t, first)
	third := open(t, configure(config))
	if _, err := register(t, client(t, third, "", ""), "c", schema); err != nil {
		t.Fatal(err)
	}
	ended(t, second) // though nobody has asked it to write
}

func ended(t *testing.T, s *registryserver.Server) {
	t.Helper()
	select {
	case <-s.Failed():
	case <-time.After(patience):
		t.Fatal("the instance that was replaced goes on")
	}
	if err := s.Err(); !errors.Is(err, kafka.ErrTakenOver) || !strings.Contains(err.Error(), "one registry may run per Kafka cluster") {
		t.Errorf("it says %v", err)
	}
}

func TestNothingIsAnsweredWithoutThePassword(t *testing.T) {
	t.Parallel()
	_, config := kafkatest.Start(t)
	cfg := configure(config)
	cfg.Credentials.User = "regent"
	if _, err := registryserver.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "user regent of the schema registry has no password") {
		t.Errorf("a user without a password: %v", err)
	}
	cfg.Credentials.Password = secret.New("right-password")
	s := open(t, cfg)
	for _, c := range []struct{ user, password string }{{"", ""}, {"regent", "wrong"}, {"other", "right-password"}} {
		if _, err := register(t, client(t, s, c.user, c.password), "a", schema); err == nil || !strings.Contains(err.Error(), "401") && !strings.Contains(err.Error(), "password") {
			t.Errorf("%q with %q: %v", c.user, c.password, err)
		}
	}
	if _, err := register(t, client(t, s, "regent", "right-password"), "a", schema); err != nil {
		t.Error(err)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	_, config := kafkatest.Start(t, kfake.SeedTopics(2, registryserver.Topic))
	expect := func(cfg registryserver.Config, want string) {
		t.Helper()
		if s, err := registryserver.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
			if s != nil {
				_ = s.Close(t.Context())
			}
		}
	}
	expect(configure(config), "it exists with 2 partitions, expected 1")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := configure(config)
	cfg.Listen = taken.Addr().String()
	expect(cfg, "port taken")
	away := configure(kafka.Config{Brokers: []string{kafkatest.Nobody(t)}, RequestTimeout: time.Second})
	expect(away, "no broker answers")
}
