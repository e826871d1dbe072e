package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// phase is what is being measured; the settings that suit a contender best depend on it.
type phase string

const (
	phaseCatchUp phase = "catchup"
	phaseLatency phase = "latency"
	phaseRestart phase = "restart"
	phaseRebuild phase = "rebuild"
)

var phases = []phase{phaseCatchUp, phaseLatency, phaseRestart, phaseRebuild}

// contender is one program with one way to set it.
type contender struct {
	// name is what flags and reports call it.
	name string
	// about says what it is, for the report.
	about string
	// program is what has to be built.
	program program
	// settings are the arguments beyond those that every contender takes.
	settings func(p phase) []string
	// copies says that the output is the input, and not states.
	copies bool
	// tableOutput says that the output is the topic GROUP-table, which the program makes itself.
	tableOutput bool
	// skips are phases that mean nothing for it.
	skips []phase
}

func fixed(settings ...string) func(phase) []string {
	return func(phase) []string { return settings }
}

// streamsDefaults are Kafka Streams' own defaults, but for its record cache: it would swallow outputs.
var streamsDefaults = []string{"--set", "statestore.cache.max.bytes=0"}

// streamsBest are the settings that did best on a machine with two cores. Static membership spares a restarted application the wait for the
// session of the dead, and a rebalance.
func streamsBest(p phase) []string {
	s := append(slices.Clone(streamsDefaults), "--set", "num.stream.threads=2",
		"--set", "consumer.group.instance.id=bench", "--set", "consumer.session.timeout.ms=6000")
	switch p {
	case phaseCatchUp:
		return append(s, "--set", "producer.batch.size=262144", "--set", "commit.interval.ms=200")
	case phaseLatency:
		return append(s, "--set", "commit.interval.ms=10", "--set", "producer.linger.ms=0")
	default:
		return s
	}
}

var contenders = []*contender{
	{
		name: "regent", about: "Regent's runtime, its defaults: exactly once, Pebble", program: programRegent, settings: fixed(),
	},
	{
		name: "regent-1g", about: "the same with a larger cache, for about 1 GiB resident", program: programRegent,
		settings: fixed("-cache", "384", "-store-cache", "16", "-gc", "70"),
	},
	{
		name: "streams", about: "Kafka Streams, its defaults: exactly once, RocksDB, one thread", program: programStreams,
		settings: fixed(streamsDefaults...),
	},
	{
		name: "streams-best", about: "Kafka Streams, its best settings: exactly once, RocksDB, two threads", program: programStreams,
		settings: streamsBest,
	},
	{
		name: "goka", about: "Goka, its defaults: at least once, LevelDB", program: programGoka,
		settings: fixed(), tableOutput: true, skips: []phase{phaseRestart, phaseRebuild},
	},
	{
		name: "copy", about: "the bare limit: consume and transactional produce of the same bytes", program: programCopy,
		settings: fixed(), copies: true, skips: []phase{phaseRestart, phaseRebuild},
	},
	{
		name: "copy-lz4", about: "the bare limit with lz4 on the output", program: programCopy,
		settings: fixed("-compression", "lz4"), copies: true, skips: []phase{phaseLatency, phaseRestart, phaseRebuild},
	},
}

// choose returns the contenders of a list of names, in its order.
func choose(names string) ([]*contender, error) {
	var out []*contender
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(contenders, func(c *contender) bool { return c.name == name })
		if i < 0 {
			var known []string
			for _, c := range contenders {
				known = append(known, c.name)
			}
			return nil, fmt.Errorf("-contenders names %q, expected some of %s", name, strings.Join(known, ","))
		}
		out = append(out, contenders[i])
	}
	return out, nil
}

// job is one run of one contender, under names that nobody has used before.
type job struct {
	contender     *contender
	phase         phase
	group         string
	input, output string
	dir           string // its state, and its log beside it
}

// job makes the names of one run.
func (b *bench) job(c *contender, p phase, input string) job {
	b.jobs++
	group := fmt.Sprintf("bench-%s-%s-%s-%d", b.run, c.name, p, b.jobs)
	j := job{contender: c, phase: p, group: group, input: input, output: group + "-output", dir: filepath.Join(b.work, group)}
	if c.tableOutput {
		j.output = group + "-table"
	}
	return j
}

// arguments of the contender's program.
func (j *job) arguments(broker string, settings []string) []string {
	dash := "-"
	if j.contender.program == programStreams {
		dash = "--"
	}
	args := []string{
		dash + "broker", broker, dash + "group", j.group, dash + "input", j.input, dash + "output", j.output,
		dash + "dir", filepath.Join(j.dir, "state"),
	}
	return append(args, settings...)
}
