package clock

import (
	"sync"
	"time"
)

// A process that stood still (SIGSTOP, a paused virtual machine, a cgroup without CPU) finds at its wake-up that everything it waited for is
// overdue, though what it waited for may have come at once and only was not looked at. So a wait that ends something is cut into slices: a
// slice that ends much too late is time in which the process did not run, and does not count. A wait grows by what was lost in it, so it ends within
// its own length after the wake-up.

// Slice is the length of the slices into which a wait of d is cut.
func Slice(d time.Duration) time.Duration { return max(d/8, time.Millisecond) }

// Stood reports whether a slice of a wait of d that ended so late says that the process stood still: less is what a busy machine does.
func Stood(d, late time.Duration) bool { return late >= max(d/4, time.Millisecond) }

// repeatsMax bounds by how much a wait grows where the process stands still in every slice: by its own length, and by what was lost.
const repeatsMax = 8

// Running is a pending AfterRunning.
type Running struct {
	clk   Clock
	whole time.Duration
	f     func()

	mu struct {
		sync.Mutex
		left  time.Duration // after the slice that runs
		due   time.Time     // when that ends
		timer Timer
		over  bool

		repeats int // of slices in which the process stood still
	}
}

// AfterRunning is AfterFunc after d in which the process ran.
func AfterRunning(c Clock, d time.Duration, f func()) *Running {
	r := &Running{clk: c, whole: d, f: f}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.left = d
	r.sliceLocked()
	return r
}

func (r *Running) sliceLocked() {
	slice := min(Slice(r.whole), r.mu.left)
	r.mu.left -= slice
	r.mu.due = r.clk.Now().Add(slice)
	if r.mu.timer == nil {
		r.mu.timer = r.clk.AfterFunc(slice, r.sliced)
	} else {
		r.mu.timer.Reset(slice)
	}
}

func (r *Running) sliced() {
	r.mu.Lock()
	if r.mu.over {
		r.mu.Unlock()
		return
	}
	switch late := r.clk.Now().Sub(r.mu.due); {
	case !Stood(r.whole, late):
		r.mu.left -= max(late, 0)
	case r.mu.repeats < repeatsMax:
		// How much of this slice the process ran is not known, and what came meanwhile must have its time to be taken.
		r.mu.left += min(Slice(r.whole), r.whole-r.mu.left)
		r.mu.repeats++
	}
	if r.mu.left > 0 {
		r.sliceLocked()
		r.mu.Unlock()
		return
	}
	r.mu.over = true
	r.mu.Unlock()
	r.f()
}

// Stop reports whether it kept f from being called.
func (r *Running) Stop() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := !r.mu.over
	r.mu.over = true
	r.mu.timer.Stop()
	return was
}
