package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/internal/clock"
	"weir/internal/lockmeter"
	"weir/replica"
)

// commitWaits bounds how long appends to __consumer_offsets wait for the in-sync replicas: offsets.commit.timeout.ms. All have the same
// patience, so they come due in the order in which they came: a list, and one timer that is armed for its first when it comes up and finds one,
// and is not touched by those who end in time.
type commitWaits struct {
	clk   clock.Clock
	limit time.Duration

	mu struct {
		lockmeter.Mutex
		head, tail *commitWait
		timer      clock.Timer
		armed      bool
		closed     bool
	}
}

// commitWait is an append that waits.
type commitWait struct {
	append replica.Append
	p      *replica.Partition
	done   func(error)

	// Guarded by the list's lock.
	deadline   time.Time
	prev, next *commitWait
	listed     bool
}

// begin appends to p. done is called once.
func (w *commitWaits) begin(p *replica.Partition, a replica.Append, done func(error)) {
	c := &commitWait{append: a, p: p, done: done}
	c.append.Done = func(a *replica.Append) {
		w.remove(c)
		done(groupError(a.Err))
	}
	w.add(c)
	p.Append(&c.append)
}

func (w *commitWaits) add(c *commitWait) {
	now := w.clk.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	c.deadline, c.listed = now.Add(w.limit), true
	if c.prev = w.mu.tail; c.prev != nil {
		c.prev.next = c
	} else {
		w.mu.head = c
	}
	w.mu.tail = c
	if !w.mu.armed {
		w.armLocked(w.limit)
	}
}

func (w *commitWaits) armLocked(d time.Duration) {
	if w.mu.closed {
		return
	}
	w.mu.armed = true
	if w.mu.timer == nil {
		w.mu.timer = w.clk.AfterFunc(d, w.expire)
	} else {
		w.mu.timer.Reset(d)
	}
}

func (w *commitWaits) remove(c *commitWait) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.removeLocked(c)
}

func (w *commitWaits) removeLocked(c *commitWait) {
	if !c.listed {
		return
	}
	c.listed = false
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		w.mu.head = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		w.mu.tail = c.prev
	}
	c.prev, c.next = nil, nil
}

// expire is the timer's. An append that ends meanwhile is told once: GiveUp finds it, or its end does.
func (w *commitWaits) expire() {
	now := w.clk.Now()
	var late []*commitWait
	w.mu.Lock()
	w.mu.armed = false
	for c := w.mu.head; c != nil && !c.deadline.After(now); c = w.mu.head {
		w.removeLocked(c)
		late = append(late, c)
	}
	if w.mu.head != nil {
		w.armLocked(w.mu.head.deadline.Sub(now))
	}
	w.mu.Unlock()
	for _, c := range late {
		c.p.GiveUp(&c.append, refuse(kerr.RequestTimedOut, "not on all in-sync replicas within %s (offsets.commit.timeout.ms); it may still get there", w.limit))
	}
}

// close ends the timer. Whoever still waits is answered when the storage closes.
func (w *commitWaits) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.closed = true
	if w.mu.timer != nil {
		w.mu.timer.Stop()
	}
}
