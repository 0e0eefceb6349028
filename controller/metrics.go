package controller

import (
	"github.com/prometheus/client_golang/prometheus"

	"weir/controller/machine"
)

// Metrics are the package's metrics. What is about the cluster is 0 on a node that is not the controller.
type Metrics struct {
	active         prometheus.Gauge
	brokers        [2]prometheus.Gauge // active, fenced
	offline        prometheus.Gauge
	reassigning    prometheus.Gauge
	imbalanced     prometheus.Gauge
	elections      [machine.ElectionKinds]prometheus.Counter
	fencings       prometheus.Counter
	failures       prometheus.Counter
	refused        prometheus.Counter
	queue          prometheus.Gauge
	decideSeconds  prometheus.Histogram
	proposeSeconds prometheus.Histogram
}

// electionNames are the kinds as the metric has them.
var electionNames = [machine.ElectionKinds]string{
	machine.ElectFailover: "failover", machine.ElectUnclean: "unclean", machine.ElectPreferred: "preferred",
	machine.ElectBalance: "balance", machine.ElectReassigned: "reassigned",
}

// NewMetrics registers the metrics with reg; with a nil reg they work but are not registered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	var all []prometheus.Collector
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		all = append(all, g)
		return g
	}
	counter := func(name, help string) prometheus.Counter {
		n := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		all = append(all, n)
		return n
	}
	seconds := func(name, help string) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(50e-6, 2.5, 14)})
		all = append(all, h)
		return h
	}
	brokers := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "weir_controller_brokers", Help: "Registered brokers by state."}, []string{"state"})
	elections := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_controller_elections_total", Help: "Leaders elected, by the reason why."}, []string{"kind"})
	all = append(all, brokers, elections)
	m := &Metrics{
		active:         gauge("weir_controller_active", "1 while this node is the controller."),
		brokers:        [2]prometheus.Gauge{brokers.WithLabelValues("active"), brokers.WithLabelValues("fenced")},
		offline:        gauge("weir_controller_offline_partitions", "Partitions without a leader."),
		reassigning:    gauge("weir_controller_reassigning_partitions", "Partitions on their way to other brokers."),
		imbalanced:     gauge("weir_controller_imbalanced_partitions", "Partitions that their preferred replica does not lead."),
		fencings:       counter("weir_controller_fenced_total", "Times that a broker was fenced."),
		failures:       counter("weir_controller_failures_total", "Changes of the metadata that failed or whose outcome is unknown."),
		refused:        counter("weir_controller_refused_total", "Requests refused because too many were waiting."),
		queue:          gauge("weir_controller_queue_length", "Requests and heartbeats that are not answered yet."),
		decideSeconds:  seconds("weir_controller_decide_seconds", "Time to decide about everything that waits."),
		proposeSeconds: seconds("weir_controller_propose_seconds", "Time until what was decided is committed and applied here."),
	}
	for i, name := range electionNames {
		m.elections[i] = elections.WithLabelValues(name)
	}
	if reg != nil {
		reg.MustRegister(all...)
	}
	return m
}

func (m *Metrics) setActive(active bool) {
	if active {
		m.active.Set(1)
		return
	}
	for _, g := range []prometheus.Gauge{m.active, m.brokers[0], m.brokers[1], m.offline, m.reassigning, m.imbalanced} {
		g.Set(0)
	}
}

// observe shows the state of the cluster.
func (m *Metrics) observe(c *machine.Machine) {
	if !c.InOffice() {
		return
	}
	s := c.Stats()
	m.brokers[0].Set(float64(s.Active))
	m.brokers[1].Set(float64(s.Fenced))
	m.offline.Set(float64(s.Offline))
	m.reassigning.Set(float64(s.Reassigning))
	m.imbalanced.Set(float64(s.Imbalanced))
}

// count counts what a plan did.
func (m *Metrics) count(p *machine.Plan) {
	for i, n := range p.Elections {
		m.elections[i].Add(float64(n))
	}
	m.fencings.Add(float64(len(p.Fenced)))
}
