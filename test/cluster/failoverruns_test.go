package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/verify"
	"weir/test/internal/weirproc"
	"weir/test/internal/wire"
)

// failoverRole is who is killed, and who leads the partitions that are watched.
type failoverRole struct {
	name    string
	victim  func(controller int32) int32
	leaders func(controller int32) []int32
}

var failoverRoles = []failoverRole{
	{"a leader", next, func(controller int32) []int32 { return []int32{next(controller), next(next(controller))} }},
	{"the controller, which leads nothing", self, func(controller int32) []int32 { return []int32{next(controller), next(next(controller))} }},
	{"the controller, which leads", self, func(controller int32) []int32 { return []int32{controller, next(controller), next(next(controller))} }},
}

// failoverRun is one kill.
type failoverRun struct {
	Role       string    `json:"role"`
	Node       int32     `json:"node"`
	Ms         []float64 `json:"not_writable_ms"` // by partition of the watched topic
	LedByDead  []bool    `json:"led_by_killed"`
	WorstMs    float64   `json:"worst_ms"`
	RecoverSec float64   `json:"restart_to_in_sync_s"`
}

// TestFailoverRuns kills -9, again and again, a partition leader, the controller, and a node that is both, under load, and measures for how long
// partitions cannot be written to: from the kill to the acknowledgement (acks=all, on two disks) of the first record that was sent after the process was gone. Three runs
// with -short, 9 without, WEIR_TEST_FAILOVER_RUNS any number; WEIR_TEST_FAILOVER_OUT names a file for the figures as JSON.
//
// Who measures must not be what is measured. Each partition has a writer of its own on plain connections, which sends a record every 5 ms; when one fails
// it asks whichever node answers who leads, and tries again after 2 ms. So a figure is at most some 10 ms too large, and never too small.
func TestFailoverRuns(t *testing.T) {
	runs := failoverRuns(t)
	const loaded, n = "loaded", 3
	c := start(t, weirproc.ClusterOptions{})
	admin := newAdmin(t, c)
	client := newClient(t, c)
	createTopic(t, admin, loaded, n, 3)
	l := newLoad(t, c, loaded, n, 0, 2)
	for _, p := range l.producers {
		p.Pace(failoverPace)
	}
	l.start()
	var done []failoverRun
	for i := range runs {
		awaitInSync(t, c, admin, loaded)
		l.await(200)
		done = append(done, oneFailover(t, c, client, admin, failoverRoles[i%len(failoverRoles)], fmt.Sprintf("watched-%d", i)))
		t.Logf("run %d of %d: killed node %d, %s: not writable for %.0f ms, by partition %.0f", i+1, runs, done[i].Node, done[i].Role, done[i].WorstMs, done[i].Ms)
	}
	awaitInSync(t, c, admin, loaded)
	l.check(admin)
	reportFailovers(t, done)
}

// failoverPace is records a second of each of the two producers that are the load: enough that there always is something under way, and not so much that
// a small machine has no time to fail over.
const failoverPace = 500

func failoverRuns(t *testing.T) int {
	t.Helper()
	if text := os.Getenv("WEIR_TEST_FAILOVER_RUNS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("WEIR_TEST_FAILOVER_RUNS=%q", text)
		}
		return n
	}
	if testing.Short() {
		return 3
	}
	return 9
}

func oneFailover(t *testing.T, c *weirproc.Cluster, client *kgo.Client, admin *kadm.Client, role failoverRole, topic string) failoverRun {
	t.Helper()
	was := controller(t, admin)
	victim, leaders := role.victim(was), role.leaders(was)
	var replicas [][]int32
	for _, leader := range leaders {
		replicas = append(replicas, []int32{leader, next(leader), next(next(leader))})
	}
	createAssigned(t, client, topic, replicas)
	awaitInSync(t, c, admin, topic)
	w := startWriters(t, c, topic, len(leaders))
	w.awaitAfter(t, time.Now(), time.Now())
	killed := time.Now()
	c.Node(victim).Kill()
	// What was sent before the process was gone may have been acknowledged with its last breath.
	gaps := w.awaitAfter(t, killed, time.Now())
	w.stop()
	run := failoverRun{Role: role.name, Node: victim}
	for p, gap := range gaps {
		ms := float64(gap.Microseconds()) / 1000
		run.Ms, run.LedByDead = append(run.Ms, ms), append(run.LedByDead, leaders[p] == victim)
		run.WorstMs = max(run.WorstMs, ms)
	}
	if gapMax := float64(gapMax.Milliseconds()); run.WorstMs > gapMax {
		t.Errorf("killing %s stopped writing for %.0f ms, more than %.0f", role.name, run.WorstMs, gapMax)
	}
	begun := time.Now()
	if err := c.Node(victim).Launch(); err != nil {
		t.Fatalf("node %d again: %v", victim, err)
	}
	awaitInSync(t, c, admin, topic)
	run.RecoverSec = time.Since(begun).Seconds()
	if _, err := admin.DeleteTopic(limit(t, time.Minute), topic); err != nil {
		t.Fatalf("delete %s: %v", topic, err)
	}
	return run
}

// writers write to each partition of a topic.
type writers struct {
	topic string
	addrs []string
	ended chan struct{}
	wait  sync.WaitGroup
	mu    struct {
		sync.Mutex
		acks    [][]writerAck // by partition
		changed chan struct{}
	}
}

type writerAck struct{ sent, acked time.Time }

