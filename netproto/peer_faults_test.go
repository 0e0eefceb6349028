package netproto

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/iobuf"
)

// testCall makes a call to node 2 that ends after limit; 0: without a deadline.
func (p *Peers) testCall(limit time.Duration, body []byte) (string, error) {
	ctx := context.Background()
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	r, err := p.Call(ctx, 2, ClassProduce, KeyForward, 0, body)
	if err != nil {
		return "", err
	}
	defer r.Release()
	return string(r.Body), nil
}

// bubble runs a test in its own time, with a peer that plays on pipes.
func bubble(t *testing.T, o PeersOptions, play func(f *fakePeer, n int), test func(t *testing.T, p *Peers)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		o.dialer = pipes(t, func(f *fakePeer, n int) {
			f.over = over
			play(f, n)
		})
		if o.Resolve == nil {
			o.Resolve = at("peer:1")
		}
		o.jitter = func() float64 { return 0 }
		p := newPeers(t, o)
		test(t, p)
		close(over)
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour) // the peer's goroutines end
		if n := peerMetric(t, p.metrics.inFlight); n != 0 {
			t.Errorf("%v requests in flight after Close", n)
		}
		if n := peerMetric(t, p.metrics.circuit); n != 0 {
			t.Errorf("%v circuits open after Close", n)
		}
	})
}

// since fails the test unless exactly want has passed.
func since(t *testing.T, begin time.Time, want time.Duration) {
	t.Helper()
	if took := time.Since(begin); took != want {
		t.Fatalf("it took %v, want %v", took, want)
	}
}

func TestPeerThatNeverSaysHello(t *testing.T) {
	dials := 0
	bubble(t, PeersOptions{}, func(f *fakePeer, n int) { dials = n + 1; f.drain() }, func(t *testing.T, p *Peers) {
		begin := time.Now()
		_, err := p.testCall(time.Minute, nil)
		wantPeerError(t, err, ErrPeerDown, false)
		since(t, begin, time.Second) // DialTimeout
		_, err = p.testCall(time.Minute, nil)
		wantPeerError(t, err, ErrPeerDown, false)
		since(t, begin, time.Second) // at once
		if dials != 1 {
			t.Errorf("%d dials, want 1", dials)
		}
		if n := peerMetric(t, p.metrics.circuit); n != 1 {
			t.Errorf("%v circuits open, want 1", n)
		}
	})
}

func TestPeerThatNeverAnswers(t *testing.T) {
	bubble(t, PeersOptions{}, func(f *fakePeer, _ int) { f.greet(); f.drain() }, func(t *testing.T, p *Peers) {
		begin := time.Now()
		_, err := p.testCall(300*time.Millisecond, nil)
		wantPeerError(t, err, ErrPeerTimeout, true)
		since(t, begin, 300*time.Millisecond)

		// The connection lives until nothing has come for ResponseTimeout, and takes all open calls with it.
		_, err = p.testCall(0, nil)
		wantPeerError(t, err, ErrPeerTimeout, true)
		since(t, begin, 5*time.Second)
		_, err = p.testCall(0, nil)
		wantPeerError(t, err, ErrPeerDown, false)
		since(t, begin, 5*time.Second)
		if n := peerMetric(t, p.metrics.created); n != 1 {
			t.Errorf("%v connections, want 1", n)
		}
	})
}

// A peer that says Hello and nothing more is backed off from longer and longer: saying Hello is not being well.
func TestPeerThatOnlySaysHelloIsBackedOffFrom(t *testing.T) {
	bubble(t, PeersOptions{}, func(f *fakePeer, _ int) { f.greet(); f.drain() }, func(t *testing.T, p *Peers) {
		for _, wait := range []time.Duration{100, 200, 400, 800, 1600, 2000, 2000} {
			_, err := p.testCall(0, nil)
			wantPeerError(t, err, ErrPeerTimeout, true)
			time.Sleep(wait*time.Millisecond - 1)
			_, err = p.testCall(0, nil)
			wantPeerError(t, err, ErrPeerDown, false)
			time.Sleep(time.Nanosecond)
		}
	})
}

// The silence of a request begins when it was sent, not with the last answer.
func TestPeerSilenceBeginsWithTheRequest(t *testing.T) {
	bubble(t, PeersOptions{}, func(f *fakePeer, _ int) {
		f.greet()
		frame, _ := f.read()
		_ = f.respond(correlationID(frame), nil)
		f.drain()
	}, func(t *testing.T, p *Peers) {
		if _, err := p.testCall(0, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Second)
		begin := time.Now()
		_, err := p.testCall(0, nil)
		wantPeerError(t, err, ErrPeerTimeout, true)
		since(t, begin, 5*time.Second)
	})
}

// A caller that waits longer than ResponseTimeout is let: a long poll is not a dead peer.
func TestPeerLongCall(t *testing.T) {
	bubble(t, PeersOptions{}, func(f *fakePeer, _ int) {
		f.greet()
		frame, _ := f.read()
		time.Sleep(12 * time.Second)
		_ = f.respond(correlationID(frame), []byte("late"))
		f.drain()
	}, func(t *testing.T, p *Peers) {
		begin := time.Now()
		got, err := p.testCall(20*time.Second, nil)
		if err != nil || got != "late" {
			t.Fatal(got, err)
		}
		since(t, begin, 12*time.Second)
	})
}

