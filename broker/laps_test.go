package broker

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"weir/internal/config"
	"weir/raftmeta"
	"weir/replica"
)

// Each of these tests holds a request in one stage, from when that is known to have begun until some time later, and then looks into the trace: that
// stage must have at least that time. As the stages add up to the whole, no other can have it.

// heldFor is how long. Longer than anything else takes, so that a failure says which stage has the time; nothing depends on that.
const heldFor = 60 * time.Millisecond

// span is one of a trace, as a collector gets it.
type span struct {
	name, node string
	attrs      map[string]string
	id, parent string
	stages     map[string]time.Duration
	took       time.Duration
}

// spans collects what nodes export.
type spans struct {
	t    *testing.T
	url  string
	mu   sync.Mutex
	got  []*span
	more chan struct{} // closed and replaced when there is more
}

func collectSpans(t *testing.T) *spans {
	t.Helper()
	c := &spans{t: t, more: make(chan struct{})}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		data := &tracepb.TracesData{}
		if err == nil {
			err = proto.Unmarshal(body, data)
		}
		if err != nil {
			t.Error(err)
			return
		}
		c.add(data)
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// traced is the configuration of a node that exports everything.
func (c *spans) traced(extra map[string]string) map[string]string {
	values := map[string]string{"otel.traces.endpoint": c.url, "otel.traces.sample.ratio": "1"}
	for k, v := range extra {
		values[k] = v
	}
	return values
}

func attrsOf(list []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range list {
		switch v := a.Value.Value.(type) {
		case *commonpb.AnyValue_StringValue:
			m[a.Key] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			m[a.Key] = fmt.Sprint(v.IntValue)
		case *commonpb.AnyValue_BoolValue:
			m[a.Key] = fmt.Sprint(v.BoolValue)
		}
	}
	return m
}

func (c *spans) add(data *tracepb.TracesData) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range data.ResourceSpans {
		roots := map[string]*span{}
		for _, s := range rs.ScopeSpans[0].Spans {
			took := time.Duration(s.EndTimeUnixNano - s.StartTimeUnixNano)
			if s.Kind == tracepb.Span_SPAN_KIND_SERVER {
				root := &span{
					name: s.Name, node: attrsOf(rs.Resource.Attributes)["service.instance.id"], attrs: attrsOf(s.Attributes),
					id: string(s.TraceId) + string(s.SpanId), stages: map[string]time.Duration{}, took: took,
				}
				if len(s.ParentSpanId) > 0 {
					root.parent = string(s.TraceId) + string(s.ParentSpanId)
				}
				roots[root.id] = root
				c.got = append(c.got, root)
				continue
			}
			root := roots[string(s.TraceId)+string(s.ParentSpanId)]
			if root == nil {
				c.t.Errorf("stage %s has no request", s.Name)
				continue
			}
			root.stages[s.Name] += took
			for k, v := range attrsOf(s.Attributes) {
				root.attrs[s.Name+"/"+k] = v
			}
		}
	}
	close(c.more)
	c.more = make(chan struct{})
}

// await waits for a request that is like that.
func (c *spans) await(what string, like func(*span) bool) *span {
	c.t.Helper()
	late := time.After(clusterWait)
	for seen := 0; ; {
		c.mu.Lock()
		fresh, more := c.got[seen:], c.more
		c.mu.Unlock()
		for _, s := range fresh {
			if like(s) {
				return s
			}
		}
		seen += len(fresh)
		select {
		case <-more:
		case <-late:
			c.t.Fatalf("no trace of %s within %s; there were %d", what, clusterWait, seen)
		}
	}
}

// of waits for the request of a client with this correlation id.
func (c *spans) of(api string, w *wire) *span {
	c.t.Helper()
	local := w.conn.LocalAddr().String()
	return c.await(fmt.Sprintf("%s %d of %s", api, w.next, local), func(s *span) bool {
		return s.attrs["messaging.operation.name"] == api && s.attrs["weir.correlation_id"] == fmt.Sprint(w.next) &&
			s.attrs["network.peer.address"]+":"+s.attrs["network.peer.port"] == local
	})
}

