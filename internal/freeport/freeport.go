// Package freeport finds TCP ports of the loopback address for servers that are started, or started again, a moment later: in the demo, the
// benchmark and the tests.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// The ports are taken from below the range from which the kernel gives ports to outgoing connections (ip_local_port_range begins at 32768),
// and never twice in a process: else a client could take a port while its server is not up yet, or down for a moment.
const (
	first = 15000
	last  = 31999
)

var claimed = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// Find returns n ports of 127.0.0.1 that nobody listens on, and that no later call in this process returns.
func Find(n int) ([]int, error) {
	claimed.Lock()
	defer claimed.Unlock()
	ports := make([]int, 0, n)
	for range 1000 {
		if len(ports) == n {
			return ports, nil
		}
		port := first + rand.IntN(last-first+1)
		if claimed.ports[port] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue // taken
		}
		if err := l.Close(); err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		claimed.ports[port] = true
		ports = append(ports, port)
	}
	return nil, fmt.Errorf("find %d free ports from %d to %d: all that were tried are taken", n, first, last)
}
