package group

import (
	"container/heap"
	"sync"
	"time"

	"weir/internal/clock"
	"weir/internal/lockmeter"
)

// timerKind says which input of the group an expired timer is.
type timerKind uint8

const (
	sessionTimer timerKind = iota // a member, or a pending member, was not heard of
	joinTimer                     // the join phase is over
	syncTimer                     // members did not ask for their assignment
	expiryTimer                   // offsets may have expired
)

// timer is one deadline of a group. Re-arming to a later time, which every heartbeat does, only notes the time; the entry
// stays in the heap where it is and is put back when it comes up too early.
type timer struct {
	kind   timerKind
	group  *group
	member string // of a sessionTimer

	// Under the shard's lock.
	at     time.Time // zero: not armed
	queued bool      // in the heap, or popped and about to be looked at

	// Under timerQueue.mu, except that due may be read under the shard's lock while queued.
	due   time.Time
	index int // in the heap; -1: not in it
}

// timerQueue is the timing structure of all shards: a heap and one clock timer for its first entry.
type timerQueue struct {
	clk  clock.Clock
	fire func(*timer) // takes the shard's lock

	mu struct {
		lockmeter.Mutex
		heap   timerHeap
		wake   clock.Timer
		wakeAt time.Time // zero: not armed
		closed bool
	}
	running sync.WaitGroup
}

func newTimerQueue(clk clock.Clock, fire func(*timer)) *timerQueue {
	return &timerQueue{clk: clk, fire: fire}
}

// set arms or (zero) cancels t. The shard's lock is held.
func (q *timerQueue) set(t *timer, at time.Time) {
	t.at = at
	switch {
	case at.IsZero():
		if t.queued && q.remove(t) {
			t.queued = false
		}
	case !t.queued:
		t.queued = true
		q.push(t, at)
	case at.Before(t.due):
		q.advance(t, at)
	}
}

// expired reports whether t, which was popped, is really due; if not, it is put back where it is still armed. The
// shard's lock is held.
func (q *timerQueue) expired(t *timer, now time.Time) bool {
	if !t.at.IsZero() && t.at.After(now) {
		q.push(t, t.at)
		return false
	}
	t.queued = false
	due := !t.at.IsZero()
	t.at = time.Time{}
	return due
}

func (q *timerQueue) push(t *timer, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t.due = at
	heap.Push(&q.mu.heap, t)
	q.rearmLocked()
}

// advance moves t to an earlier time, unless it was popped meanwhile: then expired sees to it.
func (q *timerQueue) advance(t *timer, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.index < 0 {
		return
	}
	t.due = at
	heap.Fix(&q.mu.heap, t.index)
	q.rearmLocked()
}

func (q *timerQueue) remove(t *timer) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.index < 0 {
		return false
	}
	heap.Remove(&q.mu.heap, t.index)
	return true
}

// rearmLocked has the clock call run for the first entry. A wake-up for an entry that was removed is left to come and find
// nothing.
func (q *timerQueue) rearmLocked() {
	if q.mu.closed || len(q.mu.heap) == 0 {
		return
	}
	first := q.mu.heap[0].due
	if !q.mu.wakeAt.IsZero() && !first.Before(q.mu.wakeAt) {
		return
	}
	q.mu.wakeAt = first
	d := max(first.Sub(q.clk.Now()), 0)
	if q.mu.wake == nil {
		q.mu.wake = q.clk.AfterFunc(d, q.run)
	} else {
		q.mu.wake.Reset(d)
	}
}

// run fires what is due. It is the clock timer's function.
func (q *timerQueue) run() {
	q.mu.Lock()
	if q.mu.closed {
		q.mu.Unlock()
		return
	}
	q.running.Add(1)
	defer q.running.Done()
	q.mu.wakeAt = time.Time{}
	now := q.clk.Now()
	var due []*timer
	for len(q.mu.heap) > 0 && !q.mu.heap[0].due.After(now) {
		due = append(due, heap.Pop(&q.mu.heap).(*timer))
	}
	q.rearmLocked()
	q.mu.Unlock()
	for _, t := range due {
		q.fire(t)
	}
}

// close stops the clock timer and waits for a run under way.
func (q *timerQueue) close() {
	q.mu.Lock()
	q.mu.closed = true
	if q.mu.wake != nil {
		q.mu.wake.Stop()
	}
	q.mu.Unlock()
	q.running.Wait()
}

type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	t.index = len(*h)
	*h = append(*h, t)
}

// Pop implements heap.Interface.
func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = -1
	return t
}