func startWriters(t *testing.T, c *weirproc.Cluster, topic string, partitions int) *writers {
	t.Helper()
	w := &writers{topic: topic, addrs: c.Addrs(), ended: make(chan struct{})}
	w.mu.acks, w.mu.changed = make([][]writerAck, partitions), make(chan struct{})
	for p := range partitions {
		w.wait.Go(func() { w.run(int32(p)) })
	}
	t.Cleanup(w.stop)
	return w
}

func (w *writers) stop() {
	select {
	case <-w.ended:
	default:
		close(w.ended)
	}
	w.wait.Wait()
}

func (w *writers) run(partition int32) {
	const every, again = 5 * time.Millisecond, 2 * time.Millisecond
	var nc net.Conn
	defer func() {
		if nc != nil {
			_ = nc.Close()
		}
	}()
	batch := wire.Batch([]byte("written"))
	for pause := every; ; {
		select {
		case <-w.ended:
			return
		case <-time.After(pause):
		}
		sent := time.Now()
		if nc == nil {
			nc = w.leader(partition)
		}
		if nc != nil {
			code, _, err := wire.On(nc).TryProduce(wire.Produce(w.topic, partition, batch), settle)
			if err == nil && code == 0 {
				w.note(partition, writerAck{sent, time.Now()})
				pause = every
				continue
			}
			_ = nc.Close()
			nc = nil
		}
		pause = again
	}
}

// leader connects to whom the first node that answers names as leader; nil: try again. Every step but the produce itself is short: a node that is being
// killed may take a connection and never answer.
func (w *writers) leader(partition int32) net.Conn {
	const patience = 200 * time.Millisecond
	for _, addr := range w.addrs {
		leader, err := leaderFrom(addr, w.topic, partition, patience)
		if err != nil {
			continue
		}
		if nc, err := net.DialTimeout("tcp", leader, patience); err == nil {
			return nc
		}
	}
	return nil
}

func (w *writers) note(partition int32, a writerAck) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.acks[partition] = append(w.mu.acks[partition], a)
	close(w.mu.changed)
	w.mu.changed = make(chan struct{})
}

// awaitAfter waits until each partition has acknowledged a record that was sent after a time, and returns how long after the moment that was.
func (w *writers) awaitAfter(t *testing.T, moment, sent time.Time) []time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*settle)
	defer cancel()
	for {
		w.mu.Lock()
		var gaps []time.Duration
		for _, acks := range w.mu.acks {
			if i := slices.IndexFunc(acks, func(a writerAck) bool { return a.sent.After(sent) }); i >= 0 {
				gaps = append(gaps, acks[i].acked.Sub(moment))
			}
		}
		all, changed := len(gaps) == len(w.mu.acks), w.mu.changed
		w.mu.Unlock()
		if all {
			return gaps
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%d of %d partitions are written to %v after the kill", len(gaps), len(w.mu.acks), 2*settle)
		}
	}
}

// reportFailovers prints the figures as a table and as one line of JSON.
func reportFailovers(t *testing.T, runs []failoverRun) {
	t.Helper()
	type row struct {
		Role string  `json:"role"`
		Runs int     `json:"runs"`
		P50  float64 `json:"p50_ms"`
		P99  float64 `json:"p99_ms"`
		Max  float64 `json:"max_ms"`
	}
	summary := func(role string) row {
		var ms []float64
		for _, r := range runs {
			if role == "all" || r.Role == role {
				ms = append(ms, r.WorstMs)
			}
		}
		slices.Sort(ms)
		if len(ms) == 0 {
			return row{Role: role}
		}
		rank := func(p int) float64 { return ms[(len(ms)*p+99)/100-1] }
		return row{role, len(ms), rank(50), rank(99), ms[len(ms)-1]}
	}
	var rows []row
	var table strings.Builder
	tw := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "killed\truns\tp50 ms\tp99 ms\tmax ms\t")
	for _, role := range append(slices.Clone(failoverRoles), failoverRole{name: "all"}) {
		r := summary(role.name)
		rows = append(rows, r)
		fmt.Fprintf(tw, "%s\t%d\t%.0f\t%.0f\t%.0f\t\n", r.Role, r.Runs, r.P50, r.P99, r.Max)
	}
	_ = tw.Flush() // into memory
	whole := rows[len(rows)-1]
	const goal50, goal99 = 2000, 4000
	t.Logf("for how long the worst partition was not writable (goal p50 < %d, p99 < %d: met %t)\n%s", goal50, goal99, whole.P50 < goal50 && whole.P99 < goal99, table.String())
	figures, err := json.Marshal(map[string]any{
		"what": "failover by kill -9: from the kill to the acknowledgement of the first record sent after the process was gone, acks=all, RF 3, min.insync.replicas 2",
		"load": fmt.Sprintf("2 producers of %d records a second each, 1 watched writer per partition", failoverPace),
		"cpus": runtime.NumCPU(), "loadavg": loadAverage(), "table": rows, "runs": runs,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("JSON %s", figures)
	if out := os.Getenv("WEIR_TEST_FAILOVER_OUT"); out != "" {
		if err := os.WriteFile(out, append(figures, '\n'), 0o644); err != nil {
			t.Error(err)
		}
	}
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}

var errNoLeader = errors.New("no leader")

// leaderFrom asks one node for the address of a partition's leader.
func leaderFrom(addr, topic string, partition int32, patience time.Duration) (string, error) {
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	meta, err := verify.MetadataOn(nc, topic, patience)
	if err != nil {
		return "", err
	}
	for _, t := range meta.Topics {
		for _, p := range t.Partitions {
			for _, b := range meta.Brokers {
				if p.Partition == partition && p.Leader == b.NodeID && p.ErrorCode == 0 {
					return net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))), nil
				}
			}
		}
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return "", err
		}
	}
	return "", errNoLeader
}
