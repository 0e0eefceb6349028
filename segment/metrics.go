package segment

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the package's measurements.
type Metrics struct {
	TailBytes         prometheus.Gauge     // reserved and unflushed
	RangeBytes        prometheus.Gauge     // memory that ranges keep alive
	ReadWaits         prometheus.Counter   // times a reader had to wait for that memory
	Flushes           prometheus.Counter   // logs flushed
	FlushedBytes      prometheus.Counter   // written to segment files
	FlushSeconds      prometheus.Histogram // one log's flush, writes and syncs
	FlushFailures     prometheus.Counter
	GroupSeconds      prometheus.Histogram // flush of a group of logs, writes and sync
	WholeSyncs        prometheus.Counter   // of groups, with one sync of the file system
	WholeSyncFailures prometheus.Counter
	Rolls             prometheus.Counter
	Deleted           prometheus.Counter   // segments deleted
	ColdBytes         prometheus.Counter   // read from files
	TailReadBytes     prometheus.Counter   // read from memory
	ReadSecs          prometheus.Histogram // reading a range of a file and verifying it
	Damaged           prometheus.Counter   // places found damaged, each counted once
	DamagedReads      prometheus.Counter   // reads refused because they began in damage
	IndexRebuilds     prometheus.Counter
	Checkpoints       prometheus.Counter
	OpenFiles         prometheus.Gauge
	TornTails         prometheus.Counter // ends cut at open
	ReserveBlocked    prometheus.Counter // times a producer had to wait for the flusher
	Truncations       prometheus.Counter // of followers' logs
}

// NewMetrics makes the metrics and registers them with reg; with a nil reg they work unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "weir", Subsystem: "segment", Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "weir", Subsystem: "segment", Name: name, Help: help})
	}
	seconds := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "weir", Subsystem: "segment", Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(16e-6, 4, 10), // 16 us to 4 s
		})
	}
	m := &Metrics{
		TailBytes:         gauge("tail_bytes", "Bytes reserved for or held in unflushed log tails."),
		RangeBytes:        gauge("range_bytes", "Memory that is kept for records on their way to readers."),
		ReadWaits:         counter("read_memory_waits_total", "Times a reader had to wait because the memory for reads was in use."),
		Flushes:           counter("flushes_total", "Flushes of one log to its segment files."),
		FlushedBytes:      counter("flushed_bytes_total", "Bytes written to segment files."),
		FlushSeconds:      seconds("flush_duration_seconds", "Duration of one log's flush, writes and syncs."),
		GroupSeconds:      seconds("group_flush_duration_seconds", "Duration of the flush of a group of logs, writes and syncs."),
		WholeSyncs:        counter("whole_syncs_total", "Groups of logs made durable by one sync of the file system."),
		WholeSyncFailures: counter("whole_sync_failures_total", "Syncs of the file system that failed or were late; the logs were then synced one by one."),
		FlushFailures:     counter("flush_failures_total", "Flushes that failed."),
		Rolls:             counter("rolls_total", "Segments sealed."),
		Deleted:           counter("deleted_total", "Segments deleted."),
		ColdBytes:         counter("file_read_bytes_total", "Bytes handed to readers from segment files."),
		TailReadBytes:     counter("tail_read_bytes_total", "Bytes handed to readers from memory."),
		ReadSecs:          seconds("file_read_duration_seconds", "Duration of reading a range of a segment file and verifying its checksums."),
		Damaged:           counter("damaged_places_total", "Places in segment files that were found damaged since the start."),
		DamagedReads:      counter("damaged_reads_total", "Reads that were refused because they began in damage."),
		IndexRebuilds:     counter("index_rebuilds_total", "Indexes rebuilt because they were missing or wrong."),
		Checkpoints:       counter("checkpoints_total", "Recovery point files written."),
		OpenFiles:         gauge("open_files", "Segment files held open."),
		TornTails:         counter("torn_tails_total", "Unsynced ends of logs cut at open."),
		ReserveBlocked:    counter("reserve_blocked_total", "Reservations that had to wait for the flusher."),
		Truncations:       counter("truncations_total", "Logs cut or emptied, because they differed from their leader's."),
	}
	if reg != nil {
		reg.MustRegister(m.TailBytes, m.RangeBytes, m.ReadWaits, m.Flushes, m.FlushedBytes, m.FlushSeconds, m.FlushFailures, m.GroupSeconds, m.WholeSyncs, m.WholeSyncFailures, m.Rolls,
			m.Deleted, m.ColdBytes, m.TailReadBytes, m.ReadSecs, m.Damaged, m.DamagedReads, m.IndexRebuilds, m.Checkpoints, m.OpenFiles,
			m.TornTails, m.ReserveBlocked, m.Truncations)
	}
	return m
}
