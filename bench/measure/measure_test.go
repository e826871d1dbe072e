package measure

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestStatOfAProcessWithAStrangeName(t *testing.T) {
	line := "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 1234 66 0 0 20 0 9 0 100 1000 200"
	got, err := parseStat([]byte(line))
	if err != nil || got != 13*time.Second {
		t.Errorf("got %s, %v; expected 13 s", got, err)
	}
	for _, broken := range []string{"", "42 (a) S 1", "42 (a) S 1 42 42 0 -1 4194560 100 0 0 0 x 66 0"} {
		if _, err := parseStat([]byte(broken)); err == nil {
			t.Errorf("%q was taken", broken)
		}
	}
}

func TestStatus(t *testing.T) {
	got, err := parseStatus([]byte("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"))
	if err != nil || got != (Memory{Resident: 1 << 20, Peak: 2 << 20}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := parseStatus([]byte("Name:\tx\nState:\tZ (zombie)\n")); err == nil {
		t.Error("a process that has ended was taken")
	}
}

func TestOwnProcess(t *testing.T) {
	if _, err := CPU(os.Getpid()); err != nil {
		t.Error(err)
	}
	m, err := ReadMemory(os.Getpid())
	if err != nil || m.Resident <= 0 || m.Peak < m.Resident {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestDisk(t *testing.T) {
	dir := t.TempDir()
	const size = 1 << 20
	if err := os.WriteFile(filepath.Join(dir, "full"), bytes.Repeat([]byte{1}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	sparse := filepath.Join(dir, "sparse")
	if err := os.WriteFile(sparse, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(sparse, 64*size); err != nil {
		t.Fatal(err)
	}
	if got, err := Disk(dir); err != nil || got < size || got > 2*size {
		t.Errorf("got %d, %v; expected about %d", got, err, size)
	}
	if got, err := Disk(filepath.Join(dir, "absent")); err != nil || got != 0 {
		t.Errorf("got %d, %v for a directory that is not there; expected 0", got, err)
	}
}

func TestPercentilesAndMedian(t *testing.T) {
	var samples []time.Duration
	for i := 1000; i > 0; i-- {
		samples = append(samples, time.Duration(i)*time.Millisecond)
	}
	if got := Summarise(samples); got != (Latency{P50: 500, P99: 990, P999: 999, Max: 1000, Count: 1000}) {
		t.Errorf("got %+v", got)
	}
	if got := Summarise(nil); got != (Latency{}) {
		t.Errorf("got %+v of nothing", got)
	}
	if Median([]float64{3, 1, 2}) != 2 || Median([]float64{4, 1, 2, 3}) != 2.5 || !math.IsNaN(Median(nil)) {
		t.Error("the median is wrong")
	}
}
