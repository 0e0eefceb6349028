package uring

import (
	"errors"
	"strings"
	"testing"
	"time"

	"weir/internal/vfs"
)

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{
		{Depth: -1}, {Depth: depthMax + 1}, {Threads: -1}, {Queue: -1}, {Queue: queueMax + 1}, {Backend: "windows"},
	} {
		if _, err := New(o); !errors.Is(err, ErrOptions) {
			t.Errorf("New(%+v): %v", o, err)
		}
		if _, err := NewEngine(o); !errors.Is(err, ErrOptions) {
			t.Errorf("NewEngine(%+v): %v", o, err)
		}
	}
}

// The largest ring works, within the usual limit on locked memory.
func TestLargestRing(t *testing.T) {
	eachRing(t, func(o *Options) { o.Depth = depthMax }, func(t *testing.T, r *ring) {
		f := open(t, vfs.Create)
		calls := make([]*call, depthMax)
		for i := range calls {
			calls[i] = &call{op: Op{Kind: OpWrite, File: f, Buf: []byte{byte(i)}, Off: int64(i)}}
		}
		push(t, r, calls...)
		until(t, r, "all", func() bool { return r.InFlight() == 0 })
		for i, c := range calls {
			if c.n != 1 || c.err != nil {
				t.Fatalf("write %d: %d, %v", i, c.n, c.err)
			}
		}
	})
}

func TestProbe(t *testing.T) {
	name, why := Probe()
	r, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Name() != name || why == "" {
		t.Errorf("Probe says %q (%q), New gives %q", name, why, r.Name())
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// Files without a descriptor are for the portable ring; the others say so.
func TestFilesWithoutDescriptor(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		f, err := vfs.NewMem().OpenFile("/f", vfs.Create)
		if err != nil {
			t.Fatal(err)
		}
		c := &call{op: Op{Kind: OpWrite, File: f, Buf: []byte("x")}}
		err = r.Push(c.watch(t))
		if r.Name() != BackendPortable {
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), BackendPortable) {
				t.Errorf("Push: %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		until(t, r, "write", func() bool { return c.released == 1 })
		if c.n != 1 || c.err != nil {
			t.Errorf("write: %d, %v", c.n, c.err)
		}
	})
}

func TestClosedFileIsRefused(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		f := open(t, vfs.Create)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		c := &call{op: Op{Kind: OpWrite, File: f, Buf: []byte("x")}}
		err := r.Push(c.watch(t))
		if err == nil { // found when it is done
			until(t, r, "write", func() bool { return c.released == 1 })
			err = c.err
		}
		if err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("write to a closed file: %v", err)
		}
	})
}

// Operations that no thread has begun are taken back at their deadline.
func TestPortableTakesBackQueuedWork(t *testing.T) {
	r := newPortableRing(t, Options{Threads: 1})
	s := newStuck(t)
	hung := &call{op: Op{Kind: OpWrite, File: s.file, Buf: []byte("x")}}
	push(t, r, hung)
	behind := &call{op: Op{Kind: OpWrite, File: open(t, vfs.Create), Buf: []byte("x"), Timeout: 10 * time.Millisecond}}
	push(t, r, behind)
	until(t, r, "release", func() bool { return behind.released == 1 })
	wantError(t, "behind a stuck thread", behind.err, ErrDeadline)
	if size, err := behind.op.File.Size(); size != 0 || err != nil {
		t.Errorf("it was written all the same: %d, %v", size, err)
	}
	s.resolve()
	until(t, r, "the stuck one", func() bool { return hung.released == 1 })
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func newPortableRing(t *testing.T, o Options) *ring {
	t.Helper()
	o.Backend, o.StallAfter = BackendPortable, -1
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r.(*ring)
}
