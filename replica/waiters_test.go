package replica

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestWaitersStopInAnyOrder(t *testing.T) {
	const n = 4
	for first := range n {
		var l waiterList
		woken := make([]int, n)
		ws := make([]Waiter, n)
		for i := range ws {
			ws[i].Wake = func() { woken[i]++ }
			l.add(&ws[i])
		}
		ws[first].Stop()
		ws[first].Stop() // again: no effect
		l.wake()
		for i, got := range woken {
			want := 1
			if i == first {
				want = 0
			}
			if got != want {
				t.Errorf("after stopping %d: waiter %d woken %d times, want %d", first, i, got, want)
			}
		}
		for i := range ws {
			ws[i].Stop()
		}
		if l.mu.head != nil {
			t.Errorf("list not empty after stopping all")
		}
	}
}

// TestWaitersConcurrent adds, wakes and stops from many goroutines; the race detector watches.
func TestWaitersConcurrent(t *testing.T) {
	var l waiterList
	var woken atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				w := Waiter{Wake: func() { woken.Add(1) }}
				l.add(&w)
				l.wake()
				w.Stop()
			}
		})
	}
	wg.Wait()
	if l.mu.head != nil {
		t.Error("list not empty")
	}
	if woken.Load() < 8*200 {
		t.Errorf("%d wakes: each waiter should have got at least its own", woken.Load())
	}
}
