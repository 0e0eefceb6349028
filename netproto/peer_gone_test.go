package netproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestPeerDies: a process that ends resets its connections and refuses new ones: it is said to be gone, once, and its calls fail at once.
// When it is back on the same port, calls go there again.
func TestPeerDies(t *testing.T) {
	gone := make(chan int32, 10)
	arrived := make(chan struct{}, 10)
	silent := func(f *fakePeer, _ int) {
		f.greet()
		for {
			if _, err := f.read(); err != nil {
				return
			}
			arrived <- struct{}{}
		}
	}
	addr, kill := listenFake(t, "127.0.0.1:0", func(f *fakePeer, n int) {
		if f.greet() {
			frame, _ := f.read()
			_ = f.respond(correlationID(frame), nil) // it has worked
			for {
				if _, err := f.read(); err != nil {
					return
				}
				arrived <- struct{}{}
			}
		}
	})
	p := newPeers(t, PeersOptions{Resolve: at(addr), OnGone: func(node int32) { gone <- node }})
	ctx := within(t)
	outcomes := make(chan error, 2)
	for _, class := range []Class{ClassRaft, ClassFetch} {
		r, err := p.Call(ctx, 2, class, KeyRaft, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Release()
		p.Start(ctx, 2, class, KeyRaft, 0, nil, func(_ *PeerResponse, err error) { outcomes <- err })
		<-arrived
	}
	kill()
	for range 2 {
		wantPeerError(t, <-outcomes, ErrPeerLost, true)
	}
	if node := <-gone; node != 2 {
		t.Errorf("node %d is gone, want 2", node)
	}
	// The other class' dial may still be under way. When both have failed, nothing more can come.
	for _, class := range []Class{ClassRaft, ClassFetch} {
		for {
			if _, err := p.Call(ctx, 2, class, KeyRaft, 0, nil); errors.Is(err, ErrPeerDown) {
				break
			}
		}
	}

	listenFake(t, addr, silent)
	p.Heard(2)
	p.Start(ctx, 2, ClassRaft, KeyRaft, 0, nil, func(_ *PeerResponse, err error) { outcomes <- err })
	<-arrived
	p.Close()
	wantPeerError(t, <-outcomes, ErrPeerClosed, true)
	select {
	case node := <-gone:
		t.Errorf("node %d is said to be gone a second time", node)
	default:
	}
}

// TestPeerConnectionLost: the peer lives, but has ended the connection. What was sent fails; what was not goes to the new connection, which
// is made at once.
func TestPeerConnectionLost(t *testing.T) {
	for name, cause := range map[string]error{"reset": syscall.ECONNRESET, "closed": io.EOF} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				up := pipes(t, func(f *fakePeer, n int) {
					if n > 0 {
						serveFake(f, n)
						return
					}
					f.greet()
					frame, _ := f.read()
					_ = f.respond(correlationID(frame), nil)
					_, _ = f.read()         // the first half of the next one, which the writer goes on to write
					time.Sleep(time.Second) // meanwhile another is queued
				})
				p := newPeers(t, PeersOptions{Resolve: at("peer:1"), OnGone: func(int32) { t.Error("gone") },
					dialer: func(ctx context.Context, addr string) (net.Conn, error) {
						nc, err := up(ctx, addr)
						return errorConn{nc, cause}, err
					}})
				if _, err := p.testCall(0, nil); err != nil {
					t.Fatal(err)
				}
				start := func() <-chan error {
					outcome := make(chan error, 1)
					p.Start(context.Background(), 2, ClassProduce, KeyForward, 0, nil, func(r *PeerResponse, err error) {
						if err == nil {
							r.Release()
						}
						outcome <- err
					})
					synctest.Wait()
					return outcome
				}
				read := start()  // by the peer
				taken := start() // by the writer, which is stuck in the pipe
				queued := start()
				wantPeerError(t, <-read, ErrPeerLost, true)
				wantPeerError(t, <-taken, ErrPeerLost, true)
				if err := <-queued; err != nil {
					t.Errorf("the request that was not sent: %v", err)
				}
				if n := peerMetric(t, p.metrics.created); n != 2 {
					t.Errorf("%v connections, want 2", n)
				}
				p.Close()
			})
		})
	}
}

// TestPeerDiesWithItsBacklog: a process that ends resets also the connection that it had not yet accepted: the new dial connects, Hello
// fails, and only the dial after that is refused. The node is gone none the less; and also if that is found out much later.
func TestPeerDiesWithItsBacklog(t *testing.T) {
	for resets := range 6 {
		t.Run(fmt.Sprint(resets, " resets"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gone, dials := 0, 0
				answered := make(chan struct{})
				up := pipes(t, func(f *fakePeer, n int) {
					if n > 0 {
						return // reset before Hello
					}
					f.greet()
					frame, _ := f.read()
					_ = f.respond(correlationID(frame), nil)
					<-answered
				})
				p := newPeers(t, PeersOptions{Resolve: at("peer:1"), OnGone: func(int32) { gone++ },
					dialer: func(ctx context.Context, addr string) (net.Conn, error) {
						if dials++; dials > 1+resets {
							return nil, syscall.ECONNREFUSED
						}
						nc, err := up(ctx, addr)
						return errorConn{nc, syscall.ECONNRESET}, err
					}})
				if _, err := p.testCall(0, nil); err != nil {
					t.Fatal(err)
				}
				close(answered)
				synctest.Wait()
				at := 0 // calls after which it was said to be gone
				for ; gone == 0 && at < 10; at++ {
					time.Sleep(2 * time.Second)
					_, err := p.testCall(0, nil)
					wantPeerError(t, err, ErrPeerDown, false)
				}
				if want := max(0, resets-dialAgainMax+1); gone != 1 || at != want {
					t.Errorf("said to be gone %d times, after %d calls; want once, after %d", gone, at, want)
				}
				p.Close()
			})
		})
	}
}

