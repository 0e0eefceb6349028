package netproto

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"weir/internal/iobuf"
)

func TestHelloRoundTrip(t *testing.T) {
	for _, h := range []hello{{1, 2, ClassRaft, ""}, {0, math.MaxInt32, ClassFetch, "4L6g3nShT-eMCtK--X86sw"}} {
		if got, err := parseHello(h.appendTo(nil)); err != nil || got != h {
			t.Errorf("%+v: %+v, %v", h, got, err)
		}
	}
	for _, a := range []helloAnswer{{}, {helloWrongCluster, 7, "abc", "no"}} {
		if got, err := parseHelloAnswer(a.appendTo(nil)); err != nil || got != a {
			t.Errorf("%+v: %+v, %v", a, got, err)
		}
	}
	long := helloAnswer{message: strings.Repeat("x", 100_000)}
	if got, err := parseHelloAnswer(long.appendTo(nil)); err != nil || len(got.message) != helloMessageBytesMax {
		t.Errorf("a long message: %d bytes, %v", len(got.message), err)
	}
}

func TestHelloMalformed(t *testing.T) {
	good := (&hello{1, 2, ClassRaft, "abc"}).appendTo(nil)
	for n := range good {
		if _, err := parseHello(good[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d of %d bytes: %v", n, len(good), err)
		}
	}
	for name, b := range map[string][]byte{
		"a byte too many":     append(bytes.Clone(good), 0),
		"negative node":       (&hello{-1, 2, ClassRaft, ""}).appendTo(nil),
		"negative meant":      (&hello{1, -1, ClassRaft, ""}).appendTo(nil),
		"unknown class":       (&hello{1, 2, classCount, ""}).appendTo(nil),
		"negative class":      (&hello{1, 2, 255, ""}).appendTo(nil),
		"cluster id too long": (&hello{1, 2, ClassRaft, strings.Repeat("x", clusterIDBytesMax+1)}).appendTo(nil),
		"null cluster id":     {0, 0, 0, 1, 0, 0, 0, 2, 0, 0xff, 0xff},
	} {
		if _, err := parseHello(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHelloRefusals: who may talk to whom. A refusal is one clear error to the caller, and one line in each log.
func TestHelloRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		ours, theirs string // cluster ids
		node         int32  // that is called; node 2 answers
		want         string // "": let in
	}{
		"same cluster":          {"abc", "abc", 2, ""},
		"we do not know ours":   {"", "abc", 2, ""},
		"they do not know it":   {"abc", "", 2, ""},
		"nobody knows":          {"", "", 2, ""},
		"another cluster":       {"abc", "xyz", 2, `another cluster: node 1 is of cluster "abc", node 2 of cluster "xyz"`},
		"another node":          {"abc", "abc", 3, "another node: node 1 wants node 3, and this is node 2"},
		"both":                  {"abc", "xyz", 3, "another cluster"},
		"another node, forming": {"", "", 3, "another node"},
	} {
		t.Run(name, func(t *testing.T) {
			var ourLog, theirLog lockedBuffer
			id := func(s string) func() string { return func() string { return s } }
			handler := NewPeerHandler(testHandler{handle: echo}, PeerHandlerOptions{NodeID: 2, ClusterID: id(c.theirs), Logger: theirLog.logger()})
			s, addr := startTCP(t, Options{Handler: handler, Logger: theirLog.logger()})
			p := newPeers(t, PeersOptions{Resolve: at(addr), ClusterID: id(c.ours), Logger: ourLog.logger()})
			for range 5 {
				r, err := p.Call(within(t), c.node, ClassControl, KeyForward, 0, []byte("hi"))
				if c.want == "" {
					if err != nil || string(r.Body) != "hi" {
						t.Fatalf("%v", err)
					}
					r.Release()
					continue
				}
				wantPeerError(t, err, ErrPeerRefused, false)
				if !strings.Contains(err.Error(), c.want) {
					t.Fatalf("error %q does not say %q", err, c.want)
				}
				p.Heard(c.node) // try again at once
			}
			p.Close()
			s.ResetAll()
			s.wg.Wait()
			lines := 1
			if c.want == "" {
				lines = 0
			}
			for who, log := range map[string]*lockedBuffer{"our": &ourLog, "their": &theirLog} {
				if n := strings.Count(log.String(), "level=WARN"); n != lines || strings.Count(log.String(), strings.ReplaceAll(c.want, `"`, `\"`)) < lines {
					t.Errorf("%s log has %d warnings, want %d:\n%s", who, n, lines, log.String())
				}
			}
		})
	}
}

// TestHelloAnswersJudged: the one who says Hello does not believe everything either.
func TestHelloAnswersJudged(t *testing.T) {
	for name, c := range map[string]struct {
		answer []byte
		want   error
	}{
		"another node":     {(&helloAnswer{node: 3, clusterID: "abc"}).appendTo(nil), ErrPeerRefused},
		"another cluster":  {(&helloAnswer{node: 2, clusterID: "xyz"}).appendTo(nil), ErrPeerRefused},
		"another protocol": {(&helloAnswer{code: helloWrongProtocol, node: 2}).appendTo(nil), ErrPeerRefused},
		"a code to come":   {(&helloAnswer{code: 77, node: 2, message: "because"}).appendTo(nil), ErrPeerRefused},
		"nothing":          {nil, ErrPeerDown},
		"too much":         {append((&helloAnswer{node: 2}).appendTo(nil), 0), ErrPeerDown},
		"a flood":          {make([]byte, helloFrameBytesMax), ErrPeerDown},
	} {
		t.Run(name, func(t *testing.T) {
			before := iobuf.InUse()
			bubble(t, PeersOptions{ClusterID: func() string { return "abc" }}, func(f *fakePeer, _ int) {
				frame, _ := f.read()
				_ = f.respond(correlationID(frame), c.answer)
				f.drain()
			}, func(t *testing.T, p *Peers) {
				_, err := p.testCall(0, nil)
				wantPeerError(t, err, c.want, false)
			})
			if now := iobuf.InUse(); now != before {
				t.Errorf("%d bytes in use, %d before", now, before)
			}
		})
	}
}

// TestPeerHandlerWantsHello: whoever does not begin with Hello, or says it twice, is shown out.
func TestPeerHandlerWantsHello(t *testing.T) {
	frame := func(key, version int16, body []byte) []byte {
		b := make([]byte, requestFrameSize(key, version, "c", body))
		encodeRequest(b, key, version, 5, "c", body)
		return b
	}
	good := frame(KeyHello, peerProtocol, (&hello{1, 2, ClassRaft, ""}).appendTo(nil))
	for name, c := range map[string]struct {
		bytes    []byte
		answered helloCode // of the first answer; -1: none
		want     string    // in the log
	}{
		"a client":         {heartbeat(1), -1, "Heartbeat before Hello; is this a client?"},
		"private API":      {frame(KeyRaft, 0, nil), -1, "WeirRaft before Hello"},
		"twice":            {append(bytes.Clone(good), good...), helloWelcome, "a second Hello"},
		"another protocol": {frame(KeyHello, peerProtocol+1, []byte("whatever")), helloWrongProtocol, "protocol version 1, node 2 speaks 0"},
		"malformed":        {frame(KeyHello, peerProtocol, []byte("whatever")), helloMalformed, "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			var log lockedBuffer
			handler := NewPeerHandler(testHandler{handle: func(r *Request) { t.Errorf("%v came through", r); r.RespondNone() }}, PeerHandlerOptions{NodeID: 2})
			s, addr := startTCP(t, Options{Handler: handler, Logger: log.logger()})
			nc := dial(t, addr)
			if _, err := nc.Write(c.bytes); err != nil {
				t.Fatal(err)
			}
			if c.answered >= 0 {
				id, body := readResponse(t, nc)
				answer, err := parseHelloAnswer(body)
				if err != nil || id != 5 || answer.code != c.answered || answer.node != 2 {
					t.Errorf("answer %+v to %d, %v; want %v from node 2 to 5", answer, id, err, c.answered)
				}
			}
			if n, err := nc.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%d bytes, %v after the refusal, want EOF", n, err)
			}
			s.ResetAll()
			s.wg.Wait()
			if !strings.Contains(log.String(), c.want) || strings.Count(log.String(), "level=WARN") != 1 {
				t.Errorf("log does not say %q, once:\n%s", c.want, log.String())
			}
		})
	}
}

