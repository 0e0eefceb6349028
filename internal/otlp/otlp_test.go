package otlp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"weir/internal/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testWait = 30 * time.Second // bounds a hang

// handClock fires its timers when the test says so, and tells the test of each.
type handClock struct {
	clock.Real
	armed chan *handTimer
}

type handTimer struct {
	d time.Duration
	f func()
}

func newHandClock() *handClock { return &handClock{armed: make(chan *handTimer, 100)} }

func (c *handClock) AfterFunc(d time.Duration, f func()) clock.Timer {
	t := &handTimer{d, f}
	c.armed <- t
	return t
}
func (t *handTimer) Stop() bool               { return true }
func (t *handTimer) Reset(time.Duration) bool { return true }

// pause waits until the exporter pauses, and says for how long it would.
func (c *handClock) pause(t *testing.T) *handTimer {
	t.Helper()
	select {
	case p := <-c.armed:
		return p
	case <-time.After(testWait):
		t.Fatal("the exporter does not pause")
		return nil
	}
}

// collector is an OTLP receiver that answers what the test wants.
type collector struct {
	*httptest.Server
	got    chan *tracepb.TracesData
	answer func(n int) int // status of the n-th request, from 1 on
	mu     sync.Mutex
	n      int
}

func newCollector(t *testing.T, answer func(n int) int) *collector {
	t.Helper()
	c := &collector{got: make(chan *tracepb.TracesData, 100), answer: answer}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.n++
		n := c.n
		c.mu.Unlock()
		body, err := io.ReadAll(r.Body)
		data := &tracepb.TracesData{}
		if err == nil {
			err = proto.Unmarshal(body, data)
		}
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s, content type %q: %v", r.Method, r.URL, r.Header.Get("Content-Type"), err)
		}
		status := http.StatusOK
		if answer != nil {
			status = answer(n)
		}
		if status == http.StatusOK {
			c.got <- data
		}
		w.WriteHeader(status)
		fmt.Fprint(w, "said the collector")
	}))
	t.Cleanup(c.Close)
	return c
}

// next is the next export that was taken.
func (c *collector) next(t *testing.T) *tracepb.TracesData {
	t.Helper()
	select {
	case data := <-c.got:
		return data
	case <-time.After(testWait):
		t.Fatal("nothing comes")
		return nil
	}
}

type rig struct {
	e    *Exporter
	clk  *handClock
	reg  *prometheus.Registry
	logs *lockedText
}

type lockedText struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedText) lines() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), "\n")
}

