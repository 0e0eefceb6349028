package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"weir/internal/record"
	"weir/internal/vfs"
)

// cutTo truncates a log as a follower does.
func cutTo(t testing.TB, l *Log, offset int64, reset bool, lsn uint64) {
	t.Helper()
	c, err := l.prepare(context.Background(), offset, reset)
	if err != nil {
		t.Fatal(err)
	}
	if c != nil {
		c.Apply(lsn)
	}
}

// TestTruncate: where a log is cut, what is left is what was there, in memory, in its files and after a restart, and it goes on from there.
func TestTruncate(t *testing.T) {
	const perSegment = 5 // batches of two records
	for _, c := range []struct {
		name    string
		flushed int // batches that are in files
		offset  int64
		end     int64
	}{
		{"in the tail", 12, 28, 28},
		{"inside a batch of the tail", 12, 29, 28},
		{"in the newest file", 15, 24, 24},
		{"where a file begins", 15, 20, 20},
		{"inside a batch of a sealed file", 15, 13, 12},
		{"in the first file", 15, 2, 2},
		{"everything", 15, 1, 0},
		{"nothing flushed", 0, 9, 8},
		{"all flushed", 16, 30, 30},
		{"behind the end", 10, 32, 32},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := vfs.NewMem()
			o, _ := testOptions(mem)
			s := openStore(t, o)
			cfg := defaultConfig()
			first := makeBatch(t, 0, 2, 300, 0)
			cfg.SegmentBytes, cfg.IndexIntervalBytes = int64(perSegment*(len(first)+8)), 512
			w := newWriter(t, openLog(t, s, "t-0", cfg))
			for i := range 16 {
				if i == c.flushed {
					flushAll(t, s)
				}
				w.add(2, 300, int64(1000-i))
			}
			if c.flushed == 16 {
				flushAll(t, s)
			}
			cutTo(t, w.l, c.offset, false, w.lsn+1)
			kept := w.want[:0:0]
			for i, next := range w.offs {
				if next <= c.end {
					kept = w.want[:w.ends[i]:w.ends[i]]
				}
			}
			check := func(when string, l *Log, want []byte, end int64) {
				t.Helper()
				if l.End() != end || l.LogStart() != 0 || l.Size() != int64(len(want)) {
					t.Fatalf("%s: %d to %d, %d bytes, want 0 to %d, %d", when, l.LogStart(), l.End(), l.Size(), end, len(want))
				}
				if got := readAll(t, l, 0, end, 900); !bytes.Equal(got, want) {
					t.Fatalf("%s: bytes differ", when)
				}
				offset, ts, ok, err := l.MaxTimestamp()
				if err != nil || ok != (end > 0) || ok && len(want) <= len(kept) && c.end > 0 && (offset != 1 || ts != 1001) {
					t.Fatalf("%s: greatest timestamp %d at offset %d, %v, %v", when, ts, offset, ok, err)
				}
			}
			check("cut", w.l, kept, c.end)
			flushAll(t, s)
			check("flushed", w.l, kept, c.end)
			if r := s.budget.used(); r != 0 {
				t.Fatalf("%d bytes of the tails are taken", r)
			}
			w.want, w.lsn = kept, w.lsn+1
			for range 4 {
				w.add(2, 200, 0)
			}
			end := w.l.End()
			check("goes on", w.l, w.want, end)
			flushAll(t, s)
			check("goes on, flushed", w.l, w.want, end)
			closeStore(t, s)
			s = openStore(t, o)
			check("restarted", openLog(t, s, "t-0", cfg), w.want, end)
		})
	}
}

