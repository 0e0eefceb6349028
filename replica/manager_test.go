package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weir/internal/clock"
	"weir/internal/config"
	"weir/internal/record"
	"weir/internal/vfs"
	"weir/raftmeta"
	"weir/uring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a metadata store and a manager over one directory.
type node struct {
	t    testing.TB
	dir  string
	meta *raftmeta.Meta
	*Manager
}

// openNode starts a node; extra is added to its configuration.
func openNode(t testing.TB, dir string, extra map[string]string) *node {
	t.Helper()
	return openNodeOn(t, vfs.OS{}, dir, extra)
}

// openNodeOn is openNode on a file system of the test.
func openNodeOn(t testing.TB, disk vfs.FS, dir string, extra map[string]string) *node {
	t.Helper()
	return openNodeClocked(t, disk, dir, extra, clock.Real{})
}

func openNodeClocked(t testing.TB, disk vfs.FS, dir string, extra map[string]string, clk clock.Clock) *node {
	t.Helper()
	values := map[string]string{
		"data-dir": dir, "wal.file.bytes": "1048576", "wal.max.bytes": "8388608", "wal.group.max.bytes": "262144", "log.dir.stall.ms": "20000",
	}
	for k, v := range extra {
		values[k] = v
	}
	cfg, err := config.LoadBroker(values)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	log := slog.New(slog.DiscardHandler)
	fs := disk
	n := &node{t: t, dir: dir}
	n.meta, err = raftmeta.Open(raftmeta.Options{FS: fs, Dir: filepath.Join(dir, "meta"), NodeID: cfg.NodeID, Logger: log,
		StoreTimeout: 20 * time.Second, Ring: uring.Options{Backend: extra["io.engine"]}})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.meta.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if n.meta.Image().Broker(cfg.NodeID) == nil {
		n.propose(raftmeta.RegisterBroker{ID: cfg.NodeID, Host: "127.0.0.1", Port: 9092})
	}
	n.Manager, err = Open(Options{FS: fs, Config: cfg, Meta: n.meta, Clock: clk, Logger: log})
	if err != nil {
		n.meta.Close()
		t.Fatal(err)
	}
	return n
}

func (n *node) propose(cmds ...raftmeta.Command) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	results, err := n.meta.Propose(ctx, cmds...)
	for _, r := range results {
		err = errors.Join(err, r.Err)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) close() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := errors.Join(n.Manager.Close(ctx), n.meta.Close()); err != nil {
		n.t.Fatal(err)
	}
}

// append writes one batch and waits for its result.
func (n *node) append(p *Partition, b record.Batch) *Append {
	n.t.Helper()
	if err := n.Reserve(len(b), 10*time.Second); err != nil {
		n.t.Fatal(err)
	}
	done := make(chan struct{})
	a := &Append{Batch: b, Done: func(*Append) { close(done) }}
	p.Append(a)
	<-done
	return a
}

func (n *node) mustAppend(p *Partition, b record.Batch) int64 {
	n.t.Helper()
	a := n.append(p, b)
	if a.Err != nil {
		n.t.Fatal(a.Err)
	}
	return a.BaseOffset
}

// values reads the values of a whole partition the way a coordinator does.
func (n *node) values(p *Partition) []string {
	n.t.Helper()
	var got []string
	err := p.ReadAll(func(b record.Batch) error {
		return b.Each(func(r *record.Record) bool {
			if int(r.Offset) != len(got) {
				n.t.Fatalf("offset %d follows %d records", r.Offset, len(got))
			}
			got = append(got, string(r.Value))
			return true
		})
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return got
}

func valueBatch(t testing.TB, value string) record.Batch {
	t.Helper()
	b, err := record.Build(record.NewSpec(), []record.Record{{Timestamp: time.Now().UnixMilli(), Value: []byte(value)}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAppendReadRestart writes from many goroutines to several partitions, reads, restarts, and reads again.
func TestAppendReadRestart(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir, nil)
	n.propose(raftmeta.CreateTopic{Name: "orders", Partitions: 3})
	const writers, each = 8, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				p := n.ByName("orders", int32((w+i)%3))
				n.mustAppend(p, valueBatch(t, fmt.Sprintf("%d-%d-%s", w, i, bytes.Repeat([]byte{'x'}, i*100))))
			}
		})
	}
	wg.Wait()
	before := map[int32][]string{}
	total := 0
	for i := range int32(3) {
		p := n.ByName("orders", i)
		before[i] = n.values(p)
		total += len(before[i])
		if p.HighWatermark() != p.End() || p.LogStart() != 0 {
			t.Errorf("partition %d: start %d, high watermark %d, end %d", i, p.LogStart(), p.HighWatermark(), p.End())
		}
	}
	if total != writers*each {
		t.Fatalf("%d records, want %d", total, writers*each)
	}
	n.close()

	n = openNode(t, dir, nil)
	defer n.close()
	for i, want := range before {
		if got := n.values(n.ByName("orders", i)); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("partition %d after restart: %d records differ from %d before", i, len(got), len(want))
		}
	}
	if off := n.mustAppend(n.ByName("orders", 0), valueBatch(t, "more")); off != int64(len(before[0])) {
		t.Errorf("offset after restart %d, want %d", off, len(before[0]))
	}
}

