package segment

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/record"
	"weir/internal/vfs"
)

// cutEntry is what a WAL has: a batch, or a truncation.
type cutEntry struct {
	lsn    uint64
	batch  record.Batch // nil: a truncation
	before int64        // of a batch after a gap, the log's end; else -1
	offset int64
	reset  bool
}

// cutModel is a log with its WAL as they must be. A batch or truncation counts from the moment it is in the WAL.
type cutModel struct {
	mu       sync.Mutex
	wal      []cutEntry
	released uint64 // what is below may be gone
	lsn      uint64
	trimmed  int64 // log start that is durable ...
	trimTo   int64 // ... and that was asked for
}

// cutState is what follows from a WAL: the batches there are, without those that stand for gaps.
type cutState struct {
	batches    []record.Batch
	start, end int64
}

func (s *cutState) apply(e cutEntry) {
	switch {
	case e.batch != nil:
		s.batches, s.end = append(s.batches, e.batch), e.batch.NextOffset()
	case e.reset:
		*s = cutState{start: e.offset, end: e.offset}
	default:
		n, _ := slices.BinarySearchFunc(s.batches, e.offset, func(b record.Batch, at int64) int { return int(b.BaseOffset() - at) })
		s.batches, s.end = s.batches[:n:n], e.offset
	}
}

func foldCuts(wal []cutEntry) (s cutState) {
	for _, e := range wal {
		s.apply(e)
	}
	return s
}

func (m *cutModel) log(e cutEntry) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lsn += 10
	e.lsn = m.lsn
	m.wal = append(m.wal, e)
	if e.reset {
		m.trimmed, m.trimTo = e.offset, e.offset
	}
	return e.lsn
}

// cutWorld runs a workload on one log and takes the power away at its boundaries.
type cutWorld struct {
	t      *testing.T
	seed   uint64
	disk   *vfs.MemFS
	model  *cutModel
	cfg    *Config
	left   *atomic.Int64 // clones to be made
	again  *atomic.Int64 // of which so many crashed once more
	mu     sync.Mutex
	rng    *rand.Rand // of the hook
	clones []cutClone
}

type cutClone struct {
	disk            *vfs.MemFS
	wal             []cutEntry
	released        uint64
	trimmed, trimTo int64
	seed            uint64
	where           string
}

func (w *cutWorld) options(disk vfs.FS) StoreOptions {
	o, _ := testOptions(disk)
	o.FlushBytes = 3000
	o.IOTimeout = time.Minute
	return o
}

func isCutBoundary(op string) bool {
	switch op {
	case "write", "sync", "datasync", "syncdir", "rename", "remove", "truncate", "mkdirall":
		return true
	}
	return false
}

// hook takes a clone before an operation.
func (w *cutWorld) hook(op, name string, _ int64, _ int) error {
	if !isCutBoundary(op) {
		return nil
	}
	w.mu.Lock()
	take := w.rng.IntN(6) == 0
	seed := w.rng.Uint64()
	keep := []float64{0, 0.5, 1, w.rng.Float64()}[w.rng.IntN(4)]
	w.mu.Unlock()
	if !take || w.left.Add(-1) < 0 {
		return nil
	}
	m := w.model
	m.mu.Lock() // nothing comes into the WAL that is not in the clone's
	c := cutClone{
		wal: slices.Clip(m.wal), released: m.released, trimmed: m.trimmed, trimTo: m.trimTo, seed: seed,
		where: fmt.Sprintf("before %s %s, %.0f%% kept", op, name, keep*100),
	}
	c.disk = w.disk.CrashClone(rand.New(rand.NewPCG(seed, 1)), keep)
	m.mu.Unlock()
	w.mu.Lock()
	w.clones = append(w.clones, c)
	w.mu.Unlock()
	return nil
}

// check recovers a clone, perhaps with another crash on the way, and holds it against the WAL.
func (w *cutWorld) check(c cutClone) error {
	rng := rand.New(rand.NewPCG(c.seed, 2))
	// The WAL keeps whole files, so that older entries may be there, too.
	first, _ := slices.BinarySearchFunc(c.wal, c.released, func(e cutEntry, lsn uint64) int { return int(int64(e.lsn) - int64(lsn)) })
	from := first - min(rng.IntN(12), first)
	disk := c.disk
	if rng.IntN(3) == 0 {
		var second *vfs.MemFS
		var once sync.Mutex
		left := rng.IntN(30)
		disk.SetHook(func(op, _ string, _ int64, _ int) error {
			once.Lock()
			defer once.Unlock()
			if left--; isCutBoundary(op) && left == 0 {
				second = disk.CrashClone(rand.New(rand.NewPCG(c.seed, 3)), []float64{0, 0.5, 1}[c.seed%3])
			}
			return nil
		})
		if err := w.recover(disk, &c, from); err != nil {
			return err
		}
		disk.SetHook(nil)
		if second != nil {
			disk = second
			w.again.Add(1)
			if err := w.recover(disk, &c, from-min(rng.IntN(4), from)); err != nil {
				return fmt.Errorf("after another crash: %w", err)
			}
		}
	} else if err := w.recover(disk, &c, from); err != nil {
		return err
	}
	return nil
}

