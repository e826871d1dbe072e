// Command bench measures Regent's runtime against Kafka Streams, Goka and the bare limit of the client, all of them on one Apache Kafka, with
// the same records and the same fold, in alternating rounds.
//
//	make bench                                                              everything; an hour or more
//	make bench ARGS='-rounds 3 -only catchup -contenders regent,copy'       minutes
//
// It starts one broker, writes the inputs once for each number of keys, and lets every contender work on them as a process of its own, with
// a fresh group, a fresh output topic and fresh state. After each run it reads the output as an independent reader and holds it against the
// reference (package workload): a run whose output has a gap, a double or a wrong total gives no figure and fails the benchmark.
//
// The report (text, JSON, charts) and the profiles go to -out, the broker's data and the contenders' state to -dir.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/regent-infra/regent/bench/report"
	"github.com/regent-infra/regent/bench/workload"
)

// options are the flags.
type options struct {
	args       []string
	rounds     int
	records    int
	partitions int32
	keys       []int
	only       []phase
	contenders []*contender
	dir, out   string
	keep       bool
	profile    bool

	latencyRates  []int
	latencyTime   time.Duration
	latencyWarmUp time.Duration
	steady        time.Duration

	more map[string][]string // arguments of contenders beyond their own, by name
	seed uint64
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = run(ctx, o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	o := options{args: args, more: map[string][]string{}}
	var keys, only, rates, names string
	var partitions int
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.IntVar(&o.rounds, "rounds", 5, "rounds; the report has the medians")
	fs.IntVar(&o.records, "records", 2_000_000, "records to catch up with")
	fs.IntVar(&partitions, "partitions", 4, "partitions of every topic; 1 to 1000")
	fs.StringVar(&keys, "keys", "100000,1000000", "numbers of keys, one data set for each")
	fs.StringVar(&only, "only", "catchup,rebuild,restart,latency", "what to measure: catchup, rebuild, restart, latency")
	fs.StringVar(&rates, "latency-rates", "1000,10000", "rates of the latency runs, records/s")
	fs.DurationVar(&o.latencyTime, "latency-time", 30*time.Second, "how long each latency run is measured")
	fs.DurationVar(&o.latencyWarmUp, "latency-warmup", 15*time.Second, "how long a contender works at the full rate before: virtual machines compile meanwhile")
	fs.DurationVar(&o.steady, "restart-steady", 10*time.Second, "how long a contender works before each kill; Regent writes its store every 3 s")
	fs.StringVar(&names, "contenders", "regent,streams,streams-best,goka,copy", "who takes part: regent, regent-1g, streams, streams-best, goka, copy, copy-lz4")
	fs.StringVar(&o.dir, "dir", "", "directory for the broker's data and the contenders' state; what was loaded there before is used again. Default: a temporary one")
	fs.StringVar(&o.out, "out", "bin/bench", "directory for the report and the profiles")
	fs.BoolVar(&o.keep, "keep", false, "keep -dir afterwards although it is temporary")
	fs.BoolVar(&o.profile, "profile", true, "one more catch-up of regent with profiles, which does not count")
	fs.Uint64Var(&o.seed, "seed", 1, "chooses the records")
	fs.Func("set", "NAME=ARGUMENTS: more arguments for a contender, which may repeat earlier ones: -set 'regent=-cache 512'; may be given again",
		func(text string) error {
			name, arguments, _ := strings.Cut(text, "=")
			if _, err := choose(name); err != nil {
				return err
			}
			o.more[name] = append(o.more[name], strings.Fields(arguments)...)
			return nil
		})
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	var faults []error
	if fs.NArg() > 0 {
		faults = append(faults, fmt.Errorf("unexpected argument %q", fs.Arg(0)))
	}
	var err error
	if o.keys, err = numbers("-keys", keys, o.records); err != nil {
		faults = append(faults, err)
	}
	if o.latencyRates, err = numbers("-latency-rates", rates, 1_000_000); err != nil {
		faults = append(faults, err)
	}
	for text := range strings.SplitSeq(only, ",") {
		if !slices.Contains(phases, phase(text)) {
			faults = append(faults, fmt.Errorf("-only has %q, expected some of %v", text, phases))
		}
		o.only = append(o.only, phase(text))
	}
	if partitions < 1 || partitions > 1000 {
		faults = append(faults, fmt.Errorf("-partitions is %d, expected 1 to 1000", partitions))
	}
	o.partitions = int32(partitions) //nolint:gosec // checked above
	if o.rounds < 1 {
		faults = append(faults, fmt.Errorf("-rounds is %d, expected 1 or more", o.rounds))
	}
	if o.contenders, err = choose(names); err != nil {
		faults = append(faults, err)
	}
	return o, errors.Join(faults...)
}

// numbers reads a list of whole numbers from 1 to a bound.
func numbers(flag, list string, most int) (out []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > most {
			return nil, fmt.Errorf("%s has %q, expected numbers from 1 to %d", flag, text, most)
		}
		out = append(out, n)
	}
	return out, nil
}

