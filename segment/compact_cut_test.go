package segment

import (
	"errors"
	"fmt"
	"testing"

	"weir/internal/vfs"
)

// TestCompactionWaitsForTheCheckpointOfACut: a start does a truncation again of which the WAL still has the record, unless a checkpoint has it behind it. Where compaction has taken the
// batches around the cut meanwhile it would not find its place, and the log would not open.
func TestCompactionWaitsForTheCheckpointOfACut(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	l := openLog(t, s, "t-0", compactConfig())
	w := newWriter(t, l)
	for i := range 6 {
		w.put(1, fmt.Sprintf("a=%d", i))
	}
	flushAll(t, s)
	c, err := l.PrepareTruncate(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	const lsn = 5000
	c.Apply(lsn)
	flushAll(t, s)
	w.lsn = lsn + 1000
	for i := range 4 {
		w.put(1, fmt.Sprintf("a=%d", 10+i))
	}
	w.seal()
	flushAll(t, s)
	waitIdle(t, s)
	l.mu.Lock()
	l.mu.cutSaved = 0 // as if no checkpoint had been written since
	l.mu.cutDone = 0
	l.mu.dirty = dirtyState{any: true, lsn: lsn - 1}
	l.mu.Unlock()
	if _, err := l.Compact(t.Context(), compactOptions(l, compactNow)); !errors.Is(err, ErrTruncating) {
		t.Fatalf("with data of before the truncation unflushed: %v, want ErrTruncating", err)
	}
	l.mu.Lock()
	l.mu.dirty = dirtyState{}
	l.mu.Unlock()
	mustCompact(t, l, compactOptions(l, compactNow))
	points, err := s.LoadCheckpoint()
	if err != nil || points["t-0"].Cut != lsn {
		t.Errorf("the checkpoint has the truncation at %d behind it, want %d (%v)", points["t-0"].Cut, lsn, err)
	}
}