func (w *cutWorld) recover(disk *vfs.MemFS, c *cutClone, from int) (err error) {
	s, err := NewStore(w.options(disk))
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err = errors.Join(err, s.Close(ctx))
	}()
	points, err := s.LoadCheckpoint()
	if err != nil {
		return err
	}
	p := points["t-0"]
	l, err := s.Open("t-0", always(w.cfg), p.RecoveryPoint, p.LogStart)
	if err != nil {
		return err
	}
	for _, e := range c.wal[from:] {
		if err := replayCut(l, e); err != nil {
			return fmt.Errorf("checkpoint %+v, replay from LSN %d: %w", p, c.wal[from].lsn, err)
		}
	}
	if err := l.Replayed(); err != nil {
		return fmt.Errorf("checkpoint %+v, replay from entry %d of %d: %w", p, from, len(c.wal), err)
	}
	want := foldCuts(c.wal)
	if err := checkCutLog(l, &want, c.trimmed, c.trimTo); err != nil {
		return fmt.Errorf("checkpoint %+v, replay from entry %d of %d: %w", p, from, len(c.wal), err)
	}
	return nil
}

func replayCut(l *Log, e cutEntry) error {
	switch {
	case e.batch == nil:
		return l.RecoveredTruncate(e.offset, e.reset, e.lsn)
	case e.before >= 0:
		return l.RecoveredAfterGap(slices.Clone(e.batch), e.before, e.lsn)
	}
	return l.Recovered(slices.Clone(e.batch), e.lsn)
}

// checkCutLog compares a log with what it must be.
func checkCutLog(l *Log, want *cutState, trimmed, trimTo int64) error {
	start, end := l.LogStart(), l.End()
	low, high := max(want.start, min(trimmed, want.end)), max(want.start, trimTo)
	switch {
	case end != want.end:
		return fmt.Errorf("ends at offset %d, want %d", end, want.end)
	case start < low || start > high || start > end:
		return fmt.Errorf("starts at offset %d, ends at %d, want a start from %d to %d", start, end, low, high)
	}
	at, _ := slices.BinarySearchFunc(want.batches, start, func(b record.Batch, at int64) int { return int(b.NextOffset() - at - 1) })
	err := l.ReadAll(start, func(b record.Batch) error {
		if b.Count() == 0 {
			return nil
		}
		if at == len(want.batches) || string(b) != string(want.batches[at]) {
			return fmt.Errorf("the batch at offsets %d to %d is not number %d of those that must be there", b.BaseOffset(), b.LastOffset(), at)
		}
		at++
		return nil
	})
	if err == nil && at != len(want.batches) {
		err = fmt.Errorf("%d batches of %d are there", at, len(want.batches))
	}
	if err != nil {
		return err
	}
	epoch, err := l.LastEpoch()
	if n := len(want.batches); err == nil && n > 0 && want.batches[n-1].NextOffset() == end && end > start && epoch != want.batches[n-1].LeaderEpoch() {
		err = fmt.Errorf("last epoch %d, want %d", epoch, want.batches[n-1].LeaderEpoch())
	}
	return err
}

// run is one life of the log.
func (w *cutWorld) run(steps int) {
	t, rng := w.t, rand.New(rand.NewPCG(w.seed, 7))
	o := w.options(w.disk)
	o.OnFlushed = func(lsn uint64, any bool) {
		m := w.model
		m.mu.Lock()
		defer m.mu.Unlock()
		m.released = max(m.released, lsn)
	}
	s := openStore(t, o)
	l := openLog(t, s, "t-0", w.cfg)
	w.disk.SetHook(w.hook)
	epoch := int32(0)
	for i := range steps {
		switch n := rng.IntN(100); {
		case n < 62:
			w.add(s, l, epoch, rng)
		case n < 72:
			flushAll(t, s)
		case n < 76:
			s.FlushBelow(^uint64(0))
		case n < 91:
			epoch++
			w.truncate(l, rng, false)
		case n < 94:
			epoch++
			w.truncate(l, rng, true)
		case n < 98:
			w.trim(s, l, rng)
		default:
			l.mu.Lock()
			if g := l.activeLocked(); g.size > 0 {
				l.sealActiveLocked(g)
			}
			l.mu.Unlock()
		}
		m := w.model
		m.mu.Lock()
		want := foldCuts(m.wal)
		trimmed, trimTo := m.trimmed, m.trimTo
		m.mu.Unlock()
		if err := checkCutLog(l, &want, trimmed, trimTo); err != nil {
			t.Fatalf("WEIR_TEST_SEED=%d, step %d: %v", w.seed, i, err)
		}
	}
	flushAll(t, s)
	w.disk.SetHook(nil)
	closeStore(t, s)
}

