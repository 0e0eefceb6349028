package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"weir/internal/pace"
	"weir/internal/record"
	"weir/internal/vfs"
)

// opCounts counts what a store asks of its file system, below the data directory and apart from the checkpoint.
type opCounts struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *opCounts) hook(op, name string, _ int64, _ int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	if strings.Contains(name, checkpointFile) {
		op = "checkpoint " + op
	}
	c.n[op]++
	return nil
}

func (c *opCounts) of(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[op]
}

func manyLogs(t testing.TB, s *Store, n int, c *Config) []*writer {
	t.Helper()
	ws := make([]*writer, n)
	for i := range ws {
		ws[i] = newWriter(t, openLog(t, s, fmt.Sprintf("t-%d", i), c))
		ws[i].lsn = uint64(1000 + i)
	}
	return ws
}

func requireFlushed(t testing.TB, ws []*writer) {
	t.Helper()
	for _, w := range ws {
		if w.l.Flushed() != w.l.End() {
			t.Fatalf("%s is flushed up to %d of %d", w.l.Dir(), w.l.Flushed(), w.l.End())
		}
	}
}

// knownFast is the pace of a disk that is known to be fast.
func knownFast() *pace.Pace {
	p := pace.New(newSlowDisk(0), nil) // its clock stands still
	for p.Limit() < pace.BytesMax {
		step, _ := p.Begin(pace.BytesMax, nil)
		step.End(nil)
	}
	return p
}

// TestGroupIsSyncedOnce: many logs with a little each cost a sync of everything for each group, and none for each log.
func TestGroupIsSyncedOnce(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	o.Flushers, o.OpenFilesMax = 1, 2*groupLogs
	o.Pace = knownFast()
	s := openStore(t, o)
	const logs = groupLogs + 100
	ws := manyLogs(t, s, logs, defaultConfig())
	for _, w := range ws {
		w.add(1, 100, 0)
	}
	var ops opCounts
	fs.SetHook(ops.hook)
	flushAll(t, s)
	fs.SetHook(nil)
	requireFlushed(t, ws)
	if n := ops.of("syncfs"); n != 2 {
		t.Errorf("%d syncs of the file system for %d logs, want 2", n, logs)
	}
	if n := ops.of("datasync") + ops.of("sync") + ops.of("syncdir"); n > 4 {
		t.Errorf("%d other syncs: %v", n, ops.n)
	}
	for _, w := range ws[:50] {
		if got := readFS(t, fs, segFile(w.l.Dir(), 0, logSuffix)); !bytes.Equal(got, w.want) {
			t.Fatalf("the file of %s differs", w.l.Dir())
		}
	}
}

// TestFewLogsAreSyncedAlone: a sync of everything waits for everybody's writes, and is not worth that for a few logs.
func TestFewLogsAreSyncedAlone(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	s := openStore(t, o)
	ws := manyLogs(t, s, wholeSyncWorth-1, defaultConfig())
	for _, w := range ws {
		w.add(1, 100, 0)
	}
	var ops opCounts
	fs.SetHook(ops.hook)
	flushAll(t, s)
	fs.SetHook(nil)
	requireFlushed(t, ws)
	if ops.of("syncfs") != 0 || ops.of("datasync") != len(ws) {
		t.Errorf("%d syncs of the file system and %d of files, want none and %d", ops.of("syncfs"), ops.of("datasync"), len(ws))
	}
}