// errorConn ends with the given error where a pipe ends with EOF.
type errorConn struct {
	net.Conn
	end error
}

func (c errorConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, io.EOF) {
		err = c.end
	}
	return n, err
}

func (c errorConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = syscall.EPIPE
	}
	return n, err
}

// TestPeerEndsEveryConnection: a peer that accepts and says Hello, only to end the connection, is not dialed in a loop.
func TestPeerEndsEveryConnection(t *testing.T) {
	var dials atomic.Int64
	bubble(t, PeersOptions{OnGone: func(int32) { t.Error("gone") }}, func(f *fakePeer, _ int) { dials.Add(1); f.greet() }, func(t *testing.T, p *Peers) {
		_, err := p.testCall(0, nil)
		if err == nil {
			t.Error("no error")
		}
		time.Sleep(time.Hour)
		if n := dials.Load(); n != 1 {
			t.Errorf("%d dials for one call", n)
		}
	})
}

// TestPeerNeverThere: a node that was never reached is not gone.
func TestPeerNeverThere(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	p := newPeers(t, PeersOptions{Resolve: at(addr), OnGone: func(int32) { t.Error("gone") }})
	_, err = p.Call(within(t), 2, ClassRaft, KeyRaft, 0, nil)
	wantPeerError(t, err, ErrPeerDown, false)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v does not say why", err)
	}
	p.Close()
}

// TestPeerLocalHost: connections leave from the given address, where it fits.
func TestPeerLocalHost(t *testing.T) {
	from := make(chan string, 1)
	_, addr := startPeerServer(t, PeerHandlerOptions{}, func(r *Request) {
		from <- r.Conn.RemoteHost()
		r.RespondRaw(nil)
	})
	for _, c := range []struct{ local, want string }{{"127.0.0.7", "127.0.0.7"}, {"", "127.0.0.1"}, {"192.0.2.1", "127.0.0.1"}, {"::1", "127.0.0.1"}} {
		p := newPeers(t, PeersOptions{Resolve: at(addr), LocalHost: c.local})
		r, err := p.Call(within(t), 2, ClassRaft, KeyRaft, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Release()
		if got := <-from; got != c.want {
			t.Errorf("LocalHost %q: the connection comes from %s, want %s", c.local, got, c.want)
		}
	}
}

// TestFrozenPeer: a process that is stopped accepts connections and takes what fits the buffers, for its kernel does, and is silent. Its
// calls fail within their deadlines, and nobody else notices: the others' calls take the time they take without it.
func TestFrozenPeer(t *testing.T) {
	const frozen, healthy = 2, 3
	synctest.Test(t, func(t *testing.T) {
		const answerTime = 2 * time.Millisecond
		frozenNow := make(chan struct{})
		over := make(chan struct{})
		p := newPeers(t, PeersOptions{Resolve: func(node int32) (string, bool) { return fmt.Sprint(node), true }, MaxInFlight: 64, MaxWaiting: 64,
			dialer: pipes(t, func(f *fakePeer, _ int) {
				stopped := func() bool {
					select {
					case <-frozenNow:
						return f.hello.meant != healthy
					default:
						return false
					}
				}
				f.greet()
				for {
					frame, err := f.read()
					if err != nil {
						return
					}
					if stopped() {
						<-over
						return
					}
					time.Sleep(answerTime)
					if f.respond(correlationID(frame), nil) != nil {
						return
					}
				}
			})})
		call := func(node int32, limit time.Duration) (time.Duration, error) {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			begin := time.Now()
			r, err := p.Call(ctx, node, ClassProduce, KeyForward, 0, nil)
			if err == nil {
				r.Release()
			}
			return time.Since(begin), err
		}
		for _, node := range []int32{frozen, healthy} {
			if took, err := call(node, time.Second); err != nil || took != answerTime {
				t.Fatalf("node %d, all well: %v, %v", node, took, err)
			}
		}
		close(frozenNow)
		const producers, limit = 200, 300 * time.Millisecond
		stop := make(chan struct{})
		ended := make(chan struct{})
		for range producers {
			go func() {
				defer func() { ended <- struct{}{} }()
				for {
					select {
					case <-stop:
						return
					default:
					}
					took, err := call(frozen, limit)
					if err == nil {
						t.Error("a frozen node has answered")
					}
					if took > limit {
						t.Errorf("a call with a limit of %v took %v: %v", limit, took, err)
					}
					time.Sleep(10 * time.Millisecond)
				}
			}()
		}
		for range 5000 { // ten seconds: the connection is given up meanwhile, and probed
			if took, err := call(healthy, time.Second); err != nil || took != answerTime {
				t.Fatalf("healthy node: %v, %v, want %v", took, err, answerTime)
			}
		}
		close(stop)
		for range producers {
			<-ended
		}
		close(over)
		p.Close()
	})
}
