package uring

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/internal/vfs"
)

// The tests of this file hold for every ring.

func TestResults(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		f := open(t, vfs.Create)
		data := fill(make([]byte, 10_000), 3)
		for _, op := range []Op{
			{Kind: OpFallocate, File: f, Len: 20_000},
			{Kind: OpWrite, File: f, Buf: data[:4000]},
			{Kind: OpWrite, File: f, Buf: data[4000:], Off: 4000},
			{Kind: OpFsync, File: f},
			{Kind: OpFdatasync, File: f},
		} {
			n, err := run(t, r, op)
			if err != nil || n != len(op.Buf) {
				t.Fatalf("%s: got %d, %v", describeOp(&op), n, err)
			}
		}
		if size, err := f.Size(); err != nil || size != 20_000 {
			t.Errorf("size after fallocate: %d, %v", size, err)
		}
		got := make([]byte, 20_000)
		if n, err := run(t, r, Op{Kind: OpRead, File: f, Buf: got}); n != len(got) || err != nil {
			t.Fatalf("read: %d, %v", n, err)
		}
		if !bytes.Equal(got[:10_000], data) || !bytes.Equal(got[10_000:], make([]byte, 10_000)) {
			t.Error("read other bytes than were written")
		}
	})
}

func TestEndOfFile(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		name := t.TempDir() + "/short"
		if err := os.WriteFile(name, fill(make([]byte, 5000), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, flag := range []vfs.Flag{0, vfs.Direct} {
			f := openAt(t, name, flag)
			for _, c := range []struct {
				off  int64
				n    int
				want int
				err  error
			}{
				{0, 4096, 4096, nil},
				{0, 8192, 5000, io.EOF},
				{4096, 4096, 904, io.EOF},
				{8192, 4096, 0, io.EOF},
			} {
				buf := aligned(t, c.n)
				n, err := run(t, r, Op{Kind: OpRead, File: f, Buf: buf, Off: c.off})
				if n != c.want || err != c.err {
					t.Errorf("flag %d: read of %d at %d: got %d, %v, want %d, %v", flag, c.n, c.off, n, err, c.want, c.err)
				}
			}
		}
	})
}

// A transfer that the kernel does in pieces is one to the caller.
func TestShortTransfersContinue(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		f, w := newPipe(t)
		c := &call{op: Op{Kind: OpRead, File: f, Buf: make([]byte, 10)}}
		push(t, r, c)
		for _, piece := range []string{"abc", "defg", "hij"} {
			if err := r.Wait(false); err != nil {
				t.Fatal(err)
			}
			if c.done != 0 {
				t.Fatalf("done after %d bytes: %v", c.n, c.err)
			}
			if _, err := w.WriteString(piece); err != nil {
				t.Fatal(err)
			}
		}
		until(t, r, "whole read", func() bool { return c.released == 1 })
		if c.n != 10 || c.err != nil || string(c.op.Buf) != "abcdefghij" {
			t.Errorf("got %d, %v, %q", c.n, c.err, c.op.Buf)
		}
		c = &call{op: Op{Kind: OpRead, File: f, Buf: make([]byte, 10)}}
		push(t, r, c)
		if _, err := w.WriteString("tail"); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		until(t, r, "end of pipe", func() bool { return c.released == 1 })
		if c.n != 4 || c.err != io.EOF {
			t.Errorf("got %d, %v, want 4, EOF", c.n, c.err)
		}
	})
}

func TestErrors(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		name := t.TempDir() + "/file"
		if err := os.WriteFile(name, make([]byte, 8192), 0o600); err != nil {
			t.Fatal(err)
		}
		page := aligned(t, 4096)
		full := openAt(t, "/dev/full", 0)
		for _, c := range []struct {
			what string
			op   Op
			want error
		}{
			{"write to a read-only file", Op{Kind: OpWrite, File: openAt(t, name, vfs.ReadOnly), Buf: page}, unix.EBADF},
			{"write to a full device", Op{Kind: OpWrite, File: full, Buf: page, Off: 4096}, unix.ENOSPC},
			{"misaligned direct write", Op{Kind: OpWrite, File: openAt(t, name, vfs.Direct), Buf: page[1:101], Off: 1}, unix.EINVAL},
			{"fallocate of a device", Op{Kind: OpFallocate, File: full, Len: 4096, Off: 8192}, unix.ENODEV},
			{"fsync of a pipe-like thing", Op{Kind: OpFsync, File: full}, unix.EINVAL},
		} {
			n, err := run(t, r, c.op)
			var operr *OpError
			if !errors.Is(err, c.want) || !errors.As(err, &operr) || n != 0 {
				if c.what == "misaligned direct write" && err == nil {
					continue // some file systems fall back to buffered I/O
				}
				t.Errorf("%s: got %d, %v, want an OpError of %v", c.what, n, err, c.want)
				continue
			}
			want := OpError{Op: c.op.Kind, Target: c.op.File.Name(), Off: c.op.Off, Bytes: len(c.op.Buf) + int(c.op.Len), Elapsed: operr.Elapsed, Err: operr.Err}
			if *operr != want || strings.Count(err.Error(), c.op.File.Name()) != 1 {
				t.Errorf("%s: error says %q, of %+v", c.what, err, *operr)
			}
		}
	})
}

