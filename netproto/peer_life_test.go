package netproto

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// serveFake answers every request with its body, until the connection ends.
func serveFake(f *fakePeer, _ int) {
	if !f.greet() {
		return
	}
	for {
		frame, err := f.read()
		if err != nil {
			return
		}
		if f.respond(correlationID(frame), frame[headerBytesMin:]) != nil {
			return
		}
	}
}

// TestPeerCircuit: dials back off, from 100 ms to 2 s, and no timer makes them: only calls do.
func TestPeerCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var dials []time.Duration
		var down atomic.Bool
		down.Store(true)
		up := pipes(t, serveFake)
		p := newPeers(t, PeersOptions{
			Resolve: at("peer:1"), jitter: func() float64 { return 0 },
			dialer: func(ctx context.Context, addr string) (net.Conn, error) {
				dials = append(dials, time.Since(begin))
				if down.Load() {
					return nil, syscall.ECONNREFUSED
				}
				return up(ctx, addr)
			},
			OnGone: func(int32) { t.Error("a node that was never there is said to be gone") },
		})
		for time.Since(begin) < 8*time.Second {
			_, err := p.testCall(0, nil)
			wantPeerError(t, err, ErrPeerDown, false)
			time.Sleep(10 * time.Millisecond)
		}
		var want []time.Duration
		for _, ms := range []time.Duration{0, 100, 300, 700, 1500, 3100, 5100, 7100} {
			want = append(want, ms*time.Millisecond)
		}
		if !slices.Equal(dials, want) {
			t.Errorf("dials at %v, want %v", dials, want)
		}
		time.Sleep(time.Hour)
		if len(dials) != len(want) {
			t.Errorf("%d dials without calls", len(dials)-len(want))
		}
		down.Store(false)
		if got, err := p.testCall(0, []byte("back")); err != nil || got != "back" {
			t.Error(got, err)
		}
		if n := peerMetric(t, p.metrics.circuit); n != 0 {
			t.Errorf("%v circuits open", n)
		}
		p.Close()
	})
}

// TestPeerIsAsGoodAsNew: one answer makes up for all failures before it.
func TestPeerIsAsGoodAsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const failures = 4
		dials, end := 0, make(chan struct{})
		up := pipes(t, func(f *fakePeer, _ int) {
			f.greet()
			frame, _ := f.read()
			_ = f.respond(correlationID(frame), nil)
			<-end
		})
		p := newPeers(t, PeersOptions{Resolve: at("peer:1"), jitter: func() float64 { return 0 },
			dialer: func(ctx context.Context, addr string) (net.Conn, error) {
				if dials++; dials == failures+1 {
					return up(ctx, addr)
				}
				return nil, syscall.ECONNREFUSED
			}})
		for range failures {
			_, err := p.testCall(0, nil)
			wantPeerError(t, err, ErrPeerDown, false)
			time.Sleep(backoffMax)
		}
		if _, err := p.testCall(0, nil); err != nil {
			t.Fatal(err)
		}
		close(end)
		synctest.Wait() // lost, and refused
		time.Sleep(backoffMin)
		_, err := p.testCall(0, nil)
		wantPeerError(t, err, ErrPeerDown, false)
		if want := failures + 3; dials != want {
			t.Errorf("%d dials, want %d: the last call should have tried", dials, want)
		}
		p.Close()
	})
}

// watchedCtx counts who watches it.
type watchedCtx struct {
	context.Context
	done     chan struct{}
	watchers atomic.Int64
	all      atomic.Int64
}

func (c *watchedCtx) Done() <-chan struct{} { return c.done }

func (c *watchedCtx) AfterFunc(func()) func() bool {
	c.watchers.Add(1)
	c.all.Add(1)
	return func() bool { c.watchers.Add(-1); return true }
}

// TestPeerStartLetsGoOfItsContext: a context that outlives its calls does not collect them.
func TestPeerStartLetsGoOfItsContext(t *testing.T) {
	bubble(t, PeersOptions{}, serveFake, func(t *testing.T, p *Peers) {
		ctx := &watchedCtx{Context: context.Background(), done: make(chan struct{})}
		for range 5 {
			p.Start(ctx, 2, ClassProduce, KeyForward, 0, nil, func(r *PeerResponse, err error) {
				if err != nil {
					t.Error(err)
					return
				}
				r.Release()
			})
		}
		synctest.Wait()
		if n, all := ctx.watchers.Load(), ctx.all.Load(); n != 0 || all != 5 {
			t.Errorf("%d of %d watches of the context are left, want 0 of 5", n, all)
		}
	})
}

