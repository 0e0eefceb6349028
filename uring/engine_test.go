package uring

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"weir/internal/vfs"
)

func eachEngine(t *testing.T, change func(*Options), test func(t *testing.T, e *Engine)) {
	for _, v := range variants {
		if v.opt.Locked {
			continue // an Engine decides that itself
		}
		t.Run(v.name, func(t *testing.T) {
			o := v.opt
			if change != nil {
				change(&o)
			}
			e, err := NewEngine(o)
			if o.Backend == BackendKernel && errors.Is(err, ErrUnavailable) {
				t.Skipf("no io_uring here: %v", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			test(t, e)
			if err := e.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if n := e.r.held.Load(); n != 0 {
				t.Errorf("%d operations held after Close", n)
			}
		})
	}
}

func TestEngineDo(t *testing.T) {
	eachEngine(t, nil, func(t *testing.T, e *Engine) {
		f := open(t, vfs.Create)
		op := &Op{Kind: OpWrite, File: f, Buf: []byte("0123456789"), Timeout: long}
		for i := range 3 { // an Op can be used again
			op.Off = int64(10 * i)
			if n, err := e.Do(op); n != 10 || err != nil {
				t.Fatalf("write: %d, %v", n, err)
			}
		}
		if _, err := e.Do(&Op{Kind: OpFdatasync, File: f, Timeout: long}); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 40)
		if n, err := e.Do(&Op{Kind: OpRead, File: f, Buf: buf, Timeout: long}); n != 30 || err != io.EOF || string(buf[20:30]) != "0123456789" {
			t.Errorf("read: %d, %v, %q", n, err, buf)
		}
		_, err := e.Do(&Op{Kind: OpFsync, File: f, Timeout: long, Done: func(*Op, int, error) {}})
		wantError(t, "Do with a Done", err, ErrInvalid)
		_, err = e.Do(&Op{Kind: OpWrite, File: openAt(t, "/dev/full", 0), Buf: buf, Timeout: long})
		wantError(t, "full device", err, unix.ENOSPC)
	})
}

func TestEngineFromManyGoroutines(t *testing.T) {
	eachEngine(t, func(o *Options) { o.Depth, o.Queue = 4, 4096 }, func(t *testing.T, e *Engine) {
		f := open(t, vfs.Create)
		const goroutines, each, size = 8, 50, 100
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Go(func() {
				var submitted sync.WaitGroup
				for i := range each {
					at := g*each + i
					buf := bytes.Repeat([]byte{byte(at)}, size)
					if i%2 == 0 {
						if n, err := e.Do(&Op{Kind: OpWrite, File: f, Buf: buf, Off: int64(at * size), Timeout: long}); n != size || err != nil {
							t.Errorf("Do: %d, %v", n, err)
						}
						continue
					}
					submitted.Add(1)
					err := e.Submit(&Op{Kind: OpWrite, File: f, Buf: buf, Off: int64(at * size), Timeout: long,
						Done: func(_ *Op, n int, err error) {
							if n != size || err != nil {
								t.Errorf("Submit: %d, %v", n, err)
							}
						},
						Released: func(*Op) { submitted.Done() }})
					if err != nil {
						t.Errorf("Submit: %v", err)
						submitted.Done()
					}
				}
				submitted.Wait()
			})
		}
		wg.Wait()
		got := make([]byte, goroutines*each*size)
		if _, err := f.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		for i, c := range got {
			if c != byte(i/size) {
				t.Fatalf("byte %d is %d, want %d", i, c, byte(i/size))
			}
		}
	})
}

