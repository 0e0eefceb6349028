package netproto

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"weir/internal/budget"
)

// accounts serves a pipe in a bubble, where time passes only when everybody waits: so the stages have exact lengths.
type accounts struct {
	got  chan *Request // requests that the handler has
	done chan doneRequest
	nc   net.Conn
}

type doneRequest struct {
	id      int32
	spent   budget.Spent
	total   time.Duration
	dropped bool
	request int
	answer  int
}

func startAccounts(t *testing.T, o Options) *accounts {
	t.Helper()
	a := &accounts{got: make(chan *Request, 10), done: make(chan doneRequest, 10)}
	if o.Handler == nil {
		o.Handler = testHandler{handle: func(r *Request) { a.got <- r }}
	}
	o.OnDone = func(r *Request) {
		d := doneRequest{id: r.CorrelationID, total: r.Budget.Total(), dropped: r.Dropped()}
		d.spent, _ = r.Budget.Spent()
		d.request, d.answer = r.Bytes()
		a.done <- d
	}
	ln := newPipeListener()
	start(t, o, ln)
	a.nc = ln.dial()
	t.Cleanup(func() { a.nc.Close() })
	return a
}

func (a *accounts) send(t *testing.T, b ...[]byte) {
	t.Helper()
	var all []byte
	for _, one := range b {
		all = append(all, one...)
	}
	if _, err := a.nc.Write(all); err != nil {
		t.Error(err)
	}
}

func answerEmpty(r *Request) {
	p := NewPayload()
	p.SetOwn(append(p.Own(), 1, 2, 3, 4))
	r.Respond(p)
}

// check holds the stages of a request against those wanted; all others must be empty.
func (d doneRequest) check(t *testing.T, id int32, want budget.Spent) {
	t.Helper()
	var total time.Duration
	for s, w := range want {
		total += w
		if d.spent[s] != w {
			t.Errorf("request %d: stage %v has %v, want %v", id, budget.Stage(s), d.spent[s], w)
		}
	}
	if d.id != id || d.total != total {
		t.Errorf("request %d took %v, want request %d with %v", d.id, d.total, id, total)
	}
}

// TestStagesOfAConnection: two requests come at once. The handler lets the second wait for the first, answers the second first, and the client takes its time.
func TestStagesOfAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a *accounts
		held := make(chan struct{})
		a = startAccounts(t, Options{Handler: testHandler{handle: func(r *Request) {
			if r.CorrelationID == 1 {
				time.Sleep(3 * time.Millisecond) // the second waits for the reader
			}
			a.got <- r
			if r.CorrelationID == 2 {
				close(held)
			}
		}}})
		a.send(t, heartbeat(1), heartbeat(2))
		first, second := <-a.got, <-a.got
		<-held
		time.Sleep(4 * time.Millisecond)
		answerEmpty(second)
		time.Sleep(5 * time.Millisecond)
		answerEmpty(first)
		time.Sleep(6 * time.Millisecond) // the writer waits for the client
		go io.Copy(io.Discard, a.nc)
		one, two := <-a.done, <-a.done
		one.check(t, 1, budget.Spent{budget.Handle: 12 * time.Millisecond, budget.RespondWrite: 6 * time.Millisecond})
		two.check(t, 2, budget.Spent{
			budget.Queue: 3 * time.Millisecond, budget.Handle: 4 * time.Millisecond, budget.RespondQueue: 5 * time.Millisecond, budget.RespondWrite: 6 * time.Millisecond,
		})
		if one.request != len(heartbeat(1))-sizeBytes || one.answer != 12 || one.dropped {
			t.Errorf("%+v", one)
		}
		a.nc.Close()
		synctest.Wait()
	})
}

// TestStageRoomInFlight: the bound of requests in flight holds the second back, although it is there.
func TestStageRoomInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startAccounts(t, Options{MaxInFlight: 1})
		go io.Copy(io.Discard, a.nc)
		a.send(t, heartbeat(1), heartbeat(2))
		first := <-a.got
		time.Sleep(7 * time.Millisecond)
		answerEmpty(first)
		second := <-a.got
		time.Sleep(time.Millisecond)
		answerEmpty(second)
		(<-a.done).check(t, 1, budget.Spent{budget.Handle: 7 * time.Millisecond})
		(<-a.done).check(t, 2, budget.Spent{budget.Room: 7 * time.Millisecond, budget.Handle: time.Millisecond})
		a.nc.Close()
		synctest.Wait()
	})
}

// TestStageRoomMemory: a frame that is not read for lack of memory. The wait is the broker's, the time in which the client sends the rest is not.
func TestStageRoomMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipeListener()
		got, done := make(chan *Request, 2), make(chan doneRequest, 2)
		start(t, Options{MaxRequestBytes: 40 << 10, Handler: testHandler{handle: func(r *Request) { got <- r }}, OnDone: func(r *Request) {
			d := doneRequest{id: r.CorrelationID, total: r.Budget.Total()}
			d.spent, _ = r.Budget.Spent()
			done <- d
		}}, ln)
		holder, waiter := ln.dial(), ln.dial()
		defer holder.Close()
		defer waiter.Close()
		go io.Copy(io.Discard, holder)
		go io.Copy(io.Discard, waiter)
		large := func(id int32) []byte { return append(heartbeat(id), make([]byte, 32<<10)...) }
		frame := func(b []byte) []byte { return framed(b[sizeBytes:]) }
		if _, err := holder.Write(frame(large(1))); err != nil {
			t.Fatal(err)
		}
		first := <-got
		b := frame(large(2))
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			if _, err := waiter.Write(b[:20<<10]); err != nil {
				t.Error(err)
			}
			time.Sleep(9 * time.Millisecond) // slow to send
			if _, err := waiter.Write(b[20<<10:]); err != nil {
				t.Error(err)
			}
		}()
		time.Sleep(5 * time.Millisecond)
		answerEmpty(first) // gives its memory back
		<-sent
		second := <-got
		answerEmpty(second)
		(<-done).check(t, 1, budget.Spent{budget.Handle: 5 * time.Millisecond})
		(<-done).check(t, 2, budget.Spent{budget.Room: 5 * time.Millisecond})
		holder.Close()
		waiter.Close()
		synctest.Wait()
	})
}

