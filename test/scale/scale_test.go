package scale

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/weirproc"
)

const (
	loadValueBytes  = 64 << 10
	smallValueBytes = 1 << 10
	readyMax        = 5 * time.Second
	sampled         = 20 // partitions read whole
)

// TestScale fills a node with partitions and data, kills it when all of them are being written to, and looks at what it
// takes to be back, to be idle, and to have every partition written to a little.
func TestScale(t *testing.T) {
	s := chosenSizes(t)
	broker := weirproc.Start(t, weirproc.Options{DataDir: dataDir(t, s.bytes)})
	f := newFleet(broker.Addr, s.topics)
	create(t, broker, s)
	fill(t, broker, f, s)
	killLoaded(t, f, broker)
	if os.Getenv("WEIR_TEST_SCALE_KEEP") != "" {
		t.Skip("the data is kept as the kill left it")
	}
	restart(t, broker, f, s)
	idle(t, broker, s)
	dirtyAll(t, broker, f, s)
	deleteAll(t, broker, s)
}

func create(t *testing.T, broker *weirproc.Broker, s sizes) {
	c := connect(t, broker)
	names := make([]string, s.topics)
	for i := range names {
		names[i] = topicName(i)
	}
	before := broker.Usage()
	began := time.Now()
	if err := createTopics(c, names, perTopic, map[string]string{"internal.segment.bytes": fmt.Sprint(s.segmentKiB << 10)}); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	after := broker.Usage()
	t.Logf("created %d partitions in one request: %v, RSS from %d to %d MiB", s.partitions(), took.Round(time.Millisecond), before.RSS>>20, after.RSS>>20)
}

