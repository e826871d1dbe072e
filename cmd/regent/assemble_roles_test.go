package main

import (
	"testing"

	"github.com/regent-infra/regent/internal/config"
)

// The parts of the cache are all of it, whatever roles a process has, and the reducer's is the largest.
func TestCacheIsSharedOut(t *testing.T) {
	for _, roles := range [][]string{{roleReducer, roleOrchestrator, roleFleet, roleAPI}, {roleReducer}, {roleFleet, roleAPI}, {roleAPI}} {
		c := &config.Loaded{}
		c.Process.CacheSize = 256 << 20
		p := &plane{config: c, roles: roles}
		sum := p.cacheShare(storeDir)
		for _, role := range roles {
			if role != roleAPI {
				sum += p.cacheShare(role)
			}
			if role == roleReducer && p.cacheShare(role) < 128<<20 {
				t.Errorf("roles %q: the reducer has %d bytes", roles, p.cacheShare(role))
			}
		}
		if over := sum - 256<<20; over > 1<<20 || over < -8 {
			t.Errorf("roles %q: the parts are %d bytes, expected %d", roles, sum, 256<<20)
		}
	}
}
