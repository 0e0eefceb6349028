package otlp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/clock"
)

const (
	queueMax     = 1024 // traces that wait; one is a few kilobytes
	batchMax     = 256  // traces in one request to the collector
	sendTimeout  = 5 * time.Second
	pauseMin     = time.Second
	pauseMax     = 30 * time.Second
	attemptsMax  = 8 // for one batch: about two minutes
	logEvery     = time.Minute
	answerKept   = 256 // bytes of a refusal that the log shows
	tracesPath   = "/v1/traces"
	flushTimeout = 2 * time.Second // at the end of the process, whatever time the shutdown has left
)

// ErrEndpoint is an endpoint that cannot be one.
var ErrEndpoint = errors.New("not the URL of an OTLP/HTTP collector")

// errRefused is an answer that says that trying again is of no use.
var errRefused = errors.New("the collector refuses the traces")

// Options configure an Exporter. Endpoint is required.
type Options struct {
	Endpoint string // as ParseEndpoint takes it
	Version  string // of this program
	Resource Resource
	Clock    clock.Clock
	Logger   *slog.Logger
	Registry prometheus.Registerer // may be nil
}

// Exporter sends traces. It is safe for concurrent use.
type Exporter struct {
	o      Options
	url    string
	client *http.Client
	queue  chan *Trace
	stop   chan struct{} // closed when Close begins: what is queued is sent once, without pauses
	done   chan struct{} // closed when the goroutine has ended
	ctx    context.Context
	cancel context.CancelFunc

	metrics exporterMetrics
	closed  sync.Once
	said    time.Time // when a failure was last logged; the goroutine's
	unsaid  int       // failures since then
}

type exporterMetrics struct {
	sent, full, failed, late, failures prometheus.Counter
}

// ParseEndpoint checks the URL of a collector and completes it: without a path it gets OTLP's /v1/traces. Errors: ErrEndpoint.
func ParseEndpoint(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: %w", ErrEndpoint, err)
	case u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("%w: scheme %q of %q, want http or https", ErrEndpoint, u.Scheme, s)
	case u.Hostname() == "":
		return "", fmt.Errorf("%w: %q names no host", ErrEndpoint, s)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("%w: %q has more than scheme, host, port and path", ErrEndpoint, u.Redacted())
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = tracesPath
	}
	return u.String(), nil
}

// New starts an exporter. Nothing is sent, and nobody connected to, before the first trace. Errors: ErrEndpoint.
func New(o Options) (*Exporter, error) {
	target, err := ParseEndpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxConnsPerHost = 1, 1
	e := &Exporter{
		o: o, url: target, client: &http.Client{Transport: transport, Timeout: sendTimeout},
		queue: make(chan *Trace, queueMax), stop: make(chan struct{}), done: make(chan struct{}),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.metrics = newExporterMetrics(o.Registry, func() float64 { return float64(len(e.queue)) })
	go e.run()
	return e, nil
}

func newExporterMetrics(reg prometheus.Registerer, queued func() float64) exporterMetrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "weir", Subsystem: "otlp", Name: name, Help: help}
	}
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts(opts("traces_dropped_total",
		"Traces that were not sent: the queue was full (full), the collector refused them or did not take them in time (failed), or the process ended (shutdown).")), []string{"reason"})
	m := exporterMetrics{
		sent: prometheus.NewCounter(prometheus.CounterOpts(opts("traces_sent_total", "Traces that the collector has taken."))),
		full: dropped.WithLabelValues("full"), failed: dropped.WithLabelValues("failed"), late: dropped.WithLabelValues("shutdown"),
		failures: prometheus.NewCounter(prometheus.CounterOpts(opts("send_failures_total", "Requests to the collector that failed."))),
	}
	if reg != nil {
		reg.MustRegister(m.sent, dropped, m.failures, prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts("traces_queued", "Traces that wait to be sent.")), queued))
	}
	return m
}

