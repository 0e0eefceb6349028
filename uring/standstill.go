package uring

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// A deadline is meant for the disk. If the owner of the ring did not run for a while - the process was stopped, its machine paused, its thread
// held in the kernel - everything in flight is overdue when it comes back, and the disk may have done all of it in time. So the ring notices when
// it was away: it knows when it wanted to be back, because it sleeps in slices while anything has a deadline. What was in flight meanwhile gets
// the time that it was away, and what has finished is taken before any deadline is looked at. An operation that a
// disk holds fails for all that within its own Timeout after the last wake-up.
//
// This does not decide about stalls: whoever does so looks at OldestAge, from outside.
const (
	// sliceMax is how long the ring sleeps at a time while something has a deadline, and how long at least it looks for completions after an absence
	// before it fails anything: its threads have been away, too.
	sliceMax = 250 * time.Millisecond
	// awayMin is what counts as absence: a busy machine delays a thread by less.
	awayMin = 250 * time.Millisecond
)

// span is a time in which the ring's owner did not run.
type span struct{ from, to int64 }

// since is how much of the span an operation that was accepted at a moment has been through.
func (a span) since(accepted int64) int64 { return max(a.to-max(accepted, a.from), 0) }

// expect notes when the owner is to be back: after limit, or at once.
func (r *ring) expect(limit time.Duration) {
	if len(r.deadlines) == 0 {
		r.due = math.MaxInt64 // it sleeps as long as it likes
		return
	}
	r.due = r.now() + int64(max(limit, 0))
}

// back notes that the owner runs, and gives what is in flight the time that it did not.
func (r *ring) back() {
	now := r.now()
	if late := now - r.due; r.due != math.MaxInt64 && late >= int64(awayMin) {
		r.away = span{r.due - int64(sliceMax), now} // when in its slice it stopped is not known
		for _, s := range r.deadlines {
			s.deadline = later(s.deadline, r.away.since(s.accepted))
		}
		slices.SortFunc(r.deadlines, func(a, b *slot) int { return cmp.Compare(a.deadline, b.deadline) }) // which is a heap, too
		for i, s := range r.deadlines {
			s.heapAt = i
		}
	}
	r.due = now
	if len(r.deadlines) == 0 {
		r.due = math.MaxInt64
	}
}

// later is at + d, or the latest there is.
func later(at, d int64) int64 {
	if at+d < at {
		return math.MaxInt64
	}
	return at + d
}
