// Package adaptertest holds every adapter to the contracts of the ports in adapters/.
//
//	func TestAdapter(t *testing.T) {
//		adaptertest.Run(t, adaptertest.Subject{
//			Start:        func(t testing.TB) adaptertest.Running { ... the real adapter beside a real system ... },
//			Observations: topics.Observations(event.KindPostgres),
//			...
//		})
//	}
//
// A subject gives the suite an adapter beside the real system, a few orders of its kind, and the eyes to find results in its values. The
// suite knows nothing of any kind; what is special to one is tested beside its adapter.
package adaptertest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/regent-infra/regent/adapters"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/contract"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

// Timeout bounds whatever the suite waits for.
const Timeout = 60 * time.Second

// system is the clock of the machine that the real system runs on.
var system clock.System

// Running is an adapter at work beside its system.
type Running struct {
	adapters.Adapter
	// Stop ends the adapter and waits for its end.
	Stop func()
	// Harm takes the system away from under the adapter, such as by a kill.
	Harm func()
	// Durable returns what the adapter would remember after a restart, as text, without the results of orders.
	Durable func() string
}

// Result is what became of an order.
type Result struct {
	Status  schemas.OrderStatus
	Message string
}

// Subject is the kind of adapter to be held to the contract.
type Subject struct {
	// Start starts a fresh adapter beside a fresh system. Both end with the test.
	Start func(t testing.TB) Running
	// Codec encodes values for the topic Observations.
	Codec        event.Codec
	Observations string
	// Contract is the adapter's contract.yaml.
	Contract *contract.Contract
	// Harmless makes an order that is always carried out and changes nothing of note.
	Harmless func(meta schemas.OrderMeta) any
	// Binding makes an order that binds the adapter to its term.
	Binding func(meta schemas.OrderMeta) any
	// Malformed makes an order that no orchestrator can mean.
	Malformed func(meta schemas.OrderMeta) any
	// Node is the name that order metas carry for the resource.
	Node string
	// Result finds an order's result in a value; nil if the value does not tell of it.
	Result func(value any, orderID string) *Result
	// Settled blanks out of a value what changes by itself: positions, counters, times.
	Settled func(value any) any
	// Reachable says whether a value shows the system as answering.
	Reachable func(value any) bool
	// Secrets are the passwords that the adapter was given.
	Secrets []string
}

// suite is a subject under test.
type suite struct {
	Subject
	t       *testing.T
	adapter Running
}

// Run holds the subject to every clause of the contract, each in a test of its own.
func Run(t *testing.T, subject Subject) {
	t.Helper()
	for name, clause := range map[string]func(*suite){
		"orders are those of the contract, sorted":           (*suite).ordersMatchContract,
		"a value is full, encodable and stable":              (*suite).valuesAreFull,
		"a harmless order is done and reported":              (*suite).harmlessIsDone,
		"a known id is reported again, not executed":         (*suite).duplicatesAreIdempotent,
		"stale, expired and malformed orders change nothing": (*suite).refusalsChangeNothing,
		"what binds is durable before it is seen":            (*suite).bindingIsDurable,
		"orders for others and unknown records are ignored":  (*suite).strangersAreIgnored,
		"a system that is gone is a value, soon":             (*suite).goneIsAValue,
		"a cancelled context ends a call":                    (*suite).contextsEndCalls,
		"an adapter that has ended says so":                  (*suite).endedSaysSo,
		"no secret is in a value":                            (*suite).secretsStayInside,
		"values and orders may come from several goroutines": (*suite).concurrentUse,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &suite{Subject: subject, t: t, adapter: subject.Start(t)}
			clause(s)
		})
	}
}

func (s *suite) context() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), Timeout)
	s.t.Cleanup(cancel)
	return ctx
}

func (s *suite) observe() any {
	s.t.Helper()
	value, err := s.adapter.Observe(s.context())
	if err != nil {
		s.t.Fatalf("Observe: %v", err)
	}
	return value
}

func (s *suite) meta(term int64) schemas.OrderMeta {
	return schemas.OrderMeta{Node: s.Node, Term: term, WorkflowID: "w", Step: "s", ExpiresAt: system.Now().Add(time.Hour)}
}

