package avrocodec_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/embedded/registry"
	"github.com/regent-infra/regent/internal/envelope"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/secret"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type forgetful struct{}

func (forgetful) Append(context.Context, []byte, []byte) error { return nil }

func newClient(t *testing.T, handler http.Handler, change func(*avrocodec.ClientConfig)) *avrocodec.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	config := avrocodec.ClientConfig{URLs: []string{server.URL}, Timeout: 10 * time.Second}
	if change != nil {
		change(&config)
	}
	client, err := avrocodec.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func embeddedRegistry(t *testing.T) *avrocodec.Client {
	t.Helper()
	r, err := registry.New(registry.Config{Log: forgetful{}, Compatible: compatible})
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, r.Handler(), nil)
}

func TestTheClientAgainstARegistry(t *testing.T) {
	t.Parallel()
	client := embeddedRegistry(t)
	ctx := t.Context()
	if err := client.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	topic := topics.Heartbeats(event.KindPostgres)
	subject := topics.Subject(topic)
	text, err := envelope.Schema([]string{"NodeHeartbeat", "StreamTicked"})
	if err != nil {
		t.Fatal(err)
	}

	if mode, err := client.Mode(ctx, subject); err != nil || mode != "" {
		t.Errorf("the mode of a new subject is %q, %v", mode, err)
	}
	if versions, err := client.Versions(ctx, subject); err != nil || len(versions) != 0 {
		t.Errorf("a new subject has versions %v, %v", versions, err)
	}
	if _, err := client.LookupID(ctx, subject, text); !errors.Is(err, avrocodec.ErrNotRegistered) {
		t.Errorf("looked up %v", err)
	}
	if _, err := client.SchemaByID(ctx, 4711); !errors.Is(err, avrocodec.ErrUnknownSchema) {
		t.Errorf("unknown id: %v", err)
	}
	if err := client.CheckCompatible(ctx, subject, text); err != nil {
		t.Errorf("the first version: %v", err)
	}
	if err := client.SetMode(ctx, subject, "BACKWARD_TRANSITIVE"); err != nil {
		t.Fatal(err)
	}
	if mode, err := client.Mode(ctx, subject); err != nil || mode != "BACKWARD_TRANSITIVE" {
		t.Errorf("the mode is %q, %v", mode, err)
	}
	if err := client.SetMode(ctx, subject, "SIDEWAYS"); err == nil || !strings.Contains(err.Error(), `"SIDEWAYS" is none`) {
		t.Errorf("set: %v", err)
	}
	id, err := client.Register(ctx, subject, text)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := client.Register(ctx, subject, text); err != nil || again != id {
		t.Errorf("registered again it has id %d, not %d, %v", again, id, err)
	}
	if found, err := client.LookupID(ctx, subject, text); err != nil || found != id {
		t.Errorf("looked up %d, %v", found, err)
	}
	if got, err := client.SchemaByID(ctx, id); err != nil || got != text {
		t.Errorf("by id: %v", err)
	}

	smaller, err := envelope.Schema([]string{"StreamTicked"})
	if err != nil {
		t.Fatal(err)
	}
	err = client.CheckCompatible(ctx, subject, smaller)
	var incompatible *avrocodec.IncompatibleError
	if !errors.As(err, &incompatible) || !strings.Contains(err.Error(), "is not compatible with what is registered under subject "+subject) || len(incompatible.Reasons) == 0 {
		t.Errorf("incompatible: %v", err)
	}
	if _, err := client.Register(ctx, subject, smaller); err == nil || !strings.Contains(err.Error(), "it answered 409") {
		t.Errorf("registered: %v", err)
	}

	codec, err := avrocodec.New(client, topics.Default(), avrocodec.Config{})
	if err != nil {
		t.Fatal(err)
	}
	e := event.New(schemas.EnvelopeHeader{ID: "x"}, &schemas.StreamTicked{Task: 3})
	value, err := codec.Encode(topic, e)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := codec.Decode(topic, value); err != nil || got.Payload.(*schemas.StreamTicked).Task != 3 {
		t.Errorf("decoded %+v, %v", got, err)
	}
}

func TestWhatTheClientSaysOfABadRegistry(t *testing.T) {
	t.Parallel()
	const canary = "canary-91bc"
	answer := func(status int, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		})
	}
	for name, c := range map[string]struct {
		handler http.Handler
		want    string
	}{
		"refused":        {answer(401, `{"error_code":401,"message":"who are you"}`), "it answered 401: who are you (check the user and the password for the registry)"},
		"broken":         {answer(500, `{"error_code":50001,"message":"store"}`), "it answered 500: store (try again later)"},
		"another server": {answer(404, "page not found"), "it answered 404: page not found (it will not help to try again)"},
		"not JSON":       {answer(200, "<html>"), "unable to decode ok response body"},
		"another type":   {answer(200, `{"schemaType":"JSON","schema":"{}"}`), "no self-contained Avro schema of this id: 1 is a JSON schema"},
		"references":     {answer(200, `{"schema":"\"string\"","references":[{"name":"a","subject":"b","version":1}]}`), "that of 1 refers to other subjects"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := newClient(t, c.handler, func(config *avrocodec.ClientConfig) {
				config.User, config.Password = "regent", secret.New(canary)
			})
			_, err := client.SchemaByID(t.Context(), 1)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

func TestARegistryThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	client := newClient(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }), func(config *avrocodec.ClientConfig) {
		config.Timeout = 200 * time.Millisecond
	})
	t.Cleanup(func() { close(release) }) // before the server is closed, which waits for its handlers
	if _, err := client.SchemaByID(t.Context(), 1); !errors.Is(err, avrocodec.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
}

func TestTheSecondAddressIsTried(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := registry.New(registry.Config{Log: forgetful{}, Compatible: compatible})
	if err != nil {
		t.Fatal(err)
	}
	client := newClient(t, r.Handler(), func(config *avrocodec.ClientConfig) { config.URLs = append([]string{nobody}, config.URLs...) })
	if err := client.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestClientConfigNamesEveryFault(t *testing.T) {
	t.Parallel()
	_, err := avrocodec.NewClient(avrocodec.ClientConfig{})
	if err == nil || !strings.Contains(err.Error(), "there is no schema registry address") {
		t.Errorf("got %v", err)
	}
	_, err = avrocodec.NewClient(avrocodec.ClientConfig{URLs: []string{"localhost:8081", "http://regent:canary@host:1"}})
	for _, want := range []string{"expected http://host:port or https://host:port", "the schema registry address of host:1 holds a user"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("the password is in the error: %v", err)
	}
}

func compatible(writer, reader string) error { return avrocodec.Compatible(reader, writer) }