// TestRetryAcrossRestart: an idempotent producer whose acknowledgement was lost sends again after the broker restarted.
func TestRetryAcrossRestart(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir, nil)
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	for seq := range int32(3) {
		n.mustAppend(n.ByName("t", 0), batchOf(t, 0, 77, 0, seq, 1))
	}
	n.close()
	n = openNode(t, dir, nil)
	defer n.close()
	p := n.ByName("t", 0)
	if a := n.append(p, batchOf(t, 0, 77, 0, 1, 1)); a.Err != nil || a.BaseOffset != 1 {
		t.Errorf("retry: offset %d, err %v, want the original's 1", a.BaseOffset, a.Err)
	}
	if p.End() != 3 {
		t.Errorf("end %d, want 3: the retry was written again", p.End())
	}
	if a := n.append(p, batchOf(t, 0, 77, 0, 5, 1)); !errors.Is(a.Err, ErrOutOfOrder) {
		t.Errorf("gap: %v, want ErrOutOfOrder", a.Err)
	}
	if off := n.mustAppend(p, batchOf(t, 0, 77, 0, 3, 1)); off != 3 {
		t.Errorf("next: offset %d, want 3", off)
	}
}

// TestConcurrentRetries sends the same batch many times at once: all get the same offset, none before it is durable, and one
// copy is stored.
func TestConcurrentRetries(t *testing.T) {
	n := openNode(t, t.TempDir(), nil)
	defer n.close()
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	p := n.ByName("t", 0)
	for seq := range int32(20) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				a := n.append(p, batchOf(t, 0, 5, 0, seq, 1))
				if a.Err != nil || a.BaseOffset != int64(seq) {
					t.Errorf("sequence %d: offset %d, err %v", seq, a.BaseOffset, a.Err)
				}
				if hw := p.HighWatermark(); hw <= a.BaseOffset {
					t.Errorf("sequence %d acknowledged at high watermark %d", seq, hw)
				}
			})
		}
		wg.Wait()
	}
	if p.End() != 20 {
		t.Errorf("end %d, want 20", p.End())
	}
}

func TestAppendLimits(t *testing.T) {
	n := openNode(t, t.TempDir(), nil)
	defer n.close()
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1, Configs: map[string]string{
		"max.message.bytes": "200", "message.timestamp.after.max.ms": "1000", "message.timestamp.before.max.ms": "1000",
	}})
	p := n.ByName("t", 0)
	at := func(d time.Duration) record.Batch {
		b, err := record.Build(record.NewSpec(), []record.Record{{Timestamp: time.Now().Add(d).UnixMilli()}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		what string
		b    record.Batch
		err  error
	}{
		{"too large", valueBatch(t, string(make([]byte, 200))), ErrTooLarge},
		{"from the future", at(time.Hour), ErrTimestamp},
		{"from the past", at(-time.Hour), ErrTimestamp},
	} {
		if err := p.Validate(c.b); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.what, err, c.err)
		}
	}
	// The broker's own records have no timestamps to be checked, but their size counts.
	if a := n.append(p, valueBatch(t, string(make([]byte, 200)))); !errors.Is(a.Err, ErrTooLarge) {
		t.Errorf("append: %v, want ErrTooLarge", a.Err)
	}
	if p.End() != 0 {
		t.Errorf("end %d: a refused batch was stored", p.End())
	}
}

func TestLogAppendTime(t *testing.T) {
	n := openNode(t, t.TempDir(), nil)
	defer n.close()
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1, Configs: map[string]string{"message.timestamp.type": "LogAppendTime"}})
	p := n.ByName("t", 0)
	before := time.Now().UnixMilli()
	a := n.append(p, batchOf(t, 0, record.NoProducerID, -1, -1, 2))
	if a.Err != nil || a.LogAppendTime < before {
		t.Fatalf("stamped %d, began at %d, err %v", a.LogAppendTime, before, a.Err)
	}
	err := p.ReadAll(func(b record.Batch) error {
		return b.Each(func(r *record.Record) bool {
			if r.Timestamp != a.LogAppendTime {
				t.Errorf("record %d has timestamp %d, want %d", r.Offset, r.Timestamp, a.LogAppendTime)
			}
			return true
		})
	})
	if err != nil {
		t.Error(err)
	}
}

