package cluster

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"weir/test/internal/promhist"
	"weir/test/internal/weirproc"
	"weir/test/internal/wire"
)

const (
	frozenFor = 1200 * time.Millisecond // longer than a request may take to be logged, shorter than a session
	slowMs    = "300"
)

// breakdown is where the time of one request went, by stage.
type breakdown map[string]time.Duration

func (b breakdown) total() (sum time.Duration) {
	for _, d := range b {
		sum += d
	}
	return sum
}

// guilty is the stage that has the most.
func (b breakdown) guilty() (stage string) {
	for s, d := range b {
		if stage == "" || d > b[stage] {
			stage = s
		}
	}
	return stage
}

// stageOrder is the order of the table's lines.
var stageOrder = []string{"room", "queue", "handle", "lock", "wal_queue", "wal_write", "replicate", "forward", "respond_queue", "respond_write"}

// collector is an OpenTelemetry collector that keeps what it gets.
type collector struct {
	t    *testing.T
	url  string
	mu   sync.Mutex
	got  []tracedRequest
	more chan struct{}
}

// tracedRequest is one node's part of a trace.
type tracedRequest struct {
	trace, span, parent string
	name, node          string
	attrs               map[string]string
	stages              breakdown
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{t: t, more: make(chan struct{})}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		data := &tracepb.TracesData{}
		if err == nil {
			err = proto.Unmarshal(body, data)
		}
		if err != nil {
			t.Errorf("export: %v", err)
			return
		}
		c.take(data)
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func (c *collector) take(data *tracepb.TracesData) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range data.ResourceSpans {
		requests := map[string]*tracedRequest{}
		for _, s := range rs.ScopeSpans[0].Spans {
			attrs := map[string]string{}
			for _, a := range s.Attributes {
				attrs[a.Key] = a.Value.GetStringValue()
				if attrs[a.Key] == "" {
					attrs[a.Key] = strconv.FormatInt(a.Value.GetIntValue(), 10)
				}
			}
			id := fmt.Sprintf("%x", s.SpanId)
			if s.Kind == tracepb.Span_SPAN_KIND_SERVER {
				requests[id] = &tracedRequest{trace: fmt.Sprintf("%x", s.TraceId), span: id, parent: fmt.Sprintf("%x", s.ParentSpanId), name: s.Name, attrs: attrs, stages: breakdown{}}
				for _, a := range rs.Resource.Attributes {
					if a.Key == "service.instance.id" {
						requests[id].node = a.Value.GetStringValue()
					}
				}
				continue
			}
			if r := requests[fmt.Sprintf("%x", s.ParentSpanId)]; r != nil {
				r.stages[s.Name] += time.Duration(s.EndTimeUnixNano - s.StartTimeUnixNano)
				for k, v := range attrs {
					r.attrs[k] = v
				}
			}
		}
		for _, r := range requests {
			c.got = append(c.got, *r)
		}
	}
	close(c.more)
	c.more = make(chan struct{})
}

// await waits for a node's part of a trace.
func (c *collector) await(trace string, node int32) tracedRequest {
	c.t.Helper()
	late := time.After(settle)
	for {
		c.mu.Lock()
		got, more := slices.Clone(c.got), c.more
		c.mu.Unlock()
		for _, r := range got {
			if r.trace == trace && r.node == fmt.Sprint(node) {
				return r
			}
		}
		select {
		case <-more:
		case <-late:
			c.t.Fatalf("no part of node %d of trace %s within %s; there are %d others", node, trace, settle, len(got))
		}
	}
}