// TestPeerOnHello: the server tells who has connected; a client's connection is nobody's.
func TestPeerOnHello(t *testing.T) {
	heard := make(chan int32, 1)
	_, addr := startPeerServer(t, PeerHandlerOptions{OnHello: func(node int32) { heard <- node }}, echo)
	p := newPeers(t, PeersOptions{Resolve: at(addr)})
	r, err := p.Call(within(t), 2, ClassRaft, KeyRaft, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Release()
	if node := <-heard; node != 1 {
		t.Errorf("node %d was heard of, want 1", node)
	}

	known := make(chan bool, 1)
	_, plain := startTCP(t, Options{Handler: testHandler{handle: func(r *Request) {
		_, _, ok := r.Conn.Peer()
		known <- ok
		r.RespondRaw(nil)
	}}})
	nc := dial(t, plain)
	if _, err := nc.Write(heartbeat(1)); err != nil {
		t.Fatal(err)
	}
	if <-known {
		t.Error("a client's connection is a peer's")
	}
}

// TestHelloWithoutEnd: Hello itself is bounded in time, also where the peer dribbles.
func TestHelloWithoutEnd(t *testing.T) {
	bubble(t, PeersOptions{}, func(f *fakePeer, _ int) {
		frame, _ := f.read()
		b := appendInt32(appendInt32(nil, 1000), correlationID(frame))
		for _, c := range append(b, make([]byte, 1000)...) {
			time.Sleep(100 * time.Millisecond)
			if _, err := f.nc.Write([]byte{c}); err != nil {
				return
			}
		}
	}, func(t *testing.T, p *Peers) {
		begin := time.Now()
		_, err := p.testCall(0, nil)
		wantPeerError(t, err, ErrPeerDown, false)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v does not say that time was up", err)
		}
		since(t, begin, time.Second)
	})
}

func FuzzHello(f *testing.F) {
	f.Add((&hello{1, 2, ClassFetch, "abc"}).appendTo(nil))
	f.Add((&helloAnswer{helloWrongNode, 2, "abc", "no"}).appendTo(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := parseHello(b); err == nil {
			if again := h.appendTo(nil); !bytes.Equal(again, b) {
				t.Errorf("%x is encoded as %x", b, again)
			}
		} else if !errors.Is(err, ErrMalformed) {
			t.Error(err)
		}
		if a, err := parseHelloAnswer(b); err == nil {
			if again := a.appendTo(nil); !bytes.Equal(again, b) {
				t.Errorf("%x is encoded as %x", b, again)
			}
		} else if !errors.Is(err, ErrMalformed) {
			t.Error(err)
		}
	})
}
