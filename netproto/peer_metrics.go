package netproto

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// PeerMetrics counts what Peers does.
type PeerMetrics struct {
	created, reused *prometheus.CounterVec
	inFlight        *prometheus.GaugeVec
	seconds         *prometheus.HistogramVec
	failures        *prometheus.CounterVec
	circuit         *prometheus.GaugeVec

	byClass [classCount]peerClassMetrics
}

// peerClassMetrics are the series of one class, so that a call needs no lookup.
type peerClassMetrics struct {
	created, reused prometheus.Counter
	inFlight        prometheus.Gauge
	seconds         prometheus.Observer
}

// NewPeerMetrics makes the metrics and registers them with reg, if there is one.
func NewPeerMetrics(reg prometheus.Registerer) *PeerMetrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "weir", Subsystem: "peer", Name: name, Help: help}
	}
	class := []string{"class"}
	m := &PeerMetrics{
		created:  prometheus.NewCounterVec(prometheus.CounterOpts(opts("connections_created_total", "Connections made to other nodes.")), class),
		reused:   prometheus.NewCounterVec(prometheus.CounterOpts(opts("connections_reused_total", "Calls to other nodes that found an open connection.")), class),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("requests_in_flight", "Requests to other nodes that are not yet answered, also those nobody waits for any more.")), class),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts(opts("failures_total", "Calls to other nodes that failed, by reason.")), []string{"class", "reason"}),
		circuit:  prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("circuit_open", "1 while a node cannot be reached and calls to it fail at once.")), []string{"peer", "class"}),
	}
	m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "weir", Subsystem: "peer", Name: "request_seconds",
		Help:    "Time from a call to its answer, of those that were answered.",
		Buckets: prometheus.ExponentialBuckets(100e-6, 3, 12), // 100 us to 17.7 s
	}, class)
	for c := range classCount {
		name := c.String()
		m.byClass[c] = peerClassMetrics{m.created.WithLabelValues(name), m.reused.WithLabelValues(name), m.inFlight.WithLabelValues(name), m.seconds.WithLabelValues(name)}
	}
	if reg != nil {
		reg.MustRegister(m.created, m.reused, m.inFlight, m.seconds, m.failures, m.circuit)
	}
	return m
}

func (m *PeerMetrics) answered(class Class, d time.Duration) {
	m.byClass[class].seconds.Observe(d.Seconds())
}

func (m *PeerMetrics) failed(class Class, err error) {
	m.failures.WithLabelValues(class.String(), failureReason(err)).Inc()
}

// circuitOpen counts how many addresses of a node cannot be reached: there is more than one only while a node moves.
func (m *PeerMetrics) circuitOpen(node int32, class Class, n float64) {
	m.circuit.WithLabelValues(strconv.Itoa(int(node)), class.String()).Add(n)
}

// failureReason is an error as the metric's label.
func failureReason(err error) string {
	for _, k := range []struct {
		err  error
		name string
	}{
		{ErrPeerRefused, "refused"}, {ErrPeerDown, "down"}, {ErrPeerUnknown, "unknown"}, {ErrPeerBusy, "busy"}, {ErrPeerTimeout, "timeout"},
		{context.Canceled, "canceled"}, {ErrPeerClosed, "closed"}, {ErrPeerLost, "lost"},
	} {
		if errors.Is(err, k.err) {
			return k.name
		}
	}
	return "other"
}