// TestGroupFaults: whatever fails in a group, what counts as flushed is durable, and a failed disk is noticed.
func TestGroupFaults(t *testing.T) {
	const logs = 40
	is := func(op string) func(string, string) bool { return func(o, _ string) bool { return o == op } }
	at := func(op, part string) func(string, string) bool {
		return func(o, name string) bool { return o == op && strings.Contains(name, part) }
	}
	for _, c := range []struct {
		name  string
		fails func(op, name string) bool
		err   error
		final bool // the store must fail
		full  bool // the data must wait for room
	}{
		{name: "sync of everything, files are good", fails: is("syncfs"), err: syscall.EIO},
		{name: "sync of everything, no room for somebody else", fails: is("syncfs"), err: syscall.ENOSPC},
		{name: "sync of everything and of a file", fails: func(o, n string) bool { return o == "syncfs" || at("datasync", "/t-7/")(o, n) }, err: syscall.EIO, final: true},
		{name: "sync of everything and of a new directory", fails: func(o, n string) bool { return o == "syncfs" || o == "syncdir" && strings.HasSuffix(n, "/t-7") }, err: syscall.EIO, final: true},
		{name: "sync of everything and of the data directory", fails: func(o, n string) bool { return o == "syncfs" || o == "syncdir" && n == testDir }, err: syscall.EIO, final: true},
		{name: "write-back of a file", fails: at("writeback", "/t-7/"), err: syscall.EIO, final: true},
		{name: "no room for the write-back of a file", fails: at("writeback", "/t-7/"), err: syscall.ENOSPC, full: true},
		{name: "write", fails: at("write", "/t-7/"), err: syscall.EIO, final: true},
		{name: "no room for a write", fails: at("write", "/t-7/"), err: syscall.ENOSPC, full: true},
		{name: "open", fails: at("open", "/t-7/"), err: syscall.EIO, final: true},
		{name: "no room for a directory", fails: at("mkdirall", "/t-7"), err: syscall.ENOSPC, full: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := vfs.NewMem()
			o, _ := testOptions(fs)
			s := openStore(t, o)
			ws := manyLogs(t, s, logs, defaultConfig())
			for _, w := range ws {
				w.add(1, 100, 0)
			}
			var on atomic.Bool
			on.Store(true)
			fs.SetHook(func(op, name string, _ int64, _ int) error {
				if on.Load() && c.fails(op, name) {
					return c.err
				}
				return nil
			})
			err := s.FlushAll(context.Background())
			switch {
			case c.final:
				if !errors.Is(err, ErrFailed) || !errors.Is(err, c.err) {
					t.Fatalf("FlushAll: %v, want ErrFailed with %v", err, c.err)
				}
			case c.full:
				if !errors.Is(err, ErrNoSpace) || s.Failed() != nil {
					t.Fatalf("FlushAll: %v, failed %v, want ErrNoSpace", err, s.Failed())
				}
				on.Store(false)
				s.Kick()
				flushAll(t, s)
				requireFlushed(t, ws)
			case err != nil:
				t.Fatalf("FlushAll: %v", err)
			default:
				requireFlushed(t, ws)
			}
			fs.SetHook(nil)
			clone := fs.CrashClone(rand.New(rand.NewPCG(1, 1)), 0)
			for _, w := range ws {
				if w.l.Flushed() == 0 {
					continue
				}
				if got := readFS(t, clone, segFile(w.l.Dir(), 0, logSuffix)); !bytes.Equal(got, w.want) {
					t.Errorf("%s counts as flushed and is not there after a crash", w.l.Dir())
				}
			}
		})
	}
}

// TestLateWholeSync: a sync of everything that hangs is given up; it is not tried again soon, and what the logs need goes on without it.
func TestLateWholeSync(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	o.IOTimeout = 400 * time.Millisecond
	s := openStore(t, o)
	ws := manyLogs(t, s, 30, defaultConfig())
	release := make(chan struct{})
	var ops opCounts
	fs.SetHook(func(op, name string, off int64, n int) error {
		_ = ops.hook(op, name, off, n)
		if op == "syncfs" {
			<-release
		}
		return nil
	})
	for range 2 {
		for _, w := range ws {
			w.add(1, 100, 0)
		}
		flushAll(t, s)
		requireFlushed(t, ws)
	}
	if n := ops.of("syncfs"); n != 1 {
		t.Errorf("the sync that hangs was tried %d times", n)
	}
	if err := s.Failed(); err != nil {
		t.Errorf("the store failed: %v", err)
	}
	close(release)
}

