package raftmeta

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the package's metrics.
type Metrics struct {
	commitSeconds   prometheus.Histogram
	applySeconds    prometheus.Histogram
	storeSeconds    prometheus.Histogram
	snapshotSeconds prometheus.Histogram
	snapshotFails   prometheus.Counter
	refused         prometheus.Counter
	imageVersion    prometheus.Gauge
	logEntries      prometheus.Gauge
	logBytes        prometheus.Gauge
	topics          prometheus.Gauge
	partitions      prometheus.Gauge
	leader          prometheus.Gauge
	poisoned        prometheus.Gauge

	term              prometheus.Gauge
	commitIndex       prometheus.Gauge
	leaderChanges     prometheus.Counter
	appendFailures    prometheus.Counter
	heralds           prometheus.Counter
	snapshotSends     *prometheus.CounterVec
	snapshotSendBytes prometheus.Counter
	lastContact       *prometheus.GaugeVec
}

// NewMetrics registers the metrics with reg; with a nil reg they work but are not registered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	seconds := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(50e-6, 2.5, 14)})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &Metrics{
		commitSeconds:   seconds("weir_raftmeta_commit_seconds", "Time from Propose until the change is applied here."),
		applySeconds:    seconds("weir_raftmeta_apply_seconds", "Time to apply a batch of entries, subscribers included."),
		storeSeconds:    seconds("weir_raftmeta_store_seconds", "Time until a group of raft entries is durable."),
		snapshotSeconds: seconds("weir_raftmeta_snapshot_seconds", "Time to write a snapshot."),
		snapshotFails:   counter("weir_raftmeta_snapshot_failures_total", "Snapshots that could not be written."),
		refused:         counter("weir_raftmeta_backpressure_total", "Proposals refused because the log was overloaded."),
		imageVersion:    gauge("weir_raftmeta_image_version", "Raft index of the current metadata image."),
		logEntries:      gauge("weir_raftmeta_log_entries", "Raft entries kept since the last snapshot."),
		logBytes:        gauge("weir_raftmeta_log_bytes", "Log positions that cannot be recycled yet."),
		topics:          gauge("weir_raftmeta_topics", "Topics in the current image."),
		partitions:      gauge("weir_raftmeta_partitions", "Partitions in the current image."),
		leader:          gauge("weir_raftmeta_is_controller", "1 while this node is the controller."),
		poisoned:        gauge("weir_raftmeta_poisoned", "1 once the metadata log could not be written."),

		term:              gauge("weir_raftmeta_term", "Raft term, as of the last change of the controller."),
		commitIndex:       gauge("weir_raftmeta_commit_index", "Raft index that is known to be committed, as of the last change applied."),
		leaderChanges:     counter("weir_raftmeta_leader_changes_total", "Times that this node saw another controller than before."),
		appendFailures:    counter("weir_raftmeta_append_failures_total", "Messages with log entries that a node did not take."),
		heralds:           counter("weir_raftmeta_commit_messages_total", "Messages that told a node at once what is committed."),
		snapshotSendBytes: counter("weir_raftmeta_snapshot_send_bytes_total", "Bytes of snapshots sent to other nodes."),
		snapshotSends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_raftmeta_snapshot_sends_total", Help: "Snapshots sent to other nodes, by result.",
		}, []string{"result"}),
		lastContact: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_raftmeta_last_contact_timestamp_seconds", Help: "When a node last answered a raft message of this node.",
		}, []string{"node"}),
	}
	if reg != nil {
		reg.MustRegister(m.commitSeconds, m.applySeconds, m.storeSeconds, m.snapshotSeconds, m.snapshotFails, m.refused,
			m.imageVersion, m.logEntries, m.logBytes, m.topics, m.partitions, m.leader, m.poisoned,
			m.term, m.commitIndex, m.leaderChanges, m.appendFailures, m.heralds, m.snapshotSends, m.snapshotSendBytes, m.lastContact)
	}
	return m
}

func (m *Metrics) contact(node int32, at time.Time) {
	m.lastContact.WithLabelValues(metricNode(node)).Set(float64(at.UnixMilli()) / 1000)
}

func metricNode(node int32) string { return strconv.Itoa(int(node)) }