// TestPeerGathersWithinBounds: the writer takes no more at a time than a writev is worth; the rest can still be given up unsent.
func TestPeerGathersWithinBounds(t *testing.T) {
	for name, c := range map[string]struct{ calls, size, sent int }{
		"bytes": {10, writeGatherBytes / 4, 3}, // with their headers, four are too many
		"one":   {3, 2 * writeGatherBytes, 1},
		"calls": {writeCallsMax + 10, 1, writeCallsMax},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, PeersOptions{}, func(f *fakePeer, _ int) {
				f.greet()
				time.Sleep(time.Second)
				_, _ = f.read() // the first, which the writer took alone
				<-f.over
			}, func(t *testing.T, p *Peers) {
				outcomes := make(chan error, c.calls+1)
				start := func(size int) {
					p.Start(context.Background(), 2, ClassProduce, KeyForward, 0, make([]byte, size), func(_ *PeerResponse, err error) { outcomes <- err })
				}
				start(0)
				synctest.Wait()
				for range c.calls {
					start(c.size)
				}
				sent := 0
				for range c.calls + 1 {
					var e *PeerError
					if err := <-outcomes; !errors.As(err, &e) {
						t.Fatal(err)
					}
					if e.Sent {
						sent++
					}
				}
				if sent != 1+c.sent {
					t.Errorf("%d calls count as sent, want %d", sent, 1+c.sent)
				}
			})
		})
	}
}

func TestCircuitJitter(t *testing.T) {
	now := time.Unix(0, 0)
	for _, c := range []struct {
		failures int
		jitter   float64
		want     time.Duration
	}{{1, 0, 100}, {1, 1, 125}, {3, 0.5, 450}, {6, 0, 2000}, {6, 1, 2000}, {1000, 1, 2000}} {
		var k circuit
		for range c.failures {
			k.fail(now, ErrPeerLost, c.jitter)
		}
		if got := k.until.Sub(now); got != c.want*time.Millisecond {
			t.Errorf("after %d failures, jitter %v: %v, want %v ms", c.failures, c.jitter, got, int64(c.want))
		}
	}
}

// TestPeerProbe: while one call tries whether the peer is back, others fail at once; those of a first connection wait for it.
func TestPeerProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up, results := pipes(t, serveFake), make(chan error)
		dials := 0
		p := newPeers(t, PeersOptions{
			Resolve: at("peer:1"), jitter: func() float64 { return 0 },
			dialer: func(ctx context.Context, addr string) (net.Conn, error) {
				dials++
				if err := <-results; err != nil {
					return nil, err
				}
				return up(ctx, addr)
			},
		})
		calls := func() []chan error {
			var outcomes []chan error
			for range 5 {
				outcome := make(chan error, 1)
				p.Start(context.Background(), 2, ClassProduce, KeyForward, 0, nil, func(r *PeerResponse, err error) {
					if err == nil {
						r.Release()
					}
					outcome <- err
				})
				outcomes = append(outcomes, outcome)
			}
			synctest.Wait()
			return outcomes
		}
		first := calls()
		results <- errors.New("no route")
		for _, o := range first {
			wantPeerError(t, <-o, ErrPeerDown, false)
		}
		time.Sleep(100 * time.Millisecond)
		second := calls()
		for _, o := range second[1:] {
			wantPeerError(t, <-o, ErrPeerDown, false)
		}
		results <- nil
		if err := <-second[0]; err != nil {
			t.Errorf("the probing call: %v", err)
		}
		if dials != 2 {
			t.Errorf("%d dials, want 2", dials)
		}
		p.Close()
	})
}

// TestPeerHeard: a node that is heard of is tried at once.
func TestPeerHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up, tries := pipes(t, serveFake), 0
		p := newPeers(t, PeersOptions{Resolve: at("peer:1"), dialer: func(ctx context.Context, addr string) (net.Conn, error) {
			if tries++; tries < 3 {
				return nil, syscall.ECONNREFUSED
			}
			return up(ctx, addr)
		}})
		for i := range 3 {
			_, err := p.testCall(0, nil)
			if i < 2 {
				wantPeerError(t, err, ErrPeerDown, false)
				_, err = p.testCall(0, nil)
				wantPeerError(t, err, ErrPeerDown, false)
			} else if err != nil {
				t.Fatal(err)
			}
			p.Heard(3) // another node
			p.Heard(2)
		}
		if tries != 3 {
			t.Errorf("%d dials, want 3", tries)
		}
		p.Close()
	})
}

