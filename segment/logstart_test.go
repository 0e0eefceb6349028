package segment

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"weir/internal/vfs"
)

// advance moves log starts and waits until that is durable.
func advance(t testing.TB, s *Store, moves ...LogStartMove) error {
	t.Helper()
	done := make(chan error, 1)
	if !s.AdvanceLogStarts(moves, func(err error) { done <- err }) {
		t.Fatal("no move was made")
	}
	return <-done
}

// TestAdvanceLogStartsOnce: many moves are one checkpoint, and those that cannot be are told apart.
func TestAdvanceLogStartsOnce(t *testing.T) {
	fsys := vfs.NewMem()
	o, _ := testOptions(fsys)
	s := openStore(t, o)
	var moves []LogStartMove
	for i := range 50 {
		w := newWriter(t, openLog(t, s, fmt.Sprintf("t-%d", i), defaultConfig()))
		for range 5 {
			w.add(2, 10, 0)
		}
		moves = append(moves, LogStartMove{Log: w.l, Offset: int64(i % 12)})
	}
	s.Remove(moves[13].Log)
	settle(t, s)
	var writes atomic.Int32
	fsys.SetHook(func(op, name string, _ int64, _ int) error {
		if op == "rename" && path.Base(name) == checkpointFile+tmpSuffix {
			writes.Add(1)
		}
		return nil
	})
	if err := advance(t, s, moves...); err != nil {
		t.Fatal(err)
	}
	fsys.SetHook(nil)
	if n := writes.Load(); n != 1 {
		t.Errorf("%d checkpoints were written for one call", n)
	}
	for i, m := range moves {
		switch {
		case i == 13:
			if !errors.Is(m.Err, ErrClosed) {
				t.Errorf("removed log: %v", m.Err)
			}
		case m.Offset > 10:
			if !errors.Is(m.Err, ErrOffsetOutOfRange) {
				t.Errorf("beyond the end: %v", m.Err)
			}
		case m.Err != nil || m.Log.LogStart() != m.Offset:
			t.Errorf("log %d starts at %d, want %d: %v", i, m.Log.LogStart(), m.Offset, m.Err)
		}
	}
	if s.AdvanceLogStarts([]LogStartMove{moves[13]}, func(error) { t.Error("done was called") }) {
		t.Error("a closed log was moved")
	}
}

// TestAdvanceLogStartsFails: who waits for a start to be durable is told that it is not, nothing is deleted, and once the disk takes the
// checkpoint again the same call succeeds.
func TestAdvanceLogStartsFails(t *testing.T) {
	fsys := vfs.NewMem()
	o, _ := testOptions(fsys)
	s := openStore(t, o)
	c := defaultConfig()
	c.SegmentBytes = 200
	w := newWriter(t, openLog(t, s, "t-0", c))
	for range 5 {
		w.add(1, 100, 0)
	}
	flushAll(t, s)
	before := logFiles(t, fsys, "t-0")
	fsys.SetHook(func(op, name string, _ int64, _ int) error {
		if op == "rename" {
			return syscall.ENOSPC
		}
		return nil
	})
	if err := advance(t, s, LogStartMove{Log: w.l, Offset: 4}); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("%v, want ErrNoSpace", err)
	}
	settle(t, s)
	if after := logFiles(t, fsys, "t-0"); len(after) != len(before) {
		t.Errorf("files %v were deleted down to %v under a start that a crash takes back", before, after)
	}
	fsys.SetHook(nil)
	if err := advance(t, s, LogStartMove{Log: w.l, Offset: 4}); err != nil {
		t.Fatal(err)
	}
	settle(t, s)
	if after := logFiles(t, fsys, "t-0"); len(after) != 1 || after[0] != "4" {
		t.Errorf("files %v, want that of offset 4", after)
	}
}

// TestAdvanceToTheEndFreesRoom: a log that is emptied gives its room back although its segment was not full.
func TestAdvanceToTheEndFreesRoom(t *testing.T) {
	for _, flushed := range []bool{true, false} {
		fsys := vfs.NewMem()
		o, _ := testOptions(fsys)
		s := openStore(t, o)
		w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
		for range 5 {
			w.add(1, 100, 0)
		}
		if flushed {
			flushAll(t, s)
		}
		if err := advance(t, s, LogStartMove{Log: w.l, Offset: 5}); err != nil {
			t.Fatal(err)
		}
		w.add(1, 100, 0)
		flushAll(t, s)
		settle(t, s)
		if files := logFiles(t, fsys, "t-0"); len(files) != 1 || files[0] != "5" {
			t.Errorf("flushed before: %v: files %v, want that of offset 5", flushed, files)
		}
		if size := w.l.Size(); size != int64(len(w.want))-w.ends[4] {
			t.Errorf("flushed before: %v: size %d", flushed, size)
		}
		if err := advance(t, s, LogStartMove{Log: w.l, Offset: 5}); err != nil || w.l.Segments() != 1 {
			t.Errorf("again: %v, %d segments", err, w.l.Segments())
		}
	}
}

// TestAcknowledgedLogStartSurvives loses power at random places: a start that was reported durable is never taken back, whatever
// of the records was in files and whatever in the WAL. SEED replays a run.
func TestAcknowledgedLogStartSurvives(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	for range 60 {
		startSurvivesOnce(t, rng)
	}
}

func startSurvivesOnce(t *testing.T, rng *rand.Rand) {
	fs := vfs.NewMem()
	c := defaultConfig()
	c.SegmentBytes, c.IndexIntervalBytes = 1500, 512
	var wal []walEntry
	acked, end := int64(0), int64(0)
	for range 3 {
		o, ev := testOptions(fs)
		o.FlushBytes = 600
		s := openStore(t, o)
		l := openLog(t, s, "t-0", c)
		for _, e := range wal {
			if err := l.Recovered(e.batch, e.lsn); err != nil {
				t.Fatal(err)
			}
		}
		if l.LogStart() < acked || l.End() != end {
			t.Fatalf("log from %d to %d; %d was acknowledged as its start, %d records were written", l.LogStart(), l.End(), acked, end)
		}
		readAll(t, l, l.LogStart(), l.End(), 1<<20)
		w := &writer{t: t, l: l, lsn: 1000 + uint64(end)*1000}
		for range rng.IntN(25) {
			b := w.add(1+rng.IntN(3), rng.IntN(300), 9)
			wal = append(wal, walEntry{w.lsn, b})
			end = b.NextOffset()
			switch rng.IntN(8) {
			case 0:
				s.FlushBelow(w.lsn)
			case 1:
				to := l.LogStart() + rng.Int64N(end-l.LogStart()+1) // often the end
				if rng.IntN(2) == 0 {
					to = end
				}
				if err := advance(t, s, LogStartMove{Log: l, Offset: to}); err != nil {
					t.Fatal(err)
				}
				acked = max(acked, to)
			}
		}
		fs, wal = powerLoss(rng, fs, ev, wal)
		closeStore(t, s)
	}
}
