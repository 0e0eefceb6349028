package broker

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/internal/budget"
	"weir/internal/clock"
	"weir/internal/config"
	"weir/internal/otlp"
	"weir/netproto"
)

// requestWatch looks at each request when it is over. What was slow is logged, and exported as a trace; so are those that the dice chose. For all
// others it is a comparison of two numbers.
type requestWatch struct {
	clk    clock.Clock
	slow   time.Duration // 0: nothing is slow
	ratio  float64
	log    *slowLog
	traces traceSink // nil: none are wanted
}

// traceSink is otlp.Exporter.
type traceSink interface {
	Export(*otlp.Trace) bool
	Close(context.Context) error
}

func newRequestWatch(o Options) (*requestWatch, error) {
	c := o.Config
	w := &requestWatch{clk: o.Clock, slow: config.Millis(c.RequestSlowLogMs), log: &slowLog{clk: o.Clock, log: o.Logger}}
	if c.OtelTracesEndpoint == "" {
		return w, nil
	}
	exporter, err := otlp.New(otlp.Options{
		Endpoint: c.OtelTracesEndpoint, Version: o.Version, Clock: o.Clock, Logger: o.Logger, Registry: o.Registry,
		Resource: otlp.Resource{
			{Key: "service.name", Value: "weir"}, {Key: "service.instance.id", Value: strconv.Itoa(int(c.NodeID))}, {Key: "service.version", Value: o.Version},
		},
	})
	if err != nil {
		return nil, err
	}
	w.traces, w.ratio = exporter, c.OtelTracesSampleRatio
	return w, nil
}

// close says what the log still has to say, and ends the exporter. That a collector does not take the last traces is no failure of the shutdown.
func (w *requestWatch) close(ctx context.Context) {
	w.log.close()
	if w.traces == nil {
		return
	}
	if err := w.traces.Close(ctx); err != nil {
		w.log.log.Warn("the last traces were not sent", "error", err)
	}
}

// draw decides about a request whether it is exported even if it is not slow.
func (w *requestWatch) draw() bool {
	return w.traces != nil && w.ratio > 0 && rand.Float64() < w.ratio
}

// done is netproto.Options.OnDone.
func (w *requestWatch) done(r *netproto.Request) {
	took := r.Budget.Total()
	slow := w.slow > 0 && took >= w.slow && took-r.Budget.Waited() >= w.slow
	switch {
	case slow:
	case w.traces == nil:
		return
	case r.Trace.Known():
		if !r.Trace.Sampled {
			return
		}
	case !w.draw():
		return
	}
	if !r.Trace.Known() && w.traces != nil {
		r.Trace = budget.NewTrace(true)
	}
	if slow {
		w.log.add(took-r.Budget.Waited(), logLine(r))
	}
	if w.traces != nil {
		w.traces.Export(w.trace(r, slow))
	}
}

// listenerOf names the listener that a request came to, as the metrics do.
func listenerOf(r *netproto.Request) string {
	if _, _, node := r.Conn.Peer(); node {
		return "nodes"
	}
	return "clients"
}

// logLine is what the log says of a request: who asked for what, and where its time went.
func logLine(r *netproto.Request) []slog.Attr {
	request, response := r.Bytes()
	n := &r.Note
	attrs := []slog.Attr{
		slog.Duration("took", r.Budget.Total().Round(time.Microsecond)), slog.String("api", netproto.APIName(r.APIKey)), slog.Int("version", int(r.Version)),
		slog.String("listener", listenerOf(r)), slog.String("client_id", r.ClientID), slog.String("peer", r.Conn.RemoteAddr()),
		slog.Uint64("connection", r.Conn.ID()), slog.Int("correlation_id", int(r.CorrelationID)),
	}
	if n.Topic != "" {
		attrs = append(attrs, slog.String("topic", n.Topic), slog.Int("partition", int(n.Partition)))
	}
	if n.Partitions > 1 {
		attrs = append(attrs, slog.Int("partitions", int(n.Partitions)))
	}
	attrs = append(attrs, slog.Int("request_bytes", request), slog.Int("response_bytes", response))
	if n.Error != 0 {
		attrs = append(attrs, slog.String("error", codeName(n.Error)))
	}
	if key := nodeAttr(n.Role); key != "" {
		attrs = append(attrs, slog.Int(key, int(n.Node)))
	}
	if r.Dropped() {
		attrs = append(attrs, slog.Bool("dropped", true))
	}
	spent, seen := r.Budget.Spent()
	var stages []any
	for s, d := range spent {
		if seen&(1<<s) != 0 {
			stages = append(stages, slog.Duration(budget.Stage(s).String(), d.Round(time.Microsecond)))
		}
	}
	attrs = append(attrs, slog.Group("stage", stages...))
	if r.Trace.Known() {
		attrs = append(attrs, slog.String("trace", r.Trace.String()))
	}
	return attrs
}

