package segment

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"weir/internal/vfs"
)

// failOn makes a hook that fails operation op on names that contain part, as long as on is true.
func failOn(on *atomic.Bool, op, part string, err error) func(string, string, int64, int) error {
	return func(o, name string, _ int64, _ int) error {
		if on.Load() && o == op && strings.Contains(name, part) {
			return err
		}
		return nil
	}
}

func TestNoSpaceIsWaitedOut(t *testing.T) {
	for _, op := range []string{"write", "datasync", "open", "mkdirall"} {
		t.Run(op, func(t *testing.T) {
			fs := vfs.NewMem()
			o, ev := testOptions(fs)
			s := openStore(t, o)
			l := openLog(t, s, "t-0", defaultConfig())
			var full atomic.Bool
			full.Store(true)
			fs.SetHook(failOn(&full, op, "t-0", syscall.ENOSPC))
			w := newWriter(t, l)
			for range 20 {
				w.add(1, 900, 0)
			}
			if err := s.FlushAll(context.Background()); !errors.Is(err, ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("FlushAll: %v", err)
			}
			if err := <-ev.errCh; !errors.Is(err, ErrNoSpace) || ev.errDirs[0] != "t-0" {
				t.Fatalf("OnError(%q, %v)", ev.errDirs[0], err)
			}
			if _, told := ev.lastFlushed(); told {
				t.Error("the WAL was released")
			}
			w.add(1, 900, 0) // appends go on
			if got := readAll(t, l, 0, l.End(), 1<<20); !bytes.Equal(got, w.want) {
				t.Error("the tail is not readable while the disk is full")
			}
			full.Store(false)
			s.Kick()
			flushAll(t, s)
			if l.Flushed() != l.End() {
				t.Fatalf("flushed %d of %d", l.Flushed(), l.End())
			}
			if got := readFS(t, fs, segFile("t-0", 0, logSuffix)); !bytes.Equal(got, w.want) {
				t.Error("the file differs after the retry")
			}
		})
	}
}

func TestDeletionMakesRoom(t *testing.T) {
	fs := vfs.NewMem()
	o, ev := testOptions(fs)
	var waiting atomic.Pointer[Log]
	flushed := make(chan struct{}, 1)
	o.OnFlushed = func(uint64, bool) {
		if l := waiting.Load(); l != nil && l.Flushed() == 1 {
			select {
			case flushed <- struct{}{}:
			default:
			}
		}
	}
	s := openStore(t, o)
	old := newWriter(t, openLog(t, s, "old-0", defaultConfig()))
	old.add(1, 50_000, 0)
	flushAll(t, s)
	fs.SetCapacity(60_000)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	w.add(1, 30_000, 0)
	if err := s.FlushAll(context.Background()); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("FlushAll: %v", err)
	}
	<-ev.errCh
	waiting.Store(w.l)
	s.Remove(old.l)
	<-flushed
}

func TestIOErrorIsFinal(t *testing.T) {
	for _, op := range []string{"write", "datasync"} {
		t.Run(op, func(t *testing.T) {
			fs := vfs.NewMem()
			o, ev := testOptions(fs)
			s := openStore(t, o)
			l := openLog(t, s, "t-0", defaultConfig())
			var bad atomic.Bool
			var calls atomic.Int32
			bad.Store(true)
			fail := failOn(&bad, op, ".log", syscall.EIO)
			fs.SetHook(func(o, name string, off int64, n int) error {
				if o == op && strings.Contains(name, ".log") {
					calls.Add(1)
				}
				return fail(o, name, off, n)
			})
			w := newWriter(t, l)
			w.add(2, 100, 0)
			if err := s.FlushAll(context.Background()); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
				t.Fatalf("FlushAll: %v", err)
			}
			if err := <-ev.errCh; !errors.Is(err, ErrFailed) {
				t.Fatalf("OnError: %v", err)
			}
			before := calls.Load()
			bad.Store(false)
			s.Kick()
			s.FlushBelow(1 << 60)
			if err := s.FlushAll(context.Background()); !errors.Is(err, ErrFailed) {
				t.Errorf("FlushAll after the failure: %v", err)
			}
			if calls.Load() != before {
				t.Error("a failed flush was tried again")
			}
			if err := s.Reserve(context.Background(), 1); !errors.Is(err, ErrFailed) {
				t.Errorf("Reserve: %v", err)
			}
			if _, err := l.Append(makeBatch(t, 2, 1, 1, 0), nil); !errors.Is(err, ErrFailed) {
				t.Errorf("Append: %v", err)
			}
			if got := readAll(t, l, 0, 2, 1<<20); !bytes.Equal(got, w.want) {
				t.Error("the tail is not readable after the failure")
			}
		})
	}
}

