package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/topics"
)

// keepAlive is how often a silent watch says that it lives, so that proxies do not cut it.
const keepAlive = 15 * time.Second

// watch streams changes as server-sent events (WHATWG HTML, section 9.2): event "state" or "workflow" with a [Resource] as data. With
// snapshot=true it begins with everything that there is, ended by an event "synced". Query: prefix, kinds of events (events=state,workflow).
func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	names, err := s.watched(q.Get("events"))
	if err != nil {
		writeError(w, err)
		return
	}
	control := http.NewResponseController(w)
	// A watch lasts: the deadlines of ordinary requests do not hold for it.
	if err := errors.Join(control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Time{})); err != nil {
		writeError(w, &Error{Status: http.StatusInternalServerError, Code: "internal", Message: fmt.Sprintf("watch: lift the time limit: %v", err)})
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)

	stream := &eventStream{w: w, control: control, prefix: q.Get("prefix")}
	changes := make(chan Entry, 4096)
	failed := make(chan error, 1)
	ctx, cancel := s.watchContext(r)
	defer cancel()
	go func() {
		failed <- s.config.View.Watch(ctx, names, func(e Entry) error {
			select {
			case changes <- e:
				return nil
			default:
				return ErrSlowWatcher
			}
		})
	}()
	// What the watch ends with is for the client alone: it is gone, slow, or the server stops.
	if err := s.stream(stream, names, q.Get("snapshot") == "true", changes, failed); err != nil {
		stream.event("end", map[string]string{"message": err.Error()})
	}
	cancel()
}

func (s *Server) watched(events string) ([]string, *Error) {
	var names []string
	parts := strings.Split(events, ",")
	if events == "" {
		parts = []string{"state", "workflow"}
	}
	for _, part := range parts {
		switch part {
		case "state":
			names = append(names, s.stateTopics()...)
		case "workflow":
			for _, kind := range s.kinds() {
				names = append(names, topics.Workflows(kind))
			}
		default:
			return nil, badRequest("events %q, expected state, workflow, or both with a comma between", events)
		}
	}
	return names, nil
}

func (s *Server) stream(stream *eventStream, names []string, snapshot bool, changes <-chan Entry, failed <-chan error) error {
	if snapshot {
		for _, topic := range names {
			entries, err := s.config.View.List(topic, stream.prefix)
			if err != nil {
				return err
			}
			for _, e := range entries {
				stream.entry(e)
			}
		}
		stream.event("synced", struct{}{})
	}
	tick := s.config.Clock.NewTicker(keepAlive)
	defer tick.Stop()
	for stream.err == nil {
		select {
		case e := <-changes:
			stream.entry(e)
		case <-tick.C:
			stream.comment("alive")
		case err := <-failed:
			return err
		}
	}
	return nil
}

// eventStream writes server-sent events; the first error of the connection stays.
type eventStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	prefix  string
	err     error
}

func (s *eventStream) entry(e Entry) {
	if !strings.HasPrefix(e.Key, s.prefix) {
		return
	}
	name := "state"
	if slices.Contains([]string{topics.Workflows(event.ResourceID(e.Key).Cluster().Kind())}, e.Topic) {
		name = "workflow"
	}
	s.event(name, resourceOf(e))
}

func (s *eventStream) event(name string, data any) {
	raw, err := json.Marshal(data)
	if err != nil {
		s.err = err
		return
	}
	s.write(fmt.Sprintf("event: %s\ndata: %s\n\n", name, raw))
}

func (s *eventStream) comment(text string) { s.write(": " + text + "\n\n") }

func (s *eventStream) write(text string) {
	if s.err != nil {
		return
	}
	if _, err := s.w.Write([]byte(text)); err != nil {
		s.err = err
		return
	}
	s.err = s.control.Flush()
}