func TestPushRefusesNonsense(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		f := open(t, vfs.Create)
		done := func(*Op, int, error) { t.Error("Done of a refused operation") }
		buf := make([]byte, 10)
		for what, op := range map[string]*Op{
			"no file":          {Kind: OpRead, Buf: buf, Timeout: long, Done: done},
			"no kind":          {File: f, Buf: buf, Timeout: long, Done: done},
			"unknown kind":     {Kind: 77, File: f, Buf: buf, Timeout: long, Done: done},
			"no buffer":        {Kind: OpWrite, File: f, Timeout: long, Done: done},
			"negative offset":  {Kind: OpWrite, File: f, Buf: buf, Off: -1, Timeout: long, Done: done},
			"no timeout":       {Kind: OpWrite, File: f, Buf: buf, Done: done},
			"negative timeout": {Kind: OpWrite, File: f, Buf: buf, Timeout: -1, Done: done},
			"no done":          {Kind: OpWrite, File: f, Buf: buf, Timeout: long},
			"no length":        {Kind: OpFallocate, File: f, Timeout: long, Done: done},
		} {
			wantError(t, what, r.Push(op), ErrInvalid)
		}
		c := &call{op: Op{Kind: OpFsync, File: f}}
		push(t, r, c)
		wantError(t, "pushed twice", r.Push(&c.op), ErrInvalid)
		until(t, r, "fsync", func() bool { return c.released == 1 })
		if r.InFlight() != 0 {
			t.Errorf("%d in flight", r.InFlight())
		}
	})
}

// The waiter of a stuck operation is failed at its deadline; its memory is released only when the kernel lets go.
func TestDeadlineOfStuckOperation(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		s := newStuck(t)
		data := fill(aligned(t, 4096), 9)
		write := hang(t, r, Op{Kind: OpWrite, File: s.file, Buf: data, Off: 4096, Timeout: 50 * time.Millisecond})
		fallocate := hang(t, r, Op{Kind: OpFallocate, File: s.file, Len: 100_000, Timeout: 60 * time.Millisecond})

		// The ring goes on serving others, however long that takes. (Not buffered writes: the kernel sorts those by inode into 64
		// queues, and one that shares a queue with the stuck write would wait for it.)
		other := open(t, vfs.Create)
		for i := range int64(20) {
			if _, err := run(t, r, Op{Kind: OpFallocate, File: other, Off: 10 * i, Len: 10}); err != nil {
				t.Fatalf("fallocate beside a stuck write: %v", err)
			}
			if n, err := run(t, r, Op{Kind: OpRead, File: other, Buf: make([]byte, 10), Off: 10 * i}); n != 10 || err != nil {
				t.Fatalf("read beside a stuck write: %d, %v", n, err)
			}
		}
		if write.released+fallocate.released != 0 || r.InFlight() != 2 || r.OldestAge() < 110*time.Millisecond {
			t.Errorf("stuck: released %d, in flight %d, oldest %s", write.released+fallocate.released, r.InFlight(), r.OldestAge())
		}
		s.resolve()
		until(t, r, "releases", func() bool { return write.released+fallocate.released == 2 })
		if r.InFlight() != 0 || r.OldestAge() != 0 {
			t.Errorf("after release: in flight %d, oldest %s", r.InFlight(), r.OldestAge())
		}
		got := make([]byte, len(data))
		if n, err := s.file.ReadAt(got, 4096); n != len(got) || err != nil || !bytes.Equal(got, data) {
			t.Errorf("the write that was given up reached the file with %d bytes, %v", n, err)
		}
	})
}

// An operation that can be cancelled is, and comes back soon after its deadline.
func TestDeadlineOfCancellableRead(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		f, w := newPipe(t)
		c := &call{op: Op{Kind: OpRead, File: f, Buf: make([]byte, 8), Timeout: 30 * time.Millisecond}}
		push(t, r, c)
		until(t, r, "deadline", func() bool { return c.done == 1 })
		wantError(t, "read of a silent pipe", c.err, ErrDeadline)
		if r.Name() == BackendPortable {
			// A thread in a system call cannot be called back.
			if c.released != 0 {
				t.Error("released while a thread reads into the buffer")
			}
			if _, err := w.Write(make([]byte, 8)); err != nil {
				t.Fatal(err)
			}
		}
		until(t, r, "release", func() bool { return c.released == 1 })
	})
}

