package netproto

import (
	"math/bits"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/budget"
)

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
	seconds          *prometheus.HistogramVec // by API and stage
	total            *prometheus.HistogramVec // by API
	// observers caches both by API key (metricSlot) and stage, the total behind the stages: a request needs no lookup, and what is not used has
	// no series.
	observers [apiKeysMax + len(privateNames) + 1][budget.StageCount + 1]atomic.Pointer[prometheus.Observer]
}

// NewMetrics makes the metrics and registers them with reg, if there is one.
func NewMetrics(reg prometheus.Registerer) *Metrics { return newMetrics(reg, "netproto", "clients") }

// NewPeerServerMetrics makes those of the listener for other nodes: weir_netproto_peer_server_...
func NewPeerServerMetrics(reg prometheus.Registerer) *Metrics {
	return newMetrics(reg, "netproto_peer_server", "nodes")
}

// newMetrics: the listener is a label of what all listeners have alike.
func newMetrics(reg prometheus.Registerer, subsystem, listener string) *Metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "weir", Subsystem: subsystem, Name: name, Help: help}
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
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "weir", Name: name, Help: help, ConstLabels: prometheus.Labels{"listener": listener},
			Buckets: prometheus.ExponentialBuckets(20e-6, 3, 14), // 20 us to 32 s
		}, labels)
	}
	m.seconds = histogram("request_stage_seconds", "Time that requests spent in each stage, see docs/operations/latency.md. The stages of a request add up to its whole time.", "api", "stage")
	m.total = histogram("request_seconds", "Time of requests from the last byte received to the last byte of the answer written.", "api")
	if reg != nil {
		reg.MustRegister(m.connections, m.connectionsTotal, m.refused, m.closed, m.inFlight, m.bytesIn, m.bytesOut, m.writes, m.stalls, m.requestBytes, m.requestWaits, m.seconds, m.total)
	}
	return m
}

// observe records where a request's time went.
func (m *Metrics) observe(key int16, b *budget.Budget) {
	cached := &m.observers[metricSlot(key)]
	spent, seen := b.Spent()
	for stages := seen; stages != 0; stages &= stages - 1 {
		s := bits.TrailingZeros32(stages)
		o := cached[s].Load()
		if o == nil {
			o = keep(&cached[s], m.seconds.WithLabelValues(APIName(key), budget.Stage(s).String()))
		}
		(*o).Observe(spent[s].Seconds())
	}
	o := cached[budget.StageCount].Load()
	if o == nil {
		o = keep(&cached[budget.StageCount], m.total.WithLabelValues(APIName(key)))
	}
	(*o).Observe(b.Total().Seconds())
}

func keep(in *atomic.Pointer[prometheus.Observer], o prometheus.Observer) *prometheus.Observer {
	in.Store(&o)
	return &o
}

// metricSlot is an API key's place among the observers: Kafka's keys, then the private ones, and the last for all that are unknown.
func metricSlot(key int16) int {
	if infoFor(key) != nil {
		return int(key)
	}
	if i := int(key) - int(KeyHello); i >= 0 && i < len(privateNames) {
		return apiKeysMax + i
	}
	return apiKeysMax + len(privateNames)
}
