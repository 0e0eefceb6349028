package netproto

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/iobuf"
)

// peerSeed is the seed of a random test: WEIR_PEER_SEED replays one.
func peerSeed(t *testing.T) uint64 {
	seed := rand.Uint64()
	if s := os.Getenv("WEIR_PEER_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d (WEIR_PEER_SEED)", seed)
	return seed
}

// faultyPeer answers, and does whatever a peer can do wrong. It notes which requests it has read.
type faultyPeer struct {
	*fakePeer
	rng  *rand.Rand
	seen *sync.Map
}

func (f *faultyPeer) play() {
	if f.rng.IntN(10) == 0 {
		return // closed before Hello
	}
	if f.rng.IntN(10) == 0 {
		f.pause(3 * time.Second)
	}
	if !f.greet() {
		return
	}
	var late [][]byte
	for {
		frame, err := f.read()
		if err != nil {
			return
		}
		f.seen.Store(binary.BigEndian.Uint32(frame[headerBytesMin:]), true)
		answer := func(frame []byte) bool { return f.respond(correlationID(frame), frame[headerBytesMin:]) == nil }
		switch n := f.rng.IntN(100); {
		case n < 60:
			if !answer(frame) {
				return
			}
		case n < 75: // out of order
			late = append(late, frame)
		case n < 85:
			f.pause(2 * time.Second)
			if !answer(frame) {
				return
			}
		case n < 88: // never
		case n < 90: // frozen
			f.pause(20 * time.Second)
		case n < 92:
			return // closed
		case n < 94: // half a frame
			_, _ = f.nc.Write(append(appendInt32(nil, 1000), make([]byte, f.rng.IntN(900))...))
			return
		case n < 96: // nonsense
			b := make([]byte, 1+f.rng.IntN(100))
			for i := range b {
				b[i] = byte(f.rng.Uint32())
			}
			_, _ = f.nc.Write(b)
		default:
			for _, frame := range late {
				if !answer(frame) {
					return
				}
			}
			late = nil
		}
	}
}

func (f *faultyPeer) pause(most time.Duration) { time.Sleep(time.Duration(f.rng.Int64N(int64(most)))) }

// TestPeerEveryCallHasOneOutcome: whatever peers do, each call ends, once, within its deadline; with its own answer, or with an error; one
// that says that it was not sent never arrived; and nothing is left.
func TestPeerEveryCallHasOneOutcome(t *testing.T) {
	seed := peerSeed(t)
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for round := range uint64(rounds) {
		before := iobuf.InUse()
		synctest.Test(t, func(t *testing.T) { randomCalls(t, rand.New(rand.NewPCG(seed, round)), seed) })
		if now := iobuf.InUse(); now != before {
			t.Errorf("round %d: %d bytes in use, %d before", round, now, before)
		}
		if t.Failed() {
			t.Fatalf("round %d of seed %d", round, seed)
		}
	}
}

func randomCalls(t *testing.T, rng *rand.Rand, seed uint64) {
	var seen sync.Map
	var dials atomic.Uint64
	refuse := rng.IntN(3) == 0
	up := pipes(t, func(f *fakePeer, n int) {
		f.t = discardErrors{f.t}
		(&faultyPeer{f, rand.New(rand.NewPCG(seed, uint64(n)+1000)), &seen}).play()
	})
	p := newPeers(t, PeersOptions{
		Resolve:     func(node int32) (string, bool) { return "peer:" + strconv.Itoa(int(node)), node < 5 },
		MaxInFlight: 1 + rng.IntN(20), MaxWaiting: 1 + rng.IntN(20), MaxInFlightBytes: 1 + rng.Int64N(20_000), IdleTimeout: 10 * time.Second, MaxFrameBytes: 20_000,
		dialer: func(ctx context.Context, addr string) (net.Conn, error) {
			if n := dials.Add(1); refuse && n%3 == 0 {
				return nil, syscall.ECONNREFUSED
			}
			return up(ctx, addr)
		},
	})
	calls := 50 + rng.IntN(300)
	outcomes := make([]atomic.Int32, calls)
	var all sync.WaitGroup
	for i := range calls {
		all.Add(1)
		limit := time.Duration(rng.Int64N(int64(8 * time.Second)))
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		if rng.IntN(5) == 0 {
			time.AfterFunc(time.Duration(rng.Int64N(int64(limit)+1)), cancel)
		}
		body := make([]byte, 4+rng.IntN(3000))
		binary.BigEndian.PutUint32(body, uint32(i))
		begin := time.Now()
		ended := func(r *PeerResponse, err error) {
			defer all.Done()
			defer cancel()
			if n := outcomes[i].Add(1); n != 1 {
				t.Errorf("call %d has %d outcomes", i, n)
			}
			if took := time.Since(begin); took > limit {
				t.Errorf("call %d took %v, its limit is %v", i, took, limit)
			}
			checkOutcome(t, i, body, &seen, r, err)
		}
		node, class := int32(2+rng.IntN(4)), Class(rng.IntN(int(classCount)))
		if rng.IntN(2) == 0 {
			p.Start(ctx, node, class, KeyForward, 0, body, ended)
		} else {
			go func() { ended(p.Call(ctx, node, class, KeyForward, 0, body)) }()
		}
		switch rng.IntN(10) {
		case 0:
			time.Sleep(time.Duration(rng.Int64N(int64(time.Second))))
		case 1:
			synctest.Wait()
		case 2:
			p.Heard(node)
		}
	}
	if rng.IntN(2) == 0 {
		all.Wait()
	}
	p.Close()
	all.Wait()
	time.Sleep(time.Minute) // the peers' goroutines end
	if n := peerMetric(t, p.metrics.inFlight); n != 0 {
		t.Errorf("%v requests in flight at the end", n)
	}
	if n := peerMetric(t, p.metrics.circuit); n != 0 {
		t.Errorf("%v circuits open at the end", n)
	}
	if n := peerMetric(t, p.metrics.failures) + peerMetric(t, p.metrics.seconds); n != float64(calls) {
		t.Errorf("%v outcomes counted of %d calls", n, calls)
	}
}