// warmUp is the number of a round that does not count.
const warmUp = 0

// sample is one measured number.
type sample = report.Sample

// bench is one run.
type bench struct {
	options options
	out     io.Writer
	work    string // directory of broker and contenders
	run     string // tells the names of this run from those of earlier ones
	jobs    int
	starts  int
	cluster *cluster
	builder *builder
	report  *report.Report
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	root, err := repository(ctx)
	if err != nil {
		return err
	}
	b := &bench{options: o, out: out, work: o.dir, run: strconv.FormatInt(time.Now().Unix(), 36)}
	if b.work == "" {
		if b.work, err = os.MkdirTemp("", "regent-bench-"); err != nil {
			return err
		}
		if !o.keep {
			defer os.RemoveAll(b.work)
		}
	}
	if b.work, err = filepath.Abs(b.work); err != nil {
		return err
	}
	for _, dir := range []string{filepath.Join(b.work, "bin"), filepath.Join(b.work, "broker"), o.out} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return err
		}
	}
	b.builder = &builder{root: root, out: filepath.Join(b.work, "bin"), built: map[program][]string{}}
	b.report = &report.Report{
		Began: time.Now(), Command: "make bench ARGS='" + strings.Join(o.args, " ") + "'", Commit: commit(ctx, root),
		Machine: machineFacts(), Versions: versionFacts(ctx, root), Settings: b.settings(),
	}
	failed := b.measure(ctx)
	b.report.Took = time.Since(b.report.Began)
	return errors.Join(failed, b.write())
}

// repository returns the directory of the module.
func repository(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if filepath.Base(mod) != "go.mod" {
		return "", errors.New("find the repository: run this inside of it, with make bench")
	}
	return filepath.Dir(mod), nil
}

// settings says what was set.
func (b *bench) settings() []report.Fact {
	facts := []report.Fact{
		{Name: "rounds", Value: strconv.Itoa(b.options.rounds)},
		{Name: "records", Value: strconv.Itoa(b.options.records)},
		{Name: "partitions", Value: strconv.Itoa(int(b.options.partitions))},
		{Name: "broker", Value: "one, " + strings.Join(brokerJVM, " ")},
	}
	for _, c := range b.options.contenders {
		about := c.about
		for _, p := range b.options.only {
			if s := b.settingsOf(c, p); len(s) > 0 && !slices.Contains(c.skips, p) {
				about += fmt.Sprintf("; %s: %s", p, strings.Join(s, " "))
			}
		}
		facts = append(facts, report.Fact{Name: c.name, Value: about})
	}
	return facts
}

// settingsOf returns the arguments of a contender, its own first.
func (b *bench) settingsOf(c *contender, p phase) []string {
	return append(slices.Clone(c.settings(p)), b.options.more[c.name]...)
}

// measure runs everything that was asked for.
func (b *bench) measure(ctx context.Context) (err error) {
	if b.cluster, err = startCluster(ctx, filepath.Join(b.work, "broker"), b.options.partitions); err != nil {
		return err
	}
	defer b.cluster.stop()
	for _, c := range b.options.contenders {
		if _, err := b.builder.command(ctx, c.program); err != nil {
			return err
		}
	}
	var faults []error
	sizes := b.options.keys
	if len(b.options.only) == 1 && b.asked(phaseLatency) {
		sizes = nil // latencies need no dataset
	}
	for i, keys := range sizes {
		b.say("loading %d records of %d keys", b.options.records, keys)
		d, err := b.cluster.load(ctx, workload.Spec{Seed: b.options.seed, Records: b.options.records, Keys: keys, Partitions: b.options.partitions})
		if err != nil {
			return err
		}
		b.say("loaded, %.0f bytes each", float64(d.bytes)/float64(d.spec.Records))
		if i == 0 { // the broker's own compiler is to have seen the work before anything counts
			b.say("warming the broker up")
			if err := b.catchUp(ctx, contenders[slices.IndexFunc(contenders, func(c *contender) bool { return c.copies })], d, warmUp, warmUp); err != nil {
				return err
			}
		}
		faults = append(faults, b.rounds(ctx, d))
	}
	if b.asked(phaseLatency) {
		for _, rate := range b.options.latencyRates {
			faults = append(faults, b.turns(ctx, phaseLatency, latencyKeys, func(c *contender, round int) error {
				return b.latency(ctx, c, rate, round)
			}))
		}
	}
	return errors.Join(faults...)
}

