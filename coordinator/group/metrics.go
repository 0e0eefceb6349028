package group

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the coordinator's.
type Metrics struct {
	groups         *prometheus.GaugeVec
	byState        [stateCount]prometheus.Gauge
	members        prometheus.Gauge
	offsets        prometheus.Gauge
	rebalances     prometheus.Counter
	expired        prometheus.Counter
	commits        prometheus.Counter
	expiredOffsets prometheus.Counter
	failedWrites   prometheus.Counter
}

// NewMetrics registers the metrics with reg; with a nil reg they work unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_group_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_group_" + name, Help: help})
	}
	m := &Metrics{
		groups: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "weir_group_groups", Help: "Groups by state."},
			[]string{"state"}),
		members:        gauge("members", "Members of all groups."),
		offsets:        gauge("offsets", "Committed offsets kept."),
		rebalances:     counter("rebalances_total", "Rebalances begun."),
		expired:        counter("sessions_expired_total", "Members removed because their session ended."),
		commits:        counter("offset_commits_total", "Offsets committed."),
		expiredOffsets: counter("offsets_expired_total", "Offsets removed because their retention ended."),
		failedWrites:   counter("failed_writes_total", "Appends to __consumer_offsets that failed."),
	}
	for s := range stateCount {
		m.byState[s] = m.groups.WithLabelValues(s.String())
	}
	if reg != nil {
		reg.MustRegister(m.groups, m.members, m.offsets, m.rebalances, m.expired, m.commits, m.expiredOffsets, m.failedWrites)
	}
	return m
}

func (m *Metrics) state(s State, delta float64) { m.byState[s].Add(delta) }