func connect(t *testing.T, broker *weirproc.Broker) *client {
	t.Helper()
	c, err := dial(broker.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// fill writes the bulk of the data, in large batches.
func fill(t *testing.T, broker *weirproc.Broker, f *fleet, s sizes) {
	rounds := max(int(s.bytes/int64(s.partitions())/loadValueBytes), 1)
	began := time.Now()
	if err := f.run(sweep{connections: 4, valueBytes: loadValueBytes, perRequest: 20, rounds: rounds}); err != nil {
		t.Fatalf("fill: %v", err)
	}
	took := time.Since(began)
	total := int64(rounds) * int64(s.partitions()) * loadValueBytes
	n, p50, p99, worst := f.percentiles()
	u := broker.Usage()
	t.Logf("filled %d MiB, %d KiB in each of %d partitions: %v, %.0f MiB/s; %d requests p50 %v p99 %v max %v; RSS %d MiB (peak %d)", total>>20,
		rounds*loadValueBytes>>10, s.partitions(), took.Round(time.Millisecond), float64(total)/(1<<20)/took.Seconds(), n, p50, p99, worst, u.RSS>>20, u.PeakRSS>>20)
}

// killLoaded kills the broker while every partition is written to.
func killLoaded(t *testing.T, f *fleet, broker *weirproc.Broker) {
	stop := make(chan struct{})
	done := make(chan error, 1)
	before := f.totalAcked()
	began := time.Now()
	go func() {
		done <- f.run(sweep{connections: 4, valueBytes: 4 << 10, perRequest: 50, stop: stop})
	}()
	time.Sleep(7 * time.Second) // longer than a tail may age, so that flushes are under way
	m := broker.Metrics()
	u, open := broker.Usage(), openFiles(t, broker)
	close(stop)
	broker.Kill()
	if err := <-done; err != nil {
		t.Fatalf("load before the kill: %v", err)
	}
	n, p50, p99, worst := f.percentiles()
	t.Logf("killed under load: %d batches of 4 KiB in %v (%d requests p50 %v p99 %v max %v), %.0f MiB unflushed, %v WAL files, RSS %d MiB, %d files open",
		f.totalAcked()-before, time.Since(began).Round(time.Millisecond), n, p50, p99, worst,
		m["weir_segment_tail_bytes"]/(1<<20), m["weir_wal_files"], u.RSS>>20, open)
}

func openFiles(t *testing.T, broker *weirproc.Broker) int {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", broker.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// restart brings the broker back, with a cold page cache if this process may empty it, and looks at the data.
func restart(t *testing.T, broker *weirproc.Broker, f *fleet, s sizes) {
	cold := dropCaches(broker.DataDir)
	mark := broker.Logs().Mark()
	if err := broker.Launch(); err != nil {
		t.Fatalf("restart after a kill: %v", err)
	}
	u := broker.Usage()
	t.Logf("restart after a kill (cold page cache: %v): ready in %v, RSS %d MiB", cold, broker.ReadyTime().Round(time.Millisecond), u.RSS>>20)
	for _, line := range broker.Logs().Since(mark) {
		if strings.Contains(line.Text, "replayed") || strings.Contains(line.Text, "partitions recovered") || strings.Contains(line.Text, "ready") {
			t.Logf("  %s", line.Text)
		}
	}
	f.requireAll(t, offsets{connect(t, broker)})
	readSamples(t, broker, f, s)
	if broker.ReadyTime() > readyMax {
		t.Errorf("restart took %v, want at most %v", broker.ReadyTime(), readyMax)
	}
}

// readSamples reads some partitions whole, and compares.
func readSamples(t *testing.T, broker *weirproc.Broker, f *fleet, s sizes) {
	seed := uint64(envInt(t, "WEIR_TEST_SCALE_SEED", int(time.Now().UnixNano()&0xffff)+1))
	t.Logf("seed of the sample: WEIR_TEST_SCALE_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range sampled {
		topic, partition := rng.IntN(s.topics), rng.IntN(perTopic)
		end := f.acked[topic][partition].Load()
		if err := readWhole(t, broker.Addr, topic, partition, end); err != nil {
			t.Errorf("%s-%d: %v", topicName(topic), partition, err)
		}
	}
}

func readWhole(t *testing.T, addr string, topic, partition int, end int64) error {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		topicName(topic): {int32(partition): kgo.NewOffset().At(0)},
	}), kgo.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx := limit(t, time.Minute)
	for next := int64(0); next < end; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("at offset %d of %d: %w", next, end, err)
		}
		for iter := fetches.RecordIter(); !iter.Done() && next < end; next++ {
			r := iter.Next()
			if r.Offset != next {
				return fmt.Errorf("offset %d where %d is next", r.Offset, next)
			}
			if err := checkValue(r.Value, topic, partition, next); err != nil {
				return fmt.Errorf("at offset %d: %w", next, err)
			}
		}
	}
	return nil
}

// idle: a node with many partitions that has nothing to do does nothing.
func idle(t *testing.T, broker *weirproc.Broker, s sizes) {
	written := broker.Usage().WriteBytes
	since := time.Now()
	took := eventually(t, 5*time.Minute, "the broker stops writing", func() bool {
		if now := broker.Usage().WriteBytes; now != written {
			written, since = now, time.Now()
		}
		return time.Since(since) > 8*time.Second
	})
	before, mBefore := broker.Usage(), broker.Metrics()
	const window = 10 * time.Second
	time.Sleep(window)
	after, mAfter := broker.Usage(), broker.Metrics()
	cpu := float64(after.CPU-before.CPU) / float64(window)
	t.Logf("idle with %d partitions (quiet after %v): RSS %d MiB, heap %.0f MiB, CPU %.2f %% of a core, %d bytes written, %d files open, %d threads, %.0f goroutines",
		s.partitions(), (took - 8*time.Second).Round(time.Second), after.RSS>>20, mAfter["go_memstats_heap_alloc_bytes"]/(1<<20), 100*cpu,
		after.WriteBytes-before.WriteBytes, openFiles(t, broker), after.Threads, mAfter["go_goroutines"])
	if after.WriteBytes != before.WriteBytes {
		t.Errorf("%d bytes written while idle", after.WriteBytes-before.WriteBytes)
	}
	for name, was := range mBefore {
		base, _, _ := strings.Cut(name, "{")
		log := strings.HasPrefix(name, "weir_wal_") || strings.HasPrefix(name, "weir_segment_") || strings.HasPrefix(name, "weir_raftmeta_")
		if log && strings.HasSuffix(base, "_total") && mAfter[name] != was {
			t.Errorf("%s went from %v to %v while idle", name, was, mAfter[name])
		}
	}
	if cpu > 0.02 {
		t.Errorf("CPU %.2f %% of a core while idle, want at most 2 %%", 100*cpu)
	}
}