// TestDeleteTopic: appends are refused, waiters are woken, the directory goes, and a new topic of that name begins empty.
func TestDeleteTopic(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir, nil)
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	old := n.ByName("t", 0)
	n.mustAppend(old, valueBatch(t, "old"))
	woken := make(chan struct{}, 8)
	w := Waiter{Wake: func() { woken <- struct{}{} }}
	old.Wait(&w)
	n.propose(raftmeta.DeleteTopic{Name: "t"})
	<-woken
	w.Stop()
	if a := n.append(old, valueBatch(t, "late")); !errors.Is(a.Err, ErrNotHere) {
		t.Errorf("append to a deleted partition: %v, want ErrNotHere", a.Err)
	}
	if n.ByName("t", 0) != nil || n.Partition(old.TopicID(), 0) != nil {
		t.Error("deleted partition is still found")
	}
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	n.mustAppend(n.ByName("t", 0), valueBatch(t, "new"))
	n.close()

	n = openNode(t, dir, nil)
	if got := n.values(n.ByName("t", 0)); len(got) != 1 || got[0] != "new" {
		t.Errorf("after restart: %q, want the new topic's record alone", got)
	}
	n.close()
	entries, err := os.ReadDir(filepath.Join(dir, "topics"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() == dirName("t", 0, old.TopicID()) {
			t.Errorf("directory %s of the deleted topic is still there", e.Name())
		}
	}
}

// TestOrphanDirectory: a directory that a crash kept from being deleted goes at the next start; other things stay.
func TestOrphanDirectory(t *testing.T) {
	dir := t.TempDir()
	orphan := filepath.Join(dir, "topics", dirName("gone", 0, [16]byte{1}))
	foreign := filepath.Join(dir, "topics", "lost+found")
	for _, d := range []string{foreign, orphan} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		openNode(t, dir, nil).close() // waits for the deletion
	}
	if _, err := os.Stat(orphan); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("orphan: %v, want it gone", err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("foreign directory: %v", err)
	}
}

// TestCrashAgainAndAgain: a node that crashes after each few records neither loses one nor runs out of WAL files, although each
// life begins a new file, and although most of what is replayed is in the segments already or of a topic that is gone.
func TestCrashAgainAndAgain(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(uint64(seed), 0))
	extra := map[string]string{"io.engine": "portable", "wal.max.bytes": "4194304"}
	disk := vfs.NewMem()
	var want []string
	for life := range 20 {
		n := openNodeOn(t, disk, "/data", extra)
		if life == 0 {
			n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1}, raftmeta.CreateTopic{Name: "gone", Partitions: 1})
			n.mustAppend(n.ByName("gone", 0), valueBatch(t, "x"))
			n.propose(raftmeta.DeleteTopic{Name: "gone"})
		}
		p := n.ByName("t", 0)
		if got := n.values(p); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("life %d: %q, want %q", life, got, want)
		}
		if life%3 != 2 {
			want = append(want, fmt.Sprint(life))
			n.mustAppend(p, valueBatch(t, want[len(want)-1]))
		}
		if life%2 == 0 {
			if err := n.store.FlushAll(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		next := disk.CrashClone(rng, rng.Float64())
		n.close()
		disk = next
	}
}

// TestSnapshotWaitsForDurability: a producer snapshot of records that are not durable yet is not written. Were it written, a crash could undo
// the records, others could take their offsets, and the next restart would believe the snapshot: a retry would be stored twice.
func TestSnapshotWaitsForDurability(t *testing.T) {
	disk := vfs.NewMem()
	n := openNodeOn(t, disk, "/data", map[string]string{"io.engine": "portable"})
	defer n.close()
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	p := n.ByName("t", 0)
	n.mustAppend(p, batchOf(t, 0, 7, 0, 0, 1))
	release := make(chan struct{})
	stalled := make(chan struct{}, 64)
	disk.SetHook(func(op, name string, _ int64, _ int) error {
		if op == "write" && strings.HasPrefix(name, "/data/wal/") {
			stalled <- struct{}{}
			<-release
		}
		return nil
	})
	acked, written := make(chan struct{}), make(chan struct{})
	go func() {
		n.mustAppend(p, batchOf(t, 0, 7, 0, 1, 1))
		close(acked)
	}()
	<-stalled
	go func() {
		p.writeSnapshot()
		close(written)
	}()
	for p.waitersForTest() == 0 { // until it waits
		select {
		case <-written:
			t.Fatal("snapshot of a record that is not durable was written")
		default:
			runtime.Gosched()
		}
	}
	if names, err := p.log.ListSide(snapshotSuffix); err != nil || len(names) != 0 {
		t.Errorf("snapshots %v, err %v while the record is not durable", names, err)
	}
	close(release)
	<-acked
	<-written
	if names, err := p.log.ListSide(snapshotSuffix); err != nil || len(names) != 1 || names[0] != snapshotName(2) {
		t.Errorf("snapshots %v, err %v, want one at offset 2", names, err)
	}
}

// waitersForTest counts the registered waiters.
func (p *Partition) waitersForTest() (n int) {
	for _, l := range []*waiterList{&p.waiters, &p.followers} {
		l.mu.Lock()
		for w := l.mu.head; w != nil; w = w.next {
			n++
		}
		l.mu.Unlock()
	}
	return n
}
