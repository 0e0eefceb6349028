package netproto

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/iobuf"
)

func TestReaderStopsAtTheBoundOfRequestsInFlight(t *testing.T) {
	for name, o := range map[string]Options{
		"count": {MaxInFlight: 3},
		"bytes": {MaxInFlightBytes: 3 * int64(len(heartbeat(0))-sizeBytes)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				requests := make(chan *Request, 10)
				o.Handler = testHandler{handle: func(r *Request) { requests <- r }}
				ln := newPipeListener()
				s := start(t, o, ln)
				nc := ln.dial()
				defer nc.Close()
				var pipeline []byte
				for i := range int32(5) {
					pipeline = append(pipeline, heartbeat(i)...)
				}
				go func() {
					nc.Write(pipeline)
					io.Copy(io.Discard, nc)
				}()
				synctest.Wait()
				if n := len(requests); n != 3 {
					t.Fatalf("%d requests in flight, want 3", n)
				}
				r := <-requests
				r.Respond(echoPayload(r))
				synctest.Wait()
				if n := len(requests); n != 3 {
					t.Fatalf("%d requests in flight after one was answered, want 3", n)
				}
				if metricValue(t, s.metrics.stalls) == 0 {
					t.Fatal("the pause was not counted")
				}
				for len(requests) > 0 {
					(<-requests).RespondNone()
				}
				synctest.Wait()
				for len(requests) > 0 {
					(<-requests).RespondNone()
				}
			})
		})
	}
}

func TestOneRequestMayExceedTheByteBound(t *testing.T) {
	_, addr := startTCP(t, Options{MaxInFlightBytes: 10, Handler: testHandler{handle: func(r *Request) { r.Respond(echoPayload(r)) }}})
	nc := dial(t, addr)
	for i := range int32(3) {
		write(t, nc, heartbeat(i))
		if id, _ := readResponse(t, nc); id != i {
			t.Fatalf("response %d, want %d", id, i)
		}
	}
}

func TestTimeouts(t *testing.T) {
	for name, tt := range map[string]struct {
		send  []byte
		after time.Duration // not gone before, gone some time after
		says  string
	}{
		"idle":          {nil, 10 * time.Minute, ""},
		"stalled frame": {heartbeat(1)[:9], 30 * time.Second, "stalled frame"},
		"stalled size":  {[]byte{0, 0}, 30 * time.Second, "stalled frame"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var logs logLines
				began := time.Now()
				var ended time.Duration
				ln := newPipeListener()
				start(t, Options{Logger: logs.logger(), Handler: testHandler{closed: func(*Conn) { ended = time.Since(began) }}}, ln)
				nc := ln.dial()
				defer nc.Close()
				if len(tt.send) > 0 {
					nc.Write(tt.send)
				}
				io.Copy(io.Discard, nc)
				synctest.Wait()
				if ended < tt.after || ended > 2*tt.after {
					t.Fatalf("closed after %v, want %v or somewhat more", ended, tt.after)
				}
				if text := strings.Join(logs.lines(), ""); (tt.says == "") != (text == "") || !strings.Contains(text, tt.says) {
					t.Fatalf("log %q, want %q", text, tt.says)
				}
			})
		})
	}
}

func TestOpenRequestKeepsAConnectionFromBeingIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := make(chan *Request, 1)
		ln := newPipeListener()
		s := start(t, Options{Handler: testHandler{handle: func(r *Request) { requests <- r }}}, ln)
		nc := ln.dial()
		defer nc.Close()
		nc.Write(heartbeat(1))
		r := <-requests
		time.Sleep(time.Hour)
		if s.Connections() != 1 {
			t.Fatal("closed while a request was open")
		}
		r.RespondNone()
		time.Sleep(time.Hour)
		if s.Connections() != 0 {
			t.Fatal("still open after an idle hour")
		}
	})
}

func TestPeerThatDoesNotReadIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs logLines
		before := iobuf.InUse()
		ln := newPipeListener()
		s := start(t, Options{Logger: logs.logger(), Handler: testHandler{handle: func(r *Request) { r.Respond(echoPayload(r)) }}}, ln)
		nc := ln.dial()
		defer nc.Close()
		nc.Write(heartbeat(1))
		time.Sleep(time.Hour)
		if s.Connections() != 0 {
			t.Fatal("still open")
		}
		if lines := logs.lines(); len(lines) != 1 || !strings.Contains(lines[0], "write failed") {
			t.Fatalf("log %q", lines)
		}
		if after := iobuf.InUse(); after != before {
			t.Fatalf("%d bytes of buffers leaked", after-before)
		}
	})
}

func TestShutdownAnswersWhatIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := make(chan *Request, 1)
		ln := newPipeListener()
		s := start(t, Options{Handler: testHandler{handle: func(r *Request) { requests <- r }}}, ln)
		busy, idle := ln.dial(), ln.dial()
		defer busy.Close()
		defer idle.Close()
		busy.Write(heartbeat(7))
		r := <-requests
		down := make(chan error, 1)
		go func() { down <- s.Shutdown(context.Background()) }()
		synctest.Wait()
		if n := s.Connections(); n != 1 {
			t.Fatalf("%d connections while one request is open, want 1", n)
		}
		go r.Respond(echoPayload(r))
		if id, _ := readResponse(t, busy); id != 7 {
			t.Fatalf("response %d, want 7", id)
		}
		if err := <-down; err != nil {
			t.Fatal(err)
		}
		if _, err := busy.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("read after shutdown: %v", err)
		}
	})
}

func TestShutdownGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := make(chan *Request, 1)
		ln := newPipeListener()
		s := start(t, Options{Handler: testHandler{handle: func(r *Request) { requests <- r }}}, ln)
		nc := ln.dial()
		defer nc.Close()
		nc.Write(heartbeat(1))
		r := <-requests
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if s.Connections() != 0 {
			t.Fatal("still open")
		}
		r.RespondNone()
	})
}

func TestResetAllResets(t *testing.T) {
	s, addr := startTCP(t, Options{Handler: testHandler{handle: func(r *Request) { r.Respond(echoPayload(r)) }}})
	nc := dial(t, addr)
	write(t, nc, heartbeat(1))
	readResponse(t, nc)
	s.ResetAll()
	if _, err := nc.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Fatalf("read: %v, want a reset", err)
	}
}

func TestConnectionsBeyondTheBoundAreRefused(t *testing.T) {
	var logs logLines
	s, addr := startTCP(t, Options{MaxConnections: 1, Logger: logs.logger(), Handler: testHandler{handle: func(r *Request) { r.Respond(echoPayload(r)) }}})
	nc := dial(t, addr)
	write(t, nc, heartbeat(1))
	readResponse(t, nc)
	refused := dial(t, addr)
	if n, _ := io.Copy(io.Discard, refused); n != 0 {
		t.Fatal("the second connection was served")
	}
	if s.Connections() != 1 {
		t.Fatal("the first connection is gone")
	}
	if lines := logs.lines(); len(lines) != 1 || !strings.Contains(lines[0], "max.connections") {
		t.Fatalf("log %q", lines)
	}
}

func TestLargeResponseOfManyPiecesArrivesWhole(t *testing.T) {
	const pieces, size = 3000, 1777
	released := make(chan struct{}, 1)
	_, addr := startTCP(t, Options{Handler: testHandler{handle: func(r *Request) {
		p := NewPayload()
		for i := range pieces {
			p.SetOwn(append(p.Own(), byte(i)))
			p.Ref([][]byte{bytes.Repeat([]byte{byte(i)}, size)}, nil)
		}
		p.Ref([][]byte{make([]byte, 3<<20)}, func() { released <- struct{}{} })
		r.Respond(p)
	}}})
	nc := dial(t, addr)
	write(t, nc, heartbeat(1))
	_, body := readResponse(t, nc)
	if want := pieces*(size+1) + 3<<20; len(body) != want {
		t.Fatalf("%d bytes, want %d", len(body), want)
	}
	for i := range pieces {
		piece := body[i*(size+1) : (i+1)*(size+1)]
		if !bytes.Equal(piece, bytes.Repeat([]byte{byte(i)}, size+1)) {
			t.Fatalf("piece %d differs", i)
		}
	}
	<-released
}

func TestOptionsAreChecked(t *testing.T) {
	h := testHandler{}
	for _, o := range []Options{{}, {Handler: h, MaxInFlight: -1}, {Handler: h, MaxFrameBytes: 3}, {Handler: h, MaxConnections: -1}, {Handler: h, WriteTimeout: -1}} {
		if _, err := NewServer(o); err == nil {
			t.Errorf("%+v accepted", o)
		}
	}
}
