package replica

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/clock"
	"weir/internal/record"
	"weir/internal/vfs"
	"weir/raftmeta"
)

// compacted is the configuration of a topic whose segments are small and are compacted as soon as they are closed.
func compacted(extra map[string]string) map[string]string {
	m := map[string]string{"cleanup.policy": "compact", "internal.segment.bytes": "4096", "min.cleanable.dirty.ratio": "0.01"}
	for k, v := range extra {
		m[k] = v
	}
	return m
}

// quick is a node's configuration with which the cleaner does not wait.
func quick(extra map[string]string) map[string]string {
	m := map[string]string{"log.cleaner.backoff.ms": "0", "log.writeback.ms": "1", "log.writeback.bytes": "4096"}
	for k, v := range extra {
		m[k] = v
	}
	return m
}

func keyedBatch(t testing.TB, at time.Time, key, value string) record.Batch {
	t.Helper()
	r := record.Record{Timestamp: at.UnixMilli(), Key: []byte(key)}
	if value != "" {
		r.Value = []byte(value)
	}
	b, err := record.Build(record.NewSpec(), []record.Record{r})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// table reads a partition as a table: the last value of each key, and how many records it took.
func (n *node) table(p *Partition) (rows map[string]string, records int) {
	n.t.Helper()
	rows = map[string]string{}
	err := p.ReadAll(func(b record.Batch) error {
		return b.Each(func(r *record.Record) bool {
			records++
			if rows[string(r.Key)] = string(r.Value); r.Value == nil {
				delete(rows, string(r.Key))
			}
			return true
		})
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return rows, records
}

// fill writes n records to a few keys and returns the table that they make.
func (n *node) fill(p *Partition, records int) map[string]string {
	n.t.Helper()
	want := map[string]string{}
	var wg sync.WaitGroup
	for k := range 8 {
		key := fmt.Sprintf("k%d", k)
		last := fmt.Sprintf("%d-%s", records/8-1, strings.Repeat("x", 100))
		want[key] = last
		wg.Go(func() {
			for i := range records / 8 {
				n.mustAppend(p, keyedBatch(n.t, time.Now(), key, fmt.Sprintf("%d-%s", i, last[strings.IndexByte(last, '-')+1:])))
			}
		})
	}
	wg.Wait()
	return want
}

// untilCompacted waits until the partition has fewer than 100 records.
func (n *node) untilCompacted(t *testing.T, p *Partition) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(n.cleaner.describe(p))
		}
	})
	until(t, "compaction", func() bool { _, records := n.table(p); return records < 100 })
}

// describe is what the cleaner knows of a partition, for the one who must find out why a test failed.
func (c *cleaner) describe(p *Partition) string {
	state, err := p.log.CompactionState(c.m.clk.Now(), p.LastStable())
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.mu.logs[p]
	if l == nil {
		return "unknown to the cleaner"
	}
	return fmt.Sprintf("busy %v, again %v, looked %v, at %v, broken %v, state %+v; now it is %+v, %v; %d to look at, %d ready, %d workers, timer %v",
		l.busy, l.again, l.looked, l.at, l.broken, l.state, state, err, len(c.mu.looks), len(c.mu.ready), c.mu.workers, c.mu.at)
}

func TestCleanerWorksByItself(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir, quick(nil))
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1, Configs: compacted(nil)})
	p := n.ByName("t", 0)
	want := n.fill(p, 800)
	end := p.End()
	n.untilCompacted(t, p)
	if got, _ := n.table(p); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	n.close()
	n = openNode(t, dir, quick(nil))
	defer n.close()
	p = n.ByName("t", 0)
	if got, records := n.table(p); fmt.Sprint(got) != fmt.Sprint(want) || p.End() != end || records > 100 {
		t.Errorf("after restart: %d records up to %d, %v, want up to %d, %v", records, p.End(), got, end, want)
	}
}

