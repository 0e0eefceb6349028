package broker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// nodeMetrics are those of a node's membership of its cluster.
type nodeMetrics struct {
	heartbeats *prometheus.HistogramVec
	forwarded  *prometheus.CounterVec
}

// Outcomes of what is sent to the controller, as labels.
const (
	outcomeDone    = "done"
	outcomeNothing = "nothing_done" // certainly: it is sent again
	outcomeUnknown = "unknown"      // it may have been done
	outcomeFailed  = "failed"
)

func newNodeMetrics(reg prometheus.Registerer, l *life) *nodeMetrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "weir", Subsystem: "broker", Name: "apart", Help: "1 while the cluster does not count on this node: it is fenced, not registered, or its heartbeats are not answered.",
	}, func() float64 {
		if l.notReady() != "" {
			return 1
		}
		return 0
	})
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "weir", Subsystem: "broker", Name: "controller_silent_seconds", Help: "Time since the controller last answered a heartbeat.",
	}, func() float64 { return l.silent().Seconds() })
	return &nodeMetrics{
		heartbeats: f.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "weir", Subsystem: "broker", Name: "controller_heartbeat_seconds", Help: "Time that heartbeats to the controller took, by outcome.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 4, 9), // 100 us to 6.6 s
		}, []string{"outcome"}),
		forwarded: f.NewCounterVec(prometheus.CounterOpts{
			Namespace: "weir", Subsystem: "broker", Name: "admin_forwarded_total", Help: "Administrative requests sent to the controller for a client of this node, by outcome.",
		}, []string{"outcome"}),
	}
}

func (m *nodeMetrics) beat(took time.Duration, err error) {
	outcome := outcomeDone
	if err != nil {
		outcome = outcomeFailed
	}
	m.heartbeats.WithLabelValues(outcome).Observe(took.Seconds())
}

func (m *nodeMetrics) forward(err error) {
	outcome := outcomeDone
	switch {
	case err == nil:
	case nothingDone(err):
		outcome = outcomeNothing
	default:
		outcome = outcomeUnknown
	}
	m.forwarded.WithLabelValues(outcome).Inc()
}
