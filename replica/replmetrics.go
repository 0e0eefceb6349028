package replica

import (
	"github.com/prometheus/client_golang/prometheus"
)

// replMetrics are of replication; a node without others has them too, at zero.
type replMetrics struct {
	shrinks, expands, fetchedBytes, fetchFailures, truncations, alterFailures prometheus.Counter
	alterSeconds                                                              prometheus.Histogram
}

// resized counts an ISR that this node, as its leader, had changed.
func (r *replMetrics) resized(grows bool) {
	if grows {
		r.expands.Inc()
	} else {
		r.shrinks.Inc()
	}
}

func newReplMetrics(m *Manager, reg prometheus.Registerer) *replMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_replica_" + name, Help: help})
	}
	r := &replMetrics{
		shrinks:       counter("isr_shrinks_total", "Times this node, as leader, had a lagging follower taken out of the in-sync replicas."),
		expands:       counter("isr_expands_total", "Times this node, as leader, had a follower taken into the in-sync replicas."),
		fetchedBytes:  counter("fetched_bytes_total", "Bytes of batches that this node, as follower, appended."),
		fetchFailures: counter("fetch_failures_total", "Fetches from leaders, or partitions in them, that failed; they are tried again."),
		truncations:   counter("truncations_total", "Times a follower's log was truncated, or emptied, because it differed from its leader's."),
		alterFailures: counter("alter_isr_failures_total", "ISR changes that were not taken and are proposed again."),
		alterSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_replica_alter_isr_seconds", Help: "Time that the controller took to answer proposals of ISR changes.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 10),
		}),
	}
	if reg == nil {
		return r
	}
	reg.MustRegister(r.shrinks, r.expands, r.fetchedBytes, r.fetchFailures, r.truncations, r.alterFailures, r.alterSeconds)
	count := func(name, help string, is func(p *Partition, r *role) bool) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "weir_replica_" + name, Help: help}, func() float64 {
			n := 0
			for _, p := range m.all() {
				if is(p, p.role.Load()) {
					n++
				}
			}
			return float64(n)
		}))
	}
	count("leader_partitions", "Partitions that this node leads.", func(_ *Partition, r *role) bool { return r.leads })
	count("offline_partitions", "Partitions with a replica on this node that have no leader.", func(_ *Partition, r *role) bool { return r.leader < 0 })
	count("under_replicated_partitions", "Partitions led by this node of which a replica is not in sync.",
		func(_ *Partition, r *role) bool { return r.leads && len(r.isr) < len(r.replicas) })
	count("under_min_isr_partitions", "Partitions led by this node with fewer in-sync replicas than min.insync.replicas: acks=all is refused.",
		func(p *Partition, r *role) bool {
			return r.leads && len(r.isr) < min(p.settings.Load().Topic.MinInsyncReplicas, len(r.replicas))
		})
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weir_replica_follower_lag_offsets_max", Help: "The furthest that a partition followed by this node is behind its leader, in offsets.",
	}, func() float64 { return float64(m.fetchers.lag()) }))
	return r
}
