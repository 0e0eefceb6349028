package pace

import "github.com/prometheus/client_golang/prometheus"

// Metrics are those of the background writes of one data directory.
type Metrics struct {
	inFlight, limit, rate prometheus.Gauge
	waits, waited         prometheus.Counter
}

// NewMetrics makes the metrics and registers them with reg, if that is not nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "weir", Subsystem: "pace", Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "weir", Subsystem: "pace", Name: name, Help: help})
	}
	m := &Metrics{
		inFlight: gauge("background_in_flight_bytes", "Bytes that are being written to the data directory's disk in the background: segments, indexes, compaction, new files of the logs."),
		limit:    gauge("background_limit_bytes", "How many of those may be in flight, so that a durable write waits for about 50 ms of them at most. 65536 is the least: the disk is slow."),
		rate:     gauge("background_bytes_per_second", "Speed of the disk as seen by background writes, averaged over the last few; 0 before the first."),
		waits:    counter("background_waits_total", "Background writes that had to wait for others to end."),
		waited:   counter("background_wait_seconds_total", "Time that background writes waited for others to end."),
	}
	if reg != nil {
		reg.MustRegister(m.inFlight, m.limit, m.rate, m.waits, m.waited)
	}
	return m
}
