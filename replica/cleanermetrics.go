package replica

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/segment"
)

// cleanerMetrics are the cleaner's measurements.
type cleanerMetrics struct {
	reg       prometheus.Registerer
	runs      prometheus.Counter
	errors    prometheus.Counter
	read      prometheus.Counter
	written   prometheus.Counter
	dropped   prometheus.Counter
	kept      prometheus.Counter
	running   prometheus.Gauge
	last      prometheus.Gauge // seconds since 1970
	lastTook  prometheus.Gauge // seconds
	mapBytes  prometheus.Gauge
	durations prometheus.Histogram
}

func cleanerOpts(name, help string) prometheus.Opts {
	return prometheus.Opts{Namespace: "weir", Subsystem: "replica", Name: "cleaner_" + name, Help: help}
}

func newCleanerMetrics(reg prometheus.Registerer) *cleanerMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(cleanerOpts(name, help)))
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts(cleanerOpts(name, help)))
	}
	m := &cleanerMetrics{
		reg:      reg,
		runs:     counter("runs_total", "Runs of compaction over a log that succeeded."),
		errors:   counter("errors_total", "Looks at a log and runs over one that failed."),
		read:     counter("read_bytes_total", "Bytes read by compaction."),
		written:  counter("written_bytes_total", "Bytes written by compaction."),
		dropped:  counter("records_dropped_total", "Records removed by compaction."),
		kept:     counter("records_kept_total", "Records that compaction has left in the segments it rewrote."),
		running:  gauge("running", "Logs that are being compacted."),
		last:     gauge("last_run_timestamp_seconds", "When the last run ended, in seconds since 1970; 0: there was none."),
		lastTook: gauge("last_run_duration_seconds", "How long the last run took."),
		mapBytes: gauge("last_run_map_bytes", "Memory that the last run took for keys."),
		durations: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "weir", Subsystem: "replica", Name: "cleaner_run_duration_seconds", Help: "Duration of a run over one log.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 12), // 1 ms to 70 min
		}),
	}
	if reg != nil {
		reg.MustRegister(m.runs, m.errors, m.read, m.written, m.dropped, m.kept, m.running, m.last, m.lastTook, m.mapBytes, m.durations)
	}
	return m
}

// observe exports what the cleaner knows at any time.
func (m *cleanerMetrics) observe(dirtiest, uncleanable func() float64) {
	if m.reg == nil {
		return
	}
	m.reg.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts(cleanerOpts("dirty_ratio_max", "The dirty share of the dirtiest log, when last looked at.")), dirtiest),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts(cleanerOpts("uncleanable_partitions", "Logs that cannot be compacted until the next start.")), uncleanable),
	)
}

// ran counts a run that ended at now.
func (m *cleanerMetrics) ran(s segment.CompactStats, took time.Duration, now time.Time, err error) {
	m.read.Add(float64(s.BytesRead))
	m.written.Add(float64(s.BytesWritten))
	if err != nil {
		return
	}
	m.runs.Inc()
	m.dropped.Add(float64(s.RecordsDropped))
	m.kept.Add(float64(s.RecordsKept))
	m.last.Set(float64(now.UnixMilli()) / 1000)
	m.lastTook.Set(took.Seconds())
	m.mapBytes.Set(float64(s.MapBytes))
	m.durations.Observe(took.Seconds())
}