var cutSerial atomic.Int64

func (w *cutWorld) add(s *Store, l *Log, epoch int32, rng *rand.Rand) {
	t, e := w.t, cutEntry{before: -1}
	base := l.End()
	if rng.IntN(5) == 0 {
		e.before = base
		base += 1 + int64(rng.IntN(40))
	}
	recs := make([]record.Record, 1+rng.IntN(4))
	for i := range recs {
		recs[i] = record.Record{Timestamp: int64(rng.IntN(1000)), Value: fmt.Appendf(make([]byte, rng.IntN(250)), "%d", cutSerial.Add(1))}
	}
	spec := record.NewSpec()
	spec.BaseOffset = base
	b, err := record.Build(spec, recs)
	if err != nil {
		t.Fatal(err)
	}
	b.SetLeaderEpoch(epoch)
	if err := s.Reserve(context.Background(), len(b)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.AppendFollower(b, nil); err != nil {
		t.Fatalf("WEIR_TEST_SEED=%d: %v", w.seed, err)
	}
	e.batch = b
	l.Commit(b.NextOffset(), w.model.log(e))
}

func (w *cutWorld) truncate(l *Log, rng *rand.Rand, reset bool) {
	start, end := l.LogStart(), l.End()
	offset := end - int64(rng.IntN(12))
	switch rng.IntN(4) {
	case 0:
		offset = start + rng.Int64N(end-start+1)
	case 1:
		offset = end - rng.Int64N(min(end, 200)+1)
	}
	if reset {
		offset = rng.Int64N(end + 300)
	}
	offset = max(offset, 0)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := l.prepare(ctx, offset, reset)
	if err != nil {
		w.t.Fatalf("WEIR_TEST_SEED=%d: %v", w.seed, err)
	}
	if c == nil {
		return
	}
	if c.End() > offset || !c.Reset() && c.End() < start {
		w.t.Fatalf("WEIR_TEST_SEED=%d: truncation to %d of %d to %d ends at %d", w.seed, offset, start, end, c.End())
	}
	if rng.IntN(10) == 0 {
		c.Abort()
		return
	}
	c.Apply(w.model.log(cutEntry{offset: c.End(), reset: c.Reset()}))
}

func (w *cutWorld) trim(s *Store, l *Log, rng *rand.Rand) {
	start, end := l.LogStart(), l.End()
	to := start + rng.Int64N(end-start+1)
	m := w.model
	m.mu.Lock()
	was := m.trimTo
	m.trimTo = max(m.trimTo, to)
	m.mu.Unlock()
	done := make(chan error, 1)
	moves := []LogStartMove{{Log: l, Offset: to}}
	if !s.AdvanceLogStarts(moves, func(err error) { done <- err }) {
		if !errors.Is(moves[0].Err, ErrTruncating) {
			w.t.Fatal(moves[0].Err)
		}
		m.mu.Lock()
		m.trimTo = was
		m.mu.Unlock()
		return
	}
	if err := <-done; err != nil {
		w.t.Fatal(err)
	}
	m.mu.Lock()
	m.trimmed = max(m.trimmed, to)
	m.mu.Unlock()
}

func testNumber(t *testing.T, name string, otherwise int) int {
	t.Helper()
	if text := os.Getenv(name); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return otherwise
}

// TestCutCrashClones runs appends, gaps, truncations, resets, deletions, rolls and flushes on a log, and takes the power away at the boundaries of
// its operations, WEIR_TEST_CUT_CLONES times (500; in CI 5,000), also while it recovers. Afterwards there is what the WAL says: everything
// appended since the last truncation, and nothing that was truncated.
func TestCutCrashClones(t *testing.T) {
	clones := 500
	if os.Getenv("CI") == "true" {
		clones = 5000
	}
	clones = testNumber(t, "WEIR_TEST_CUT_CLONES", clones)
	seed := seedOf(t)
	var left, again atomic.Int64
	left.Store(int64(clones))
	rounds := 0
	for ; left.Load() > 0; rounds++ {
		w := &cutWorld{t: t, seed: seed + uint64(rounds), disk: vfs.NewMem(), model: &cutModel{lsn: 1000}, left: &left, again: &again}
		w.rng = rand.New(rand.NewPCG(w.seed, 5))
		w.cfg = defaultConfig()
		w.cfg.SegmentBytes, w.cfg.IndexIntervalBytes = []int64{900, 4000, 1 << 20}[rounds%3], 512
		w.run(120)
		for i, c := range w.clones {
			if err := w.check(c); err != nil {
				t.Fatalf("WEIR_TEST_SEED=%d: clone %d of %d, %s: %v", w.seed, i, len(w.clones), c.where, err)
			}
		}
	}
	t.Logf("%d rounds, %d of %d clones crashed again while recovering", rounds, again.Load(), clones)
	if clones >= 500 && again.Load() == 0 {
		t.Error("no recovery was interrupted")
	}
}
