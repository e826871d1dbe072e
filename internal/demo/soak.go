package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/clock"
)

// What counts as flat: the median of the last third of the samples against that of the middle third. The first third is warm-up: caches
// fill, memtables and connection pools reach their size.
const (
	sampleEvery      = 5 * time.Second
	memoryGrowth     = 1.15
	memoryAllowance  = 16 << 20 // bytes: one memtable or heap step more or less is no leak
	goroutineGrowth  = 1.05
	goroutineSlack   = 5
	samplesForThirds = 9
)

// sample is what one process used at one moment.
type sample struct {
	memory     float64 // resident bytes
	goroutines float64
}

// soak crashes the primary's postgres again and again and watches what the processes use meanwhile.
func (p *play) soak(ctx context.Context, length, every time.Duration) error {
	samples := map[string][]sample{}
	end := p.clock.Now().Add(length)
	for round := 1; p.clock.Now().Before(end); round++ {
		next := p.clock.Now().Add(every)
		if err := p.do(ctx, faults[0], round); err != nil {
			return err
		}
		for p.clock.Now().Before(next) {
			if err := clock.Wait(ctx, p.clock, sampleEvery); err != nil {
				return err
			}
			if err := p.takeSamples(ctx, samples); err != nil {
				return err
			}
		}
	}
	return p.judgeSamples(samples)
}

// takeSamples asks every process once.
func (p *play) takeSamples(ctx context.Context, samples map[string][]sample) error {
	for _, t := range p.stack.metricTargets() {
		s, err := takeSample(ctx, t)
		if err != nil {
			return err
		}
		samples[t.name] = append(samples[t.name], s)
	}
	return nil
}

// metricTarget is one process that can be asked for its metrics.
type metricTarget struct {
	name, url string
	pid       int
}

func takeSample(ctx context.Context, t metricTarget) (sample, error) {
	memory, err := residentBytes(t.pid)
	if err != nil {
		return sample{}, fmt.Errorf("sample %s: %w", t.name, err)
	}
	goroutines, err := readGauge(ctx, t.url, "go_goroutines")
	if err != nil {
		return sample{}, fmt.Errorf("sample %s: %w", t.name, err)
	}
	return sample{memory: memory, goroutines: goroutines}, nil
}

// residentBytes reads VmRSS (proc(5)).
func residentBytes(pid int) (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
			return kib * 1024, err
		}
	}
	return 0, errors.New("no VmRSS in its status")
}

// readGauge reads one gauge without labels from a Prometheus endpoint.
func readGauge(ctx context.Context, url, name string) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	for scanner := bufio.NewScanner(response.Body); scanner.Scan(); {
		if value, ok := strings.CutPrefix(scanner.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("%s has no gauge %s", url, name)
}

func (p *play) judgeSamples(samples map[string][]sample) error {
	var errs []error
	for _, t := range p.stack.metricTargets() {
		list := samples[t.name]
		if len(list) < samplesForThirds {
			errs = append(errs, fmt.Errorf("%s: only %d samples, at least %d are needed: let it run longer", t.name, len(list), samplesForThirds))
			continue
		}
		middle, last := list[len(list)/3:2*len(list)/3], list[2*len(list)/3:]
		m0, m1 := medianOf(middle, func(s sample) float64 { return s.memory }), medianOf(last, func(s sample) float64 { return s.memory })
		g0, g1 := medianOf(middle, func(s sample) float64 { return s.goroutines }), medianOf(last, func(s sample) float64 { return s.goroutines })
		p.audience.say("%-14s resident %.0f → %.0f MiB, goroutines %.0f → %.0f (medians of the middle and the last third of %d samples)", t.name, m0/(1<<20), m1/(1<<20), g0, g1, len(list))
		if m1 > m0*memoryGrowth && m1 > m0+memoryAllowance {
			errs = append(errs, fmt.Errorf("%s: resident memory grew from %.0f to %.0f MiB", t.name, m0/(1<<20), m1/(1<<20)))
		}
		if g1 > g0*goroutineGrowth && g1 > g0+goroutineSlack {
			errs = append(errs, fmt.Errorf("%s: goroutines grew from %.0f to %.0f", t.name, g0, g1))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return nil
}

func medianOf(samples []sample, of func(sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
