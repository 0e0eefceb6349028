package netproto

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/iobuf"
)

// testHandler passes requests to the test.
type testHandler struct {
	handle func(*Request)
	closed func(*Conn)
}

func (h testHandler) Handle(r *Request) { h.handle(r) }
func (h testHandler) Closed(c *Conn) {
	if h.closed != nil {
		h.closed(c)
	}
}

// pipeListener accepts the far ends of pipes, which know deadlines and work in a synctest bubble.
type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }
func (l *pipeListener) dial() net.Conn {
	here, there := net.Pipe()
	l.conns <- there
	return here
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// start serves o in the background and ends it with the test.
func start(t *testing.T, o Options, ln net.Listener) *Server {
	t.Helper()
	s, err := NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.ResetAll()
		if err := <-served; !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve: %v, want ErrServerClosed", err)
		}
		s.wg.Wait()
	})
	return s
}

func startTCP(t *testing.T, o Options) (*Server, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return start(t, o, ln), ln.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return nc
}

// heartbeat is a small request that is not flexible.
func heartbeat(correlationID int32) []byte {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID = "g", "m"
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("client")).AppendRequest(nil, req, correlationID)
}

func readResponse(t *testing.T, nc net.Conn) (correlationID int32, body []byte) {
	t.Helper()
	var head [8]byte
	if _, err := io.ReadFull(nc, head[:]); err != nil {
		t.Fatalf("read response: %v", err)
	}
	body = make([]byte, binary.BigEndian.Uint32(head[:])-4)
	if _, err := io.ReadFull(nc, body); err != nil {
		t.Fatalf("read response: %v", err)
	}
	return int32(binary.BigEndian.Uint32(head[4:])), body
}

func write(t *testing.T, nc net.Conn, b []byte) {
	t.Helper()
	if _, err := nc.Write(b); err != nil {
		t.Fatal(err)
	}
}

func echoPayload(r *Request) *Payload {
	p := NewPayload()
	p.SetOwn(append(p.Own(), r.Body...))
	return p
}

func TestResponsesLeaveInRequestOrder(t *testing.T) {
	const n = 40
	requests := make(chan *Request, n)
	_, addr := startTCP(t, Options{Handler: testHandler{handle: func(r *Request) { requests <- r }}})
	nc := dial(t, addr)
	var pipeline []byte
	for i := range int32(n) {
		pipeline = append(pipeline, heartbeat(i)...)
	}
	write(t, nc, pipeline)
	var got []*Request
	for range n {
		got = append(got, <-requests)
	}
	var wg sync.WaitGroup
	for i := n - 1; i >= 0; i-- { // the answers come in the opposite order, from many goroutines
		wg.Go(func() { got[i].Respond(echoPayload(got[i])) })
	}
	for i := range int32(n) {
		if id, _ := readResponse(t, nc); id != i {
			t.Fatalf("response %d where %d is due", id, i)
		}
	}
	wg.Wait()
}

func TestConsecutiveReadyResponsesLeaveWithOneWrite(t *testing.T) {
	const n = 10
	requests := make(chan *Request, n)
	s, addr := startTCP(t, Options{Handler: testHandler{handle: func(r *Request) { requests <- r }}})
	nc := dial(t, addr)
	for i := range int32(n) {
		write(t, nc, heartbeat(i))
	}
	var got []*Request
	for range n {
		got = append(got, <-requests)
	}
	for _, r := range got[1:] {
		r.Respond(echoPayload(r))
	}
	got[0].Respond(echoPayload(got[0]))
	for range n {
		readResponse(t, nc)
	}
	if err := s.Shutdown(context.Background()); err != nil { // the write is counted once it has returned
		t.Fatal(err)
	}
	if writes := metricValue(t, s.metrics.writes); writes != 1 {
		t.Fatalf("%v writes for %d responses that were ready together", writes, n)
	}
}