// slowLine waits for the one line that a node writes about a slow request, and reads it.
func slowLine(t *testing.T, b *weirproc.Broker, mark int) (line string, fields map[string]string, stages breakdown) {
	t.Helper()
	eventually(t, settle, "the log has the slow request", func() error {
		for _, l := range b.Logs().Since(mark) {
			if strings.Contains(l.Text, `msg="slow request"`) && strings.Contains(l.Text, "api=Produce") {
				line = l.Text
				return nil
			}
		}
		return fmt.Errorf("not in %d lines", len(b.Logs().Since(mark)))
	})
	fields, stages = map[string]string{}, breakdown{}
	for _, m := range regexp.MustCompile(`(\S+?)=("[^"]*"|\S+)`).FindAllStringSubmatch(line, -1) {
		fields[m[1]] = m[2]
		if stage, ok := strings.CutPrefix(m[1], "stage."); ok {
			d, err := time.ParseDuration(m[2])
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			stages[stage] = d
		}
	}
	return line, fields, stages
}

// standsStill says which thread of a process that was sent SIGSTOP still runs, if one does.
func standsStill(pid int) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err == nil && len(threads) == 0 {
		err = fmt.Errorf("process %d has no threads", pid)
	}
	for _, name := range threads {
		stat, failed := os.ReadFile(name)
		if _, state, _ := strings.Cut(string(stat), ") "); err == nil && failed == nil && !strings.HasPrefix(state, "T") {
			err = fmt.Errorf("%s: %.1s", name, state)
		}
	}
	return err
}

// produces is how many produces a node has counted.
func produces(t *testing.T, b *weirproc.Broker, listener string) float64 {
	t.Helper()
	return b.Metrics()[fmt.Sprintf("weir_request_seconds_count{api=%q,listener=%q}", "Produce", listener)]
}

// stageSums is what a node's metrics have of produces, by stage.
func stageSums(b *weirproc.Broker, listener string) breakdown {
	sums, scrape := breakdown{}, b.Metrics()
	for _, stage := range promhist.Values(scrape, "weir_request_stage_seconds", "stage") {
		if h, err := promhist.Of(scrape, "weir_request_stage_seconds", "api=Produce", "listener="+listener, "stage="+stage); err == nil {
			sums[stage] = time.Duration(h.Sum * float64(time.Second))
		}
	}
	return sums
}

func (b breakdown) since(before breakdown) breakdown {
	out := breakdown{}
	for s, d := range b {
		if d -= before[s]; d > 0 {
			out[s] = d
		}
	}
	return out
}

// show checks that the three sources tell the same, and prints them side by side.
func show(t *testing.T, title, guilty string, metrics, log, trace breakdown) {
	t.Helper()
	var table strings.Builder
	fmt.Fprintf(&table, "%s\n%-14s %12s %12s %12s\n", title, "stage", "metrics", "log", "trace")
	stages := append(slices.Clone(stageOrder), slices.Sorted(maps.Keys(trace))...)
	seen := map[string]bool{}
	for _, s := range stages {
		if !seen[s] && metrics[s]+log[s]+trace[s] > 0 {
			fmt.Fprintf(&table, "%-14s %12v %12v %12v\n", s, metrics[s].Round(time.Microsecond), log[s], trace[s].Round(time.Microsecond))
		}
		seen[s] = true
	}
	fmt.Fprintf(&table, "%-14s %12v %12v %12v", "together", metrics.total().Round(time.Microsecond), log.total(), trace.total().Round(time.Microsecond))
	t.Log(table.String())
	for source, b := range map[string]breakdown{"metrics": metrics, "log": log, "trace": trace} {
		if b.guilty() != guilty {
			t.Errorf("%s: the %s say that %s is to blame, not %s", title, source, b.guilty(), guilty)
		}
		// The same marks in all three, so they differ by rounding only.
		for s, d := range trace {
			if diff := (b[s] - d).Abs(); diff > 10*time.Microsecond {
				t.Errorf("%s: %s is %v in the trace and %v in the %s", title, s, d, b[s], source)
			}
		}
	}
}