// TestReadersOfACutLog: what readers hold stays as it is; those who come late get what is there then, or are told that it is gone, and never
// anything else.
func TestReadersOfACutLog(t *testing.T) {
	seed := seedOf(t)
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	o.FlushBytes = 2000
	s := openStore(t, o)
	cfg := defaultConfig()
	cfg.SegmentBytes, cfg.IndexIntervalBytes = 3000, 512
	w := &cutWorld{t: t, seed: seed, model: &cutModel{lsn: 1000}, cfg: cfg}
	l := openLog(t, s, "t-0", cfg)
	// Whatever is read at an offset was appended there once.
	var mu sync.Mutex
	known := map[int64]map[string]bool{}
	rng := rand.New(rand.NewPCG(seed, 1))
	var stop atomic.Bool
	var readers sync.WaitGroup
	var reads atomic.Int64
	for i := range 4 {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(10+i)))
			for !stop.Load() {
				offset := rng.Int64N(l.End() + 1)
				r, err := l.Read(offset, 1<<40, 2000, true)
				if errors.Is(err, ErrOffsetOutOfRange) {
					continue
				}
				if err != nil {
					t.Errorf("read at offset %d: %v", offset, err)
					return
				}
				mu.Lock()
				for data := readRange(r); len(data) > 0; {
					b, rest, err := record.Next(data)
					if err != nil || b.Check() != nil || b.Count() > 0 && !known[b.BaseOffset()][string(b)] {
						t.Errorf("read at offset %d: a batch of offsets %d to %d that was never there: %v", offset, b.BaseOffset(), b.LastOffset(), err)
					}
					data = rest
					reads.Add(1)
				}
				mu.Unlock()
				r.Release()
				if err := l.Scan(l.LogStart(), func(record.Batch) error { return nil }); err != nil && !errors.Is(err, ErrOffsetOutOfRange) {
					t.Errorf("scan: %v", err)
				}
			}
		})
	}
	for step := range 600 {
		switch n := rng.IntN(10); {
		case n < 7:
			mu.Lock() // a reader may see the batch before add returns
			w.add(s, l, int32(step), rng)
			b := w.model.wal[len(w.model.wal)-1].batch
			if known[b.BaseOffset()] == nil {
				known[b.BaseOffset()] = map[string]bool{}
			}
			known[b.BaseOffset()][string(b)] = true
			mu.Unlock()
		case n < 9:
			w.truncate(l, rng, rng.IntN(8) == 0)
		default:
			flushAll(t, s)
		}
	}
	stop.Store(true)
	readers.Wait()
	want := foldCuts(w.model.wal)
	if err := checkCutLog(l, &want, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d batches read", reads.Load())
}

// TestTruncateOnAFailingDisk: the log is cut whatever the disk does. Its files follow when the disk is well again.
func TestTruncateOnAFailingDisk(t *testing.T) {
	for _, op := range []string{"remove", "truncate", "syncdir", "sync"} {
		t.Run(op, func(t *testing.T) {
			mem := vfs.NewMem()
			o, ev := testOptions(mem)
			s := openStore(t, o)
			cfg := defaultConfig()
			cfg.SegmentBytes = 2000
			w := newWriter(t, openLog(t, s, "t-0", cfg))
			for range 20 {
				w.add(1, 400, 0)
			}
			flushAll(t, s)
			var full atomic.Bool
			full.Store(true)
			mem.SetHook(failOn(&full, op, "t-0", syscall.ENOSPC))
			cutTo(t, w.l, 6, false, w.lsn+1)
			w.lsn++
			w.want = w.want[:w.ends[5]]
			w.add(1, 400, 0)
			if err := s.FlushAll(context.Background()); !errors.Is(err, ErrNoSpace) {
				t.Fatalf("FlushAll: %v, want ErrNoSpace", err)
			}
			<-ev.errCh
			if got := readAll(t, w.l, 0, w.l.End(), 5000); !bytes.Equal(got, w.want) {
				t.Fatal("bytes differ while the disk is full")
			}
			cutTo(t, w.l, 3, false, w.lsn+1) // once more, on top of what is not done yet
			w.lsn++
			w.want = w.want[:w.ends[2]]
			w.add(1, 300, 0)
			full.Store(false)
			s.Kick()
			flushAll(t, s)
			closeStore(t, s)
			s = openStore(t, o)
			l := openLog(t, s, "t-0", cfg)
			if got := readAll(t, l, 0, l.End(), 5000); !bytes.Equal(got, w.want) {
				t.Fatal("bytes differ after a restart")
			}
		})
	}
}

// TestLateDeletionIsWaitedFor: a deletion that outlives its deadline is not begun again, since the file may have been made anew by the time it comes.
func TestLateDeletionIsWaitedFor(t *testing.T) {
	mem := vfs.NewMem()
	o, ev := testOptions(mem)
	o.IOTimeout, o.WaitOutStalls = 30*time.Millisecond, true
	s := openStore(t, o)
	cfg := defaultConfig()
	cfg.SegmentBytes = 1000
	w := newWriter(t, openLog(t, s, "t-0", cfg))
	for range 6 {
		w.add(1, 400, 0)
	}
	flushAll(t, s)
	stuck, removals := make(chan struct{}), atomic.Int64{}
	name := segFile("t-0", 4, logSuffix)
	mem.SetHook(func(op, n string, _ int64, _ int) error {
		if op == "remove" && n == name {
			removals.Add(1)
			<-stuck
		}
		return nil
	})
	cutTo(t, w.l, 4, false, w.lsn+1)
	w.lsn++
	w.want = w.want[:w.ends[3]]
	w.add(1, 500, 0) // into a file of the same name
	for range 2 {
		if err := s.FlushAll(context.Background()); !IsLate(err) {
			t.Fatalf("FlushAll: %v, want a missed deadline", err)
		}
		<-ev.errCh
		s.Kick()
	}
	close(stuck)
	for s.FlushAll(context.Background()) != nil {
		s.Kick()
	}
	if n := removals.Load(); n != 1 {
		t.Errorf("the file was deleted %d times", n)
	}
	if got := readFS(t, mem, name); !bytes.Equal(got, w.want[w.ends[3]:]) {
		t.Errorf("the file of the same name has %d bytes, want %d", len(got), len(w.want)-int(w.ends[3]))
	}
}

