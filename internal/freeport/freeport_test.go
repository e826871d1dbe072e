package freeport_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/regent-infra/regent/internal/freeport"
)

func TestPortsAreFreeAndGivenOnce(t *testing.T) {
	seen := map[int]bool{}
	for range 20 {
		ports, err := freeport.Find(10)
		if err != nil || len(ports) != 10 {
			t.Fatalf("find: %v, %v", ports, err)
		}
		for _, p := range ports {
			if seen[p] || p >= 32768 {
				t.Errorf("port %d was given before, or is one of those that clients get", p)
			}
			seen[p] = true
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
			if err != nil {
				t.Fatalf("listen on a port that was found free: %v", err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestTooManyAreRefused(t *testing.T) {
	if ports, err := freeport.Find(5000); err == nil {
		t.Errorf("%d ports were found, expected an error", len(ports))
	}
}
