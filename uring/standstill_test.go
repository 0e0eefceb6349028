package uring

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// skewed is a clock that the test moves on: as if the process had been stopped.
type skewed struct{ by atomic.Int64 }

func skew(r *ring) *skewed {
	c := &skewed{}
	r.clock = func() time.Time { return time.Now().Add(time.Duration(c.by.Load())) }
	return c
}

func (c *skewed) add(d time.Duration) { c.by.Add(int64(d)) }

// slowly lets time pass while the ring runs.
func (c *skewed) slowly(t *testing.T, r *ring, d time.Duration) {
	t.Helper()
	for step := 50 * time.Millisecond; d > 0; d -= step {
		c.add(min(d, step))
		look(t, r)
	}
}

func look(t *testing.T, r *ring) {
	t.Helper()
	if err := r.Wait(false); err != nil {
		t.Fatal(err)
	}
}

func readOf(f *pipeFile, timeout time.Duration) *call {
	return &call{op: Op{Kind: OpRead, File: f, Buf: make([]byte, 8), Timeout: timeout}}
}

// TestStoppedProcess: what was in flight while the process stood still is not failed at the wake-up, and ends as it would have; operations that were
// given to the ring afterwards have their own time and no more.
func TestStoppedProcess(t *testing.T) {
	for name, stops := range map[string][]time.Duration{
		"once":                   {10 * time.Second},
		"a little too long":      {2100 * time.Millisecond},
		"twice":                  {10 * time.Second, time.Hour},
		"longer than it lasts":   {1900 * time.Millisecond, 1900 * time.Millisecond},
		"for a year, and a year": {8760 * time.Hour, 8760 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			eachRing(t, nil, func(t *testing.T, r *ring) {
				c := skew(r)
				f, w := newPipe(t)
				read := readOf(f, 2*time.Second)
				push(t, r, read)
				look(t, r)
				for _, stop := range stops {
					c.add(stop)
					look(t, r)
					if read.done != 0 {
						t.Fatalf("failed at the wake-up: %v", read.err)
					}
					c.slowly(t, r, 300*time.Millisecond)
				}
				if _, err := w.Write(make([]byte, 8)); err != nil {
					t.Fatal(err)
				}
				until(t, r, "read", func() bool { return read.released == 1 })
				if read.err != nil || read.n != 8 {
					t.Errorf("got %d, %v", read.n, read.err)
				}
			})
		})
	}
}

// TestStoppedAsleep: the process is stopped while the ring sleeps.
func TestStoppedAsleep(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		c := skew(r)
		f, w := newPipe(t)
		read := readOf(f, 2*time.Second)
		push(t, r, read)
		go func() {
			for r.wakeup.Load() != ownerAsleep {
				runtime.Gosched()
			}
			c.add(10 * time.Second)
			r.Wake()
		}()
		if err := r.Wait(true); err != nil || read.done != 0 {
			t.Fatalf("at the wake-up: %v, read %v", err, read.err)
		}
		if _, err := w.Write(make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		until(t, r, "read", func() bool { return read.released == 1 })
		if read.err != nil || read.n != 8 {
			t.Errorf("got %d, %v", read.n, read.err)
		}
	})
}

// TestStoppedAtItsDeadline: what has finished, and was not reported yet, has a moment for that.
func TestStoppedAtItsDeadline(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		c := skew(r)
		f, w := newPipe(t)
		read := readOf(f, 20*time.Second)
		push(t, r, read)
		look(t, r)
		c.slowly(t, r, 19900*time.Millisecond)
		c.add(10 * time.Second)
		for range 5 {
			look(t, r)
		}
		if read.done != 0 {
			t.Fatalf("failed at the wake-up: %v", read.err)
		}
		if _, err := w.Write(make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		until(t, r, "read", func() bool { return read.released == 1 })
		if read.err != nil || read.n != 8 {
			t.Errorf("got %d, %v", read.n, read.err)
		}
	})
}

// TestStoppedProcessAndDisk: a disk that does not answer after the wake-up either is found within the operation's own time from there.
func TestStoppedProcessAndDisk(t *testing.T) {
	eachRing(t, func(o *Options) { o.Threads = 8 }, func(t *testing.T, r *ring) {
		c := skew(r)
		f, w := newPipe(t)
		before := readOf(f, 20*time.Second)
		push(t, r, before)
		look(t, r)
		c.slowly(t, r, 5*time.Second)
		c.add(time.Hour)
		look(t, r)
		after := readOf(f, 10*time.Second)
		push(t, r, after)
		c.slowly(t, r, 9500*time.Millisecond)
		if before.done+after.done != 0 {
			t.Fatalf("failed early: %v, %v", before.err, after.err)
		}
		c.slowly(t, r, time.Second)
		if after.done != 1 || before.done != 0 {
			t.Fatalf("after 10.5 s: the one pushed after the stop %d, the other %d (%v)", after.done, before.done, before.err)
		}
		c.slowly(t, r, 5*time.Second)
		wantError(t, "in flight for 20 s without the stop", before.err, ErrDeadline)
		if before.done != 1 {
			t.Error("an operation has no end")
		}
		if err := w.Close(); err != nil { // lets threads go
			t.Fatal(err)
		}
		until(t, r, "releases", func() bool { return r.InFlight() == 0 })
	})
}

// TestKernelTimeoutOfStoppedProcess: the kernel's own timeout goes on while the process stands still, and ends what it can. That is begun again.
func TestKernelTimeoutOfStoppedProcess(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		f, w := newPipe(t)
		read := readOf(f, 300*time.Millisecond)
		push(t, r, read)
		look(t, r)
		<-time.After(800 * time.Millisecond) // no slower machine makes this wrong: the ring's owner is away
		look(t, r)
		if read.done != 0 {
			t.Fatalf("failed at the wake-up: %v", read.err)
		}
		if _, err := w.Write(make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		until(t, r, "read", func() bool { return read.released == 1 })
		if read.err != nil || read.n != 8 {
			t.Errorf("got %d, %v", read.n, read.err)
		}
	})
}

// TestSubmittedWhileAway: what was handed to an engine while its thread did not run has had no time yet.
func TestSubmittedWhileAway(t *testing.T) {
	eachRing(t, func(o *Options) { o.Depth = 4 }, func(t *testing.T, r *ring) {
		c := skew(r)
		f, w := newPipe(t)
		e := &Engine{r: r}
		first, second := readOf(f, 2*time.Second), readOf(f, 2*time.Second)
		push(t, r, first)
		look(t, r)
		c.add(5 * time.Second)
		op := second.watch(t)
		op.state.held, op.state.accepted = 1, r.now()
		r.held.Add(1)
		c.add(5 * time.Second)
		look(t, r)
		e.take([]*Op{op})
		look(t, r)
		if first.done+second.done != 0 {
			t.Fatalf("failed at the wake-up: %v, %v", first.err, second.err)
		}
		c.slowly(t, r, 2100*time.Millisecond)
		wantError(t, "in flight before", first.err, ErrDeadline)
		wantError(t, "submitted meanwhile", second.err, ErrDeadline)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		until(t, r, "releases", func() bool { return r.InFlight() == 0 })
	})
}
