package segment

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/record"
	"weir/internal/vfs"
)

// seedOf prints the seed of a random test; WEIR_TEST_SEED repeats one.
func seedOf(t *testing.T) uint64 {
	seed := rand.Uint64()
	if s := os.Getenv("WEIR_TEST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("WEIR_TEST_SEED=%d", seed)
	return seed
}

// fillCompact writes a log of several segments with keys that are written again and deleted.
func fillCompact(w *writer, rng *rand.Rand, batches int) []rec {
	var all []rec
	for i := range batches {
		s := compactSpec{codec: record.Codec(max(rng.IntN(12)-7, 0))}
		for range 1 + rng.IntN(4) {
			r := rec{at: int64(i), key: fmt.Sprintf("k%d", rng.IntN(15))}
			if rng.IntN(4) > 0 {
				r.value = fmt.Sprintf("v%d", len(all)+len(s.recs))
			}
			s.recs = append(s.recs, r)
		}
		base := w.putSpec(s).BaseOffset()
		for j, r := range s.recs {
			r.offset = base + int64(j)
			all = append(all, r)
		}
		if rng.IntN(10) == 0 {
			w.seal()
		}
	}
	w.seal()
	return all
}

// At every step of a run the machine may stop. Whatever it finds afterwards, a reader must see each key's last value, and
// compaction must be able to go on.
func TestCompactSurvivesACrashAnywhere(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	s := openStore(t, o)
	cfg := compactConfig()
	cfg.SegmentBytes = 700
	l := openLog(t, s, "t-0", cfg)
	all := fillCompact(newWriter(t, l), rng, 40)
	mustCompact(t, l, compactOptions(l, compactNow))
	all = append(all, shift(fillCompact(newWriter(t, l), rng, 40), int64(len(all)))...)

	var mu sync.Mutex
	var clones []*vfs.MemFS
	var steps []string
	mem.SetHook(func(op, name string, off int64, n int) error {
		switch op {
		case "read", "open", "list", "stat", "size", "close", "space", "map", "populate":
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		for _, keep := range []float64{0, 0.5, 1} {
			clones = append(clones, mem.CrashClone(rng, keep))
			steps = append(steps, fmt.Sprintf("before %s %s, %v kept", op, name, keep))
		}
		return nil
	})
	later := compactNow.Add(2 * cfg.DeleteRetention) // tombstones of the first run go, those of the second stay
	mustCompact(t, l, compactOptions(l, later))
	mem.SetHook(nil)
	if len(clones) < 100 {
		t.Fatalf("only %d steps were seen", len(clones))
	}
	for i, clone := range clones {
		checkCrashed(t, clone, cfg, all, later, fmt.Sprintf("crash %d of %d, %s", i, len(clones), steps[i]))
	}
	t.Logf("%d crashes", len(clones))
}

// shift gives records that were numbered from 0 the offsets they have behind n others.
func shift(recs []rec, n int64) []rec {
	if len(recs) > 0 && recs[0].offset == n {
		return recs
	}
	panic("BUG: the log does not begin where the test thinks")
}

func checkCrashed(t *testing.T, mem *vfs.MemFS, cfg *Config, all []rec, now time.Time, where string) {
	t.Helper()
	o, _ := testOptions(mem)
	s, err := NewStore(o)
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	defer closeStore(t, s)
	p, err := s.LoadCheckpoint()
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	l, err := s.Open("t-0", always(cfg), p["t-0"].RecoveryPoint, p["t-0"].LogStart)
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	verify := func(when string) {
		t.Helper()
		if l.End() != int64(len(all)) {
			t.Fatalf("%s, %s: the log ends at %d, want %d", where, when, l.End(), len(all))
		}
		got := records(t, l)
		for _, r := range got {
			if r != all[r.offset] {
				t.Fatalf("%s, %s: read %+v, written %+v", where, when, r, all[r.offset])
			}
		}
		if got, want := fmt.Sprint(view(got)), fmt.Sprint(view(all)); got != want {
			t.Fatalf("%s, %s: a reader sees %s, want %s", where, when, got, want)
		}
	}
	verify("at first")
	if _, err := l.Compact(context.Background(), compactOptions(l, now)); err != nil {
		t.Fatalf("%s: compacting again: %v", where, err)
	}
	verify("after another run")
	list, err := mem.List(testDir + "/t-0")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if strings.HasSuffix(e.Name(), cleanedSuffix) || strings.HasSuffix(e.Name(), swapSuffix) {
			t.Errorf("%s: %s was left", where, e.Name())
		}
	}
}

// errInjected is what the file system is made to say.
var errInjected = errors.New("injected")

// Every operation of a run fails once. The run may fail, but what is read stays right, and the next run, or the next start, goes on.
func TestCompactSurvivesAFailureAnywhere(t *testing.T) {
	seed := seedOf(t)
	for at := 0; ; at++ {
		rng := rand.New(rand.NewPCG(seed, 2))
		mem := vfs.NewMem()
		o, _ := testOptions(mem)
		s := openStore(t, o)
		cfg := compactConfig()
		cfg.SegmentBytes = 700
		l := openLog(t, s, "t-0", cfg)
		all := fillCompact(newWriter(t, l), rng, 25)
		var mu sync.Mutex
		seen, failed := 0, ""
		mem.SetHook(func(op, name string, _ int64, _ int) error {
			mu.Lock()
			defer mu.Unlock()
			if seen++; seen-1 != at {
				return nil
			}
			failed = op + " " + name
			return errInjected
		})
		_, err := l.Compact(context.Background(), compactOptions(l, compactNow))
		mem.SetHook(nil)
		if failed == "" {
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d operations", at)
			return
		}
		if got, want := fmt.Sprint(view(records(t, l))), fmt.Sprint(view(all)); got != want {
			t.Fatalf("after a failure of %s: a reader sees %s, want %s", failed, got, want)
		}
		if err != nil && !errors.Is(err, ErrHalfSwapped) && s.Failed() == nil {
			if _, err := l.Compact(context.Background(), compactOptions(l, compactNow)); err != nil {
				t.Fatalf("after a failure of %s, the next run: %v", failed, err)
			}
		}
		closeStore(t, s)
		checkCrashed(t, mem, cfg, all, compactNow, "after a failure of "+failed)
	}
}

func TestCompactGivesUpOnAFullDiskAndGoesOn(t *testing.T) {
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	s := openStore(t, o)
	cfg := compactConfig()
	l := openLog(t, s, "t-0", cfg)
	all := fillCompact(newWriter(t, l), rand.New(rand.NewPCG(1, 1)), 40)
	mem.SetCapacity(1)
	if _, err := l.Compact(context.Background(), compactOptions(l, compactNow)); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("got %v, want ErrNoSpace", err)
	}
	if s.Failed() != nil {
		t.Fatalf("a full disk is no failure: %v", s.Failed())
	}
	mem.SetCapacity(0)
	mustCompact(t, l, compactOptions(l, compactNow))
	closeStore(t, s)
	checkCrashed(t, mem, cfg, all, compactNow, "full disk")
}

