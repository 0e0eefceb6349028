package uring

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestWake(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		r.Wake() // before the Wait: kept
		r.Wake() // and only once
		if err := r.Wait(true); err != nil {
			t.Fatal(err)
		}
		for range 200 {
			go r.Wake()
			if err := r.Wait(true); err != nil {
				t.Fatal(err)
			}
		}
		// A Wait that does not block leaves a wake-up for one that does.
		r.Wake()
		if err := r.Wait(false); err != nil {
			t.Fatal(err)
		}
		if err := r.Wait(true); err != nil {
			t.Fatal(err)
		}
	})
}

// Work handed over by other goroutines, each with a Wake, is all seen.
func TestWakeFromManyGoroutines(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		const goroutines, each = 8, 200
		var sent atomic.Int64
		var wg sync.WaitGroup
		for range goroutines {
			wg.Go(func() {
				for range each {
					sent.Add(1)
					r.Wake()
				}
			})
		}
		for sent.Load() < goroutines*each {
			if err := r.Wait(true); err != nil {
				t.Fatal(err)
			}
		}
		wg.Wait()
	})
}

// An idle ring sleeps: nothing returns from the kernel but for a reason.
func TestIdleRingDoesNotWakeUp(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		f, w := newPipe(t)
		for range 3 {
			if _, err := w.WriteString("x"); err != nil {
				t.Fatal(err)
			}
			if _, err := run(t, r, Op{Kind: OpRead, File: f, Buf: make([]byte, 1), Timeout: 100 * time.Millisecond}); err != nil {
				t.Fatal(err)
			}
		}
		// A wake-up that raced with a completion may be left over, and the counter counts sleeps as they begin.
		r.Wake()
		if err := r.Wait(true); err != nil {
			t.Fatal(err)
		}
		before := r.returns.Load()
		const quiet = 250 * time.Millisecond // several of the deadlines that are past
		time.AfterFunc(quiet, r.Wake)
		if err := r.Wait(true); err != nil {
			t.Fatal(err)
		}
		if got := r.returns.Load() - before; got > 2 {
			t.Errorf("%d sleeps in %s of idleness, want one", got, quiet)
		}
	})
}

// With something in flight the ring sleeps until its deadline, or for a slice of it that is long.
func TestWaitingRingDoesNotPoll(t *testing.T) {
	eachRing(t, nil, func(t *testing.T, r *ring) {
		f, w := newPipe(t)
		c := &call{op: Op{Kind: OpRead, File: f, Buf: make([]byte, 1), Timeout: 150 * time.Millisecond}}
		push(t, r, c)
		before := r.returns.Load()
		until(t, r, "deadline", func() bool { return c.done == 1 })
		if got := r.returns.Load() - before; got > 4 {
			t.Errorf("%d sleeps for one deadline", got)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		until(t, r, "release", func() bool { return c.released == 1 })
	})
}
