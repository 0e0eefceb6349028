package wal

import "github.com/prometheus/client_golang/prometheus"

// Metrics are those of one log. Two logs in one process need registerers that tell them apart
// (prometheus.WrapRegistererWith).
type Metrics struct {
	groups, entries, bytes, deviceBytes prometheus.Counter
	blocked, pressure, makeFailures     prometheus.Counter
	write, queueWait, groupBytes        prometheus.Histogram
	files, poisoned, inFlightMax        prometheus.Gauge
}

// NewMetrics makes the metrics and registers them with reg, if that is not nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "weir", Subsystem: "wal", Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "weir", Subsystem: "wal", Name: name, Help: help})
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "weir", Subsystem: "wal", Name: name, Help: help, Buckets: buckets})
	}
	seconds := prometheus.ExponentialBuckets(20e-6, 2, 18) // 20 us to 2.6 s
	m := &Metrics{
		groups:       counter("groups_total", "Groups written, each one durable write of the device."),
		entries:      counter("entries_total", "Entries made durable."),
		bytes:        counter("bytes_total", "Bytes of entries made durable, without frames."),
		deviceBytes:  counter("device_bytes_total", "Bytes written for them, frames and padding included."),
		blocked:      counter("blocked_total", "Times the committer had to wait for a free file."),
		pressure:     counter("pressure_total", "Times the owner was asked to release files."),
		makeFailures: counter("make_file_failures_total", "Failed attempts to make a spare file."),
		write:        histogram("write_seconds", "Time from submission to completion of a group's write.", seconds),
		queueWait:    histogram("queue_wait_seconds", "Time the oldest entry of a group waited for its write to be submitted.", seconds),
		groupBytes:   histogram("group_bytes", "Size of groups, frames and padding included.", prometheus.ExponentialBuckets(4096, 2, 12)),
		files:        gauge("files", "Slot files that exist."),
		inFlightMax:  gauge("in_flight_limit_bytes", "How many bytes may be in flight, so that they take about 50 ms. 65536 is the least: the disk is slow."),
		poisoned:     gauge("poisoned", "1 if a write failed or passed its deadline, and nothing more is accepted."),
	}
	if reg != nil {
		reg.MustRegister(m.groups, m.entries, m.bytes, m.deviceBytes, m.blocked, m.pressure, m.makeFailures,
			m.write, m.queueWait, m.groupBytes, m.files, m.poisoned, m.inFlightMax)
	}
	return m
}
