package segment

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"

	"weir/internal/vfs"
)

// TestPowerGoesTwiceInAReset: the power goes while the files of a log that was reset are being deleted, and once more in the replay, after a checkpoint and before the reset's record.
func TestPowerGoesTwiceInAReset(t *testing.T) {
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	s := openStore(t, o)
	l := openLog(t, s, "t-0", defaultConfig())
	cutTo(t, l, 100, true, 1000) // it begins at 100
	w := newWriter(t, l)
	w.lsn = 1001
	for range 10 {
		w.add(1, 100, 0)
	}
	flushAll(t, s)
	var clone *vfs.MemFS
	mem.SetHook(func(op, name string, _ int64, _ int) error {
		if op == "remove" && strings.HasSuffix(name, logSuffix) && clone == nil {
			clone = mem.CrashClone(rand.New(rand.NewPCG(1, 1)), 1)
		}
		return nil
	})
	reset := w.lsn + 10
	cutTo(t, l, 50, true, reset)
	flushAll(t, s)
	mem.SetHook(nil)
	closeStore(t, s)
	if clone == nil {
		t.Fatal("no clone")
	}
	for life := range 2 {
		o.FS = clone
		s, err := NewStore(o)
		if err != nil {
			t.Fatal(err)
		}
		points, err := s.LoadCheckpoint()
		if err != nil {
			t.Fatal(err)
		}
		p := points["t-0"]
		l, err := s.Open("t-0", always(defaultConfig()), p.RecoveryPoint, p.LogStart)
		if err != nil {
			t.Fatalf("life %d, checkpoint %+v: the start is refused: %v", life, p, err)
		}
		if life == 0 {
			// Some other log's batches are replayed, and flushed, and a checkpoint follows, as it may at any time.
			if err := s.checkpoint(); err != nil {
				t.Fatal(err)
			}
			clone = clone.CrashClone(rand.New(rand.NewPCG(1, 1)), 1)
		}
		if err := l.RecoveredTruncate(50, true, reset); err != nil {
			t.Fatal(err)
		}
		if err := l.Replayed(); err != nil || l.LogStart() != 50 || l.End() != 50 {
			t.Fatalf("%d to %d, %v", l.LogStart(), l.End(), err)
		}
		if err := s.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}