// rounds lets the contenders take turns on a dataset; each round begins with another one.
func (b *bench) rounds(ctx context.Context, d *dataset) error {
	both := b.asked(phaseCatchUp) && b.asked(phaseRebuild)
	var faults []error
	if b.asked(phaseCatchUp) {
		faults = append(faults, b.turns(ctx, phaseCatchUp, d.spec.Keys, func(c *contender, round int) error {
			if both && !slices.Contains(c.skips, phaseRebuild) {
				return b.catchUp(ctx, c, d, round, round)
			}
			return b.catchUp(ctx, c, d, round, warmUp)
		}))
	}
	if b.asked(phaseRebuild) && !both {
		faults = append(faults, b.turns(ctx, phaseRebuild, d.spec.Keys, func(c *contender, round int) error {
			return b.catchUp(ctx, c, d, warmUp, round)
		}))
	}
	if b.asked(phaseRestart) {
		faults = append(faults, b.turns(ctx, phaseRestart, d.spec.Keys, func(c *contender, round int) error {
			if round > 1 {
				return nil // one life after the other: all rounds go on with the state of the first
			}
			return b.restart(ctx, c, d, b.options.rounds)
		}))
	}
	return errors.Join(append(faults, b.profiled(ctx, d))...)
}

func (b *bench) asked(p phase) bool { return slices.Contains(b.options.only, p) }

// turns runs all rounds of one phase. A run that fails is reported and does not end the benchmark, but fails it.
func (b *bench) turns(ctx context.Context, p phase, keys int, do func(c *contender, round int) error) error {
	var faults []error
	for round := range b.options.rounds {
		for i := range b.options.contenders {
			c := b.options.contenders[(i+round)%len(b.options.contenders)]
			if slices.Contains(c.skips, p) {
				continue
			}
			err := do(c, round+1)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				err = fmt.Errorf("%s of %s with %d keys, round %d: %w", p, c.name, keys, round+1, err)
				b.say("FAILED: %v", err)
				b.report.Failures = append(b.report.Failures, err.Error())
				faults = append(faults, err)
			}
		}
	}
	return errors.Join(faults...)
}

// profiled runs one more catch-up of Regent's contender with profiles: they cost time, so that it does not count.
func (b *bench) profiled(ctx context.Context, d *dataset) error {
	i := slices.IndexFunc(b.options.contenders, func(c *contender) bool { return c.program == programRegent })
	if !b.options.profile || i < 0 || !b.asked(phaseCatchUp) {
		return nil
	}
	dir, err := filepath.Abs(filepath.Join(b.options.out, fmt.Sprintf("profiles-%d-keys", d.spec.Keys)))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	b.say("profiling to %s", dir)
	return b.catchUp(ctx, b.options.contenders[i], d, warmUp, warmUp, "-profiles", dir)
}

// add notes a number.
func (b *bench) add(s sample) {
	b.report.Samples = append(b.report.Samples, s)
	b.say("%-12s %8d keys  round %d  %-13s %-24s %14.2f %s", s.Figure+" "+s.Load, s.Keys, s.Round, s.Contender, s.Name, s.Value, s.Unit)
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.out, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// write puts the report into the output directory, and shows it.
func (b *bench) write() error {
	var text bytes.Buffer
	if err := b.report.Text(&text); err != nil {
		return err
	}
	fmt.Fprint(b.out, text.String())
	charts := filepath.Join(b.options.out, "charts")
	if err := os.MkdirAll(charts, 0o750); err != nil {
		return err
	}
	faults := []error{
		writeFile(filepath.Join(b.options.out, "report.txt"), func(w io.Writer) error { _, err := w.Write(text.Bytes()); return err }),
		writeFile(filepath.Join(b.options.out, "report.json"), b.report.JSON),
	}
	for _, c := range b.report.Charts() {
		faults = append(faults, writeFile(filepath.Join(charts, c.Name+".svg"), c.SVG))
	}
	return errors.Join(faults...)
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