// TestFollowerGap: a gap becomes an empty batch, and everything goes on as if it had always been there.
func TestFollowerGap(t *testing.T) {
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	s := openStore(t, o)
	l := openLog(t, s, "t-0", defaultConfig())
	add := func(base int64, epoch int32) error {
		b := makeBatch(t, base, 2, 50, 7)
		b.SetLeaderEpoch(epoch)
		if err := s.Reserve(context.Background(), len(b)); err != nil {
			t.Fatal(err)
		}
		_, err := l.AppendFollower(b, nil)
		if err != nil {
			s.Unreserve(len(b))
			return err
		}
		l.Commit(b.NextOffset(), uint64(1000+base))
		return nil
	}
	for _, base := range []int64{0, 10, 12, 1 << 30} {
		if err := add(base, int32(base%7)); err != nil {
			t.Fatal(err)
		}
	}
	for _, base := range []int64{0, 1<<30 + 1, 1 << 40} {
		if err := add(base, 0); !errors.Is(err, ErrGap) {
			t.Errorf("a batch at offset %d: %v, want ErrGap", base, err)
		}
	}
	for range 2 {
		var got []string
		if err := l.ReadAll(0, func(b record.Batch) error {
			got = append(got, fmt.Sprintf("%d-%d:%d", b.BaseOffset(), b.NextOffset(), b.Count()))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if want := "[0-2:2 2-10:0 10-12:2 12-14:2 14-1073741824:0 1073741824-1073741826:2]"; fmt.Sprint(got) != want {
			t.Errorf("read %v, want %s", got, want)
		}
		if epoch, err := l.LastEpoch(); err != nil || epoch != int32((1<<30)%7) {
			t.Errorf("last epoch %d, %v", epoch, err)
		}
		closeStore(t, s)
		s = openStore(t, o)
		l = openLog(t, s, "t-0", defaultConfig())
	}
}

// TestFillerHasTheEpochBehindIt: what stands for a gap is of the epoch of the batch behind it, since that may have begun anywhere in the gap.
func TestFillerHasTheEpochBehindIt(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	l := openLog(t, openStore(t, o), "t-0", defaultConfig())
	lsn := uint64(0)
	for _, c := range []struct {
		base  int64
		epoch int32
	}{{0, 3}, {7, 5}, {20, 5}} {
		b := makeBatch(t, c.base, 2, 10, 0)
		b.SetLeaderEpoch(c.epoch)
		if err := l.s.Reserve(context.Background(), len(b)); err != nil {
			t.Fatal(err)
		}
		if _, err := l.AppendFollower(b, nil); err != nil {
			t.Fatal(err)
		}
		lsn++
		l.Commit(l.End(), lsn)
	}
	var got string
	if err := l.ReadAll(0, func(b record.Batch) error {
		got += fmt.Sprintf("%d-%d:%d ", b.BaseOffset(), b.LastOffset(), b.LeaderEpoch())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := "0-1:3 2-6:5 7-8:5 9-19:5 20-21:5 "; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestReplicaComesBack: a log is removed, and one of the same name is opened, written and flushed before the first one's directory has gone.
func TestReplicaComesBack(t *testing.T) {
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	for range 10 {
		w.add(1, 100, 0)
	}
	flushAll(t, s)
	for round := range 3 {
		removed := s.RemoveHeld(w.l)
		l, err := s.Open("t-0", always(defaultConfig()), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		w = newWriter(t, l)
		if w.l.End() != 0 {
			t.Fatalf("round %d: the new log ends at %d", round, w.l.End())
		}
		w.lsn = uint64(10000 * (round + 1))
		for range 3 + round {
			w.add(1, 200, 0)
		}
		removed(uint64(10000 * (round + 1)))
		flushAll(t, s)
		if got := readAll(t, w.l, 0, w.l.End(), 5000); !bytes.Equal(got, w.want) {
			t.Fatalf("round %d: bytes differ", round)
		}
	}
	quiesce(t, s)
	closeStore(t, s)
	s = openStore(t, o)
	l := openLog(t, s, "t-0", defaultConfig())
	if got := readAll(t, l, 0, l.End(), 5000); !bytes.Equal(got, w.want) {
		t.Fatal("bytes differ after a restart")
	}
	list, err := mem.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.IsDir() && e.Name() != "t-0" {
			t.Errorf("%s is left", e.Name())
		}
	}
}