func TestPeerThatNeverReads(t *testing.T) {
	bubble(t, PeersOptions{}, func(f *fakePeer, _ int) { f.greet(); <-f.over }, func(t *testing.T, p *Peers) {
		begin := time.Now()
		outcomes := make(chan error, 2)
		start := func() {
			p.Start(context.Background(), 2, ClassProduce, KeyForward, 0, make([]byte, 1000), func(_ *PeerResponse, err error) { outcomes <- err })
		}
		start()
		synctest.Wait() // it is being written
		start()
		wantPeerError(t, <-outcomes, ErrPeerTimeout, true)
		wantPeerError(t, <-outcomes, ErrPeerDown, false) // behind it in the queue
		since(t, begin, 5*time.Second)                   // WriteTimeout
	})
}

// TestPeerSlowReader: a peer that takes little at a time is slow, not dead.
func TestPeerSlowReader(t *testing.T) {
	bubble(t, PeersOptions{}, func(f *fakePeer, _ int) {
		f.greet()
		frame := make([]byte, requestFrameSize(KeyForward, 0, "", make([]byte, 20_000)))
		for n := 0; n < len(frame); {
			time.Sleep(3 * time.Second)
			m, err := f.nc.Read(frame[n:min(n+1000, len(frame))])
			if err != nil {
				f.t.Error(err)
				return
			}
			n += m
		}
		_ = f.respond(correlationID(frame[sizeBytes:]), []byte("got it"))
		f.drain()
	}, func(t *testing.T, p *Peers) {
		begin := time.Now()
		got, err := p.testCall(0, make([]byte, 20_000))
		if err != nil || got != "got it" {
			t.Fatal(got, err)
		}
		if took := time.Since(begin); took < time.Minute {
			t.Errorf("it took %v", took)
		}
	})
}

// TestPeerSlowAnswer: so is one that answers slowly, as long as something comes.
func TestPeerSlowAnswer(t *testing.T) {
	bubble(t, PeersOptions{}, func(f *fakePeer, _ int) {
		f.greet()
		frame, _ := f.read()
		answer := appendInt32(appendInt32(nil, correlationBytes+10), correlationID(frame))
		for _, b := range append(answer, "ten bytes."...) {
			time.Sleep(4 * time.Second)
			if _, err := f.nc.Write([]byte{b}); err != nil {
				f.t.Error(err)
				return
			}
		}
		f.drain()
	}, func(t *testing.T, p *Peers) {
		got, err := p.testCall(0, nil)
		if err != nil || got != "ten bytes." {
			t.Fatal(got, err)
		}
	})
}

// TestPeerAnswersOutOfOrder: answers are told apart by their correlation ids.
func TestPeerAnswersOutOfOrder(t *testing.T) {
	bubble(t, PeersOptions{}, func(f *fakePeer, _ int) {
		f.greet()
		var frames [][]byte
		for range 3 {
			frame, err := f.read()
			if err != nil {
				f.t.Error(err)
				return
			}
			frames = append(frames, frame)
		}
		for _, i := range []int{2, 0, 1} {
			_ = f.respond(correlationID(frames[i]), frames[i][headerBytesMin:])
		}
		f.drain()
	}, func(t *testing.T, p *Peers) {
		answers := make(chan string, 3)
		for i := range 3 {
			want := fmt.Sprint(i)
			p.Start(context.Background(), 2, ClassProduce, KeyForward, 0, []byte(want), func(r *PeerResponse, err error) {
				if err != nil {
					t.Error(err)
				} else if string(r.Body) != want {
					t.Errorf("%s answered with %s", want, r.Body)
				} else {
					r.Release()
				}
				answers <- want
			})
		}
		if got := <-answers + <-answers + <-answers; got != "201" {
			t.Errorf("answered in the order %s", got)
		}
	})
}

// TestPeerTalksNonsense: what breaks the protocol ends the connection and fails the open calls. Nothing is allocated for lengths.
func TestPeerTalksNonsense(t *testing.T) {
	frame := func(size uint32, rest ...byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, size), rest...)
	}
	for name, c := range map[string]struct {
		bytes []byte
		want  error
	}{
		"negative length":     {frame(1<<32 - 1), ErrFrameSize},
		"huge length":         {frame(1<<31 - 1), ErrFrameSize},
		"above the limit":     {frame(100<<20 + 1), ErrFrameSize},
		"below a header":      {frame(3, 0, 0, 0), ErrFrameSize},
		"unknown id":          {frame(4, 0x7f, 0, 0, 0), ErrMalformed},
		"truncated in length": {[]byte{0, 0}, ErrTruncated},
		"truncated in header": {frame(100, 0, 0), ErrTruncated},
		"truncated in body":   {frame(1<<20, make([]byte, 70_000)...), ErrTruncated},
		"closed":              {nil, ErrPeerLost},
	} {
		t.Run(name, func(t *testing.T) {
			before := iobuf.InUse()
			bubble(t, PeersOptions{}, func(f *fakePeer, n int) {
				if n == 0 && f.greet() {
					_, _ = f.read()
					_, _ = f.nc.Write(c.bytes)
				}
			}, func(t *testing.T, p *Peers) {
				_, err := p.testCall(0, nil)
				wantPeerError(t, err, ErrPeerLost, true)
				wantPeerError(t, err, c.want, true)
				_, err = p.testCall(0, nil)
				wantPeerError(t, err, ErrPeerDown, false)
			})
			if now := iobuf.InUse(); now != before {
				t.Errorf("%d bytes in use, %d before", now, before)
			}
		})
	}
}