// Damage in one segment is found, and named, before anything is exchanged for it.
func TestCompactRefusesDamage(t *testing.T) {
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	s := openStore(t, o)
	l := openLog(t, s, "t-0", compactConfig())
	w := newWriter(t, l)
	w.put(1, "a=1")
	w.seal()
	w.put(2, "b=1", "a=2")
	w.seal()
	l.mu.Lock()
	name := l.mu.segs[1].name
	l.mu.Unlock()
	f, err := mem.OpenFile(name, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xFF}, record.HeaderSize+3); err != nil {
		t.Fatal(err)
	}
	var damage *CorruptError
	if _, err := l.Compact(context.Background(), compactOptions(l, compactNow)); !errors.As(err, &damage) || damage.File != name || damage.Offset != 1 {
		t.Fatalf("got %v, want damage in %s at offset 1", err, name)
	}
	if got := headers(t, l); len(got) != 2 {
		t.Errorf("got %q, want what was there", got)
	}
}

// Readers of all kinds go on while segments are exchanged under them, and so do deletions.
func TestCompactUnderReaders(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 3))
	o, _ := testOptions(vfs.NewMem())
	o.OpenFilesMax = 2 // files are opened by name all the time
	s := openStore(t, o)
	cfg := compactConfig()
	cfg.SegmentBytes, cfg.DeleteRetention = 700, 0
	l := openLog(t, s, "t-0", cfg)
	w := newWriter(t, l)
	all := fillCompact(w, rng, 40)
	var known sync.RWMutex
	stop := make(chan struct{})
	var readers sync.WaitGroup
	reading := func(read func(rng *rand.Rand) error) {
		own := rand.New(rand.NewPCG(rng.Uint64(), 4))
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := read(own); err != nil && !errors.Is(err, ErrOffsetOutOfRange) {
					t.Error(err)
					return
				}
			}
		})
	}
	same := func(r *record.Record) error {
		known.RLock()
		defer known.RUnlock()
		got := rec{offset: r.Offset, at: r.Timestamp, key: string(r.Key), value: string(r.Value)}
		if got != all[r.Offset] {
			return fmt.Errorf("read %+v, written %+v", got, all[r.Offset])
		}
		return nil
	}
	each := func(b record.Batch) error {
		var failed error
		err := b.Each(func(r *record.Record) bool { failed = same(r); return failed == nil })
		return errors.Join(err, failed)
	}
	for range 2 {
		reading(func(rng *rand.Rand) error {
			start, end := l.LogStart(), l.End()
			r, err := l.Read(start+rng.Int64N(end-start), end, 400, true)
			if err != nil {
				return err
			}
			defer r.Release()
			for data := readRange(r); len(data) > 0; {
				b, rest, err := record.Next(data)
				if err != nil {
					return err
				}
				if err := errors.Join(b.Check(), each(b)); err != nil {
					return err
				}
				data = rest
			}
			return nil
		})
	}
	reading(func(*rand.Rand) error { return l.ReadAll(l.LogStart(), each) })
	reading(func(rng *rand.Rand) error {
		_, _, _, err := l.FindByTimestamp(rng.Int64N(60))
		return err
	})
	reading(func(*rand.Rand) error { _, _, _, err := l.MaxTimestamp(); return err })
	for round := range 10 {
		mustCompact(t, l, compactOptions(l, compactNow))
		known.Lock()
		all = append(all, shift(fillCompact(w, rng, 40), int64(len(all)))...)
		known.Unlock()
		if round%3 == 2 {
			if err := l.AdvanceLogStart(l.LogStart() + (l.End()-l.LogStart())/4); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	readers.Wait()
	if got, want := fmt.Sprint(view(records(t, l))), fmt.Sprint(view(all[l.LogStart():])); got != want {
		t.Errorf("a reader sees %s, want %s", got, want)
	}
}

// A log that is closed or removed in the middle of a run ends the run, and nothing else.
func TestCompactEndsWithItsLog(t *testing.T) {
	for name, end := range map[string]func(*Store, *Log, context.CancelFunc){
		"removed":  func(s *Store, l *Log, _ context.CancelFunc) { s.Remove(l) },
		"canceled": func(_ *Store, _ *Log, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			for step := range 40 {
				o, _ := testOptions(vfs.NewMem())
				s := openStore(t, o)
				cfg := compactConfig()
				cfg.SegmentBytes = 700
				l := openLog(t, s, "t-0", cfg)
				fillCompact(newWriter(t, l), rand.New(rand.NewPCG(1, 1)), 40)
				ctx, cancel := context.WithCancel(context.Background())
				opt := compactOptions(l, compactNow)
				calls := 0
				opt.Throttle = func(ctx context.Context, _ int) error {
					if calls++; calls == step {
						end(s, l, cancel)
					}
					return ctx.Err()
				}
				_, err := l.Compact(ctx, opt)
				cancel()
				if calls >= step && step > 0 && err == nil || err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, context.Canceled) {
					t.Fatalf("step %d of %d: %v", step, calls, err)
				}
				closeStore(t, s)
			}
		})
	}
}