// A topic that becomes compacted is, at once; one that is not is left alone.
func TestCleanerFollowsTheConfiguration(t *testing.T) {
	n := openNode(t, t.TempDir(), quick(nil))
	defer n.close()
	plain := compacted(map[string]string{"cleanup.policy": "delete"})
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1, Configs: plain})
	p := n.ByName("t", 0)
	want := n.fill(p, 400)
	if _, records := n.table(p); records != 400 {
		t.Fatalf("%d records, want 400", records)
	}
	topic := *n.meta.Image().Topic("t")
	topic.Configs = compacted(nil)
	n.changeTopic(&topic)
	n.untilCompacted(t, p)
	if got, _ := n.table(p); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Time alone brings compaction about: the open segment of a log that nobody writes to any more is closed and compacted when its records are old
// enough, and tombstones go when their time is over.
func TestCleanerKeepsDeadlines(t *testing.T) {
	n := openNode(t, t.TempDir(), quick(nil))
	defer n.close()
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1, Configs: compacted(map[string]string{
		"min.cleanable.dirty.ratio": "1", "max.compaction.lag.ms": "50", "delete.retention.ms": "50",
	})})
	p := n.ByName("t", 0)
	for range 3 { // and again, when it has run out of deadlines
		n.mustAppend(p, keyedBatch(t, time.Now(), "a", "1"))
		n.mustAppend(p, keyedBatch(t, time.Now(), "a", "2"))
		n.mustAppend(p, keyedBatch(t, time.Now(), "b", "1"))
		n.mustAppend(p, keyedBatch(t, time.Now(), "b", ""))
		until(t, "compaction of everything", func() bool {
			rows, records := n.table(p)
			return records == 1 && rows["a"] == "2"
		})
	}
	if p.End() != 12 {
		t.Errorf("the log ends at %d, want 12", p.End())
	}
}

// Damage in one log stops that one, says so, and leaves the others alone.
func TestCleanerLeavesADamagedLogAlone(t *testing.T) {
	mem := vfs.NewMem()
	n := openNodeOn(t, mem, "/node", quick(map[string]string{"io.engine": "portable", "log.cleaner.enable": "false"}))
	n.propose(raftmeta.CreateTopic{Name: "bad", Partitions: 1, Configs: compacted(nil)},
		raftmeta.CreateTopic{Name: "good", Partitions: 1, Configs: compacted(nil)})
	bad := n.ByName("bad", 0)
	n.fill(bad, 200)
	want := n.fill(n.ByName("good", 0), 200)
	dir := filepath.Join("/node/topics", bad.log.Dir())
	n.close()
	f, err := mem.OpenFile(filepath.Join(dir, "00000000000000000000.log"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xEE}, 100); err != nil {
		t.Fatal(err)
	}
	n = openNodeOn(t, mem, "/node", quick(map[string]string{"io.engine": "portable"}))
	defer n.close()
	good := n.ByName("good", 0)
	until(t, "one broken log and one compacted", func() bool {
		_, records := n.table(good)
		return n.cleaner.uncleanable() == 1 && records < 100
	})
	if got, _ := n.table(good); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	bad = n.ByName("bad", 0)
	if n.Failure() != nil {
		t.Errorf("damage in one log ended the node: %v", n.Failure())
	}
	n.cleaner.changed(bad) // does nothing any more
	if got := n.cleaner.uncleanable(); got != 1 {
		t.Errorf("%v logs cannot be compacted, want 1", got)
	}
}

