package broker

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/budget"
	"weir/internal/clock"
	"weir/internal/otlp"
	"weir/netproto"
)

// logText is a log that a test reads while others write.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logText) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.b.String(), "\n"), "\n")
}

func (l *logText) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// However many requests are slow: six lines in ten seconds, of which the last has the number of the others and the slowest of them.
func TestSlowLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := &logText{}
		l := &slowLog{clk: clock.Real{}, log: text.logger()}
		id := 0
		add := func(took time.Duration) {
			id++
			l.add(took, []slog.Attr{slog.Int("id", id)})
		}
		for range 5 {
			add(time.Second)
		}
		add(2 * time.Second)
		add(3 * time.Second) // number 7
		for range 200 {
			add(time.Second)
		}
		if n := len(text.lines()); n != slowLinesMax {
			t.Fatalf("%d lines, want %d:\n%s", n, slowLinesMax, strings.Join(text.lines(), "\n"))
		}
		time.Sleep(slowLogEvery)
		synctest.Wait()
		lines := text.lines()
		if last := lines[len(lines)-1]; len(lines) != slowLinesMax+1 || !strings.Contains(last, "more=202 within=10s slowest=3s id=7") {
			t.Fatalf("%d lines, the last is %s", len(lines), last)
		}
		add(time.Second) // a new period
		if n := len(text.lines()); n != slowLinesMax+2 {
			t.Errorf("%d lines", n)
		}
		time.Sleep(time.Hour) // nothing more to say, and no timer
		if n := len(text.lines()); n != slowLinesMax+2 {
			t.Errorf("%d lines", n)
		}
		for range 4 + 1 + 3 {
			add(time.Second)
		}
		l.close()
		lines = text.lines()
		if last := lines[len(lines)-1]; !strings.Contains(last, "more=3 ") {
			t.Errorf("closed, and the last line is %s", last)
		}
	})
}

// sink keeps what is exported.
type sink struct{ traces []*otlp.Trace }

func (s *sink) Export(t *otlp.Trace) bool   { s.traces = append(s.traces, t); return true }
func (s *sink) Close(context.Context) error { return nil }

// Who is exported: the slow, those that the dice chose, here or where the request came from. The wait that a client asked for is not slow.
func TestWhichRequestsAreShown(t *testing.T) {
	for _, tt := range []struct {
		name         string
		busy, waited time.Duration
		trace        budget.Trace
		ratio        float64
		slow         time.Duration
		off          bool
		logged, sent int
	}{
		{name: "quick", busy: 99 * time.Millisecond, slow: 100 * time.Millisecond},
		{name: "slow", busy: 100 * time.Millisecond, slow: 100 * time.Millisecond, logged: 1, sent: 1},
		{name: "waited", busy: 99 * time.Millisecond, waited: time.Hour, slow: 100 * time.Millisecond},
		{name: "waited and slow", busy: 100 * time.Millisecond, waited: time.Hour, slow: 100 * time.Millisecond, logged: 1, sent: 1},
		{name: "nothing is slow", busy: time.Hour},
		{name: "chosen", busy: time.Millisecond, ratio: 1, slow: time.Second, sent: 1},
		{name: "chosen elsewhere", busy: time.Millisecond, trace: budget.NewTrace(true), slow: time.Second, sent: 1},
		{name: "not chosen elsewhere", busy: time.Millisecond, trace: budget.NewTrace(false), ratio: 1, slow: time.Second},
		{name: "not chosen elsewhere, and slow", busy: time.Second, trace: budget.NewTrace(false), slow: time.Second, logged: 1, sent: 1},
		{name: "no collector", busy: time.Second, trace: budget.NewTrace(true), slow: time.Second, off: true, logged: 1},
	} {
		text, traces := &logText{}, &sink{}
		w := &requestWatch{clk: clock.Real{}, slow: tt.slow, ratio: tt.ratio, log: &slowLog{clk: clock.Real{}, log: text.logger()}, traces: traces}
		if tt.off {
			w.traces = nil
		}
		r := &netproto.Request{APIKey: fetchKey, Version: 12, ClientID: "me", CorrelationID: 77, Conn: &netproto.Conn{}, Trace: tt.trace}
		r.Budget.Begin(1)
		r.Budget.Lap(budget.Read, 1+budget.Mark(tt.busy))
		r.Budget.Lap(budget.Wait, 1+budget.Mark(tt.busy+tt.waited))
		w.done(r)
		if n := strings.Count(strings.Join(text.lines(), ""), "slow request"); n != tt.logged || len(traces.traces) != tt.sent {
			t.Errorf("%s: %d lines and %d traces, want %d and %d", tt.name, n, len(traces.traces), tt.logged, tt.sent)
		}
		if tt.trace.Known() && tt.logged > 0 && !strings.Contains(text.lines()[0], "trace="+tt.trace.String()) {
			t.Errorf("%s: the trace is not in %s", tt.name, text.lines()[0])
		}
	}
}