func TestHeadersOfEveryForm(t *testing.T) {
	type seen struct {
		key, version int16
		client       string
		known        bool
		body         string
	}
	got := make(chan seen, 1)
	_, addr := startTCP(t, Options{Handler: testHandler{handle: func(r *Request) {
		got <- seen{r.APIKey, r.Version, r.ClientID, r.Known, string(r.Body)}
		r.Respond(echoPayload(r))
	}}})
	nc := dial(t, addr)
	for _, tt := range []struct {
		name     string
		frame    string
		want     seen
		response string // after the correlation id
	}{
		{"v1", "\x00\x0c\x00\x00\x00\x00\x00\x05\x00\x02idbody", seen{12, 0, "id", true, "body"}, "body"},
		{"v1 again", "\x00\x0c\x00\x00\x00\x00\x00\x05\x00\x02idbody", seen{12, 0, "id", true, "body"}, "body"},
		{"null client id", "\x00\x0c\x00\x00\x00\x00\x00\x05\xff\xffbody", seen{12, 0, "", true, "body"}, "body"},
		{"v2", "\x00\x0c\x00\x04\x00\x00\x00\x05\x00\x02id\x00body", seen{12, 4, "id", true, "body"}, "\x00body"},
		{"v2 with tags", "\x00\x0c\x00\x04\x00\x00\x00\x05\x00\x02id\x02\x00\x01x\x05\x00body", seen{12, 4, "id", true, "body"}, "\x00body"},
		{"ApiVersions answers without tags", "\x00\x12\x00\x03\x00\x00\x00\x05\x00\x02id\x00body", seen{18, 3, "id", true, "body"}, "body"},
		{"ApiVersions of the future", "\x00\x12\x00\x63\x00\x00\x00\x05\x00\x02id\x00body", seen{18, 99, "id", true, "\x00body"}, "\x00body"},
		{"ApiVersions of the future without tags", "\x00\x12\x00\x63\x00\x00\x00\x05\x00\x02id", seen{18, 99, "id", true, ""}, ""},
		{"v0", "\x00\x07\x00\x00\x00\x00\x00\x05body", seen{7, 0, "", true, "body"}, "body"},
		{"unknown api", "\x7f\x00\x00\x09\x00\x00\x00\x05rest", seen{0x7f00, 9, "", false, "rest"}, "rest"},
	} {
		write(t, nc, framed([]byte(tt.frame)))
		if s := <-got; s != tt.want {
			t.Fatalf("%s: %+v, want %+v", tt.name, s, tt.want)
		}
		if id, body := readResponse(t, nc); id != 5 || string(body) != tt.response {
			t.Fatalf("%s: response %d %q, want %q", tt.name, id, body, tt.response)
		}
	}
}

// logLines collects log lines.
type logLines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logLines) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.FieldsFunc(l.buf.String(), func(r rune) bool { return r == '\n' })
}