// hookedEngine runs test in a bubble of fake time, with an engine whose disk the hook holds up.
func hookedEngine(t *testing.T, o Options, hook vfs.Hook, test func(t *testing.T, e *Engine, f vfs.File)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		f, err := m.OpenFile("/file", vfs.Create)
		if err != nil {
			t.Fatal(err)
		}
		m.SetHook(hook)
		o.Backend = BackendPortable
		e, err := NewEngine(o)
		if err != nil {
			t.Fatal(err)
		}
		test(t, e, f)
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

func TestEngineDeadline(t *testing.T) {
	var gate chan struct{}
	hook := func(op, _ string, _ int64, _ int) error {
		if op == "sync" {
			<-gate
		}
		return nil
	}
	hookedEngine(t, Options{}, hook, func(t *testing.T, e *Engine, f vfs.File) {
		gate = make(chan struct{})
		released := false
		began := time.Now()
		_, err := e.Do(&Op{Kind: OpFsync, File: f, Timeout: 2 * time.Second, Released: func(*Op) { released = true }})
		if elapsed := time.Since(began); !errors.Is(err, ErrDeadline) || elapsed != 2*time.Second {
			t.Errorf("got %v after %s", err, elapsed)
		}
		if want := "fsync /file (0 bytes at 0): deadline exceeded after 2s"; err == nil || err.Error() != want {
			t.Errorf("error says %q, want %q", err, want)
		}
		synctest.Wait()
		if released || e.OldestAge() != 2*time.Second {
			t.Errorf("released %v, oldest %s", released, e.OldestAge())
		}
		close(gate)
		synctest.Wait()
		if !released || e.OldestAge() != 0 {
			t.Errorf("after the stall: released %v, oldest %s", released, e.OldestAge())
		}
	})
}

// What waits behind a stall expires in its own time and never reaches the disk; what is still waiting when the stall ends is done.
func TestEngineHoldsBackBehindStall(t *testing.T) {
	var gate chan struct{}
	var writes atomic.Int64
	hook := func(op, _ string, _ int64, _ int) error {
		switch op {
		case "sync":
			<-gate
		case "write":
			writes.Add(1)
		}
		return nil
	}
	hookedEngine(t, Options{StallAfter: 250 * time.Millisecond}, hook, func(t *testing.T, e *Engine, f vfs.File) {
		gate = make(chan struct{})
		results := make(chan error, 3)
		do := func(kind Kind, timeout time.Duration) {
			op := &Op{Kind: kind, File: f, Timeout: timeout, Done: func(_ *Op, _ int, err error) { results <- err }}
			if kind == OpWrite {
				op.Buf = []byte("x")
			}
			if err := e.Submit(op); err != nil {
				t.Error(err)
			}
		}
		do(OpFsync, time.Second)
		time.Sleep(500 * time.Millisecond)
		do(OpWrite, 100*time.Millisecond)
		wantError(t, "write behind the stall", <-results, ErrDeadline)
		wantError(t, "stalled fsync", <-results, ErrDeadline)
		do(OpWrite, 10*time.Second)
		time.Sleep(time.Second)
		if writes.Load() != 0 || len(results) != 0 {
			t.Errorf("%d writes reached the stalled disk, %d results", writes.Load(), len(results))
		}
		close(gate)
		if err := <-results; err != nil || writes.Load() != 1 {
			t.Errorf("after the stall: %v, %d writes", err, writes.Load())
		}
	})
}

func TestEngineQueueIsBounded(t *testing.T) {
	var gate chan struct{}
	hook := func(op, _ string, _ int64, _ int) error {
		<-gate
		return nil
	}
	hookedEngine(t, Options{Depth: 2, Queue: 4, StallAfter: -1}, hook, func(t *testing.T, e *Engine, f vfs.File) {
		gate = make(chan struct{})
		var done atomic.Int64
		ops := make([]*Op, 6)
		for i := range ops {
			ops[i] = &Op{Kind: OpFsync, File: f, Timeout: time.Hour, Done: func(_ *Op, _ int, err error) {
				if err != nil {
					t.Error(err)
				}
				done.Add(1)
			}}
		}
		wantError(t, "five into a queue of four", e.Submit(ops[:5]...), ErrFull)
		if err := e.Submit(ops[:4]...); err != nil { // nothing of the refused five was kept
			t.Fatal(err)
		}
		synctest.Wait()
		wantError(t, "fifth", e.Submit(ops[4]), ErrFull)
		close(gate)
		synctest.Wait()
		if err := e.Submit(ops[4:]...); err != nil {
			t.Errorf("after room came: %v", err)
		}
		synctest.Wait()
		if done.Load() != 6 {
			t.Errorf("%d done", done.Load())
		}
	})
}

func TestEngineSubmitIsAllOrNothing(t *testing.T) {
	eachEngine(t, nil, func(t *testing.T, e *Engine) {
		f := open(t, vfs.Create)
		var done atomic.Int64
		good := &Op{Kind: OpFsync, File: f, Timeout: long, Done: func(*Op, int, error) { done.Add(1) }}
		bad := &Op{Kind: OpWrite, File: f, Timeout: long, Done: func(*Op, int, error) { done.Add(1) }}
		wantError(t, "with an empty write", e.Submit(good, bad), ErrInvalid)
		wantError(t, "the same twice", e.Submit(good, good), ErrInvalid)
		released := make(chan struct{})
		good.Released = func(*Op) { close(released) }
		if err := e.Submit(good); err != nil {
			t.Fatal(err)
		}
		<-released
		if done.Load() != 1 {
			t.Errorf("%d done", done.Load())
		}
	})
}

func TestEngineClose(t *testing.T) {
	eachEngine(t, nil, func(t *testing.T, e *Engine) {
		f, w := newPipe(t)
		results := make(chan error, 3)
		for range 3 {
			go func() {
				_, err := e.Do(&Op{Kind: OpRead, File: f, Buf: make([]byte, 1), Timeout: long})
				results <- err
			}()
		}
		for e.r.held.Load() < 3 {
			time.Sleep(time.Millisecond)
		}
		if e.Name() == BackendPortable {
			if err := w.Close(); err != nil { // lets the threads go
				t.Fatal(err)
			}
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := <-results; e.Name() != BackendPortable || err != io.EOF {
				wantError(t, "read at Close", err, ErrClosed)
			}
		}
		wantError(t, "Submit", e.Submit(&Op{Kind: OpFsync, File: f, Timeout: long, Done: func(*Op, int, error) {}}), ErrClosed)
	})
}

// An engine whose thread is held up does not hold up those who wait for it.
func TestEngineDoLeavesBlockedThread(t *testing.T) {
	hookedEngine(t, Options{}, nil, func(t *testing.T, e *Engine, f vfs.File) {
		gate := make(chan struct{})
		if err := e.Submit(&Op{Kind: OpFsync, File: f, Timeout: time.Second, Done: func(*Op, int, error) { <-gate }}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began := time.Now()
		_, err := e.Do(&Op{Kind: OpFsync, File: f, Timeout: time.Second})
		if elapsed := time.Since(began); !errors.Is(err, ErrDeadline) || elapsed != time.Second+doGrace || !strings.Contains(err.Error(), "blocked") {
			t.Errorf("got %v after %s", err, elapsed)
		}
		wantError(t, "Close", e.Close(), ErrDeadline)
		close(gate)
		synctest.Wait()
	})
}

func TestEngineThreadsAreIdle(t *testing.T) {
	eachEngine(t, nil, func(t *testing.T, e *Engine) {
		f, w := newPipe(t)
		if _, err := w.WriteString("x"); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Do(&Op{Kind: OpRead, File: f, Buf: make([]byte, 1), Timeout: 100 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		before := e.r.returns.Load()
		time.Sleep(200 * time.Millisecond) // the deadline passes meanwhile
		if got := e.r.returns.Load() - before; got > 2 {
			t.Errorf("%d sleeps of an idle engine", got)
		}
	})
}

// Random operations, many at a time, against a plain slice.
func TestConcurrentOperationsAgreeWithModel(t *testing.T) {
	eachEngine(t, func(o *Options) { o.Depth = 8; o.StallAfter = -1 }, func(t *testing.T, e *Engine) {
		name := t.TempDir() + "/model"
		rapid.Check(t, func(rt *rapid.T) {
			f, err := vfs.OS{}.OpenFile(name, vfs.Create|vfs.Truncate)
			if err != nil {
				rt.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			var model []byte
			for round := range rapid.IntRange(1, 4).Draw(rt, "rounds") {
				model = randomRound(rt, e, f, model, byte(round+1))
			}
		})
	})
}

// randomRound submits operations on disjoint regions at once and checks each.
func randomRound(rt *rapid.T, e *Engine, f vfs.File, model []byte, seed byte) []byte {
	const region = 1000
	type expected struct {
		op   *Op
		want []byte // of a read
		n    int
		err  error
	}
	var all []*expected
	before := model
	for i := range rapid.IntRange(1, 40).Draw(rt, "ops") {
		off := i*region + rapid.IntRange(0, 400).Draw(rt, "off")
		size := rapid.IntRange(1, 600).Draw(rt, "size")
		x := &expected{op: &Op{Kind: OpWrite, File: f, Off: int64(off), Buf: make([]byte, size), Timeout: long}}
		if rapid.Bool().Draw(rt, "read") && off < len(before) {
			// What other operations of this round append may or may not be there: read only what was.
			x.op.Kind = OpRead
			x.op.Buf = x.op.Buf[:min(size, len(before)-off)]
			x.want = before[off : off+len(x.op.Buf)]
		} else {
			fill(x.op.Buf, seed+byte(i))
			if len(model) < off+size {
				model = append(model[:len(model):len(model)], make([]byte, off+size-len(model))...)
			} else {
				model = bytes.Clone(model)
			}
			copy(model[off:], x.op.Buf)
		}
		all = append(all, x)
	}
	var wg sync.WaitGroup
	for _, x := range all {
		wg.Add(1)
		x.op.Done = func(_ *Op, n int, err error) { x.n, x.err = n, err }
		x.op.Released = func(*Op) { wg.Done() }
		if err := e.Submit(x.op); err != nil {
			rt.Fatal(err)
		}
	}
	wg.Wait()
	for _, x := range all {
		if x.n != len(x.op.Buf) || x.err != nil || x.want != nil && !bytes.Equal(x.op.Buf, x.want) {
			rt.Fatalf("%s: %d, %v", describeOp(x.op), x.n, x.err)
		}
	}
	got := make([]byte, len(model)+1)
	n, err := e.Do(&Op{Kind: OpRead, File: f, Buf: got, Timeout: long})
	if n != len(model) || err != io.EOF || !bytes.Equal(got[:n], model) {
		rt.Fatalf("whole file: %d bytes, %v, want %d", n, err, len(model))
	}
	return model
}
