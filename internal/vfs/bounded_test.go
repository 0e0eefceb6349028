package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// stallable is a MemFS whose operations named op hang until let go.
func stallable(op string) (m *MemFS, letGo func()) {
	m = NewMem()
	gate := make(chan struct{})
	m.SetHook(func(o, _ string, _ int64, _ int) error {
		if o == op {
			<-gate
		}
		return nil
	})
	return m, func() { close(gate) }
}

func wantTimeout(t *testing.T, err error, op, path string, elapsed time.Duration) {
	t.Helper()
	var terr *TimeoutError
	if !errors.As(err, &terr) || terr.Op != op || terr.Path != path || terr.Elapsed != elapsed || !terr.Timeout() {
		t.Errorf("got %v, want a TimeoutError of %s %s after %s", err, op, path, elapsed)
	}
}

func TestBoundedTimesOut(t *testing.T) {
	f := func(b FS) File {
		f, err := b.OpenFile("/file", Create)
		if err != nil {
			panic(err)
		}
		return f
	}
	for op, call := range map[string]func(b FS) error{
		"remove":    func(b FS) error { return b.Remove("/file") },
		"removeall": func(b FS) error { return b.RemoveAll("/file") },
		"rename":    func(b FS) error { return b.Rename("/file", "/to") },
		"mkdirall":  func(b FS) error { return b.MkdirAll("/file") },
		"list":      func(b FS) error { _, err := b.List("/file"); return err },
		"stat":      func(b FS) error { _, err := b.Stat("/file"); return err },
		"syncdir":   func(b FS) error { return b.SyncDir("/file") },
		"space":     func(b FS) error { _, err := b.Space("/file"); return err },
		"open":      func(b FS) error { _, err := b.OpenFile("/file", Create); return err },
		"lock":      func(b FS) error { _, err := b.Lock("/file"); return err },
		"size":      func(b FS) error { _, err := f(b).Size(); return err },
		"truncate":  func(b FS) error { return f(b).Truncate(0) },
		"close":     func(b FS) error { return f(b).Close() },
	} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, letGo := stallable(op)
				wantTimeout(t, call(Bounded(m, time.Second, 4)), op, "/file", time.Second)
				letGo()
			})
		})
	}
}

// No more than so many goroutines hang; then operations fail at once, and again succeed when the disk is back.
func TestBoundedStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, letGo := stallable("remove")
		var running atomic.Int64
		b := Bounded(countingFS{m, &running}, time.Second, 2)
		errs := make(chan error)
		for range 5 {
			go func() { errs <- b.Remove("/x") }()
		}
		refused := 0
		for range 5 {
			err := <-errs
			if errors.Is(err, ErrTooManyStuck) {
				refused++
			} else {
				wantTimeout(t, err, "remove", "/x", time.Second)
			}
		}
		if refused != 3 || running.Load() != 2 {
			t.Errorf("%d refused, %d running", refused, running.Load())
		}
		began := time.Now()
		_, err := b.Stat("/")
		if elapsed := time.Since(began); !errors.Is(err, ErrTooManyStuck) || elapsed != 0 {
			t.Errorf("while stuck: %v after %s", err, elapsed)
		}
		letGo()
		synctest.Wait()
		if _, err := b.Stat("/"); err != nil {
			t.Errorf("after the stall: %v", err)
		}
		if running.Load() != 0 {
			t.Errorf("%d still running", running.Load())
		}
	})
}

type countingFS struct {
	*MemFS
	running *atomic.Int64
}

func (c countingFS) Remove(name string) error {
	c.running.Add(1)
	defer c.running.Add(-1)
	return c.MemFS.Remove(name)
}

// A file or lock that comes too late is closed.
func TestBoundedDiscardsLateResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, letGo := stallable("lock")
		b := Bounded(m, time.Second, 2)
		_, err := b.Lock("/l")
		wantTimeout(t, err, "lock", "/l", time.Second)
		letGo()
		synctest.Wait()
		l, err := m.Lock("/l")
		if err != nil {
			t.Fatalf("the late lock is still held: %v", err)
		}
		must(t, l.Close())
	})
}

func TestBoundedPassesResults(t *testing.T) {
	m := NewMem()
	b := Bounded(m, time.Minute, 1)
	_, err := b.OpenFile("/none", 0)
	wantErr(t, "open", err, fs.ErrNotExist)
	var terr *TimeoutError
	if errors.As(err, &terr) {
		t.Errorf("an ordinary error came as %v", err)
	}
	f := mustOpen(t, b, "/f", Create)
	mustWrite(t, f, "data", 0)
	if f.Fd() != -1 {
		t.Errorf("fd %d", f.Fd())
	}
	for i := range 100 { // permits come back
		must(t, b.MkdirAll(fmt.Sprintf("/d%d", i)))
	}
}