// TestStalledFlush: a sync that does not come back fails the store at the deadline; readers of the tail go on.
func TestStalledFlush(t *testing.T) {
	fs := vfs.NewMem()
	o, ev := testOptions(fs)
	o.IOTimeout = 50 * time.Millisecond
	s := openStore(t, o)
	l := openLog(t, s, "t-0", defaultConfig())
	release := make(chan struct{})
	fs.SetHook(func(op, name string, _ int64, _ int) error {
		if op == "datasync" {
			<-release
		}
		return nil
	})
	w := newWriter(t, l)
	w.add(2, 100, 0)
	if err := s.FlushAll(context.Background()); !errors.Is(err, ErrFailed) || !errors.Is(err, ErrDeadline) {
		t.Fatalf("FlushAll: %v", err)
	}
	<-ev.errCh
	if got := readAll(t, l, 0, 2, 1<<20); !bytes.Equal(got, w.want) {
		t.Error("the tail is not readable during the stall")
	}
	close(release)
}

// TestStalledRead: a cold read on a stalled disk ends at its deadline with a typed error, and its buffers outlive it.
func TestStalledRead(t *testing.T) {
	for _, op := range []string{"read"} {
		t.Run(op, func(t *testing.T) {
			fs := vfs.NewMem()
			o, _ := testOptions(fs)
			o.IOTimeout = 50 * time.Millisecond
			o.ReadWorkersMax = 2
			s := openStore(t, o)
			w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
			for range 30 {
				w.add(2, 1000, 0)
			}
			flushAll(t, s)
			release := make(chan struct{})
			var stalled atomic.Bool
			stalled.Store(true)
			fs.SetHook(func(o, name string, _ int64, _ int) error {
				if o == op && stalled.Load() {
					<-release
				}
				return nil
			})
			for range 4 { // more than there are workers
				_, err := w.l.Read(7, 60, 5000, true)
				var de *DeadlineError
				if !errors.As(err, &de) || !errors.Is(err, ErrDeadline) || (de.Op != op && !de.Queued) {
					t.Fatalf("Read: %v", err)
				}
			}
			stalled.Store(false)
			close(release)
			r, err := w.l.Read(7, 60, 5000, true)
			if err != nil {
				t.Fatal(err)
			}
			checkRange(t, r, readRange(r))
			r.Release()
		})
	}
}

func TestCheckpointFailureKeepsWAL(t *testing.T) {
	fs := vfs.NewMem()
	o, ev := testOptions(fs)
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	var full atomic.Bool
	full.Store(true)
	fs.SetHook(failOn(&full, "write", checkpointFile, syscall.ENOSPC))
	w.add(2, 100, 0)
	if err := s.FlushAll(context.Background()); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("FlushAll: %v", err)
	}
	if _, told := ev.lastFlushed(); told {
		t.Error("the WAL was released without a durable checkpoint")
	}
	full.Store(false)
	flushAll(t, s)
	if lsn, _ := ev.lastFlushed(); lsn != w.lsn {
		t.Errorf("WAL needed from %d, want %d", lsn, w.lsn)
	}
}

func FuzzCheckpoint(f *testing.F) {
	f.Add(encodeCheckpoint(map[string]Checkpoint{"a-0": {RecoveryPoint: 1, LogStart: 2, Active: ActivePoint{0, 3, -1, -1, 0}}, "b \n\"": {}}))
	f.Add(encodeCheckpoint(nil))
	f.Add([]byte("crc32c 00000000\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeCheckpoint(data)
		if err != nil {
			if !errors.Is(err, errCheckpoint) {
				t.Fatalf("untyped: %v", err)
			}
			return
		}
		again, err := decodeCheckpoint(encodeCheckpoint(m))
		if err != nil || len(again) != len(m) {
			t.Fatalf("%v: %v, %v", m, again, err)
		}
	})
}
