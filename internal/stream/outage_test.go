package stream_test

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore/memstore"
)

// cutListener is a broker's listener whose connections can be cut: all answers are lost, and nobody can connect.

type cutListener struct {
	net.Listener
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func (l *cutListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		_ = c.Close()
		return c, nil
	}
	l.conns = append(l.conns, c)
	return c, nil
}

func (l *cutListener) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut = cut; cut {
		for _, c := range l.conns {
			_ = c.Close()
		}
		l.conns = nil
	}
}

func startCutBroker(t *testing.T) (*broker, *cutListener) {
	t.Helper()
	var cl *cutListener
	b := startBroker(t, 1, kfake.ListenFn(func(network, address string) (net.Listener, error) {
		l, err := net.Listen(network, address)
		cl = &cutListener{Listener: l}
		return cl, err
	}))
	return b, cl
}

// TestUnknownOutcome loses the link exactly when the broker has the end of a transaction in its hands, for longer than the runtime

func TestUnknownOutcome(t *testing.T) {
	for name, arrives := range map[string]bool{"committed": true, "lost": false} {
		t.Run(name, func(t *testing.T) {
			b, l := startCutBroker(t)
			in := b.start(t, "a", memstore.New(), func(_ *kafka.SessionConfig, o *stream.Options, _ *stream.Definition) {
				o.EndTimeout, o.RetryMax = 300*time.Millisecond, 200*time.Millisecond
			})
			b.send(t, factRecord(0, "k", 1, "before"))
			b.settled(t, 1, in)
			cut := make(chan struct{})
			var once sync.Once
			b.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (resp kmsg.Response, err error, handled bool) {
				once.Do(func() {
					l.set(true)
					close(cut)
					if !arrives {
						err, handled = errors.New("the link is gone"), true
					}
				})
				return nil, err, handled
			})
			b.send(t, factRecord(0, "k", 2, "critical"))
			<-cut
			eventually(t, "the runtime knows that it does not know", func() bool {
				s := in.Status()
				return s.State != stream.StateRunning && s.Error != ""
			})
			l.set(false)
			b.send(t, factRecord(0, "k", 3, "after"))
			b.settled(t, 1, in)
			if err := b.audit(t, running(t, in.Runtime)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestBrokersGoAndComeBack(t *testing.T) {
	b, l := startCutBroker(t)
	in := b.start(t, "a", memstore.New(), func(_ *kafka.SessionConfig, o *stream.Options, _ *stream.Definition) {
		o.EndTimeout, o.RetryMax = 300*time.Millisecond, 200*time.Millisecond
	})
	b.send(t, factRecord(0, "k", 1, "before"))
	b.settled(t, 1, in)
	l.set(true)
	eventually(t, "the status says that the brokers are gone", func() bool { return in.Status().Error != "" })
	if s := in.Status(); s.Ready() {
		t.Fatalf("ready without a broker: %+v", s)
	}
	l.set(false)
	b.send(t, factRecord(0, "k", 2, "after"))
	b.settled(t, 1, in)
	eventually(t, "the status is clean", func() bool { s := in.Status(); return s.Ready() })
	if err := b.audit(t, running(t, in.Runtime)); err != nil {
		t.Fatal(err)
	}
}