// had fails unless a stage has at least that time, and the stages add up.
func (s *span) had(t *testing.T, stage string, least time.Duration) {
	t.Helper()
	var sum time.Duration
	for _, d := range s.stages {
		sum += d
	}
	if s.stages[stage] < least {
		t.Errorf("%s on node %s: stage %s has %v, want at least %v; all: %v", s.name, s.node, stage, s.stages[stage], least, s.stages)
	}
	if sum != s.took {
		t.Errorf("%s on node %s: the stages have %v, the request took %v: %v", s.name, s.node, sum, s.took, s.stages)
	}
}

// startSlowOn is startSlow with metrics.
func startSlowOn(t *testing.T, disk *slowDisk, extra map[string]string, reg *prometheus.Registry) *Running {
	t.Helper()
	values := map[string]string{
		"data-dir": "/d", "kafka-addr": "127.0.0.1:0", "offsets.topic.num.partitions": "1", "io.engine": "portable",
		"wal.file.bytes": "4194304", "wal.max.bytes": "33554432", "wal.group.max.bytes": "262144",
	}
	maps.Copy(values, extra)
	cfg, err := config.LoadBroker(values)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), clusterWait)
	defer cancel()
	r, err := Start(ctx, Options{Config: cfg, FS: disk, Registry: reg})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// pass lets some time go by and returns how much it was.
func pass() time.Duration {
	began := time.Now()
	<-time.After(heldFor)
	return time.Since(began)
}

// struck tells of the writes of the WAL that the disk holds: small ones, which are no making of files.
func (d *slowDisk) struck() <-chan struct{} {
	hit := make(chan struct{}, 1000)
	d.SetHook(func(op, name string, _ int64, n int) error {
		d.mu.Lock()
		held, below := d.held, d.area
		d.mu.Unlock()
		if held == nil || op != "write" || !strings.HasPrefix(name, below) {
			return nil
		}
		if strings.HasPrefix(name, "/d/wal/") && strings.HasSuffix(name, ".log") && n <= 8192 {
			select {
			case hit <- struct{}{}:
			default:
			}
		}
		<-held
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.err
	})
	return hit
}

// until waits for what nobody tells of.
func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	late := time.After(clusterWait)
	for !met() {
		select {
		case <-time.After(time.Millisecond):
		case <-late:
			t.Fatalf("not within %s: %s", clusterWait, what)
		}
	}
}

func await(t *testing.T, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(clusterWait):
		t.Fatalf("not within %s: %s", clusterWait, what)
	}
}

// The disk holds a write: the produce in it has the time in wal_write, the one that came meanwhile in wal_queue, and the one behind both in its connection's
// order of answers.
func TestStagesOfASlowWrite(t *testing.T) {
	c := collectSpans(t)
	disk := newSlowDisk()
	r := startSlow(t, disk, c.traced(map[string]string{"log.dir.stall.ms": "60000", "wal.inflight.writes.max": "1"}))
	defer stopNode(t, r)
	warm := dial(t, r)
	createTopic(t, warm, "t", 1)
	warm.produceCode(produceRequest("t", 0, acksOne, buildBatch(t, "begins the file")))
	hit := disk.struck()
	disk.hold("/d/wal")
	first, second := dial(t, r), dial(t, r)
	one, two := produceRequest("t", 0, acksOne, buildBatch(t, "one")), produceRequest("t", 0, acksAll, buildBatch(t, "two"))
	first.send(one)
	await(t, "the write", hit)
	second.send(two)
	appended := r.b.parts.ByName("t", 0)
	until(t, "the second append", func() bool { return appended.End() == 3 })
	var behind kmsg.MetadataRequest
	behind.Version = 9
	second.send(&behind)
	held := pass()
	disk.release(nil)
	first.receive(one, 1)
	second.receive(two, 1)
	second.receive(&behind, 2)
	s := c.of("Produce", first)
	s.had(t, "wal_write", held)
	if s.name != "Produce t" || s.attrs["messaging.destination.partition.id"] != "0" || s.attrs["messaging.system"] != "kafka" || s.attrs["messaging.client.id"] != "test" {
		t.Errorf("%s: %v", s.name, s.attrs)
	}
	c.of("Metadata", second).had(t, "respond_queue", 0)
	second.next = 1
	c.of("Produce", second).had(t, "wal_queue", held)
}