// TestDroppedRequestIsAccounted: the client has gone before it is answered, or before the answer's turn came.
func TestDroppedRequestIsAccounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startAccounts(t, Options{})
		a.send(t, heartbeat(1), heartbeat(2))
		first, second := <-a.got, <-a.got
		time.Sleep(2 * time.Millisecond)
		answerEmpty(second)
		time.Sleep(3 * time.Millisecond)
		a.nc.Close()
		two := <-a.done
		two.check(t, 2, budget.Spent{budget.Handle: 2 * time.Millisecond, budget.RespondQueue: 3 * time.Millisecond})
		time.Sleep(4 * time.Millisecond)
		answerEmpty(first)
		one := <-a.done
		one.check(t, 1, budget.Spent{budget.Handle: 9 * time.Millisecond})
		if !one.dropped || !two.dropped {
			t.Errorf("dropped: %t and %t", one.dropped, two.dropped)
		}
		synctest.Wait()
	})
}

// TestStageMetrics: the histograms have what the budget has, by API and stage, and their sums agree.
func TestStageMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	clients, nodes := NewMetrics(reg), NewPeerServerMetrics(reg)
	var b budget.Budget
	b.Begin(1)
	b.Lap(budget.Lock, 1+budget.Mark(time.Second))
	b.Lap(budget.WALWrite, 1+budget.Mark(3*time.Second))
	clients.observe(keyProduce, &b)
	clients.observe(keyProduce, &b)
	nodes.observe(keyProduce, &b)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			if h := m.Histogram; h != nil {
				sums[f.GetName()+labels(m)] += h.GetSampleSum()
			}
		}
	}
	for series, want := range map[string]float64{
		"weir_request_stage_seconds api=Produce listener=clients stage=lock": 2, "weir_request_stage_seconds api=Produce listener=clients stage=wal_write": 4,
		"weir_request_seconds api=Produce listener=clients": 6, "weir_request_seconds api=Produce listener=nodes": 3,
		"weir_request_stage_seconds api=Produce listener=nodes stage=lock": 1, "weir_request_stage_seconds api=Produce listener=nodes stage=wal_write": 2,
	} {
		if sums[series] != want {
			t.Errorf("%s: %v, want %v", series, sums[series], want)
		}
		delete(sums, series)
	}
	for series := range sums {
		t.Errorf("a series of something that was not: %s", series)
	}
}

func labels(m *dto.Metric) (s string) {
	for _, l := range m.Label {
		s += " " + l.GetName() + "=" + l.GetValue()
	}
	return s
}

// TestAccountAllocatesNothing: what every request pays is a few atomic additions.
func TestAccountAllocatesNothing(t *testing.T) {
	m := NewMetrics(prometheus.NewRegistry())
	if n := testing.AllocsPerRun(100, func() {
		var b budget.Budget
		b.Begin(1)
		b.Lap(budget.Handle, 2)
		b.Lap(budget.WALWrite, 3)
		b.Lap(budget.RespondWrite, 4)
		m.observe(keyProduce, &b)
	}); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
}

// TestTraceTag: a request carries a trace where its header has a place for tags, and the frame is as long as announced.
func TestTraceTag(t *testing.T) {
	trace := budget.NewTrace(true)
	for _, version := range []int16{8, ProduceForwardVersion} {
		body := []byte("body")
		frame := make([]byte, tracedFrameSize(&trace, keyProduce, version, "weir", body))
		encodeTraced(frame, &trace, keyProduce, version, 7, "weir", body)
		var r Request
		if err := r.parseHeader(frame[sizeBytes:], ""); err != nil {
			t.Fatal(err)
		}
		if string(r.Body) != "body" || r.ClientID != "weir" {
			t.Errorf("v%d: %+v", version, r)
		}
		flexible := flexibleRequest(keyProduce, version)
		if r.Trace.Known() != flexible || flexible && (r.Trace.ID != trace.ID || r.Trace.Parent != trace.Span || !r.Trace.Sampled) {
			t.Errorf("v%d: trace %+v, sent %+v", version, r.Trace, trace)
		}
	}
}

// BenchmarkAccount is what the metrics cost a produce with acks=all; BenchmarkProduceLaps in internal/budget is the rest.
func BenchmarkAccount(b *testing.B) {
	m := NewMetrics(prometheus.NewRegistry())
	b.ReportAllocs()
	for b.Loop() {
		var g budget.Budget
		g.Begin(1)
		for i, s := range [...]budget.Stage{budget.Queue, budget.Handle, budget.Lock, budget.WALQueue, budget.WALWrite, budget.Replicate, budget.Handle, budget.RespondQueue, budget.RespondWrite} {
			g.Lap(s, 2000*budget.Mark(i+1))
		}
		m.observe(keyProduce, &g)
	}
}