// nodeAttr names the attribute that tells of the other node.
func nodeAttr(role budget.NodeRole) string {
	switch role {
	case budget.Slowest:
		return "slowest_replica"
	case budget.Forwarded:
		return "forwarded_to"
	}
	return ""
}

// codeName is Kafka's name of an error code.
func codeName(code int16) string {
	if known, ok := errors.AsType[*kerr.Error](kerr.ErrorForCode(code)); ok {
		return known.Message
	}
	return strconv.Itoa(int(code))
}

// trace makes the spans of a request, with names by OpenTelemetry's semantic conventions for messaging; what they have no name for is weir's.
func (w *requestWatch) trace(r *netproto.Request, slow bool) *otlp.Trace {
	now := w.clk.Now()
	b, n := &r.Budget, &r.Note
	request, response := r.Bytes()
	api := netproto.APIName(r.APIKey)
	t := &otlp.Trace{ID: r.Trace.ID, Parent: r.Trace.Parent, Stages: make([]otlp.Span, 0, b.Laps())}
	t.Root = otlp.Span{ID: r.Trace.Span, Name: api, Start: b.Start().Time(now), End: b.End().Time(now), Attrs: []otlp.Attr{
		{Key: "messaging.system", Value: "kafka"}, {Key: "messaging.operation.name", Value: api}, {Key: "messaging.client.id", Value: r.ClientID},
		{Key: "weir.api.version", Value: int64(r.Version)}, {Key: "weir.correlation_id", Value: int64(r.CorrelationID)},
		{Key: "weir.listener", Value: listenerOf(r)}, {Key: "weir.connection", Value: int64(r.Conn.ID())},
		{Key: "weir.request.bytes", Value: int64(request)}, {Key: "weir.response.bytes", Value: int64(response)}, {Key: "weir.slow", Value: slow},
	}}
	root := &t.Root
	if kind := operationType(r.APIKey); kind != "" {
		root.Attrs = append(root.Attrs, otlp.Attr{Key: "messaging.operation.type", Value: kind})
	}
	if host, port, err := net.SplitHostPort(r.Conn.RemoteAddr()); err == nil {
		number, _ := strconv.ParseInt(port, 10, 32) // the system's own text
		root.Attrs = append(root.Attrs, otlp.Attr{Key: "network.peer.address", Value: host}, otlp.Attr{Key: "network.peer.port", Value: number})
	}
	if n.Topic != "" {
		root.Name += " " + n.Topic
		root.Attrs = append(root.Attrs, otlp.Attr{Key: "messaging.destination.name", Value: n.Topic},
			otlp.Attr{Key: "messaging.destination.partition.id", Value: strconv.Itoa(int(n.Partition))})
	}
	if n.Partitions > 1 {
		root.Attrs = append(root.Attrs, otlp.Attr{Key: "weir.partitions", Value: int64(n.Partitions)})
	}
	if n.Error != 0 {
		root.Error = codeName(n.Error)
		root.Attrs = append(root.Attrs, otlp.Attr{Key: "error.type", Value: root.Error})
	}
	if r.Dropped() {
		root.Error = "the connection had gone before the answer was sent"
	}
	for i := range b.Laps() {
		s, from, to := b.Lapped(i)
		span := otlp.Span{ID: budget.NewTrace(false).Span, Name: s.String(), Start: from.Time(now), End: to.Time(now)}
		if s == budget.Replicate && n.Role == budget.Slowest || s == budget.Forward && n.Role == budget.Forwarded {
			span.Attrs = []otlp.Attr{{Key: "weir." + nodeAttr(n.Role), Value: int64(n.Node)}}
		}
		t.Stages = append(t.Stages, span)
	}
	return t
}

// operationType is what the conventions call an operation of this kind; "" is one that they do not have.
func operationType(key int16) string {
	switch key {
	case produceKey:
		return "send"
	case fetchKey:
		return "receive"
	}
	return ""
}