func (l *logLines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func TestBadPeersGetOneClearLineAndAClosedConnection(t *testing.T) {
	for name, tt := range map[string]struct {
		send string
		says []string
	}{
		"huge frame":      {"\x7f\xff\xff\xff", []string{"bad frame size", "2147483647", "104857600", "127.0.0.1"}},
		"negative frame":  {"\xff\xff\xff\xfe", []string{"bad frame size", "-2"}},
		"bad client id":   {"\x00\x00\x00\x0b\x00\x03\x00\x01\x00\x00\x00\x07\x7f\xff\x00", []string{"malformed request", "Metadata v1", "client id", "32767 bytes needed, 1 left"}},
		"bad header tags": {"\x00\x00\x00\x0c\x00\x03\x00\x0c\x00\x00\x00\x07\xff\xff\x7f\x00", []string{"malformed request", "127 tags"}},
		"http":            {"GET / HTTP/1.1\r\n\r\n", []string{"HTTP"}},
	} {
		t.Run(name, func(t *testing.T) {
			var logs logLines
			gone := make(chan struct{}, 4)
			_, addr := startTCP(t, Options{Logger: logs.logger(), Handler: testHandler{
				handle: func(r *Request) { t.Errorf("handled %v", r) },
				closed: func(*Conn) { gone <- struct{}{} },
			}})
			for range 3 { // the second and third time are too soon for another line
				nc := dial(t, addr)
				write(t, nc, []byte(tt.send))
				if n, err := io.Copy(io.Discard, nc); n != 0 {
					t.Fatalf("%d bytes came back, error %v", n, err)
				}
				<-gone
			}
			lines := logs.lines()
			if len(lines) != 1 {
				t.Fatalf("%d log lines: %q", len(lines), lines)
			}
			for _, s := range tt.says {
				if !strings.Contains(lines[0], s) {
					t.Errorf("log line %q does not say %q", lines[0], s)
				}
			}
		})
	}
}

func TestCloseLetsEarlierResponsesGoFirst(t *testing.T) {
	var logs logLines
	first := make(chan *Request, 1)
	closed := make(chan struct{})
	_, addr := startTCP(t, Options{Logger: logs.logger(), Handler: testHandler{
		handle: func(r *Request) {
			switch r.CorrelationID {
			case 1:
				first <- r
			case 2:
				r.Close(errors.New("unsupported version 99"))
			default:
				t.Errorf("handled %v after Close", r)
				r.RespondNone()
			}
		},
		closed: func(*Conn) { close(closed) },
	}})
	nc := dial(t, addr)
	write(t, nc, append(append(heartbeat(1), heartbeat(2)...), heartbeat(3)...))
	r := <-first
	r.Respond(echoPayload(r))
	if id, _ := readResponse(t, nc); id != 1 {
		t.Fatalf("response %d, want 1", id)
	}
	if n, err := io.Copy(io.Discard, nc); n != 0 {
		t.Fatalf("%d more bytes, error %v", n, err)
	}
	<-closed
	if lines := logs.lines(); len(lines) != 1 || !strings.Contains(lines[0], "unsupported version 99") || !strings.Contains(lines[0], "correlation id 2") {
		t.Fatalf("log %q", lines)
	}
}

func TestAnswersAfterTheEndAreDroppedAndReleased(t *testing.T) {
	before := iobuf.InUse()
	requests := make(chan *Request, 3)
	closed := make(chan struct{})
	s, addr := startTCP(t, Options{Handler: testHandler{
		handle: func(r *Request) { requests <- r },
		closed: func(*Conn) { close(closed) },
	}})
	nc := dial(t, addr)
	write(t, nc, append(append(heartbeat(1), heartbeat(2)...), heartbeat(3)...))
	a, b, c := <-requests, <-requests, <-requests
	released := 0
	answer := func(r *Request) {
		p := echoPayload(r)
		p.Ref([][]byte{[]byte("x")}, func() { released++ })
		r.Respond(p)
	}
	answer(b) // waits for a, and is dropped with the connection
	nc.Close()
	<-closed
	answer(a)
	c.RespondNone()
	if released != 2 {
		t.Fatalf("%d of 2 references released", released)
	}
	if n := metricValue(t, s.metrics.inFlight); n != 0 {
		t.Fatalf("%v requests in flight after all were answered", n)
	}
	if after := iobuf.InUse(); after != before {
		t.Fatalf("%d bytes of buffers leaked", after-before)
	}
}

func TestAnsweringTwiceIsABug(t *testing.T) {
	requests := make(chan *Request, 1)
	_, addr := startTCP(t, Options{Handler: testHandler{handle: func(r *Request) { requests <- r }}})
	write(t, dial(t, addr), heartbeat(1))
	r := <-requests
	r.RespondNone()
	defer func() {
		if recover() == nil {
			t.Fatal("no panic")
		}
	}()
	r.RespondNone()
}
