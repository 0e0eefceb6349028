package netproto

import (
	"bytes"
	"errors"
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
		s := start(t, Options{MaxRequestBytes: 3*size*laneReserve/(laneReserve-1) + 1, Handler: testHandler{handle: func(r *Request) { requests <- r }}}, ln)
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
		for i := range s.memory.mu.lanes {
			if l := &s.memory.mu.lanes[i]; l.begun.Len()+l.new.Len() != 0 || l.overdraw || l.used != 0 {
				t.Fatalf("lane %d: somebody still waits, or has room: %+v", i, l)
			}
		}
	})
}

// produceOf is a produce request whose frame has about n bytes.
func produceOf(n int) []byte {
	req := kmsg.NewPtrProduceRequest()
	req.Version = 9
	topic := kmsg.NewProduceRequestTopic()
	part := kmsg.NewProduceRequestTopicPartition()
	part.Records = make([]byte, n)
	topic.Topic, topic.Partitions = "t", append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("client")).AppendRequest(nil, req, 1)
}

// TestLanesOfRequestMemory: produce requests that take all the memory that they may have, and more that wait for it, hold up nothing else, and the
// other way round.
func TestLanesOfRequestMemory(t *testing.T) {
	for _, c := range []struct {
		name        string
		full, other func(int) []byte
		bytes       int
	}{
		{"small produce requests", produceOf, largeRequest, 900},
		{"large produce requests", produceOf, largeRequest, 100 << 10},
		{"produce requests larger than all", produceOf, largeRequest, 2 << 20},
		{"small others", largeRequest, produceOf, 900},
		{"large others", largeRequest, produceOf, 100 << 10},
		{"others larger than all", largeRequest, produceOf, 2 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const memory = 1 << 20
				handled := make(chan *Request, 4096)
				ln := newPipeListener()
				s := start(t, Options{MaxRequestBytes: memory, MaxInFlight: 64, Handler: testHandler{handle: func(r *Request) { handled <- r }}}, ln)
				send := func(frame []byte) {
					nc := ln.dial()
					t.Cleanup(func() { nc.Close() })
					discard(nc)
					go nc.Write(frame)
					synctest.Wait()
				}
				sent := 0
				for ; len(handled) == sent; sent++ { // until one is not served
					send(c.full(c.bytes))
				}
				send(c.full(c.bytes))
				full := len(handled)
				if full != sent-1 {
					t.Fatalf("%d of %d requests are served: who comes late goes before who waits", full, sent+1)
				}
				for i := range 8 {
					send(c.other(900))
					if len(handled) != full+i+1 {
						t.Fatalf("request %d of the other lane waits while %d are served", i, full)
					}
				}
				if used := metricValue(t, s.metrics.requestBytes); used > memory && c.bytes < memory {
					t.Fatalf("%v bytes taken of %d", used, memory)
				}
				send(c.other(2 * memory)) // one of any size may go beyond the bound
				if len(handled) != full+9 {
					t.Fatal("a large request of the other lane waits for this one")
				}
				for answered := 0; answered < full+2+9; answered++ {
					synctest.Wait()
					if len(handled) == 0 {
						t.Fatalf("%d were answered, and no other is served", answered)
					}
					r := <-handled
					r.RespondNone()
				}
				synctest.Wait()
				if used := metricValue(t, s.metrics.requestBytes); used != 0 {
					t.Fatalf("%v bytes taken in the end", used)
				}
			})
		})
	}
}

// TestFrameWithoutItsKey: a length and nothing else takes no memory, and the connection ends by the deadline of a frame.
func TestFrameWithoutItsKey(t *testing.T) {
	f := newFrameReader(bytes.NewReader([]byte{0, 0, 0, 9, 0}), 100)
	f.take = func(n int) error { t.Fatalf("%d bytes were taken", n); return nil }
	if n, err := f.size(); n != 9 || err != nil {
		t.Fatalf("size %d, %v", n, err)
	}
	if _, err := f.apiKey(); !errors.Is(err, ErrTruncated) {
		t.Fatalf("got %v, want %v", err, ErrTruncated)
	}
	f.close()
	f = newFrameReader(bytes.NewReader([]byte{0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9}), 100)
	if _, err := f.size(); err != nil {
		t.Fatal(err)
	}
	key, err := f.apiKey()
	if key != 0x102 || err != nil {
		t.Fatalf("key %#x, %v", key, err)
	}
	frame, buf, err := f.frame(9)
	if err != nil || !bytes.Equal(frame, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9}) {
		t.Fatalf("frame %v, %v", frame, err)
	}
	buf.Release()
	f.close()
}