// TestGroupCrash loses power at random places while many logs are flushed in groups, and checks that files and WAL together have all
// that was committed, and the files all that the WAL was told to release.
func TestGroupCrash(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("WEIR_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("WEIR_SEED=%d", seed)
	for round := range uint64(10) {
		groupCrashOnce(t, rand.New(rand.NewPCG(seed, round)))
	}
}

// crashPoint is what a crash left, and what the WAL had been told before it.
type crashPoint struct {
	fs      *vfs.MemFS
	release uint64
}

func groupCrashOnce(t *testing.T, rng *rand.Rand) {
	fs := vfs.NewMem()
	o, ev := testOptions(fs)
	c := defaultConfig()
	c.SegmentBytes = 1500
	s := openStore(t, o)
	ws := manyLogs(t, s, 50, c)
	batches := make([][]record.Batch, len(ws))
	lsns := make([][]uint64, len(ws))
	var mu sync.Mutex // of rng and points, from the hook on
	var points []crashPoint
	fail := rng.IntN(3) == 0
	fs.SetHook(func(op, _ string, _ int64, _ int) error {
		mu.Lock()
		defer mu.Unlock()
		if rng.IntN(40) == 0 && len(points) < 12 {
			bound, _ := ev.lastFlushed()
			points = append(points, crashPoint{fs.CrashClone(rng, []float64{0, 0.5, 1}[rng.IntN(3)]), bound})
		}
		if fail && op == "syncfs" && rng.IntN(2) == 0 {
			return syscall.EIO
		}
		return nil
	})
	lsn := uint64(1)
	for range 4 {
		for i, w := range ws {
			mu.Lock()
			n, size := rng.IntN(3), rng.IntN(600)
			mu.Unlock()
			for range n {
				w.lsn = lsn
				batches[i] = append(batches[i], w.add(1, size, 0))
				lsns[i] = append(lsns[i], w.lsn)
				lsn = w.lsn + 1
			}
		}
		flushAll(t, s)
	}
	fs.SetHook(nil)
	closeStore(t, s)
	for _, p := range points {
		o, _ := testOptions(p.fs)
		s := openStore(t, o)
		for i := range ws {
			l := openLog(t, s, fmt.Sprintf("t-%d", i), c)
			from := len(batches[i]) // the first that the WAL still has
			for j, at := range lsns[i] {
				if at >= p.release {
					from = j
					break
				}
			}
			if released := int64(from); l.End() < released {
				t.Fatalf("%s ends at %d after a crash; the WAL was told that %d is safe", l.Dir(), l.End(), released)
			}
			for j := from; j < len(batches[i]); j++ {
				if err := l.Recovered(batches[i][j], lsns[i][j]); err != nil {
					t.Fatal(err)
				}
			}
			var want []byte
			for _, b := range batches[i] {
				want = append(want, b...)
			}
			if got := readAll(t, l, 0, l.End(), 1<<20); !bytes.Equal(got, want) {
				t.Fatalf("%s has %d bytes after a crash and the WAL, want %d", l.Dir(), len(got), len(want))
			}
		}
		closeStore(t, s)
	}
}

// TestAgeRoundsRest: after a round that took long the next one keeps its distance, so that the disk is the WAL's most of the time.
func TestAgeRoundsRest(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	c := &handClock{now: time.UnixMilli(1e9)}
	o.Clock, o.FlushAge, o.Flushers = c, 5*time.Second, 1
	flushed := make(chan uint64, 10)
	o.OnFlushed = func(lsn uint64, _ bool) { flushed <- lsn }
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "a-0", defaultConfig()))
	w.add(1, 10, 0)
	took := make(chan struct{})
	fs.SetHook(func(op, _ string, _ int64, _ int) error {
		if op == "datasync" {
			<-took
		}
		return nil
	})
	c.advance(5 * time.Second)
	c.mu.Lock()
	c.now = c.now.Add(2 * time.Second) // the round takes two seconds: it rests for eighteen
	c.mu.Unlock()
	close(took)
	<-flushed
	fs.SetHook(nil)
	// The end of the round is when the flusher says so, which is after the checkpoint.
	for s.flusher.busy() {
		time.Sleep(time.Millisecond)
	}
	w.add(1, 10, 0)
	c.advance(17 * time.Second)
	if w.l.Flushed() != 1 {
		t.Errorf("flushed up to %d before the rest was over", w.l.Flushed())
	}
	c.advance(time.Second)
	<-flushed
	if w.l.Flushed() != 2 {
		t.Errorf("flushed up to %d after the rest, want 2", w.l.Flushed())
	}
}

// busy reports whether a round is under way.
func (f *flusher) busy() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.running > 0 || f.mu.cpBusy || !f.mu.began.IsZero()
}