// TestPeerIdle: an idle connection is closed and nothing of it stays, no timer either.
func TestPeerIdle(t *testing.T) {
	var ended atomic.Int64
	bubble(t, PeersOptions{}, func(f *fakePeer, n int) { serveFake(f, n); ended.Add(1) }, func(t *testing.T, p *Peers) {
		begin := time.Now()
		for i := range 3 {
			if _, err := p.testCall(0, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(4 * time.Minute) // not long enough
			if n := ended.Load(); n != 0 {
				t.Fatalf("closed %v after the start, call %d", time.Since(begin), i)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := ended.Load(); n != 1 {
			t.Fatalf("%d connections have ended after %v, want 1", n, time.Since(begin))
		}
		p.mu.Lock()
		links := len(p.mu.links)
		p.mu.Unlock()
		if links != 0 {
			t.Errorf("%d links are kept", links)
		}
		if _, err := p.testCall(0, nil); err != nil {
			t.Error(err)
		}
		if n := peerMetric(t, p.metrics.created); n != 2 {
			t.Errorf("%v connections, want 2", n)
		}
	})
}

// A node whose idle connection was closed by us, and which then refuses a new one, is not said to be gone: nothing has worked that was lost.
func TestPeerRefusesAfterIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up, dials := pipes(t, serveFake), 0
		p := newPeers(t, PeersOptions{Resolve: at("peer:1"), OnGone: func(int32) { t.Error("gone") },
			dialer: func(ctx context.Context, addr string) (net.Conn, error) {
				if dials++; dials > 1 {
					return nil, syscall.ECONNREFUSED
				}
				return up(ctx, addr)
			}})
		if _, err := p.testCall(0, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		_, err := p.testCall(0, nil)
		wantPeerError(t, err, ErrPeerDown, false)
		p.Close()
	})
}

// TestPeerMoves: a node with a new address gets new connections, and open calls end where they began.
func TestPeerMoves(t *testing.T) {
	var addr atomic.Pointer[string]
	old, young := "old:1", "new:1"
	addr.Store(&old)
	resolve := func(int32) (string, bool) { return *addr.Load(), true }
	var seen sync.Map
	play := func(f *fakePeer, n int) {
		if !f.greet() {
			return
		}
		for {
			frame, err := f.read()
			if err != nil {
				seen.Store(n, "ended")
				return
			}
			if n == 0 {
				time.Sleep(2 * time.Second)
			}
			_ = f.respond(correlationID(frame), []byte(fmt.Sprint("connection ", n)))
		}
	}
	bubble(t, PeersOptions{Resolve: resolve}, play, func(t *testing.T, p *Peers) {
		outcome := make(chan string, 1)
		go func() {
			got, err := p.testCall(0, nil)
			outcome <- fmt.Sprint(got, err)
		}()
		time.Sleep(time.Second)
		addr.Store(&young)
		begin := time.Now()
		if got, err := p.testCall(0, nil); err != nil || got != "connection 1" {
			t.Error(got, err)
		}
		since(t, begin, 0)
		if got := <-outcome; got != "connection 0<nil>" {
			t.Error(got)
		}
		time.Sleep(4 * time.Minute)
		if _, err := p.testCall(0, nil); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if _, ended := seen.Load(0); !ended {
			t.Error("the connection to the old place is kept")
		}
		if _, ended := seen.Load(1); ended {
			t.Error("the connection to the new place was closed")
		}
	})
}

// A node that moves while its circuit is open leaves nothing behind.
func TestPeerMovesWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeers(t, PeersOptions{dialer: func(context.Context, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }})
		for i := range 100 {
			_, err := p.CallAddr(context.Background(), 2, fmt.Sprintf("host-%d:1", i), ClassRaft, KeyRaft, 0, nil)
			wantPeerError(t, err, ErrPeerDown, false)
		}
		p.mu.Lock()
		links := len(p.mu.links)
		p.mu.Unlock()
		if n := peerMetric(t, p.metrics.circuit); links != 1 || n != 1 {
			t.Errorf("%d links, %v circuits open, want 1 and 1", links, n)
		}
		p.Close()
	})
}

