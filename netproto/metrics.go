package netproto

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Stages of a request's life, as the metric's label.
const (
	stageHandle = iota // from the last byte received to the answer
	stageOrder         // from the answer to the begin of its write: waiting for earlier answers and for the socket
	stageWrite         // the write
	stageCount
)

var stageNames = [stageCount]string{"handle", "order", "write"}

// Metrics counts what a Server does.
type Metrics struct {
	connections      prometheus.Gauge
	connectionsTotal prometheus.Counter
	refused          prometheus.Counter
	closed           *prometheus.CounterVec
	inFlight         prometheus.Gauge
	bytesIn          prometheus.Counter
	bytesOut         prometheus.Counter
	writes           prometheus.Counter
	stalls           prometheus.Counter
	requestBytes     prometheus.Gauge
	requestWaits     prometheus.Counter
	seconds          *prometheus.HistogramVec
	// observers caches seconds by API key and stage (the last key stands for unknown ones): a request needs no lookup, and an API that
	// nobody uses has no series.
	observers [apiKeysMax + 1][stageCount]atomic.Pointer[prometheus.Observer]
}

// NewMetrics makes the metrics and registers them with reg, if there is one.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "weir", Subsystem: "netproto", Name: name, Help: help}
	}
	m := &Metrics{
		connections:      prometheus.NewGauge(prometheus.GaugeOpts(opts("connections", "Open client connections."))),
		connectionsTotal: prometheus.NewCounter(prometheus.CounterOpts(opts("connections_total", "Accepted client connections."))),
		refused:          prometheus.NewCounter(prometheus.CounterOpts(opts("connections_refused_total", "Connections closed because too many were open."))),
		closed:           prometheus.NewCounterVec(prometheus.CounterOpts(opts("connections_closed_total", "Closed client connections by cause.")), []string{"cause"}),
		inFlight:         prometheus.NewGauge(prometheus.GaugeOpts(opts("requests_in_flight", "Requests received and not yet answered."))),
		bytesIn:          prometheus.NewCounter(prometheus.CounterOpts(opts("received_bytes_total", "Bytes of requests received."))),
		bytesOut:         prometheus.NewCounter(prometheus.CounterOpts(opts("sent_bytes_total", "Bytes of responses sent."))),
		writes:           prometheus.NewCounter(prometheus.CounterOpts(opts("writes_total", "Socket writes; one carries all responses that are ready."))),
		stalls:           prometheus.NewCounter(prometheus.CounterOpts(opts("reads_paused_total", "Times a connection stopped reading because its requests in flight were at the bound."))),
	}
	m.requestBytes = prometheus.NewGauge(prometheus.GaugeOpts(opts("request_bytes", "Memory of the requests that are being read or served.")))
	m.requestWaits = prometheus.NewCounter(prometheus.CounterOpts(opts("request_memory_waits_total", "Times a connection was not read because the memory for requests was in use.")))
	m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "weir", Subsystem: "netproto", Name: "request_duration_seconds",
		Help:    "Time a request spent in each stage: handle (received to answered), order (answered to written), write.",
		Buckets: prometheus.ExponentialBuckets(50e-6, 3, 12), // 50 us to 8.9 s
	}, []string{"api", "stage"})
	if reg != nil {
		reg.MustRegister(m.connections, m.connectionsTotal, m.refused, m.closed, m.inFlight, m.bytesIn, m.bytesOut, m.writes, m.stalls, m.requestBytes, m.requestWaits, m.seconds)
	}
	return m
}

// observe records how long a request spent in a stage.
func (m *Metrics) observe(key int16, stage int, d time.Duration) {
	slot := int(key)
	if infoFor(key) == nil {
		slot = apiKeysMax
	}
	cached := &m.observers[slot][stage]
	o := cached.Load()
	if o == nil {
		fresh := m.seconds.WithLabelValues(APIName(key), stageNames[stage])
		o = &fresh
		cached.Store(o)
	}
	(*o).Observe(d.Seconds())
}
