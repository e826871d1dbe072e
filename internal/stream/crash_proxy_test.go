package stream_test

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// fate is what becomes of a request that ends a transaction.
type fate int

const (
	passes fate = iota
	// lost: the broker never gets it, and the connection is cut.
	lost
	// unanswered: the broker gets it, and the connection is cut before the answer.
	unanswered
)

// proxy stands between all clients and a broker, which advertises it as its own address. It sees the requests that end transactions.
type proxy struct {
	listener net.Listener

	mu     sync.Mutex
	target string
	conns  map[net.Conn]bool
	down   bool
	closed bool
	// onEnd decides the fate of a request that ends a transaction; nil lets all pass.
	onEnd func() fate
	wg    sync.WaitGroup
}

func startProxy(t testing.TB) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, conns: map[net.Conn]bool{}}
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		_ = l.Close()
		p.cut(true)
		p.wg.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) to(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// ends sets what becomes of requests that end transactions.
func (p *proxy) ends(f func() fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onEnd = f
}

// cut ends all connections; down keeps new ones from coming.
func (p *proxy) cut(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		target, down := p.target, p.down || p.closed
		p.mu.Unlock()
		if down {
			_ = client.Close()
			continue
		}
		broker, err := net.Dial("tcp", target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[broker] = true, true
		p.mu.Unlock()
		done := func() {
			_, _ = client.Close(), broker.Close()
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.conns, client)
			delete(p.conns, broker)
		}
		p.wg.Go(func() {
			defer done()
			_, _ = io.Copy(client, broker)
		})
		p.wg.Go(func() {
			defer done()
			p.requests(client, broker)
		})
	}
}

// requests passes requests on, frame by frame, until one side is gone or a fate says otherwise.
func (p *proxy) requests(client, broker net.Conn) {
	var head [6]byte
	for {
		if _, err := io.ReadFull(client, head[:]); err != nil {
			return
		}
		frame := make([]byte, 4+int(binary.BigEndian.Uint32(head[:4])))
		copy(frame, head[:])
		if _, err := io.ReadFull(client, frame[len(head):]); err != nil {
			return
		}
		does := passes
		if binary.BigEndian.Uint16(head[4:]) == uint16(kmsg.EndTxn) {
			p.mu.Lock()
			f := p.onEnd
			p.mu.Unlock()
			if f != nil {
				does = f()
			}
		}
		if does == lost {
			return
		}
		if _, err := broker.Write(frame); err != nil {
			return
		}
		if does == unanswered {
			return // what is written is written: the broker reads it before it sees the end
		}
	}
}
