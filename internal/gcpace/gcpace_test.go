package gcpace

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestPercent(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for name, c := range map[string]struct {
		live, allocated uint64
		since           time.Duration
		want            int
	}{
		"quiet":                         {live: 50 * mib, allocated: 50 * mib, since: 30 * time.Second, want: 100},
		"fast":                          {live: 128 * mib, allocated: 128 * mib, since: 200 * time.Millisecond, want: 200},
		"fast, paced already":           {live: 128 * mib, allocated: 256 * mib, since: 400 * time.Millisecond, want: 200},
		"just not fast, paced already":  {live: 64 * mib, allocated: 256 * mib, since: 4 * time.Second, want: 100},
		"a small heap":                  {live: 4 * mib, allocated: 16 * mib, since: 20 * time.Millisecond, want: 400},
		"a large heap":                  {live: 900 * mib, allocated: 900 * mib, since: 500 * time.Millisecond, want: 100},
		"nothing in use":                {want: 100},
		"a collection that was ordered": {live: 10 * mib, allocated: 0, since: 0, want: 100},
	} {
		if got := percent(c.live, c.allocated, c.since); got != c.want {
			t.Errorf("%s: %d %%, expected %d", name, got, c.want)
		}
	}
}

var sink []byte

func TestCollectionsArePaced(t *testing.T) { // not parallel: it is about the whole process
	t.Setenv("GOGC", "")
	before := debug.SetGCPercent(usual)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	now := func() time.Time { return time.Now() }
	stop := Start(now)
	raised := func() bool {
		got := debug.SetGCPercent(usual) // there is no way to ask
		debug.SetGCPercent(got)
		return got > usual
	}
	for deadline := now().Add(30 * time.Second); !raised(); {
		if now().After(deadline) {
			t.Fatal("the heap is collected as ever, although collections come fast")
		}
		sink = make([]byte, 1<<20)
	}
	stop()
	runtime.GC()
	if raised() {
		t.Fatal("collections are still paced")
	}
}

func TestWhoeverSetsGOGCHasDecided(t *testing.T) {
	t.Setenv("GOGC", "50")
	before := debug.SetGCPercent(50)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	Start(time.Now)()
	if got := debug.SetGCPercent(50); got != 50 {
		t.Fatalf("GOGC is %d, expected 50", got)
	}
}
