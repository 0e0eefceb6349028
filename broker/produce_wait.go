package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/internal/clock"
	"weir/internal/lockmeter"
)

// produceWaits are the produce requests that wait for the disk, or for replicas, and have a deadline of their own: the request's timeout_ms. One whose
// time is up is answered REQUEST_TIMED_OUT, as Kafka answers acks=all; what it appended stays in the log. A timeout of 0 or less, which
// would have Kafka give up at once, means here that the client names none: it gets reserveWaitMax.
//
// Requests come and go by the ten thousand a second while their deadlines lie half a minute away, so there is one timer, armed for
// the earliest deadline that was known when it was armed, and not touched by those who finish in time.
type produceWaits struct {
	clk clock.Clock

	mu struct {
		lockmeter.Mutex
		first produceWait // of a ring of all that wait
		timer clock.Timer
		armed bool
		at    time.Time // when the timer fires
	}
}

// produceWait is a request's place among those that wait. All fields are guarded by the list's lock.
type produceWait struct {
	p          *produce
	deadline   time.Time
	prev, next *produceWait // nil: not in the list
	expiring   bool         // its deadline has passed and its appends are being given up
	finished   bool         // all of them ended meanwhile: whoever expires it answers
}

// add puts a request in whose appends were started. The caller still holds one of p.pending.
func (w *produceWaits) add(p *produce) {
	if p.req.Acks == acksNone {
		return
	}
	now := w.clk.Now()
	wait := &p.wait
	w.mu.Lock()
	defer w.mu.Unlock()
	*wait = produceWait{p: p, deadline: now.Add(p.patience())}
	head := &w.mu.first
	if head.next == nil {
		head.next, head.prev = head, head
	}
	wait.prev, wait.next = head.prev, head
	wait.prev.next, head.prev = wait, wait
	w.armLocked(now, wait.deadline)
}

// patience is how long the request waits for the disk.
func (p *produce) patience() time.Duration {
	if p.req.TimeoutMs <= 0 {
		return reserveWaitMax
	}
	return time.Duration(p.req.TimeoutMs) * time.Millisecond
}

func (w *produceWaits) armLocked(now, at time.Time) {
	if w.mu.armed && !at.Before(w.mu.at) {
		return
	}
	w.mu.armed, w.mu.at = true, at
	if d := max(at.Sub(now), 0); w.mu.timer == nil {
		w.mu.timer = w.clk.AfterFunc(d, w.expire)
	} else {
		w.mu.timer.Reset(d)
	}
}

// remove takes a request out all of whose appends have ended. False: it is being expired, which answers it.
func (w *produceWaits) remove(p *produce) bool {
	wait := &p.wait
	if p.req.Acks == acksNone {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if wait.expiring {
		wait.finished = true
		return false
	}
	wait.unlinkLocked()
	return true
}

func (wait *produceWait) unlinkLocked() {
	if wait.next != nil {
		wait.prev.next, wait.next.prev = wait.next, wait.prev
		wait.prev, wait.next = nil, nil
	}
}

// expire is the timer's.
func (w *produceWaits) expire() {
	now := w.clk.Now()
	var late []*produceWait
	var next time.Time
	w.mu.Lock()
	w.mu.armed = false
	for wait := w.mu.first.next; wait != nil && wait != &w.mu.first; {
		following := wait.next
		switch {
		case !wait.deadline.After(now):
			wait.unlinkLocked()
			wait.expiring = true
			late = append(late, wait)
		case next.IsZero() || wait.deadline.Before(next):
			next = wait.deadline
		}
		wait = following
	}
	if !next.IsZero() {
		w.armLocked(now, next)
	}
	w.mu.Unlock()
	for _, wait := range late {
		w.timeOut(wait)
	}
}

// timeOut gives up the appends of a request that still wait. It cannot be recycled meanwhile, as it is marked.
func (w *produceWaits) timeOut(wait *produceWait) {
	p := wait.p
	err := refuse(kerr.RequestTimedOut, "not durable, with acks=all on all in-sync replicas, within %s; it may still become so", p.patience())
	for i := range p.appends {
		a := &p.appends[i]
		a.Ctx.(*target).partition.GiveUp(a, err)
	}
	w.mu.Lock()
	wait.expiring = false
	finished := wait.finished
	w.mu.Unlock()
	if finished {
		p.answer()
	}
}

// close ends the timer. Whoever still waits is answered when the storage closes.
func (w *produceWaits) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.armed, w.mu.at = true, time.Time{} // for good
	if w.mu.timer != nil {
		w.mu.timer.Stop()
	}
}
