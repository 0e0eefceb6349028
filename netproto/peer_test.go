package netproto

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// newPeers makes Peers of node 1 that are closed with the test, and checks that no memory stays with them.
func newPeers(t testing.TB, o PeersOptions) *Peers {
	t.Helper()
	o.NodeID = 1
	p, err := NewPeers(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// at resolves every node to addr.
func at(addr string) func(int32) (string, bool) {
	return func(int32) (string, bool) { return addr, true }
}

// startPeerServer serves node 2 on a loopback port.
func startPeerServer(t *testing.T, o PeerHandlerOptions, handle func(*Request)) (*Server, string) {
	t.Helper()
	if o.NodeID == 0 {
		o.NodeID = 2
	}
	return startTCP(t, Options{Handler: NewPeerHandler(testHandler{handle: handle}, o), MaxInFlight: 2048})
}

// echo answers with the request's body.
func echo(r *Request) { r.RespondRaw(r.Body) }

// within is a context long enough for whatever must happen.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func peerMetric(t testing.TB, c prometheus.Collector) (v float64) {
	t.Helper()
	ch := make(chan prometheus.Metric, 1000)
	c.Collect(ch)
	close(ch)
	for m := range ch {
		var out dto.Metric
		if err := m.Write(&out); err != nil {
			t.Fatal(err)
		}
		v += out.GetCounter().GetValue() + out.GetGauge().GetValue() + float64(out.GetHistogram().GetSampleCount())
	}
	return v
}

// wantPeerError checks an error of a call.
func wantPeerError(t testing.TB, err error, is error, sent bool) *PeerError {
	t.Helper()
	var e *PeerError
	if !errors.As(err, &e) || !errors.Is(err, is) || e.Sent != sent {
		t.Fatalf("error %v, want a PeerError for %v, sent %v", err, is, sent)
		return nil
	}
	return e
}

// fakePeer is the other end of connections, played by a test.
type fakePeer struct {
	t     testing.TB
	nc    net.Conn
	hello hello
	over  <-chan struct{} // in a bubble: closed when the test has ended
}

// greet answers Hello.
func (f *fakePeer) greet() bool {
	frame, err := f.read()
	if err != nil {
		return false
	}
	h, err := parseHello(frame[headerBytesMin:])
	if err != nil {
		f.t.Error(err)
		return false
	}
	f.hello = h
	answer := helloAnswer{node: h.meant, clusterID: h.clusterID}
	return f.respond(correlationID(frame), answer.appendTo(nil)) == nil
}

// read reads a request frame.
func (f *fakePeer) read() ([]byte, error) {
	var size [sizeBytes]byte
	if _, err := io.ReadFull(f.nc, size[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(f.nc, frame)
	return frame, err
}

func correlationID(frame []byte) int32 { return int32(binary.BigEndian.Uint32(frame[4:])) }

func (f *fakePeer) respond(id int32, body []byte) error {
	b := appendInt32(nil, int32(len(body)+correlationBytes))
	_, err := f.nc.Write(append(appendInt32(b, id), body...))
	return err
}

// drain reads whatever comes until the connection ends.
func (f *fakePeer) drain() { _, _ = io.Copy(io.Discard, f.nc) }

// pipes returns a dialer to peers that play, on pipes: for bubbles with their own time. n counts the connections from 0.
func pipes(t testing.TB, play func(f *fakePeer, n int)) func(context.Context, string) (net.Conn, error) {
	var n atomic.Int64
	return func(context.Context, string) (net.Conn, error) {
		here, there := net.Pipe()
		k := int(n.Add(1) - 1)
		go func() {
			defer there.Close()
			play(&fakePeer{t: t, nc: there}, k)
		}()
		return errorConn{here, io.EOF}, nil
	}
}

// listenFake accepts connections on loopback and plays on each; the returned function closes all.
func listenFake(t testing.TB, addr string, play func(f *fakePeer, n int)) (string, func()) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	stopped := false
	wg.Go(func() {
		for n := 0; ; n++ {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, nc)
			if stopped {
				nc.Close()
			}
			mu.Unlock()
			wg.Go(func() {
				defer nc.Close()
				play(&fakePeer{t: t, nc: nc}, n)
			})
		}
	})
	stop := sync.OnceFunc(func() {
		ln.Close()
		mu.Lock()
		stopped = true
		for _, nc := range conns {
			nc.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	t.Cleanup(stop)
	return ln.Addr().String(), stop
}

func TestPeerCall(t *testing.T) {
	var seen atomic.Pointer[string]
	_, addr := startPeerServer(t, PeerHandlerOptions{}, func(r *Request) {
		node, class, ok := r.Conn.Peer()
		s := fmt.Sprintf("%d %v %v, key %d v%d known %v client %q", node, class, ok, r.APIKey, r.Version, r.Known, r.ClientID)
		seen.Store(&s)
		r.RespondRaw(append([]byte("re: "), r.Body...))
	})
	p := newPeers(t, PeersOptions{Resolve: at(addr)})
	for _, body := range []string{"", "x", strings.Repeat("large", 100_000)} {
		r, err := p.Call(within(t), 2, ClassAdmin, KeyForward, 7, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		if string(r.Body) != "re: "+body {
			t.Errorf("answer of %d bytes, want %d", len(r.Body), len(body)+4)
		}
		r.Release()
		r.Release() // a second one does nothing
	}
	if want := `1 admin true, key 10002 v7 known false client ""`; *seen.Load() != want {
		t.Errorf("the server saw %s, want %s", *seen.Load(), want)
	}
	if created, reused := peerMetric(t, p.metrics.created), peerMetric(t, p.metrics.reused); created != 1 || reused != 2 {
		t.Errorf("%v connections created, %v calls found one; want 1 and 2", created, reused)
	}
	if n := peerMetric(t, p.metrics.seconds); n != 3 {
		t.Errorf("%v calls timed, want 3", n)
	}
}

// The body is the caller's again as soon as Start and Call return.
func TestPeerBodyIsCopied(t *testing.T) {
	_, addr := startPeerServer(t, PeerHandlerOptions{}, echo)
	p := newPeers(t, PeersOptions{Resolve: at(addr)})
	body := make([]byte, 1000)
	var wg sync.WaitGroup
	for i := range 500 {
		wg.Add(1)
		binary.BigEndian.PutUint32(body, uint32(i))
		p.Start(within(t), 2, ClassProduce, KeyForward, 0, body, func(r *PeerResponse, err error) {
			defer wg.Done()
			if err != nil {
				t.Error(err)
				return
			}
			if got := binary.BigEndian.Uint32(r.Body); got != uint32(i) {
				t.Errorf("answer to %d is %d", i, got)
			}
			r.Release()
		})
	}
	wg.Wait()
}

// TestPeerStartKeepsOrder: requests leave in the order of their Starts, also those that wait for the connection.
func TestPeerStartKeepsOrder(t *testing.T) {
	var next atomic.Uint32
	_, addr := startPeerServer(t, PeerHandlerOptions{}, func(r *Request) {
		if got, want := binary.BigEndian.Uint32(r.Body), next.Add(1)-1; got != want {
			t.Errorf("request %d came as number %d", got, want)
		}
		r.RespondRaw(nil)
	})
	p := newPeers(t, PeersOptions{Resolve: at(addr)})
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Add(1)
		p.Start(within(t), 2, ClassFetch, KeyForward, 0, appendInt32(nil, int32(i)), func(r *PeerResponse, err error) {
			if err != nil {
				t.Error(err)
			} else {
				r.Release()
			}
			wg.Done()
		})
	}
	wg.Wait()
}

// TestPeerOneConnection: ten thousand calls at once, more than may be in flight, share one connection.
func TestPeerOneConnection(t *testing.T) {
	_, addr := startPeerServer(t, PeerHandlerOptions{}, echo)
	p := newPeers(t, PeersOptions{Resolve: at(addr), MaxInFlight: 100, MaxWaiting: 10_000})
	ctx := within(t)
	var wg sync.WaitGroup
	for i := range 10_000 {
		wg.Go(func() {
			r, err := p.Call(ctx, 2, ClassProduce, KeyForward, 0, appendInt32(nil, int32(i)))
			if err != nil {
				t.Error(err)
				return
			}
			if got := binary.BigEndian.Uint32(r.Body); got != uint32(i) {
				t.Errorf("answer to %d is %d", i, got)
			}
			r.Release()
		})
	}
	wg.Wait()
	if created := peerMetric(t, p.metrics.created); created != 1 {
		t.Errorf("%v connections, want 1", created)
	}
	if n := peerMetric(t, p.metrics.inFlight); n != 0 {
		t.Errorf("%v in flight at the end", n)
	}
}

// TestPeerConnectionPerClass: each class has its own connection, and tells the peer which it is.
func TestPeerConnectionPerClass(t *testing.T) {
	_, addr := startPeerServer(t, PeerHandlerOptions{}, func(r *Request) {
		_, class, _ := r.Conn.Peer()
		r.RespondRaw([]byte(fmt.Sprint(r.Conn.ID(), class)))
	})
	p := newPeers(t, PeersOptions{Resolve: at(addr)})
	seen := map[string]bool{}
	for class := range classCount {
		for range 2 {
			r, err := p.Call(within(t), 2, class, KeyForward, 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(string(r.Body), class.String()) {
				t.Errorf("a call in class %v arrived as %s", class, r.Body)
			}
			seen[string(r.Body)] = true
			r.Release()
		}
	}
	if len(seen) != int(classCount) {
		t.Errorf("connections and classes %v, want %d", seen, classCount)
	}
}

// TestPeerKmsg sends Kafka's messages through Peers and Server: headers with and without tags, both ways.
func TestPeerKmsg(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var answer atomic.Pointer[[]byte]
	_, addr := startPeerServer(t, PeerHandlerOptions{}, func(r *Request) {
		if r.ClientID != "weir-1" {
			t.Errorf("%v: client id %q", r, r.ClientID)
		}
		var err error
		switch r.APIKey {
		case keyProduce:
			_, err = ParseProduce(r.Version, r.Body)
		case keyFetch:
			_, err = ParseFetch(r.Version, r.Body)
		default:
			_, err = DecodeKmsg(r)
		}
		if err != nil {
			t.Errorf("%v: %v", r, err)
		}
		body := NewPayload()
		body.SetOwn(append(body.Own(), *answer.Load()...))
		r.Respond(body)
	})
	p := newPeers(t, PeersOptions{Resolve: at(addr)})
	for _, k := range []struct{ key, min int16 }{{keyProduce, 3}, {keyFetch, 4}, {keyApiVersions, 0}, {19, 0}, {23, 0}, {56, 0}, {62, 0}, {63, 0}, {67, 0}} {
		last := kmsg.RequestForKey(k.key).MaxVersion()
		switch k.key {
		case keyProduce:
			last = ProduceVersionMax
		case keyFetch:
			last = FetchVersionMax
		case keyApiVersions:
			last = 4 // kmsg knows a version that Kafka does not have yet
		}
		for v := k.min; v <= last; v++ {
			req := kmsg.RequestForKey(k.key)
			fillRandom(rng, req)
			req.SetVersion(v)
			if produce, ok := req.(*kmsg.ProduceRequest); ok {
				produce.Acks = -1
			}
			resp := req.ResponseKind()
			fillRandom(rng, resp)
			resp.SetVersion(v)
			want := resp.AppendTo(nil)
			answer.Store(&want)
			got, err := p.CallKmsg(within(t), 2, ClassControl, req)
			if err != nil {
				t.Fatalf("%s v%d: %v", APIName(k.key), v, err)
			}
			if !reflect.DeepEqual(got.AppendTo(nil), want) {
				t.Errorf("%s v%d: answer %x, want %x", APIName(k.key), v, got.AppendTo(nil), want)
			}
		}
	}
}

// TestPeerKmsgViews: a fetch's records are views of the response's buffer.
func TestPeerKmsgViews(t *testing.T) {
	records := []byte(strings.Repeat("record", 10_000))
	_, addr := startPeerServer(t, PeerHandlerOptions{}, func(r *Request) {
		r.RespondFetch(&FetchResponse{SessionID: 5, Topics: []FetchTopicResult{{Partitions: []FetchPartitionResult{{Index: 3, Records: [][]byte{records}}}}}})
	})
	p := newPeers(t, PeersOptions{Resolve: at(addr)})
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(18)
	resp, held, err := p.CallKmsgViews(within(t), 2, ClassFetch, req)
	if err != nil {
		t.Fatal(err)
	}
	fetched := resp.(*kmsg.FetchResponse)
	got := fetched.Topics[0].Partitions[0].RecordBatches
	if string(got) != string(records) || fetched.SessionID != 5 {
		t.Fatalf("%d bytes of records in session %d", len(got), fetched.SessionID)
	}
	if !overlap(got, held.Buf.Bytes()) {
		t.Error("the records were copied")
	}
	held.Release()
}

func overlap(a, b []byte) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	lo, hi := reflect.ValueOf(b).Pointer(), reflect.ValueOf(b).Pointer()+uintptr(len(b))
	at := reflect.ValueOf(a).Pointer()
	return at >= lo && at < hi
}

// TestPeerFollowerFetch: what a follower says of itself arrives: its id and epoch, its directory, its high watermark.
func TestPeerFollowerFetch(t *testing.T) {
	parsed := make(chan FetchRequest, 1)
	_, addr := startPeerServer(t, PeerHandlerOptions{}, func(r *Request) {
		f, err := ParseFetch(r.Version, r.Body)
		if err != nil {
			t.Error(err)
		}
		r.RespondFetch(&FetchResponse{SessionID: 5})
		parsed <- f
	})
	p := newPeers(t, PeersOptions{Resolve: at(addr)})
	for version, want := range map[int16]struct {
		dir [16]byte
		hw  int64
	}{16: {hw: math.MaxInt64}, 17: {dir: [16]byte{7}, hw: math.MaxInt64}, 18: {dir: [16]byte{7}, hw: 11}} {
		req := kmsg.NewPtrFetchRequest()
		req.SetVersion(version)
		req.ReplicaState.ID, req.ReplicaState.Epoch = 1, 42
		part := kmsg.NewFetchRequestTopicPartition()
		part.Partition, part.CurrentLeaderEpoch, part.LastFetchedEpoch, part.FetchOffset, part.LogStartOffset = 3, 8, 7, 12, 2
		if version >= 17 { // kmsg writes tags in versions that do not have them
			part.ReplicaDirectoryID = [16]byte{7}
		}
		if version >= 18 {
			part.HighWatermark = 11
		}
		topic := kmsg.NewFetchRequestTopic()
		topic.TopicID, topic.Partitions = [16]byte{9}, []kmsg.FetchRequestTopicPartition{part}
		req.Topics = append(req.Topics, topic)
		resp, err := p.CallKmsg(within(t), 2, ClassFetch, req)
		if err != nil || resp.(*kmsg.FetchResponse).SessionID != 5 {
			t.Fatalf("v%d: %v, %v", version, resp, err)
		}
		got := <-parsed
		if got.ReplicaID != 1 || got.ReplicaEpoch != 42 {
			t.Errorf("v%d: replica %d, epoch %d, want 1 and 42", version, got.ReplicaID, got.ReplicaEpoch)
		}
		wantPart := FetchPartition{Index: 3, CurrentLeaderEpoch: 8, LastFetchedEpoch: 7, FetchOffset: 12, LogStartOffset: 2,
			MaxBytes: part.PartitionMaxBytes, ReplicaDirectoryID: want.dir, HighWatermark: want.hw}
		if gotPart := got.Topics[0].Partitions[0]; gotPart != wantPart {
			t.Errorf("v%d: partition %+v, want %+v", version, gotPart, wantPart)
		}
	}
}

func TestPeerKmsgRefusesWhatHasNoAnswer(t *testing.T) {
	p := newPeers(t, PeersOptions{Resolve: at("127.0.0.1:1")})
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(9)
	req.Acks = 0
	_, err := p.CallKmsg(within(t), 2, ClassProduce, req)
	wantPeerError(t, err, ErrUnsupported, false)
}

// TestPeerKmsgBadAnswer: an answer that cannot be decoded fails its call alone.
func TestPeerKmsgBadAnswer(t *testing.T) {
	_, addr := startPeerServer(t, PeerHandlerOptions{}, echo)
	p := newPeers(t, PeersOptions{Resolve: at(addr)})
	req := kmsg.NewPtrBrokerHeartbeatRequest()
	_, err := p.CallKmsg(within(t), 2, ClassHeartbeat, req)
	wantPeerError(t, err, ErrMalformed, true)
	r, err := p.Call(within(t), 2, ClassHeartbeat, KeyForward, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Release()
	if created := peerMetric(t, p.metrics.created); created != 1 {
		t.Errorf("%v connections, want 1", created)
	}
}

// TestPeerMetricNames: the names that dashboards rely on; those of both listeners and of the calls fit into one registry.
func TestPeerMetricNames(t *testing.T) {
	reg := prometheus.NewRegistry()
	NewMetrics(reg)
	NewPeerServerMetrics(reg)
	p := newPeers(t, PeersOptions{Metrics: NewPeerMetrics(reg), Resolve: at("127.0.0.1:1"),
		dialer: func(context.Context, string) (net.Conn, error) { return nil, io.ErrUnexpectedEOF }})
	_, err := p.Call(within(t), 2, ClassRaft, KeyRaft, 0, nil)
	wantPeerError(t, err, ErrPeerDown, false)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range families {
		m := f.GetMetric()[0]
		labels := ""
		for _, l := range m.GetLabel() {
			labels += l.GetName() + "=" + l.GetValue() + " "
		}
		got[f.GetName()] = labels
	}
	for name, labels := range map[string]string{
		"weir_peer_connections_created_total": "class=admin ", "weir_peer_connections_reused_total": "class=admin ",
		"weir_peer_requests_in_flight": "class=admin ", "weir_peer_request_seconds": "class=admin ",
		"weir_peer_failures_total": "class=raft reason=down ", "weir_peer_circuit_open": "class=raft peer=2 ",
		"weir_netproto_connections": "", "weir_netproto_peer_server_connections": "",
	} {
		if have, ok := got[name]; !ok || have != labels {
			t.Errorf("%s has labels %q (there: %v), want %q", name, have, ok, labels)
		}
	}
}

func TestPeersOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]PeersOptions{
		"negative node": {NodeID: -1},
		"local host":    {LocalHost: "localhost"},
		"frame":         {MaxFrameBytes: 100},
		"in flight":     {MaxInFlight: -1},
		"bytes":         {MaxInFlightBytes: -1},
		"dial timeout":  {DialTimeout: -1},
		"write timeout": {WriteTimeout: -1},
		"silence":       {ResponseTimeout: -1},
		"idle":          {IdleTimeout: -1},
		"waiting":       {MaxWaiting: -1},
	} {
		if _, err := NewPeers(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// lockedBuffer collects log lines.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// answerAfterASecond answers requests one after the other, each a second after it was read, with its body or with nothing, until the connection ends.
func (f *fakePeer) answerAfterASecond(echo bool) {
	for {
		frame, err := f.read()
		if err != nil {
			return
		}
		time.Sleep(time.Second)
		var body []byte
		if echo {
			body = frame[headerBytesMin:]
		}
		_ = f.respond(correlationID(frame), body)
	}
}