func newRig(t *testing.T, endpoint string) *rig {
	t.Helper()
	r := &rig{clk: newHandClock(), reg: prometheus.NewRegistry(), logs: &lockedText{}}
	var err error
	r.e, err = New(Options{
		Endpoint: endpoint, Version: "1.2.3", Clock: r.clk, Logger: slog.New(slog.NewTextHandler(r.logs, nil)), Registry: r.reg,
		Resource: Resource{{"service.name", "weir"}, {"service.instance.id", "7"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) close(t *testing.T) error {
	t.Helper()
	return r.e.Close(context.Background())
}

// value sums up a metric, of one label value if that is not "".
func (r *rig) value(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name && (label == "" || m.Label[0].GetValue() == label) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// produce is a trace with everything in it.
func produce() *Trace {
	at := time.Unix(1000, 5)
	return &Trace{
		ID: [16]byte{1, 2}, Parent: [8]byte{3},
		Root: Span{ID: [8]byte{4}, Name: "Produce orders", Start: at, End: at.Add(time.Second), Error: "REQUEST_TIMED_OUT", Attrs: []Attr{
			{"messaging.system", "kafka"}, {"weir.request.bytes", int64(70)}, {"weir.slow", true}, {"weir.share", 0.5},
		}},
		Stages: []Span{
			{ID: [8]byte{5}, Name: "queue", Start: at, End: at.Add(time.Millisecond)},
			{ID: [8]byte{6}, Name: "replicate", Start: at.Add(time.Millisecond), End: at.Add(time.Second)},
		},
	}
}

func text(attrs []*commonpb.KeyValue) string {
	var out []string
	for _, a := range attrs {
		v := a.Value
		switch v.Value.(type) {
		case *commonpb.AnyValue_StringValue:
			out = append(out, a.Key+"="+v.GetStringValue())
		case *commonpb.AnyValue_IntValue:
			out = append(out, fmt.Sprintf("%s=%d", a.Key, v.GetIntValue()))
		case *commonpb.AnyValue_BoolValue:
			out = append(out, fmt.Sprintf("%s=%t", a.Key, v.GetBoolValue()))
		case *commonpb.AnyValue_DoubleValue:
			out = append(out, fmt.Sprintf("%s=%g", a.Key, v.GetDoubleValue()))
		}
	}
	return strings.Join(out, " ")
}

func TestTraceArrivesWhole(t *testing.T) {
	c := newCollector(t, nil)
	r := newRig(t, c.URL)
	r.e.Export(produce())
	data := c.next(t)
	rs := data.ResourceSpans[0]
	if got := text(rs.Resource.Attributes); got != "service.name=weir service.instance.id=7" {
		t.Errorf("resource %s", got)
	}
	scope := rs.ScopeSpans[0]
	if scope.Scope.Name != "weir/broker" || scope.Scope.Version != "1.2.3" || len(scope.Spans) != 3 {
		t.Fatalf("scope %v with %d spans", scope.Scope, len(scope.Spans))
	}
	root := scope.Spans[0]
	if root.Kind != tracepb.Span_SPAN_KIND_SERVER || root.Name != "Produce orders" || root.SpanId[0] != 4 || root.ParentSpanId[0] != 3 ||
		root.StartTimeUnixNano != 1000000000005 || root.EndTimeUnixNano != 1001000000005 ||
		root.Status.Code != tracepb.Status_STATUS_CODE_ERROR || root.Status.Message != "REQUEST_TIMED_OUT" {
		t.Errorf("root %v", root)
	}
	if got := text(root.Attributes); got != "messaging.system=kafka weir.request.bytes=70 weir.slow=true weir.share=0.5" {
		t.Errorf("attributes %s", got)
	}
	for i, name := range []string{"queue", "replicate"} {
		s := scope.Spans[i+1]
		if s.Name != name || string(s.ParentSpanId) != string(root.SpanId) || string(s.TraceId) != string(root.TraceId) || len(s.TraceId) != 16 || s.Status != nil {
			t.Errorf("stage %v", s)
		}
	}
	if err := r.close(t); err != nil {
		t.Error(err)
	}
	if n := r.value(t, "weir_otlp_traces_sent_total", ""); n != 1 {
		t.Errorf("%v sent", n)
	}
}

func TestFirstSpanHasNoParent(t *testing.T) {
	c := newCollector(t, nil)
	r := newRig(t, c.URL)
	trace := produce()
	trace.Parent = [8]byte{}
	r.e.Export(trace)
	if got := c.next(t).ResourceSpans[0].ScopeSpans[0].Spans[0].ParentSpanId; len(got) != 0 {
		t.Errorf("parent %x", got)
	}
	if err := r.close(t); err != nil {
		t.Error(err)
	}
}

// A collector that is busy, or away, gets the same traces again, after pauses that grow.
func TestBusyCollectorIsAskedAgain(t *testing.T) {
	c := newCollector(t, func(n int) int {
		return []int{http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusOK}[min(n-1, 2)]
	})
	r := newRig(t, c.URL+"/")
	r.e.Export(produce())
	for _, want := range []time.Duration{pauseMin, 2 * pauseMin} {
		p := r.clk.pause(t)
		if p.d != want {
			t.Errorf("paused for %v, want %v", p.d, want)
		}
		p.f()
	}
	c.next(t)
	if err := r.close(t); err != nil {
		t.Error(err)
	}
	if sent, failed := r.value(t, "weir_otlp_traces_sent_total", ""), r.value(t, "weir_otlp_send_failures_total", ""); sent != 1 || failed != 2 {
		t.Errorf("%v sent, %v failures", sent, failed)
	}
	if n := r.logs.lines(); n != 1 {
		t.Errorf("%d lines for two failures within a minute", n)
	}
}

func TestRefusedTracesAreDropped(t *testing.T) {
	c := newCollector(t, func(n int) int { return []int{http.StatusBadRequest, http.StatusOK}[min(n-1, 1)] })
	r := newRig(t, c.URL)
	r.e.Export(produce())
	r.e.Export(produce()) // shows that the first is over, whether they went together or not
	if err := r.close(t); err != nil {
		t.Error(err)
	}
	if n := r.value(t, "weir_otlp_traces_dropped_total", "failed"); n < 1 {
		t.Errorf("%v dropped", n)
	}
	if len(r.clk.armed) > 0 {
		t.Error("a refusal was tried again")
	}
}

// Nobody listens: exporting goes on without waiting, up to the bound of the queue, and the end is not held up.
func TestCollectorIsDown(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + ln.Addr().String()
	ln.Close()
	r := newRig(t, url)
	r.e.Export(produce())
	for want := pauseMin; ; want = min(2*want, pauseMax) {
		p := r.clk.pause(t)
		if p.d != want {
			t.Errorf("paused for %v, want %v", p.d, want)
		}
		if want == pauseMax {
			break // and stays there
		}
		p.f()
	}
	for range queueMax {
		if !r.e.Export(produce()) {
			t.Fatal("dropped while there is room")
		}
	}
	for range 3 {
		if r.e.Export(produce()) {
			t.Fatal("the queue has no bound")
		}
	}
	if n := r.value(t, "weir_otlp_traces_dropped_total", "full"); n != 3 {
		t.Errorf("%v dropped, want 3", n)
	}
	if err := r.close(t); err != nil {
		t.Error(err)
	}
	if n := r.value(t, "weir_otlp_traces_dropped_total", "shutdown"); n != queueMax+1 {
		t.Errorf("%v dropped at the end, want %d", n, queueMax+1)
	}
	if n := r.logs.lines(); n != 1 {
		t.Errorf("%d lines", n)
	}
}

func TestGivesUpAfterSomeAttempts(t *testing.T) {
	c := newCollector(t, func(n int) int { return []int{http.StatusBadGateway, http.StatusOK}[n/(attemptsMax+1)] })
	r := newRig(t, c.URL)
	r.e.Export(produce())
	for range attemptsMax - 1 {
		r.clk.pause(t).f()
	}
	r.e.Export(produce())
	c.next(t)
	if err := r.close(t); err != nil {
		t.Error(err)
	}
	if sent, dropped := r.value(t, "weir_otlp_traces_sent_total", ""), r.value(t, "weir_otlp_traces_dropped_total", "failed"); sent != 1 || dropped != 1 {
		t.Errorf("%v sent, %v dropped", sent, dropped)
	}
}

// A collector that never answers holds up the end for as long as the caller says.
func TestCloseIsBounded(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	c := newCollector(t, func(int) int {
		close(asked)
		<-release
		return http.StatusOK
	})
	defer close(release)
	r := newRig(t, c.URL)
	r.e.Export(produce())
	<-asked
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.e.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if n := r.value(t, "weir_otlp_traces_dropped_total", "shutdown"); n != 1 {
		t.Errorf("%v dropped", n)
	}
}

// What is queued when the process ends goes out.
func TestCloseSendsWhatIsQueued(t *testing.T) {
	gate, asked := make(chan struct{}), make(chan struct{}, 100)
	c := newCollector(t, func(int) int {
		asked <- struct{}{}
		<-gate
		return http.StatusOK
	})
	r := newRig(t, c.URL)
	r.e.Export(produce())
	<-asked
	for range 9 {
		r.e.Export(produce())
	}
	close(gate)
	if err := r.close(t); err != nil {
		t.Error(err)
	}
	if n := r.value(t, "weir_otlp_traces_sent_total", ""); n != 10 {
		t.Errorf("%v sent, want 10", n)
	}
}

func TestEndpoints(t *testing.T) {
	for in, want := range map[string]string{
		"http://127.0.0.1:4318": "http://127.0.0.1:4318/v1/traces", "https://c.example/": "https://c.example/v1/traces",
		"http://[::1]:4318/otlp/x": "http://[::1]:4318/otlp/x",
		"":                         "", "127.0.0.1:4318": "", "grpc://x": "", "http://": "", "http://:4318": "", "http://u:p@x": "", "http://x?y=1": "", "http://x#y": "", "http://x y": "",
	} {
		got, err := ParseEndpoint(in)
		if got != want || (err != nil) != (want == "") || err != nil && !errors.Is(err, ErrEndpoint) {
			t.Errorf("%q: %q, %v", in, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("the message shows a password: %v", err)
		}
	}
	if _, err := New(Options{Endpoint: "nowhere"}); !errors.Is(err, ErrEndpoint) {
		t.Errorf("got %v", err)
	}
}