// What is not flushed has filled its memory: a producer waits for room.
func TestStageRoomOfAProduce(t *testing.T) {
	c := collectSpans(t)
	disk, reg := newSlowDisk(), prometheus.NewRegistry()
	r := startSlowOn(t, disk, c.traced(map[string]string{"log.dir.stall.ms": "60000", "log.tail.max.bytes": "1048576"}), reg)
	defer stopNode(t, r)
	w := dial(t, r)
	if err := w.conn.SetDeadline(time.Now().Add(2 * clusterWait)); err != nil {
		t.Fatal(err)
	}
	createTopic(t, w, "t", 1)
	first := w.next + 1
	disk.hold("/d/topics")
	defer disk.release(nil)
	batch := buildBatch(t, strings.Repeat("x", 200<<10))
	var req *kmsg.ProduceRequest
	waits := (&testCluster{t: t, nodes: map[int32]*testNode{1: {reg: reg}}})
	blocked := func() bool { return waits.metric(1, "weir_segment_reserve_blocked_total") > 0 }
	for !blocked() {
		req = produceRequest("t", 0, acksOne, slices.Clone(batch))
		w.send(req)
		sent := int64(w.next - first + 1)
		until(t, "it is durable, or waits", func() bool { return blocked() || r.b.parts.ByName("t", 0).Durable() == sent })
	}
	held := pass()
	disk.release(nil)
	for id := first; id <= w.next; id++ {
		w.receive(req, id)
	}
	c.of("Produce", w).had(t, "room", held)
}

// A follower's disk holds a write: the time is in replicate, and the follower is named.
func TestStageReplicate(t *testing.T) {
	c := collectSpans(t)
	cl := newCluster(t, 3, c.traced(map[string]string{"log.dir.stall.ms": "60000", "auto.leader.rebalance.enable": "false"}))
	disks := map[int32]*slowDisk{}
	for id, node := range cl.nodes {
		disks[id] = newSlowDisk()
		node.disk = disks[id]
	}
	cl.start(1, 2, 3)
	cl.assigned("t", []int32{1, 2, 3})
	leads := cl.node(1)
	w := dial(t, leads)
	warm := produceRequest("t", 0, acksAll, buildBatch(t, "warm"))
	if code, _ := w.produceCode(warm); code != 0 {
		t.Fatalf("code %d", code)
	}
	hit := disks[3].struck()
	disks[3].hold("/d/wal")
	defer disks[3].release(nil)
	slow := produceRequest("t", 0, acksAll, buildBatch(t, "slow"))
	w.send(slow)
	await(t, "the follower's write", hit)
	part := leads.b.parts.ByName("t", 0)
	until(t, "durable on the leader", func() bool { return part.Durable() == 2 })
	until(t, "the other follower has it", func() bool {
		return slices.ContainsFunc(part.Followers(), func(f replica.FollowerState) bool { return f.ID == 2 && f.End == 2 })
	})
	held := pass()
	disks[3].release(nil)
	w.receive(slow, w.next)
	s := c.of("Produce", w)
	s.had(t, "replicate", held)
	if s.attrs["replicate/weir.slowest_replica"] != "3" {
		t.Errorf("the slowest replica is not named: %v", s.attrs)
	}
}

