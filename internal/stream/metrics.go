package stream

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what runtimes do. One Metrics serves all runtimes of a process; the label "processor" tells them apart.
type Metrics struct {
	in, out, retries, panics, rebalances, redone, copied, ticks, flushedBytes *prometheus.CounterVec
	deadLetters, transactions                                                 *prometheus.CounterVec
	duration, recovery, flushes                                               *prometheus.HistogramVec
	lag, standbyLag                                                           *prometheus.GaugeVec
}

// NewMetrics makes the metrics and registers them, unless reg is nil. It panics if they are registered already.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	var all []prometheus.Collector
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "regent", Subsystem: "stream", Name: name, Help: help},
			append([]string{"processor"}, labels...))
		all = append(all, c)
		return c
	}
	histogram := func(name, help string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "regent", Subsystem: "stream", Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}, []string{"processor"})
		all = append(all, h)
		return h
	}
	m := &Metrics{
		in:           counter("records_in_total", "Input records that were folded, repetitions after an abort included."),
		out:          counter("records_out_total", "Records that were produced, those of aborted transactions included."),
		transactions: counter("transactions_total", "Transactions by outcome.", "outcome"),
		deadLetters:  counter("dead_letters_total", "Input records that could not be processed, by reason.", "reason"),
		panics:       counter("panics_total", "Panics of the machine, each of which became a dead letter."),
		retries:      counter("session_retries_total", "Sessions with the brokers that ended in a soft failure."),
		rebalances:   counter("rebalances_total", "Changes of the assignment."),
		redone:       counter("redone_records_total", "Records that were applied to tables in recoveries."),
		copied:       counter("standby_records_total", "Records that were applied to copies of tasks that other processes run."),
		ticks:        counter("ticks_total", "Ticks sent to idle partitions."),
		flushedBytes: counter("flushed_bytes_total", "Bytes of committed state that were written to the store."),
		duration:     histogram("transaction_duration_seconds", "How long ending a transaction took."),
		recovery:     histogram("recovery_duration_seconds", "How long a task took from assignment to its first record."),
		flushes:      histogram("flush_duration_seconds", "How long a flush to the store took."),
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "regent", Subsystem: "stream", Name: "lag_records", Help: "Input records that are not folded yet, measured at each flush interval.",
		}, []string{"processor", "topic"}),
	}
	m.standbyLag = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "regent", Subsystem: "stream", Name: "standby_lag_offsets", Help: "Offsets that this process's copy of a task was behind when it was last looked at.",
	}, []string{"processor", "task"})
	all = append(all, m.lag, m.standbyLag)
	if reg != nil {
		reg.MustRegister(all...)
	}
	return m
}

func (m *Metrics) forgetStandby(processor string, task int32) {
	m.standbyLag.DeleteLabelValues(processor, taskLabel(task))
}

func (m *Metrics) observeTransaction(processor string, o Outcome, took time.Duration) {
	m.transactions.WithLabelValues(processor, o.String()).Inc()
	if took > 0 {
		m.duration.WithLabelValues(processor).Observe(took.Seconds())
	}
}

// counters are those that move with every record, looked up once: finding one by its label costs more than folding a small record.
type counters struct{ in, out prometheus.Counter }

func (m *Metrics) countersOf(processor string) counters {
	return counters{in: m.in.WithLabelValues(processor), out: m.out.WithLabelValues(processor)}
}