// dirtyAll writes a little to every partition and waits until all of it is in segments, with a steady load meanwhile.
func dirtyAll(t *testing.T, broker *weirproc.Broker, f *fleet, s sizes) {
	before := broker.Metrics()
	began := time.Now()
	if err := f.run(sweep{connections: 4, valueBytes: smallValueBytes, perRequest: 50, rounds: 1}); err != nil {
		t.Fatal(err)
	}
	wrote := time.Since(began)
	f.percentiles()
	stop := make(chan struct{})
	done := make(chan error, 1)
	probe := newFleet(broker.Addr, 1) // one topic's partitions, one at a time
	for p := range perTopic {
		probe.sent[0][p].Store(f.sent[0][p].Load())
		probe.acked[0][p].Store(f.acked[0][p].Load())
	}
	go func() {
		done <- probe.run(sweep{connections: 1, valueBytes: 256, perRequest: 1, stop: stop, pace: 5 * time.Millisecond})
	}()
	want := before["weir_segment_flushes_total"] + float64(s.partitions()-perTopic)
	clean := eventually(t, 5*time.Minute, "all partitions are flushed", func() bool {
		return broker.Metrics()["weir_segment_flushes_total"] >= want
	})
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	after := broker.Metrics()
	n, p50, p99, worst := probe.percentiles()
	for p := range perTopic {
		f.sent[0][p].Store(probe.sent[0][p].Load())
		f.acked[0][p].Store(probe.acked[0][p].Load())
	}
	t.Logf("%d partitions written to in %v were clean %v later; one produce each 5 ms meanwhile: %d, p50 %v p99 %v max %v; %.0f checkpoints",
		s.partitions(), wrote.Round(time.Millisecond), clean.Round(time.Millisecond), n, p50, p99, worst,
		after["weir_segment_checkpoints_total"]-before["weir_segment_checkpoints_total"])
}

// deleteAll deletes every topic, kills the broker in the middle of it, and sees the rest gone after the restart.
func deleteAll(t *testing.T, broker *weirproc.Broker, s sizes) {
	c := connect(t, broker)
	names := make([]string, s.topics)
	for i := range names {
		names[i] = topicName(i)
	}
	began := time.Now()
	if err := deleteTopics(c, names...); err != nil {
		t.Fatal(err)
	}
	answered := time.Since(began)
	left := func() int {
		list, err := os.ReadDir(filepath.Join(broker.DataDir, "topics"))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, e := range list {
			if strings.HasPrefix(e.Name(), "scale-") {
				n++
			}
		}
		return n
	}
	eventually(t, 5*time.Minute, "half of the directories are gone", func() bool { return left() < s.partitions()/2 })
	half := time.Since(began)
	broker.Kill()
	atKill := left()
	if err := broker.Launch(); err != nil {
		t.Fatalf("restart in the middle of a deletion: %v", err)
	}
	rest := eventually(t, 5*time.Minute, "all directories are gone", func() bool { return left() == 0 })
	t.Logf("deletion of %d partitions: answered in %v, half gone after %v; killed with %d left, ready in %v, the rest gone %v later",
		s.partitions(), answered.Round(time.Millisecond), half.Round(time.Millisecond), atKill, broker.ReadyTime().Round(time.Millisecond), rest.Round(time.Millisecond))
}