func TestPeerUnknown(t *testing.T) {
	p := newPeers(t, PeersOptions{})
	_, err := p.testCall(0, nil)
	wantPeerError(t, err, ErrPeerUnknown, false)
	p.Start(context.Background(), 2, ClassRaft, KeyRaft, 0, nil, func(_ *PeerResponse, err error) {
		wantPeerError(t, err, ErrPeerUnknown, false)
	})
	if n := peerMetric(t, p.metrics.failures); n != 2 {
		t.Errorf("%v failures counted, want 2", n)
	}
}

func TestPeerRequestTooLarge(t *testing.T) {
	p := newPeers(t, PeersOptions{Resolve: at("peer:1"), MaxFrameBytes: 10_000})
	_, err := p.testCall(0, make([]byte, 10_000))
	wantPeerError(t, err, ErrFrameSize, false)
}

// TestPeersClose: calls fail wherever they are, and nothing runs on.
func TestPeersClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(ctx context.Context, addr string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		silent := pipes(t, func(f *fakePeer, _ int) { f.greet(); f.drain() })
		mute := pipes(t, func(f *fakePeer, _ int) { f.drain() })
		p := newPeers(t, PeersOptions{MaxInFlight: 2, Resolve: func(node int32) (string, bool) { return fmt.Sprint(node), true },
			dialer: func(ctx context.Context, addr string) (net.Conn, error) {
				switch addr {
				case "1":
					return silent(ctx, addr)
				case "2":
					return mute(ctx, addr)
				}
				return hang(ctx, addr)
			}})
		const nodes, calls = 3, 5 // of each five calls two are in flight and three wait
		outcomes := make(chan error, nodes*calls)
		for node := range int32(nodes) {
			for range calls {
				go func() {
					_, err := p.Call(context.Background(), node+1, ClassFetch, KeyForward, 0, make([]byte, 100))
					outcomes <- err
				}()
			}
		}
		synctest.Wait()
		begin := time.Now()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		sent := 0
		for range nodes * calls {
			var e *PeerError
			if err := <-outcomes; !errors.As(err, &e) || !errors.Is(err, ErrPeerClosed) {
				t.Errorf("error %v, want ErrPeerClosed", err)
			} else if e.Sent {
				sent++
			}
		}
		if sent != 2 {
			t.Errorf("%d calls say that they were sent, want 2", sent)
		}
		since(t, begin, 0)
		_, err := p.testCall(0, nil)
		wantPeerError(t, err, ErrPeerClosed, false)
		p.Start(context.Background(), 2, ClassRaft, KeyRaft, 0, nil, func(_ *PeerResponse, err error) {
			wantPeerError(t, err, ErrPeerClosed, false)
		})
		if err := p.Close(); err != nil {
			t.Errorf("a second Close: %v", err)
		}
	})
}

