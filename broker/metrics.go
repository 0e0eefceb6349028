package broker

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics counts what goes through the broker. What the connections, the WAL and the segments do is counted there.
type metrics struct {
	batchesIn, recordsIn, bytesIn, bytesOut prometheus.Counter
	forwarded, forwardsFailed               prometheus.Counter
	bytesReplicated                         prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, waiting, starved func() int64, sessions func() int) *metrics {
	f := promauto.With(reg)
	gauge := func(name, help string, value func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "weir", Subsystem: "broker", Name: name, Help: help}, value)
	}
	gauge("fetches_waiting", "Fetches that wait for data or their deadline.", func() float64 { return float64(waiting()) })
	gauge("fetches_waiting_for_memory", "Of those, fetches that wait because the memory for reads is in use.", func() float64 { return float64(starved()) })
	gauge("fetch_sessions", "Incremental fetch sessions that are kept.", func() float64 { return float64(sessions()) })
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Namespace: "weir", Subsystem: "broker", Name: name, Help: help})
	}
	return &metrics{
		batchesIn:       counter("produce_batches_total", "Record batches that were acknowledged."),
		recordsIn:       counter("produce_records_total", "Records that were acknowledged."),
		bytesIn:         counter("produce_bytes_total", "Bytes of record batches that were acknowledged."),
		forwarded:       counter("produce_forwards_total", "Produce requests, or parts of them, that were forwarded to the node that leads."),
		forwardsFailed:  counter("produce_forwards_failed_total", "Forwarded produce requests without a usable answer."),
		bytesReplicated: counter("replication_bytes_total", "Bytes of record batches that were handed to connections of followers."),
		bytesOut:        counter("fetch_bytes_total", "Bytes of record batches that were handed to connections."),
	}
}
