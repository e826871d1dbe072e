package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/telemetry"
	"github.com/regent-infra/regent/internal/topicplan"
)

// Findings of a check.
const (
	findingOK      = "ok"
	findingWarning = "warning"
	findingFault   = "fault"
)

// finding is what one check of the doctor found.
type finding struct {
	Check  string `json:"check"`
	Result string `json:"result"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`
}

func (a *app) doctorCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "doctor", GroupID: groupTools,
		Short: "Check what Regent stands on: server, broker, registry, topics, directories, disk space, PostgreSQL, clock",
		Long: `Check what Regent stands on, and say for each fault what to do: server, brokers and their settings, registry, drift of the topics, data directory
and its free space, PostgreSQL programs, clock and ports. It changes nothing. The exit code is 1 if there is a fault; warnings are no fault.`,
		Example: `  regent doctor
  regent doctor --brokers kafka-1:9092 --registry http://registry:8081
  regent doctor -o json | jq '.[] | select(.result != "ok")'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			o, err := a.output(format)
			if err != nil {
				return err
			}
			d := &doctor{app: a, config: c}
			d.all(cmd.Context())
			return d.report(o)
		},
	}
	config.BindFlag(cmd.Flags(), "data-dir", "data.dir")
	config.BindFlag(cmd.Flags(), "bin-dir", "postgres.bin_dir")
	addLink(cmd)
	a.addOutput(cmd, &format)
	return cmd
}

// doctor gathers findings.
type doctor struct {
	app      *app
	config   *config.Loaded
	findings []finding
}

func (d *doctor) report(o *output) error {
	faults := 0
	for _, f := range d.findings {
		if f.Result == findingFault {
			faults++
		}
	}
	done, err := o.structured(d.findings)
	if !done {
		t := &table{header: []string{"CHECK", "RESULT", "DETAIL"}}
		for _, f := range d.findings {
			t.add(f.Check, o.style.health(f.Result), f.Detail)
			if f.Hint != "" {
				t.add("", "", "→ "+f.Hint)
			}
		}
		t.print(o)
	}
	if err == nil && faults > 0 {
		if done {
			return withCode(exitFailed, errSilent)
		}
		return fmt.Errorf("doctor: %d of %d checks found a fault", faults, len(d.findings))
	}
	return err
}

func (d *doctor) find(check, result, detail, hint string) {
	d.findings = append(d.findings, finding{Check: check, Result: result, Detail: telemetry.CleanText(detail), Hint: hint})
}

func (d *doctor) all(ctx context.Context) {
	info := d.server(ctx)
	if info != nil || len(d.config.Brokers) > 0 && d.config.Registry != "" {
		d.kafka(ctx)
	}
	d.directory(info)
	d.ports(info)
	d.postgres(ctx)
}

// server checks that the server answers, is ready, and has this clock.
func (d *doctor) server(ctx context.Context) *httpapi.Info {
	var info httpapi.Info
	api := newAPI(d.config)
	if err := api.get(ctx, "/v1/info", nil, &info); err != nil {
		if len(d.config.Brokers) > 0 && d.config.Registry != "" {
			d.find("server", findingWarning, err.Error(), "brokers and registry are named, so the rest can be checked; start one with the role api to have status, get and watch")
			return nil
		}
		d.find("server", findingFault, err.Error(), "start one (regent up), or name it with --server or a context")
		return nil
	}
	d.find("server", findingOK, fmt.Sprintf("%s, version %s, roles %s", api.base, info.Version, strings.Join(info.Roles, ", ")), "")
	if own := telemetry.ReadBuild(version).Version; own != info.Version {
		d.find("version", findingWarning, fmt.Sprintf("the server is %s, this binary %s", info.Version, own), "use the same version for both")
	}
	var ready httpapi.Readiness
	if err := api.get(ctx, "/health/ready", nil, &ready); err != nil {
		d.find("readiness", findingFault, err.Error(), "wait for recovery to end; regent status and the server's log say more")
	} else {
		d.find("readiness", findingOK, fmt.Sprintf("%d processors run", len(ready.Processors)), "")
	}
	d.clock(ctx, api)
	return &info
}

// clockLimit is the difference of clocks that is worth a word. Regent compares no clocks of two hosts, but people compare their logs.
const clockLimit = 2 * time.Second

func (d *doctor) clock(ctx context.Context, api *api) {
	begin := d.app.clock.Now()
	response, err := api.open(ctx, "/health/live", nil)
	if err != nil {
		return // the check of the server has said so
	}
	_ = response.Body.Close()
	round := d.app.clock.Now().Sub(begin)
	theirs, err := time.Parse(time.RFC1123, response.Header.Get("Date"))
	if err != nil {
		d.find("clock", findingWarning, "the server does not say its time", "")
		return
	}
	// The header counts whole seconds.
	off := theirs.Add(time.Second / 2).Sub(begin.Add(round / 2)).Abs()
	if off > clockLimit {
		d.find("clock", findingWarning, fmt.Sprintf("the server's clock differs by %s from this one", off.Round(time.Second)), "Regent decides by the broker's time alone, but logs are easier to read with NTP on all hosts")
		return
	}
	d.find("clock", findingOK, "agrees with the server's", "")
}

// kafka checks brokers, registry and topics.
func (d *doctor) kafka(ctx context.Context) {
	l, err := d.app.dial(ctx, d.config)
	if err != nil {
		d.find("broker and registry", findingFault, err.Error(), "")
		return
	}
	defer l.close()
	cluster, err := l.admin.Cluster(ctx)
	if err != nil {
		d.find("broker", findingFault, err.Error(), "")
		return
	}
	d.find("broker", findingOK, fmt.Sprintf("cluster %s with %s", cluster.ID, countOf(len(cluster.Brokers), "broker")), "")
	d.find("registry", findingOK, "answers", "")
	d.brokerSettings(ctx, l)
	if len(cluster.Brokers) == 1 && d.config.Topics.ReplicationFactor == 0 {
		l.set = l.set.WithReplicationFactor(1)
		d.find("replication", findingWarning, "there is one broker, so nothing is replicated", "use three brokers for anything that must survive the loss of a disk")
	}
	plan, err := topicplan.Make(ctx, l.admin, l.registry, l.set)
	switch {
	case err != nil:
		d.find("topics", findingFault, err.Error(), "")
	case !plan.Empty():
		d.find("topics", findingFault, fmt.Sprintf("%s to make %d topics agree with the declaration", countOf(len(plan.Steps), "step"), plan.Topics), "regent topics plan shows them, regent topics apply takes them")
	default:
		d.find("topics", findingOK, fmt.Sprintf("%d topics and their schemas agree with the declaration", plan.Topics), "")
	}
	d.replicas(ctx, l)
}

func countOf(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// brokerSettings checks what the runtime relies on.
func (d *doctor) brokerSettings(ctx context.Context, l *link) {
	brokers, err := l.admin.BrokerConfigs(ctx)
	if err != nil {
		d.find("broker settings", findingWarning, err.Error(), "")
		return
	}
	const day = 24 * 60
	for _, rule := range []struct {
		name string
		bad  func(n int64) bool
		want string
		why  string
	}{
		{"offsets.retention.minutes", func(n int64) bool { return n < 7*day }, "at least 10080 (7 days)", "a group that is away for longer loses its positions, and its state is rebuilt"},
		{"transaction.max.timeout.ms", func(n int64) bool { return n < 10_000 }, "at least 10000", "transactions of the processors time out after 10 s"},
		{"transaction.abort.timed.out.transaction.cleanup.interval.ms", func(n int64) bool { return n > 10_000 }, "1000", "how long readers can be held up by a dead producer beyond its time-out"},
		{"group.min.session.timeout.ms", func(n int64) bool { return n > 6_000 }, "at most 6000", "processors join with a session time-out of 6 s"},
	} {
		result, detail, hint := findingOK, "", ""
		for broker, settings := range brokers {
			value, set := settings[rule.name]
			n, err := strconv.ParseInt(value, 10, 64)
			if !set || err != nil {
				continue
			}
			detail = fmt.Sprintf("%s=%s", rule.name, value)
			if rule.bad(n) {
				result, detail = findingWarning, fmt.Sprintf("%s=%s on broker %s", rule.name, value, broker)
				hint = fmt.Sprintf("set it to %s: %s", rule.want, rule.why)
			}
		}
		if detail != "" {
			d.find("broker settings", result, detail, hint)
		}
	}
}

func (d *doctor) replicas(ctx context.Context, l *link) {
	found, err := l.admin.Topics(ctx, l.set.Names()...)
	if err != nil {
		return // the comparison of the topics has said so
	}
	under, leaderless := 0, 0
	for _, t := range found {
		under += t.UnderReplicated
		leaderless += t.Leaderless
	}
	if leaderless > 0 {
		d.find("replicas", findingFault, countOf(leaderless, "partition")+" without a leader", "bring the brokers that hold them back")
	}
	if under > 0 {
		d.find("replicas", findingWarning, countOf(under, "partition")+" with fewer replicas in sync than there are", "see whether a broker is down or slow")
	}
}