// Deadlines fire in their own order, not in that of pushes.
func TestDeadlineOrder(t *testing.T) {
	eachRing(t, func(o *Options) { o.Threads = 8 }, func(t *testing.T, r *ring) {
		f, w := newPipe(t)
		var order []int
		timeouts := []time.Duration{80, 20, 60, 40, 100}
		for i, ms := range timeouts {
			op := &Op{Kind: OpRead, File: f, Buf: make([]byte, 8), Timeout: ms * time.Millisecond}
			op.Done = func(_ *Op, _ int, err error) {
				wantError(t, "silent pipe", err, ErrDeadline)
				order = append(order, i)
			}
			if err := r.Push(op); err != nil {
				t.Fatal(err)
			}
		}
		until(t, r, "deadlines", func() bool { return len(order) == len(timeouts) })
		for i, want := range []int{1, 3, 2, 0, 4} {
			if order[i] != want {
				t.Fatalf("deadlines came in order %v", order)
			}
		}
		if err := w.Close(); err != nil { // lets threads go
			t.Fatal(err)
		}
		until(t, r, "releases", func() bool { return r.InFlight() == 0 })
	})
}

func TestRefusals(t *testing.T) {
	t.Run("full", func(t *testing.T) {
		eachRing(t, func(o *Options) { o.Depth = 2 }, func(t *testing.T, r *ring) {
			f, w := newPipe(t)
			a, b := &call{op: Op{Kind: OpRead, File: f, Buf: make([]byte, 1)}}, &call{op: Op{Kind: OpRead, File: f, Buf: make([]byte, 1)}}
			push(t, r, a, b)
			extra := (&call{op: Op{Kind: OpRead, File: f, Buf: make([]byte, 1)}}).watch(t)
			wantError(t, "third of two", r.Push(extra), ErrFull)
			if _, err := w.WriteString("12"); err != nil {
				t.Fatal(err)
			}
			until(t, r, "reads", func() bool { return a.released+b.released == 2 })
			if _, err := w.WriteString("3"); err != nil {
				t.Fatal(err)
			}
			if n, err := run(t, r, Op{Kind: OpRead, File: f, Buf: make([]byte, 1)}); n != 1 || err != nil {
				t.Errorf("after room came: %d, %v", n, err)
			}
		})
	})
	t.Run("stalled", func(t *testing.T) {
		eachRing(t, func(o *Options) { o.StallAfter = 20 * time.Millisecond }, func(t *testing.T, r *ring) {
			s := newStuck(t)
			f := open(t, vfs.Create)
			hung := hang(t, r, Op{Kind: OpWrite, File: s.file, Buf: []byte("x"), Timeout: 40 * time.Millisecond})
			wantError(t, "push into a stalled disk", r.Push((&call{op: Op{Kind: OpFsync, File: f}}).watch(t)), ErrStalled)
			s.resolve()
			until(t, r, "release", func() bool { return hung.released == 1 })
			if _, err := run(t, r, Op{Kind: OpFsync, File: f}); err != nil {
				t.Errorf("after the stall: %v", err)
			}
		})
	})
	t.Run("closed", func(t *testing.T) {
		eachRing(t, nil, func(t *testing.T, r *ring) {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			wantError(t, "Push", r.Push((&call{op: Op{Kind: OpFsync, File: open(t, vfs.Create)}}).watch(t)), ErrClosed)
			wantError(t, "Wait", r.Wait(true), ErrClosed)
			r.Wake() // must not touch what is gone
		})
	})
}

// Done and Released may push, into the room that the finished operation left too.
func TestCallbacksPush(t *testing.T) {
	eachRing(t, func(o *Options) { o.Depth = 1 }, func(t *testing.T, r *ring) {
		f := open(t, vfs.Create)
		const rounds = 50
		ended := 0
		op := Op{Kind: OpWrite, File: f, Buf: []byte("again"), Timeout: long,
			Done: func(_ *Op, n int, err error) {
				if n != 5 || err != nil {
					t.Errorf("write: %d, %v", n, err)
				}
				ended++
			},
			Released: func(o *Op) {
				if ended == rounds {
					return
				}
				o.Off += 5
				if err := r.Push(o); err != nil {
					t.Errorf("Push from Released: %v", err)
				}
			}}
		if err := r.Push(&op); err != nil {
			t.Fatal(err)
		}
		until(t, r, "rounds", func() bool { return ended == rounds })
		second := &call{op: Op{Kind: OpFsync, File: f}}
		first := &Op{Kind: OpFsync, File: f, Timeout: long, Done: func(*Op, int, error) { push(t, r, second) }}
		if err := r.Push(first); err != nil {
			t.Fatal(err)
		}
		until(t, r, "push from Done", func() bool { return second.released == 1 })
	})
}

func TestNestedCallsAreRefused(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		var wait, closing error
		op := &Op{Kind: OpFsync, File: open(t, vfs.Create), Timeout: long}
		op.Done = func(*Op, int, error) { wait, closing = r.Wait(false), r.Close() }
		if err := r.Push(op); err != nil {
			t.Fatal(err)
		}
		until(t, r, "fsync", func() bool { return r.InFlight() == 0 })
		wantError(t, "Wait inside Done", wait, ErrInvalid)
		wantError(t, "Close inside Done", closing, ErrInvalid)
	})
}