// TestSlowFlusherIsBackpressure: while the disk takes nothing, reservations stop at the bound and nothing grows; when it takes
// again, everybody gets on and everything arrives.
func TestSlowFlusherIsBackpressure(t *testing.T) {
	const limit = 64 << 10
	fs := vfs.NewMem()
	o, ev := testOptions(fs)
	o.TailBytesMax, o.IOTimeout = limit, time.Minute
	s := openStore(t, o)
	ws := manyLogs(t, s, 100, defaultConfig())
	gate := make(chan struct{})
	var open atomic.Bool
	fs.SetHook(func(op, _ string, _ int64, _ int) error {
		if !open.Load() && (op == "write" || op == "datasync" || op == "syncfs") {
			<-gate
		}
		return nil
	})
	var most atomic.Int64
	var producers sync.WaitGroup
	blocked := make(chan struct{}, 1)
	for i, w := range ws {
		producers.Go(func() {
			for range 30 {
				if i == 0 && s.budget.pressed() {
					select {
					case blocked <- struct{}{}:
					default:
					}
				}
				w.add(1, 200, 0)
				most.Store(max(most.Load(), s.TailBytes()))
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	waited := make(chan error, 1)
	for s.budget.fits(1 << 10) {
		time.Sleep(time.Millisecond) // until the producers have filled it
	}
	go func() { waited <- s.Reserve(ctx, 1<<10) }()
	cancel()
	if err := <-waited; !errors.Is(err, ErrTailFull) {
		t.Errorf("a reservation given up while the flusher hangs: %v, want ErrTailFull", err)
	}
	open.Store(true)
	close(gate)
	producers.Wait()
	flushAll(t, s)
	requireFlushed(t, ws)
	if n := most.Load(); n > limit {
		t.Errorf("%d bytes were in memory, at most %d are allowed", n, limit)
	}
	for s.TailBytes() != 0 { // given back right after the flushed offset has risen
		time.Sleep(time.Millisecond)
	}
	if len(ev.errs) > 0 || s.Failed() != nil {
		t.Errorf("errors %v, failed %v", ev.errs, s.Failed())
	}
}

func (b *budget) fits(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fitsLocked(n)
}

// TestFewDescriptors: with fewer descriptors than logs the store closes files to open others, and nothing fails.
func TestFewDescriptors(t *testing.T) {
	const allowed = 40
	fs := vfs.NewMem()
	o, ev := testOptions(fs)
	o.OpenFilesMax = 60
	s := openStore(t, o)
	var count atomic.Int64
	fs.SetHook(func(op, _ string, _ int64, _ int) error {
		switch op {
		case "open":
			if count.Add(1) > allowed {
				count.Add(-1)
				return syscall.EMFILE
			}
		case "close":
			count.Add(-1)
		}
		return nil
	})
	ws := manyLogs(t, s, 150, defaultConfig())
	for _, w := range ws {
		w.add(1, 100, 0)
	}
	flushAll(t, s)
	for _, w := range ws {
		w.add(1, 100, 0)
	}
	flushAll(t, s)
	if n := count.Load(); n > allowed || n < 1 {
		t.Errorf("%d files are open", n)
	}
	if len(ev.errs) > 0 || s.Failed() != nil {
		t.Errorf("errors %v, failed %v", ev.errs, s.Failed())
	}
	requireFlushed(t, ws)
	for _, w := range ws {
		if got := readAll(t, w.l, 0, w.l.End(), 1<<20); !bytes.Equal(got, w.want) {
			t.Fatalf("%s differs", w.l.Dir())
		}
	}
}

// TestRemoveManyLogs: a deletion of many logs is a few syncs and a few goroutines, and what a crash interrupts the next start finishes.
func TestRemoveManyLogs(t *testing.T) {
	const logs = 2*removeBatch + 10
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	s := openStore(t, o)
	ws := manyLogs(t, s, logs, defaultConfig())
	for _, w := range ws {
		w.add(1, 10, 0)
	}
	flushAll(t, s)
	var ops opCounts
	var half *vfs.MemFS
	rng := rand.New(rand.NewPCG(1, 2))
	fs.SetHook(func(op, name string, off int64, n int) error {
		_ = ops.hook(op, name, off, n)
		if op == "removeall" && ops.of("removeall") == logs/2 {
			ops.mu.Lock()
			half = fs.CrashClone(rng, 0.5)
			ops.mu.Unlock()
		}
		return nil
	})
	for _, w := range ws {
		s.Remove(w.l)
	}
	settle(t, s)
	fs.SetHook(nil)
	if n := ops.of("syncdir"); n > 20 {
		t.Errorf("%d directory syncs for %d logs", n, logs)
	}
	if n := ops.of("removeall"); n != logs {
		t.Errorf("%d directories deleted, want %d", n, logs)
	}
	if dirs := s.Dirs(); len(dirs) != 0 {
		t.Errorf("%d directories are left", len(dirs))
	}
	ho, _ := testOptions(half)
	after := openStore(t, ho)
	for _, dir := range after.Dirs() {
		if err := after.RemoveDir(dir); err != nil { // what the replica does with directories of topics that are gone
			t.Fatal(err)
		}
	}
	settle(t, after)
	list, err := half.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.IsDir() {
			t.Errorf("%s is left", e.Name())
		}
	}
}

// TestCheckpointShare: a checkpoint in the middle of a round is the rarer the larger it is.
func TestCheckpointShare(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	s := openStore(t, o)
	f := s.flusher
	for _, c := range []struct {
		since, size int64
		want        bool
	}{
		{checkpointBytes - 1, 0, false},
		{checkpointBytes, 0, true},
		{checkpointBytes, checkpointBytes / checkpointShare, true},
		{checkpointBytes, checkpointBytes/checkpointShare + 1, false},
		{1 << 30, 1 << 20, true},
	} {
		f.mu.Lock()
		f.mu.since, f.mu.cpBytes = c.since, c.size
		f.mu.Unlock()
		got := f.beginCheckpoint()
		f.mu.Lock()
		f.mu.cpBusy, f.mu.since = false, 0
		f.mu.Unlock()
		if got != c.want {
			t.Errorf("%d bytes flushed, checkpoint of %d bytes: write %v, want %v", c.since, c.size, got, c.want)
		}
	}
}