func checkOutcome(t *testing.T, i int, body []byte, seen *sync.Map, r *PeerResponse, err error) {
	if err == nil {
		if string(r.Body) != string(body) {
			t.Errorf("call %d has the answer of another: %d bytes, want %d", i, len(r.Body), len(body))
		}
		r.Release()
		return
	}
	var e *PeerError
	if !errors.As(err, &e) || r != nil {
		t.Errorf("call %d: error %v, want a PeerError alone", i, err)
		return
	}
	if _, arrived := seen.Load(uint32(i)); arrived && !e.Sent {
		t.Errorf("call %d arrived, and is said not to have been sent: %v", i, err)
	}
}

// discardErrors is for peers whose failures are part of the play.
type discardErrors struct{ testing.TB }

func (discardErrors) Error(...any) {}

// TestPeerFaultsOnSockets is the same on loopback, where connections are reset and closed for real, with a server at the other end.
func TestPeerFaultsOnSockets(t *testing.T) {
	rng := rand.New(rand.NewPCG(peerSeed(t), 0))
	before := iobuf.InUse()
	s, addr := startPeerServer(t, PeerHandlerOptions{}, func(r *Request) {
		if r.Body[0] == 'X' {
			r.Close(io.ErrUnexpectedEOF)
			return
		}
		echo(r)
	})
	p := newPeers(t, PeersOptions{Resolve: at(addr), MaxInFlight: 64})
	ctx := within(t)
	var all sync.WaitGroup
	const calls = 3000
	var answered, failed atomic.Int64
	for i := range calls {
		body := make([]byte, 5+rng.IntN(2000))
		if rng.IntN(100) == 0 {
			body[0] = 'X'
		}
		binary.BigEndian.PutUint32(body[1:], uint32(i))
		limit := time.Minute
		if rng.IntN(10) == 0 {
			limit = time.Duration(rng.Int64N(int64(time.Millisecond)))
		}
		if i%100 == 99 {
			if i%500 == 499 {
				s.closeAll((*Conn).reset, ErrReset)
			}
			all.Wait()
			p.Heard(2)
		}
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			r, err := p.Call(ctx, 2, Class(i%int(classCount)), KeyForward, 0, body)
			if err != nil {
				failed.Add(1)
				return
			}
			if string(r.Body) != string(body) {
				t.Errorf("call %d has the answer of another", i)
			}
			r.Release()
			answered.Add(1)
		})
	}
	all.Wait()
	p.Close()
	s.ResetAll()
	s.wg.Wait()
	if answered.Load() == 0 || failed.Load() == 0 {
		t.Errorf("%d answered, %d failed: that tests nothing", answered.Load(), failed.Load())
	}
	if n := peerMetric(t, p.metrics.inFlight); n != 0 {
		t.Errorf("%v requests in flight at the end", n)
	}
	if now := iobuf.InUse(); now != before {
		t.Errorf("%d bytes in use, %d before", now, before)
	}
}

// FuzzPeerResponses feeds a connection with what a peer that has gone mad sends after Hello: no call is answered twice, none hangs, and
// no memory stays.
func FuzzPeerResponses(f *testing.F) {
	frame := func(id int32, body string) []byte {
		return append(appendInt32(appendInt32(nil, int32(len(body)+correlationBytes)), id), body...)
	}
	f.Add(frame(1, "answer"))
	f.Add(append(frame(3, "\x00tagged"), frame(1, "first")...))
	f.Add(append(frame(2, "twice"), frame(2, "twice")...))
	f.Add([]byte{0x7f, 0xff, 0xff, 0xff})
	f.Add(frame(4, "")[:6])
	f.Fuzz(func(t *testing.T, sent []byte) {
		before := iobuf.InUse()
		synctest.Test(t, func(t *testing.T) {
			p := newPeers(t, PeersOptions{Resolve: at("peer:1"), MaxFrameBytes: 1 << 20, dialer: pipes(t, func(f *fakePeer, _ int) {
				if !f.greet() {
					return
				}
				go f.drain()
				_, _ = f.nc.Write(sent)
				time.Sleep(time.Second)
			})})
			var outcomes [3]atomic.Int32
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			for i := range outcomes {
				key, version := KeyForward, int16(0)
				if i == 2 {
					key, version = keyFetch, 18 // its response header has tags
				}
				p.Start(ctx, 2, ClassFetch, key, version, nil, func(r *PeerResponse, err error) {
					outcomes[i].Add(1)
					if err == nil {
						r.Release()
					}
				})
			}
			time.Sleep(time.Minute)
			p.Close()
			time.Sleep(time.Minute) // the peer's goroutines end
			for i := range outcomes {
				if n := outcomes[i].Load(); n != 1 {
					t.Errorf("call %d has %d outcomes", i, n)
				}
			}
		})
		if now := iobuf.InUse(); now != before {
			t.Errorf("%d bytes in use, %d before", now, before)
		}
	})
}