// TestSlowProduceIsExplained: a follower stands still for a moment, and a produce with acks=all waits for it. Where the time went is told by the metrics, by one line of
// the log and by the trace, alike; and of a produce that went through another node, on both nodes.
func TestSlowProduceIsExplained(t *testing.T) {
	col := startCollector(t)
	config := maps.Clone(small)
	maps.Copy(config, map[string]string{
		"request.slow.log.ms": slowMs, "otel.traces.endpoint": col.url, "auto.leader.rebalance.enable": "false",
		// The follower only stands still: nobody is to take it for dead. Its disk does not stall either.
		"broker.session.timeout.ms": "20000", "log.dir.stall.ms": "20000",
	})
	c := start(t, weirproc.ClusterOptions{Config: config})
	admin := newAdmin(t, c)
	const topic = "orders"
	createTopic(t, admin, topic, 3, 3)
	awaitInSync(t, c, admin, topic)
	frozen := other(controller(t, admin), func(int32) bool { return true })
	at := leaders(t, admin, topic)
	partition := int32(slices.IndexFunc(at, func(id int32) bool { return id != frozen }))
	leader := at[partition]
	third := 6 - frozen - leader
	for _, via := range []int32{leader, third} {
		conn := wire.Dial(t, c.Node(via).Addr)
		// The listener that the leader gets it on.
		listener := "clients"
		if via != leader {
			listener = "nodes"
		}
		quick, quickVia := produces(t, c.Node(leader), listener), produces(t, c.Node(via), "clients")
		if code, _, err := conn.ProduceCode(topic, partition, wire.Batch([]byte("quick"))); code != 0 || err != nil {
			t.Fatalf("produce: code %d, %v", code, err)
		}
		// The client may have its answer a moment before the metrics have it.
		eventually(t, settle, "the quick produce is counted", func() error {
			if n, m := produces(t, c.Node(leader), listener), produces(t, c.Node(via), "clients"); n == quick || m == quickVia {
				return fmt.Errorf("there are %v and %v", n, m)
			}
			return nil
		})
		before, beforeVia := stageSums(c.Node(leader), listener), stageSums(c.Node(via), "clients")
		mark, markVia := c.Node(leader).Logs().Mark(), c.Node(via).Logs().Mark()
		c.Node(frozen).Pause()
		eventually(t, settle, "every thread stands still", func() error { return standsStill(c.Node(frozen).Pid()) })
		thaw := time.AfterFunc(frozenFor, c.Node(frozen).Resume)
		code, _, err := conn.ProduceCode(topic, partition, wire.Batch([]byte("slow")))
		thaw.Stop()
		c.Node(frozen).Resume()
		if code != 0 || err != nil {
			t.Fatalf("produce: code %d, %v", code, err)
		}

		line, fields, stages := slowLine(t, c.Node(leader), mark)
		t.Logf("node %d leads, node %d stood still:\n%s", leader, frozen, line)
		part := col.await(fields["trace"], leader)
		show(t, fmt.Sprintf("produce through node %d, on its leader %d", via, leader), "replicate", stageSums(c.Node(leader), listener).since(before), stages, part.stages)
		if fields["slowest_replica"] != fmt.Sprint(frozen) || part.attrs["weir.slowest_replica"] != fmt.Sprint(frozen) || fields["topic"] != topic || fields["partition"] != fmt.Sprint(partition) {
			t.Errorf("it does not say that node %d held up %s-%d: %s; trace: %v", frozen, topic, partition, line, part.attrs)
		}
		if via == leader {
			continue
		}
		lineVia, fieldsVia, stagesVia := slowLine(t, c.Node(via), markVia)
		t.Logf("node %d was asked:\n%s", via, lineVia)
		root := col.await(fields["trace"], via)
		show(t, fmt.Sprintf("the same, on node %d that was asked", via), "forward", stageSums(c.Node(via), "clients").since(beforeVia), stagesVia, root.stages)
		if fieldsVia["trace"] != fields["trace"] || part.parent != root.span || root.parent != "" || fieldsVia["forwarded_to"] != fmt.Sprint(leader) {
			t.Errorf("the two nodes do not tell of one request: %s; %s; spans %s below %s, %s below %q", line, lineVia, part.span, part.parent, root.span, root.parent)
		}
	}
}