// TestPeerBounds: at the bound in number or bytes Start fails at once, and Call waits, in order, as many as MaxWaiting.
func TestPeerBounds(t *testing.T) {
	for name, o := range map[string]PeersOptions{
		"requests": {MaxInFlight: 3, MaxWaiting: 2},
		"bytes":    {MaxInFlightBytes: 3500, MaxWaiting: 2},
		"one":      {MaxInFlightBytes: 1, MaxWaiting: 2},
	} {
		room := 3
		if name == "one" {
			room = 1 // one request may always go
		}
		t.Run(name, func(t *testing.T) {
			bubble(t, o, func(f *fakePeer, _ int) {
				f.greet()
				f.answerAfterASecond(true)
			}, func(t *testing.T, p *Peers) {
				begin := time.Now()
				body := make([]byte, 1000)
				done := make(chan error, 10)
				start := func() {
					p.Start(context.Background(), 2, ClassProduce, KeyForward, 0, body, func(r *PeerResponse, err error) {
						if err == nil {
							r.Release()
						}
						done <- err
					})
				}
				for range room {
					start()
				}
				synctest.Wait()
				if len(done) != 0 {
					t.Fatalf("within the bound: %v", <-done)
				}
				start()
				wantPeerError(t, <-done, ErrPeerBusy, false)
				order := make(chan int, 2)
				for i := range 2 {
					go func() {
						_, err := p.testCall(0, body)
						if err != nil {
							t.Error(err)
						}
						order <- i
					}()
					synctest.Wait()
				}
				_, err := p.testCall(0, body)
				wantPeerError(t, err, ErrPeerBusy, false) // two wait already
				for range room {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
				since(t, begin, time.Duration(room)*time.Second)
				if a, b := <-order, <-order; a != 0 || b != 1 {
					t.Errorf("those that waited were let in in the order %d, %d", a, b)
				}
			})
		})
	}
}

// TestPeerSmallDoesNotOvertake: a small request does not take the room that a large one waits for.
func TestPeerSmallDoesNotOvertake(t *testing.T) {
	bubble(t, PeersOptions{MaxInFlightBytes: 3000}, func(f *fakePeer, _ int) {
		f.greet()
		f.answerAfterASecond(false)
	}, func(t *testing.T, p *Peers) {
		outcomes := make(chan error, 2)
		for range 2 { // the second one waits
			go func() {
				_, err := p.testCall(0, make([]byte, 2000))
				outcomes <- err
			}()
			synctest.Wait()
		}
		p.Start(context.Background(), 2, ClassProduce, KeyForward, 0, nil, func(_ *PeerResponse, err error) {
			wantPeerError(t, err, ErrPeerBusy, false)
		})
		for range 2 {
			if err := <-outcomes; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestPeerRoomAtTheLastMoment: room that comes at the very moment a waiting call is given up is not lost.
func TestPeerRoomAtTheLastMoment(t *testing.T) {
	bubble(t, PeersOptions{MaxInFlight: 1}, func(f *fakePeer, _ int) {
		f.greet()
		f.answerAfterASecond(false)
	}, func(t *testing.T, p *Peers) {
		for range 300 {
			outcomes := make(chan error, 2)
			for range 2 {
				go func() {
					_, err := p.testCall(time.Second, nil) // the answer to the first comes as the second's time is up
					outcomes <- err
				}()
				synctest.Wait()
			}
			<-outcomes
			<-outcomes
			time.Sleep(2 * time.Second)
			if n := peerMetric(t, p.metrics.inFlight); n != 0 {
				t.Fatalf("%v requests in flight, all have ended", n)
			}
		}
	})
}

// TestPeerWaitingEnds: a call that waits for room ends with its context, and makes place for another.
func TestPeerWaitingEnds(t *testing.T) {
	bubble(t, PeersOptions{MaxInFlight: 1, MaxWaiting: 1, ResponseTimeout: time.Hour}, func(f *fakePeer, _ int) { f.greet(); f.drain() }, func(t *testing.T, p *Peers) {
		open := make(chan error, 1)
		p.Start(context.Background(), 2, ClassProduce, KeyForward, 0, nil, func(_ *PeerResponse, err error) { open <- err })
		for range 3 {
			begin := time.Now()
			_, err := p.testCall(time.Second, nil)
			if e := wantPeerError(t, err, ErrPeerTimeout, false); e.Op != "queue" {
				t.Errorf("it was at %q, want queue", e.Op)
			}
			since(t, begin, time.Second)
		}
		p.Close()
		wantPeerError(t, <-open, ErrPeerClosed, true)
	})
}

// TestPeerStartGivenUp: Start's context ends its call wherever it is: waiting for the dial, for the writer, for the answer.
func TestPeerStartGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		play func(f *fakePeer, n int)
		op   string
		sent bool
	}{
		"dial":     {func(f *fakePeer, _ int) { f.drain() }, "dial", false},
		"response": {func(f *fakePeer, _ int) { f.greet(); f.drain() }, "response", true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, PeersOptions{}, c.play, func(t *testing.T, p *Peers) {
				begin := time.Now()
				ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
				defer cancel()
				done := make(chan error, 1)
				p.Start(ctx, 2, ClassProduce, KeyForward, 0, nil, func(_ *PeerResponse, err error) { done <- err })
				if e := wantPeerError(t, <-done, ErrPeerTimeout, c.sent); e.Op != c.op {
					t.Errorf("it was at %q, want %q", e.Op, c.op)
				}
				since(t, begin, 200*time.Millisecond)
			})
		})
	}
	t.Run("queue", func(t *testing.T) {
		bubble(t, PeersOptions{}, func(f *fakePeer, _ int) { f.greet(); <-f.over }, func(t *testing.T, p *Peers) {
			first := make(chan error, 1)
			p.Start(context.Background(), 2, ClassProduce, KeyForward, 0, nil, func(_ *PeerResponse, err error) { first <- err })
			synctest.Wait() // the writer is stuck with it
			_, err := p.testCall(time.Second, nil)
			if e := wantPeerError(t, err, ErrPeerTimeout, false); e.Op != "queue" {
				t.Errorf("it was at %q, want queue", e.Op)
			}
			wantPeerError(t, <-first, ErrPeerTimeout, true)
		})
	})
}