func (s *suite) envelope(payload any) *event.Event {
	resource := s.adapter.Resource()
	return event.New(schemas.EnvelopeHeader{ID: event.NewID(), Cluster: string(resource.Cluster()), Resource: string(resource)}, payload)
}

func (s *suite) execute(e *event.Event) {
	s.t.Helper()
	if err := s.adapter.Execute(s.context(), e, system.Now()); err != nil {
		s.t.Fatalf("Execute %s: %v", e.Type, err)
	}
}

// result waits until an order is over.
func (s *suite) result(e *event.Event) Result {
	s.t.Helper()
	ctx := s.context()
	for {
		if r := s.Result(s.observe(), e.ID); r != nil {
			switch r.Status {
			case schemas.OrderStatusDone, schemas.OrderStatusFailed, schemas.OrderStatusRefused:
				return *r
			default:
			}
		}
		if err := clock.Wait(ctx, system, 10*time.Millisecond); err != nil {
			s.t.Fatalf("%s has no result: %v", e.Type, err)
		}
	}
}

func (s *suite) ordersMatchContract() {
	orders := s.adapter.Orders()
	declared := map[string]bool{}
	for _, c := range s.Contract.Commands {
		declared[c.Record] = true
	}
	for i, o := range orders {
		if i > 0 && orders[i-1] >= o {
			s.t.Errorf("%s stands after %s: orders are sorted and distinct", o, orders[i-1])
		}
		if !declared[o] {
			s.t.Errorf("%s is no command of the contract", o)
		}
		delete(declared, o)
		if schemas.NewRecord(o) == nil {
			s.t.Errorf("%s is no record", o)
		}
	}
	if len(declared) > 0 {
		s.t.Errorf("the contract has commands that the adapter does not know: %v", declared)
	}
}

func (s *suite) valuesAreFull() {
	// Two looks with nothing between them say the same; the first may still find a system that is settling.
	ctx := s.context()
	for {
		first, second := s.observe(), s.observe()
		if reflect.DeepEqual(s.Settled(first), s.Settled(second)) {
			break
		}
		if err := clock.Wait(ctx, system, 50*time.Millisecond); err != nil {
			s.t.Fatalf("values never settle:\n%+v\n%+v", s.Settled(first), s.Settled(second))
		}
	}
	value := s.observe()
	e := s.envelope(value)
	if e.Type == "" {
		s.t.Fatalf("%T is no generated record", value)
	}
	bytes, err := s.Codec.Encode(s.Observations, e)
	if err != nil {
		s.t.Fatalf("the value cannot be encoded: %v", err)
	}
	decoded, err := s.Codec.Decode(s.Observations, bytes)
	if err != nil {
		s.t.Fatalf("the value cannot be decoded again: %v", err)
	}
	again, err := s.Codec.Encode(s.Observations, decoded)
	if err != nil || string(again) != string(bytes) {
		s.t.Errorf("the value does not survive the topic (%v)", err)
	}
	if other := s.observe(); reflect.ValueOf(other).Pointer() == reflect.ValueOf(value).Pointer() {
		s.t.Error("two looks returned one value: the caller owns it")
	}
}

func (s *suite) harmlessIsDone() {
	e := s.envelope(s.Harmless(s.meta(1)))
	s.execute(e)
	if r := s.result(e); r.Status != schemas.OrderStatusDone || r.Message != "" {
		s.t.Errorf("result %+v", r)
	}
}

func (s *suite) duplicatesAreIdempotent() {
	e := s.envelope(s.Binding(s.meta(3)))
	s.execute(e)
	first := s.result(e)
	before := s.adapter.Durable()
	for range 3 {
		s.execute(e)
	}
	if again := s.result(e); again != first {
		s.t.Errorf("the result changed from %+v to %+v", first, again)
	}
	if after := s.adapter.Durable(); after != before {
		s.t.Errorf("a duplicate changed\n%s to\n%s", before, after)
	}
}