// TestPeerAnswersTwice: the second answer has no open request.
func TestPeerAnswersTwice(t *testing.T) {
	bubble(t, PeersOptions{}, func(f *fakePeer, _ int) {
		f.greet()
		first, _ := f.read()
		_ = f.respond(correlationID(first), nil)
		_, _ = f.read()
		_ = f.respond(correlationID(first), nil)
		f.drain()
	}, func(t *testing.T, p *Peers) {
		if _, err := p.testCall(0, nil); err != nil {
			t.Fatal(err)
		}
		_, err := p.testCall(0, nil)
		wantPeerError(t, err, ErrMalformed, true)
	})
}

// TestPeerLateAnswer: a call that was given up keeps its room until its answer comes, which is dropped; the connection lives on.
func TestPeerLateAnswer(t *testing.T) {
	before := iobuf.InUse()
	bubble(t, PeersOptions{MaxInFlight: 1}, func(f *fakePeer, n int) {
		f.greet()
		f.answerAfterASecond(true)
	}, func(t *testing.T, p *Peers) {
		begin := time.Now()
		_, err := p.testCall(100*time.Millisecond, []byte("given up"))
		wantPeerError(t, err, ErrPeerTimeout, true)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v does not say that the deadline has passed", err)
		}
		started := make(chan error, 1)
		p.Start(context.Background(), 2, ClassProduce, KeyForward, 0, nil, func(_ *PeerResponse, err error) { started <- err })
		wantPeerError(t, <-started, ErrPeerBusy, false)
		since(t, begin, 100*time.Millisecond)
		got, err := p.testCall(0, []byte("next")) // waits for room
		if err != nil || got != "next" {
			t.Fatal(got, err)
		}
		since(t, begin, 2*time.Second)
		if n := peerMetric(t, p.metrics.created); n != 1 {
			t.Errorf("%v connections, want 1", n)
		}
	})
	if now := iobuf.InUse(); now != before {
		t.Errorf("%d bytes in use, %d before", now, before)
	}
}

func TestPeerCanceledCall(t *testing.T) {
	bubble(t, PeersOptions{}, func(f *fakePeer, _ int) { f.greet(); f.drain() }, func(t *testing.T, p *Peers) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		p.Start(ctx, 2, ClassProduce, KeyForward, 0, nil, func(_ *PeerResponse, err error) { done <- err })
		synctest.Wait()
		cancel()
		wantPeerError(t, <-done, context.Canceled, true)
		_, err := p.Call(ctx, 2, ClassProduce, KeyForward, 0, nil)
		wantPeerError(t, err, context.Canceled, false)
	})
}

// TestPeerStuckClass: a class whose peer does not read delays no other, nor another node.
func TestPeerStuckClass(t *testing.T) {
	bubble(t, PeersOptions{MaxInFlight: 4, MaxWaiting: 4}, func(f *fakePeer, _ int) {
		if !f.greet() {
			return
		}
		if f.hello.class == ClassProduce && f.hello.meant == 2 {
			<-f.over
			return
		}
		for {
			frame, err := f.read()
			if err != nil {
				return
			}
			_ = f.respond(correlationID(frame), nil)
		}
	}, func(t *testing.T, p *Peers) {
		begin := time.Now()
		for range 4 {
			p.Start(context.Background(), 2, ClassProduce, KeyForward, 0, make([]byte, 1000), func(r *PeerResponse, err error) {
				if err == nil {
					t.Error("a stuck call was answered")
				}
			})
		}
		synctest.Wait()
		for _, node := range []int32{2, 3} {
			for class := range classCount {
				if node == 2 && class == ClassProduce {
					continue
				}
				r, err := p.Call(context.Background(), node, class, KeyForward, 0, nil)
				if err != nil {
					t.Fatalf("node %d, %v: %v", node, class, err)
				}
				r.Release()
			}
		}
		since(t, begin, 0)
		p.Start(context.Background(), 2, ClassProduce, KeyForward, 0, nil, func(_ *PeerResponse, err error) {
			wantPeerError(t, err, ErrPeerBusy, false)
		})
		_, err := p.testCall(time.Second, nil)
		wantPeerError(t, err, ErrPeerTimeout, false) // waited for room
		since(t, begin, time.Second)
	})
}
