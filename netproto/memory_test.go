package netproto

import (
	"io"
	"net"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// largeRequest is a request whose frame has about n bytes.
func largeRequest(n int) []byte {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID = "g", string(make([]byte, n))
	req.Version = 4 // flexible: strings of any length
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("client")).AppendRequest(nil, req, 1)
}

// discard reads and forgets what a connection answers.
func discard(nc net.Conn) { go func() { _, _ = io.Copy(io.Discard, nc) }() }

// TestRequestMemoryOverAllConnections: connections are not read while others' requests take all the memory, and go on in turn.
func TestRequestMemoryOverAllConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := make(chan *Request, 10)
		size := int64(len(heartbeat(0)) - sizeBytes)
		ln := newPipeListener()
		s := start(t, Options{MaxRequestBytes: 3 * size, Handler: testHandler{handle: func(r *Request) { requests <- r }}}, ln)
		for i := range int32(6) {
			nc := ln.dial()
			defer nc.Close()
			discard(nc)
			go nc.Write(heartbeat(i))
			synctest.Wait()
		}
		for want := int32(0); want < 6; want++ {
			if n := len(requests); n != min(3, 6-int(want)) {
				t.Fatalf("%d requests with memory for 3, %d are answered", n, want)
			}
			if used := metricValue(t, s.metrics.requestBytes); used > float64(3*size) {
				t.Fatalf("%v bytes taken", used)
			}
			r := <-requests
			if r.CorrelationID != want {
				t.Fatalf("request %d, want %d: first come, first served", r.CorrelationID, want)
			}
			r.Respond(echoPayload(r))
			synctest.Wait()
		}
		if used, waits := metricValue(t, s.metrics.requestBytes), metricValue(t, s.metrics.requestWaits); used != 0 || waits != 3 {
			t.Fatalf("%v bytes taken in the end, %v waits, want 3", used, waits)
		}
	})
}

// TestLargeFramesTogether: frames that together are far beyond the bound all come through, whatever the order in which their bytes come.
func TestLargeFramesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const memory, frames, frameBytes = 256 << 10, 8, 1 << 20
		handled := make(chan *Request, frames)
		ln := newPipeListener()
		s := start(t, Options{MaxRequestBytes: memory, Handler: testHandler{handle: func(r *Request) { handled <- r }}}, ln)
		for range frames {
			nc := ln.dial()
			defer nc.Close()
			discard(nc)
			go func() {
				for b := largeRequest(frameBytes); len(b) > 0; {
					n := min(len(b), 10_000)
					if _, err := nc.Write(b[:n]); err != nil {
						t.Error(err)
						return
					}
					b = b[n:]
				}
			}()
		}
		for range frames {
			synctest.Wait()
			if len(handled) != 1 {
				t.Fatalf("%d requests of 1 MiB are complete with memory for one quarter", len(handled))
			}
			if used := metricValue(t, s.metrics.requestBytes); used > memory+2*frameBytes {
				t.Fatalf("%v bytes taken", used)
			}
			r := <-handled
			r.Respond(echoPayload(r))
		}
		synctest.Wait()
		if used := metricValue(t, s.metrics.requestBytes); used != 0 {
			t.Fatalf("%v bytes taken in the end", used)
		}
	})
}

// TestAnnouncedFrameTakesNoMemory: lengths that are only announced do not keep others from being served.
func TestAnnouncedFrameTakesNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handled := make(chan *Request, 1)
		ln := newPipeListener()
		start(t, Options{MaxRequestBytes: 4 << 20, Handler: testHandler{handle: func(r *Request) { handled <- r }}}, ln)
		for range 20 {
			nc := ln.dial()
			defer nc.Close()
			go nc.Write([]byte{6, 0, 0, 0, 0, 12, 0, 4}) // 96 MiB, and four bytes of them
		}
		synctest.Wait()
		nc := ln.dial()
		defer nc.Close()
		discard(nc)
		go nc.Write(largeRequest(1 << 20))
		synctest.Wait()
		select {
		case r := <-handled:
			r.RespondNone()
		default:
			t.Fatal("a whole request is not served")
		}
	})
}

// TestWaitForRequestMemoryEnds: a connection that waits for memory ends with the server, and what it had taken is free again.
func TestWaitForRequestMemoryEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := make(chan *Request, 10)
		ln := newPipeListener()
		s := start(t, Options{MaxRequestBytes: 1, Handler: testHandler{handle: func(r *Request) { requests <- r }}}, ln)
		for i := range 4 {
			nc := ln.dial()
			defer nc.Close()
			discard(nc)
			if i == 3 {
				go nc.Write(largeRequest(100_000))
			} else {
				go nc.Write(heartbeat(int32(i)))
			}
			synctest.Wait()
		}
		if len(requests) != 1 {
			t.Fatalf("%d requests, want the one that always fits", len(requests))
		}
		s.ResetAll()
		synctest.Wait()
		(<-requests).RespondNone()
		synctest.Wait()
		if used, n := metricValue(t, s.metrics.requestBytes), s.Connections(); used != 0 || n != 0 {
			t.Fatalf("%v bytes taken, %d connections", used, n)
		}
		s.memory.mu.Lock()
		defer s.memory.mu.Unlock()
		if s.memory.mu.begun.Len()+s.memory.mu.new.Len() != 0 || s.memory.mu.overdraw {
			t.Fatal("somebody still waits")
		}
	})
}
