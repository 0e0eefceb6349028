package segment

import (
	"context"
	"errors"
	"io/fs"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"weir/internal/vfs"
)

// TestNothingIsDeletedBeforeTheLogStartIsDurable: a flush looks for segments to delete, too. A crash would bring the old log start back, and
// with it readers of files of which some are gone.
func TestNothingIsDeletedBeforeTheLogStartIsDurable(t *testing.T) {
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	s := openStore(t, o)
	c := defaultConfig()
	c.SegmentBytes = 1000
	w := newWriter(t, openLog(t, s, "t-0", c))
	for range 9 {
		w.add(1, 400, 5)
	}
	flushAll(t, s)
	var full atomic.Bool
	full.Store(true)
	mem.SetHook(failOn(&full, "write", checkpointFile, syscall.ENOSPC))
	if err := w.l.AdvanceLogStart(6); err != nil {
		t.Fatal(err)
	}
	w.add(1, 400, 5)
	if err := s.FlushAll(context.Background()); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("FlushAll: %v", err)
	}
	quiesce(t, s)
	first := segFile("t-0", 0, logSuffix)
	if _, err := mem.Stat(first); err != nil {
		t.Fatalf("segment below a log start that is in no checkpoint: %v", err)
	}
	full.Store(false)
	flushAll(t, s)
	w.add(1, 400, 5)
	flushAll(t, s)
	quiesce(t, s)
	if _, err := mem.Stat(first); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("segment below a durable log start: %v, want %v", err, fs.ErrNotExist)
	}
}

// quiesce waits until nothing runs in the background.
func quiesce(t *testing.T, s *Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.waitBackground(ctx); err != nil {
		t.Fatal(err)
	}
}