// Export queues a trace, which is the exporter's from then on. It does not wait; false: the trace was dropped.
func (e *Exporter) Export(t *Trace) bool {
	select {
	case e.queue <- t:
		return true
	default:
		e.metrics.full.Inc()
		return false
	}
}

// run is the exporter's goroutine. It sleeps while there is nothing to send.
func (e *Exporter) run() {
	defer close(e.done)
	defer e.client.CloseIdleConnections()
	for {
		select {
		case t := <-e.queue:
			e.deliver(e.gather(t))
		case <-e.stop:
			e.flush()
			return
		}
	}
}

// gather takes what waits behind t.
func (e *Exporter) gather(t *Trace) []*Trace {
	batch := []*Trace{t}
	for len(batch) < batchMax {
		select {
		case t := <-e.queue:
			batch = append(batch, t)
		default:
			return batch
		}
	}
	return batch
}

// deliver sends a batch, again and again if it is worth it.
func (e *Exporter) deliver(batch []*Trace) {
	pause := pauseMin
	for attempt := 1; ; attempt++ {
		err := e.send(batch)
		if err == nil {
			e.metrics.sent.Add(float64(len(batch)))
			return
		}
		e.failed(err)
		if attempt == attemptsMax || errors.Is(err, errRefused) {
			e.metrics.failed.Add(float64(len(batch)))
			return
		}
		if !e.wait(pause) {
			e.sendLast(batch)
			return
		}
		pause = min(2*pause, pauseMax)
	}
}

// flush sends once what is left at the end.
func (e *Exporter) flush() {
	for {
		select {
		case t := <-e.queue:
			e.sendLast(e.gather(t))
		default:
			return
		}
	}
}

// sendLast sends what there is no time to send again.
func (e *Exporter) sendLast(batch []*Trace) {
	n := float64(len(batch))
	switch err := e.send(batch); {
	case err == nil:
		e.metrics.sent.Add(n)
	case errors.Is(err, errRefused):
		e.metrics.failed.Add(n)
	default:
		e.metrics.late.Add(n)
	}
}

// wait returns after d; false: the exporter is being closed.
func (e *Exporter) wait(d time.Duration) bool {
	over := make(chan struct{})
	t := e.o.Clock.AfterFunc(d, func() { close(over) })
	defer t.Stop()
	select {
	case <-over:
		return true
	case <-e.stop:
		return false
	}
}

// send makes one request to the collector. errRefused: there is no use in another one.
func (e *Exporter) send(batch []*Trace) error {
	if err := e.ctx.Err(); err != nil {
		return err // closing, and out of time
	}
	body, err := encode(e.o.Resource, e.o.Version, batch)
	if err != nil {
		return fmt.Errorf("%w: encode: %w", errRefused, err)
	}
	req, err := http.NewRequestWithContext(e.ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("User-Agent", "weir/"+e.o.Version)
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, answerKept)) // for the message only
	switch resp.StatusCode {
	case http.StatusOK, http.StatusAccepted, http.StatusNoContent:
		return nil
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Errorf("%s: %q", resp.Status, said)
	}
	return fmt.Errorf("%w: %s: %q", errRefused, resp.Status, said)
}

// failed counts a failure, and logs it if none was logged for a while.
func (e *Exporter) failed(err error) {
	e.metrics.failures.Inc()
	now := e.o.Clock.Now()
	if !e.said.IsZero() && now.Sub(e.said) < logEvery {
		e.unsaid++
		return
	}
	e.o.Logger.Warn("traces cannot be sent", "collector", e.url, "queued", len(e.queue), "suppressed", e.unsaid, "error", err)
	e.said, e.unsaid = now, 0
}

// Close sends what is queued, as far as ctx allows and at most for two seconds, and ends the goroutine. Nothing may be exported any more.
func (e *Exporter) Close(ctx context.Context) error {
	e.closed.Do(func() { close(e.stop) })
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	select {
	case <-e.done:
		e.cancel()
		return nil
	case <-ctx.Done():
	}
	e.cancel()
	<-e.done // the request that was in flight ends with its context
	return fmt.Errorf("traces: not all were sent: %w", ctx.Err())
}