// An idempotent producer goes on after its batches were compacted away and the node has forgotten all but the log.
func TestProducersSurviveCompaction(t *testing.T) {
	mem := vfs.NewMem()
	extra := quick(map[string]string{"io.engine": "portable"})
	n := openNodeOn(t, mem, "/node", extra)
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1, Configs: compacted(nil)})
	p := n.ByName("t", 0)
	spec := record.NewSpec()
	spec.ProducerID, spec.ProducerEpoch = 7, 2
	send := func(sequence int32) *Append {
		spec.BaseSequence = sequence
		b, err := record.Build(spec, []record.Record{{Timestamp: time.Now().UnixMilli(), Key: []byte("k0"), Value: []byte("mine")}})
		if err != nil {
			t.Fatal(err)
		}
		return n.append(p, b)
	}
	for sequence := range int32(3) {
		if a := send(sequence); a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	n.fill(p, 400) // k0 is among the keys
	n.untilCompacted(t, p)
	dir := filepath.Join("/node/topics", p.log.Dir())
	n.close()
	list, err := mem.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if strings.HasSuffix(e.Name(), snapshotSuffix) {
			if err := mem.Remove(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	n = openNodeOn(t, mem, "/node", extra)
	defer n.close()
	p = n.ByName("t", 0)
	if a := send(2); a.Err != nil || a.BaseOffset != 2 {
		t.Errorf("a retry of the last batch: offset %d, %v, want 2", a.BaseOffset, a.Err)
	}
	if a := send(9); a.Err == nil {
		t.Error("a gap in the sequence numbers was not noticed")
	}
	if a := send(3); a.Err != nil {
		t.Error(a.Err)
	}
}

// Deleting topics and stopping the node in the middle of runs.
func TestCleanerUnderDeletionAndShutdown(t *testing.T) {
	mem := vfs.NewMem()
	for round := range 5 {
		n := openNodeOn(t, mem, "/node", quick(map[string]string{"io.engine": "portable", "log.cleaner.threads": "2", "log.cleaner.io.max.bytes.per.second": "200000"}))
		names := []string{fmt.Sprintf("a%d", round), fmt.Sprintf("b%d", round)}
		for _, name := range names {
			n.propose(raftmeta.CreateTopic{Name: name, Partitions: 2, Configs: compacted(nil)})
			n.fill(n.ByName(name, 0), 160)
			n.fill(n.ByName(name, 1), 160)
		}
		n.propose(raftmeta.DeleteTopic{Name: names[0], ID: n.meta.Image().Topic(names[0]).ID})
		n.close()
	}
}

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(clock.Real{}, 1000)
		began := time.Now()
		for range 10 {
			if err := th.wait(t.Context(), 500); err != nil {
				t.Fatal(err)
			}
		}
		// Each byte takes 1 ms; the last 500 are let through when those before them have had their time.
		if got, want := time.Since(began), 4500*time.Millisecond-throttleBurst; got != want {
			t.Errorf("5000 bytes took %v, want %v", got, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := th.wait(ctx, 1); err == nil {
			t.Error("waiting did not end with its context")
		}
	})
}

// A log whose run failed for lack of room is tried again when there is some.
func TestCleanerTriesAgainWhenThereIsRoom(t *testing.T) {
	mem := vfs.NewMem()
	n := openNodeOn(t, mem, "/node", quick(map[string]string{"io.engine": "portable", "log.cleaner.backoff.ms": "20"}))
	defer n.close()
	var full sync.Map
	mem.SetHook(func(op, name string, _ int64, _ int) error {
		if _, on := full.Load("on"); on && strings.HasSuffix(name, ".cleaned") && op != "remove" {
			full.Store("met", true)
			return syscall.ENOSPC
		}
		return nil
	})
	full.Store("on", true)
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1, Configs: compacted(nil)})
	p := n.ByName("t", 0)
	want := n.fill(p, 200)
	until(t, "a run to meet the full disk", func() bool { _, met := full.Load("met"); return met })
	if n.Failure() != nil {
		t.Fatalf("a full disk ended the node: %v", n.Failure())
	}
	full.Delete("on")
	n.untilCompacted(t, p)
	if got, _ := n.table(p); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if n.cleaner.uncleanable() != 0 {
		t.Error("the log counts as uncleanable")
	}
}
