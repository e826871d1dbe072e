package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// guardedListener stands between the network and kfake, which was written for friendly clients: it checks the frame of
// each request before kfake sees it (an unknown API key would end the process, and a stray HTTP request would make it
// allocate a gigabyte), reports the advertised address, and can be poisoned: then no response leaves any more.
type guardedListener struct {
	net.Listener
	advertised net.Addr
	maxRequest int
	log        *slog.Logger
	poisoned   *atomic.Bool
	stage      *stage
	open       chan struct{} // closed when clients may come in
	closeOnce  sync.Once
	closed     chan struct{}

	mu    sync.Mutex
	conns map[*guardedConn]struct{}
}

// advertisedAddr is an address as clients are told it.
type advertisedAddr string

// Network implements net.Addr.
func (advertisedAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (a advertisedAddr) String() string { return string(a) }

func listenTCP(what, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on %s for the %s: port taken: %w; stop the program that uses it, or choose another port (0: any)", addr, what, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s for the %s: %w (expected an address of this machine)", addr, what, err)
	}
	return ln, nil
}

// listenFn gives kfake the listener in place of one of its own.
func (l *guardedListener) listenFn(string, string) (net.Listener, error) { return l, nil }

// Addr implements net.Listener. kfake puts it into its metadata.
func (l *guardedListener) Addr() net.Addr {
	if l.advertised != nil {
		return l.advertised
	}
	return l.Listener.Addr()
}

// Accept implements net.Listener. Clients wait until the broker is ready for them.
func (l *guardedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	select {
	case <-l.open:
	case <-l.closed:
	}
	gc := &guardedConn{Conn: c, l: l, awaiting: make(map[int32]*kmsg.TxnOffsetCommitRequest)}
	l.mu.Lock()
	l.conns[gc] = struct{}{}
	l.mu.Unlock()
	if l.poisoned.Load() {
		_ = gc.Close() // the client sees a closed connection, which is the point
	}
	return gc, nil
}

// Close implements net.Listener.
func (l *guardedListener) Close() (err error) {
	l.closeOnce.Do(func() {
		close(l.closed)
		err = l.Listener.Close()
	})
	return err
}

// closeConns closes every connection: clients see the end of the broker at once, and its goroutines end.
func (l *guardedListener) closeConns() {
	l.mu.Lock()
	conns := make([]*guardedConn, 0, len(l.conns))
	for c := range l.conns {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		_ = c.Close() // closed connections are what is wanted; nothing to report
	}
}

// guardedConn checks the head of each request frame, and tells the stage about the offsets of transactions. Reads come
// from one goroutine at a time, and so do writes.
type guardedConn struct {
	net.Conn
	l    *guardedListener
	head [8]byte // size, API key, API version
	next []byte  // rest of head to hand out
	body int     // bytes of the current frame that are still to come
	copy []byte  // of the current frame without its size, when it is a TxnOffsetCommit

	mu       sync.Mutex
	awaiting map[int32]*kmsg.TxnOffsetCommitRequest // requests without response, by correlation id
}

// errFrame closes a connection that does not speak Kafka's protocol.
var errFrame = errors.New("request frame refused")

// Read implements net.Conn.
func (c *guardedConn) Read(p []byte) (int, error) {
	if len(c.next) == 0 && c.body == 0 {
		if _, err := io.ReadFull(c.Conn, c.head[:]); err != nil {
			return 0, err
		}
		if err := c.checkHead(); err != nil {
			c.l.log.Warn("connection closed: request frame refused", slog.String("client", c.RemoteAddr().String()), slog.Any("error", err))
			return 0, err
		}
		c.next = c.head[:]
	}
	if len(c.next) > 0 {
		n := copy(p, c.next)
		c.next = c.next[n:]
		return n, nil
	}
	if len(p) > c.body {
		p = p[:c.body]
	}
	n, err := c.Conn.Read(p)
	c.body -= n
	if c.copy != nil {
		c.copy = append(c.copy, p[:n]...)
		if c.body == 0 {
			c.expect(decodeTxnOffsetCommit(c.copy))
			c.copy = nil
		}
	}
	return n, err
}

func (c *guardedConn) checkHead() error {
	size := int64(binary.BigEndian.Uint32(c.head[:4]))
	key := int16(binary.BigEndian.Uint16(c.head[4:6]))
	version := int16(binary.BigEndian.Uint16(c.head[6:8]))
	if size < 8 || size > int64(c.l.maxRequest) {
		return fmt.Errorf("%w: %d bytes announced, 8 to %d expected (is the client speaking another protocol, or TLS?)", errFrame, size, c.l.maxRequest)
	}
	req := kmsg.RequestForKey(key)
	if req == nil {
		return fmt.Errorf("%w: API key %d is unknown", errFrame, key)
	}
	// A too new ApiVersions request is answered with the versions that are spoken (KIP-511); anything else is refused.
	if version < 0 || version > req.MaxVersion() && key != int16(kmsg.ApiVersions) {
		return fmt.Errorf("%w: API key %d version %d, 0 to %d expected", errFrame, key, version, req.MaxVersion())
	}
	c.body = int(size) - 4
	if key == int16(kmsg.TxnOffsetCommit) {
		c.copy = append(make([]byte, 0, size), c.head[4:]...)
	}
	return nil
}

// expect notes a request whose response is to be looked at. The correlation id follows key and version.
func (c *guardedConn) expect(req *kmsg.TxnOffsetCommitRequest) {
	if req == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.awaiting == nil {
		return // closed
	}
	c.awaiting[int32(binary.BigEndian.Uint32(c.copy[4:8]))] = req
	c.l.stage.arrived(req)
}

// Write implements net.Conn. kfake writes each response in one call.
func (c *guardedConn) Write(p []byte) (int, error) {
	if c.l.poisoned.Load() {
		return 0, errPoisoned
	}
	if len(p) >= 8 {
		c.answer(int32(binary.BigEndian.Uint32(p[4:8])), p)
	}
	return c.Conn.Write(p)
}

func (c *guardedConn) answer(correlation int32, frame []byte) {
	c.mu.Lock()
	req := c.awaiting[correlation]
	delete(c.awaiting, correlation)
	c.mu.Unlock()
	if req == nil {
		return
	}
	if resp := decodeTxnOffsetCommitResponse(req, frame); resp != nil {
		c.l.stage.answered(req, resp)
		return
	}
	c.l.stage.lost(req)
}

// Close implements net.Conn.
func (c *guardedConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	c.mu.Lock()
	lost := c.awaiting
	c.awaiting = nil
	c.mu.Unlock()
	for _, req := range lost {
		c.l.stage.lost(req)
	}
	return c.Conn.Close()
}