func (s *suite) refusalsChangeNothing() {
	bound := s.envelope(s.Binding(s.meta(5)))
	s.execute(bound)
	s.result(bound)
	before := s.adapter.Durable()
	expired := s.meta(9)
	expired.ExpiresAt = system.Now().Add(-time.Minute)
	for name, payload := range map[string]any{
		"stale": s.Binding(s.meta(4)), "expired": s.Binding(expired), "malformed": s.Malformed(s.meta(9)),
	} {
		e := s.envelope(payload)
		s.execute(e)
		r := s.result(e)
		if r.Status != schemas.OrderStatusRefused || !strings.Contains(r.Message, e.Type+" refused: ") {
			s.t.Errorf("%s: result %+v, expected a refusal that says why", name, r)
		}
		if after := s.adapter.Durable(); after != before {
			s.t.Errorf("%s: it changed\n%s to\n%s", name, before, after)
		}
	}
}

func (s *suite) bindingIsDurable() {
	before := s.adapter.Durable()
	s.execute(s.envelope(s.Binding(s.meta(7))))
	// Execute has returned: the order is taken up, so whatever it binds to must be written down by now.
	if after := s.adapter.Durable(); after == before {
		s.t.Errorf("nothing was written down: %s", after)
	}
}

func (s *suite) strangersAreIgnored() {
	before := s.adapter.Durable()
	other := s.envelope(s.Binding(s.meta(9)))
	other.Resource = string(s.adapter.Resource().Cluster().Node("somebody-else"))
	unknown := s.envelope(&schemas.StreamTicked{})
	for _, e := range []*event.Event{other, unknown} {
		s.execute(e)
		if r := s.Result(s.observe(), e.ID); r != nil {
			s.t.Errorf("%s has a result: %+v", e.Type, r)
		}
	}
	if after := s.adapter.Durable(); after != before {
		s.t.Errorf("strangers' orders changed\n%s to\n%s", before, after)
	}
}

func (s *suite) goneIsAValue() {
	ctx := s.context()
	for !s.Reachable(s.observe()) {
		if err := clock.Wait(ctx, system, 20*time.Millisecond); err != nil {
			s.t.Fatal("the system never answered")
		}
	}
	s.adapter.Harm()
	for s.Reachable(s.observe()) {
		if err := clock.Wait(ctx, system, 20*time.Millisecond); err != nil {
			s.t.Fatal("the harm is not seen")
		}
	}
	began := system.Now()
	s.observe()
	if took := system.Now().Sub(began); took > 10*time.Second {
		s.t.Errorf("a look at a system that is gone took %s", took)
	}
}

func (s *suite) contextsEndCalls() {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	// A call that is over as soon as it begins may still succeed; it must not hang, and an error must say why.
	if _, err := s.adapter.Observe(ctx); err != nil && !errors.Is(err, cause) {
		s.t.Errorf("Observe: %v, expected the context's cause", err)
	}
	if err := s.adapter.Execute(ctx, s.envelope(s.Harmless(s.meta(1))), system.Now()); err != nil && !errors.Is(err, cause) {
		s.t.Errorf("Execute: %v, expected the context's cause", err)
	}
}

func (s *suite) endedSaysSo() {
	s.adapter.Stop()
	if _, err := s.adapter.Observe(s.context()); !errors.Is(err, adapters.ErrEnded) {
		s.t.Errorf("Observe: %v, expected %v", err, adapters.ErrEnded)
	}
	if err := s.adapter.Execute(s.context(), s.envelope(s.Harmless(s.meta(1))), system.Now()); !errors.Is(err, adapters.ErrEnded) {
		s.t.Errorf("Execute: %v, expected %v", err, adapters.ErrEnded)
	}
}

func (s *suite) secretsStayInside() {
	text := fmt.Sprintf("%+v", s.observe())
	e := s.envelope(s.observe())
	bytes, err := s.Codec.Encode(s.Observations, e)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, secret := range s.Secrets {
		if secret == "" {
			s.t.Fatal("an empty secret proves nothing")
		}
		if strings.Contains(text, secret) || strings.Contains(string(bytes), secret) {
			s.t.Errorf("a value holds %q", secret)
		}
	}
}

func (s *suite) concurrentUse() {
	const callers = 8
	failures := make(chan error, 2*callers)
	for range callers {
		go func() {
			_, err := s.adapter.Observe(s.context())
			failures <- err
		}()
		go func() {
			failures <- s.adapter.Execute(s.context(), s.envelope(s.Harmless(s.meta(1))), system.Now())
		}()
	}
	for range 2 * callers {
		if err := <-failures; err != nil {
			s.t.Error(err)
		}
	}
}