// A forwarded produce: the node that was asked has the time in forward, the leader in the stage that is to blame, and the leader's span is below
// the other's in one trace.
func TestForwardedProduceIsOneTrace(t *testing.T) {
	c := collectSpans(t)
	cl := newCluster(t, 3, c.traced(map[string]string{"log.dir.stall.ms": "60000", "auto.leader.rebalance.enable": "false"}))
	disks := map[int32]*slowDisk{}
	for id, node := range cl.nodes {
		disks[id] = newSlowDisk()
		node.disk = disks[id]
	}
	cl.start(1, 2, 3)
	cl.assigned("t", []int32{2})
	asked := cl.node(1)
	cl.await(asked, "the topic", func(img *raftmeta.Image) bool { return img.Topic("t") != nil })
	dial(t, cl.node(2)).produceCode(produceRequest("t", 0, acksOne, buildBatch(t, "begins the file")))
	hit := disks[2].struck()
	disks[2].hold("/d/wal")
	defer disks[2].release(nil)
	w := dial(t, asked)
	req := produceRequest("t", 0, acksOne, buildBatch(t, "x"))
	w.send(req)
	await(t, "the leader's write", hit)
	held := pass()
	disks[2].release(nil)
	w.receive(req, w.next)
	s := c.of("Produce", w)
	s.had(t, "forward", held)
	if s.node != "1" || s.parent != "" || s.name != "Produce t" || s.attrs["forward/weir.forwarded_to"] != "2" {
		t.Errorf("%s on node %s: %v", s.name, s.node, s.attrs)
	}
	below := c.await("the leader's part", func(b *span) bool { return b.parent == s.id })
	below.had(t, "wal_write", held)
	if below.node != "2" || below.attrs["weir.listener"] != "nodes" || below.name != "Produce t" {
		t.Errorf("%s on node %s: %v", below.name, below.node, below.attrs)
	}
}

// A fetch that waits for data has the time in wait; reading is a stage of its own.
func TestStageWaitOfAFetch(t *testing.T) {
	c := collectSpans(t)
	r := startNode(t, t.TempDir(), c.traced(nil))
	w := dial(t, r)
	createTopic(t, w, "t", 1)
	fetch := fetchRequest("t", 0)
	fetch.MaxWaitMillis, fetch.MinBytes = int32(clusterWait.Milliseconds()), 1
	w.send(fetch)
	until(t, "the fetch waits", func() bool { return r.b.waiting.Load() == 1 })
	held := pass()
	dial(t, r).do(produceRequest("t", 0, acksOne, buildBatch(t, "x")))
	w.receive(fetch, w.next)
	s := c.of("Fetch", w)
	s.had(t, "wait", held)
	if _, ok := s.stages["read"]; !ok || s.name != "Fetch t" || s.attrs["messaging.operation.type"] != "receive" {
		t.Errorf("%s: %v %v", s.name, s.stages, s.attrs)
	}
}

// An administrative request that the controller's disk holds up has the time in propose, or in forward where another node was asked.
func TestStagesOfTopicCreation(t *testing.T) {
	c := collectSpans(t)
	cl := newCluster(t, 3, c.traced(map[string]string{"log.dir.stall.ms": "60000"}))
	cl.start(1, 2, 3)
	for _, away := range []int32{0, 1} {
		for try := 0; ; try++ {
			ctl := cl.controller()
			id := (ctl-1+away)%3 + 1
			w := dial(t, cl.node(id))
			w.do(createRequest(7, topicSpec(fmt.Sprintf("t%d-%d", away, try), 3, 3)))
			s := c.of("CreateTopics", w)
			s.had(t, "handle", 0)
			want := []string{"propose", "settle"}
			if away == 1 {
				want = []string{"forward"} // and apply, unless this node was as fast as the controller
			}
			missing := slices.DeleteFunc(want, func(stage string) bool { return s.stages[stage] > 0 })
			if len(missing) == 0 {
				break
			}
			if try == 9 { // the controller may have changed in between, but not each time
				t.Fatalf("node %d, the controller is %d: no %v in %v", id, ctl, missing, s.stages)
			}
		}
	}
	c.await("the controller's part", func(s *span) bool {
		return s.attrs["messaging.operation.name"] == "WeirForward" && s.stages["propose"] > 0 && s.stages["settle"] > 0
	})
}
