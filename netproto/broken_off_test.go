package netproto

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// brokenOff are what may follow a request so that no more can be read behind it.
var brokenOff = map[string][]byte{"too large": {0x7f, 0xff, 0xff, 0xff}, "truncated": {0, 0, 0, 100, 0, 1, 0}}

// TestBrokenOffConnectionEnds: a connection that is read no more, because its client broke off inside a frame or broke the rules, waits for
// the answers to what was read before, but not for ever: nobody would see the client go.
func TestBrokenOffConnectionEnds(t *testing.T) {
	for name, tail := range brokenOff {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const limit = time.Minute
				requests := make(chan *Request, 1)
				closed := false
				ln := newPipeListener()
				s := start(t, Options{WriteTimeout: limit, Handler: testHandler{
					handle: func(r *Request) { requests <- r }, closed: func(*Conn) { closed = true },
				}}, ln)
				nc := ln.dial()
				write(t, nc, append(heartbeat(1), tail...))
				r := <-requests
				synctest.Wait() // the reader has read all, and ended or waits for more
				nc.Close()
				time.Sleep(limit - time.Millisecond)
				if s.Connections() != 1 {
					t.Error("closed before its time")
				}
				time.Sleep(2 * time.Millisecond)
				synctest.Wait()
				if n := s.Connections(); n != 0 || !closed {
					t.Errorf("%d connections, handler told: %v; want the end after %v", n, closed, limit)
				}
				r.RespondNone()
			})
		})
	}
}

// TestBrokenOffConnectionIsAnswered: what was read before still gets its answer if that comes in time.
func TestBrokenOffConnectionIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = time.Minute
		ln := newPipeListener()
		start(t, Options{WriteTimeout: limit, Handler: testHandler{handle: func(r *Request) {
			time.AfterFunc(limit-time.Second, func() { r.Respond(echoPayload(r)) })
		}}}, ln)
		nc := ln.dial()
		defer nc.Close()
		write(t, nc, append(heartbeat(7), brokenOff["too large"]...))
		if id, _ := readResponse(t, nc); id != 7 {
			t.Errorf("response %d, want 7", id)
		}
		if _, err := nc.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%v after the answer, want the end", err)
		}
	})
}

// TestHalfClosedInsideAFrame: a client that ends its side inside a frame and goes on to read gets what it had asked for before.
func TestHalfClosedInsideAFrame(t *testing.T) {
	requests := make(chan *Request, 1)
	_, addr := startTCP(t, Options{Handler: testHandler{handle: func(r *Request) { requests <- r }}})
	nc := dial(t, addr)
	write(t, nc, append(heartbeat(7), brokenOff["truncated"]...))
	if err := nc.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r := <-requests
	for queued := false; !queued; time.Sleep(time.Millisecond) { // the end of the connection, behind the answer
		r.Conn.mu.Lock()
		queued = r.Conn.mu.tail != r
		r.Conn.mu.Unlock()
	}
	r.Respond(echoPayload(r))
	if id, _ := readResponse(t, nc); id != 7 {
		t.Errorf("response %d, want 7", id)
	}
	if _, err := nc.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("%v after the answer, want the end", err)
	}
}
