package raftmeta

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"weir/internal/lockmeter"
)

// publisher holds the current image and those who want to hear of the next one. Subscribers are called one after another, so that each
// sees every delta once and in order, beginning with the image it subscribed at.
type publisher struct {
	image atomic.Pointer[Image]

	// turn is whose turn it is to deliver an image. It is held while subscribers run, which takes as long as the change is large, and taken by nobody but
	// those who have something to deliver, or who subscribe: what requests wait for is mu.
	turn struct {
		sync.Mutex
		subscribers []*subscriber
	}

	mu struct {
		lockmeter.Mutex
		delivered uint64 // the version that all subscribers have seen
		waiters   []*waiter
	}
}

type subscriber struct{ fn func(*Image, *Delta) }

func newPublisher() *publisher {
	p := &publisher{}
	p.image.Store(emptyImage())
	return p
}

// publish makes next the current image and tells the subscribers, if d has anything to tell: the version alone may have changed.
// Only the apply goroutine calls it. ControllerID is not the state machine's and is carried over here.
func (p *publisher) publish(next *Image, d *Delta) {
	p.turn.Lock()
	defer p.turn.Unlock()
	cur := p.image.Load()
	if d.Empty() && next.Version == cur.Version {
		return
	}
	next.ControllerID = cur.ControllerID
	p.deliverInTurn(next, d)
}

// setController publishes a copy of the current image with another controller.
func (p *publisher) setController(id int32) {
	p.turn.Lock()
	defer p.turn.Unlock()
	cur := p.image.Load()
	if cur.ControllerID == id {
		return
	}
	next := *cur
	next.ControllerID = id
	p.deliverInTurn(&next, &Delta{From: cur.Version, To: cur.Version, Controller: true})
}

func (p *publisher) deliverInTurn(next *Image, d *Delta) {
	p.image.Store(next)
	if !d.Empty() {
		for _, s := range p.turn.subscribers {
			s.fn(next, d)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.delivered = next.Version
	p.mu.waiters = slices.DeleteFunc(p.mu.waiters, func(w *waiter) bool {
		if w.version > next.Version {
			return false
		}
		close(w.reached)
		return true
	})
}

// subscribe calls fn with everything there is, and from then on with every delta until cancel.
func (p *publisher) subscribe(fn func(*Image, *Delta)) (cancel func()) {
	s := &subscriber{fn}
	p.turn.Lock()
	defer p.turn.Unlock()
	p.turn.subscribers = append(p.turn.subscribers, s)
	cur := p.image.Load()
	fn(cur, diff(emptyImage(), cur))
	return func() {
		p.turn.Lock()
		defer p.turn.Unlock()
		p.turn.subscribers = slices.DeleteFunc(slices.Clone(p.turn.subscribers), func(x *subscriber) bool { return x == s })
	}
}

// waiter waits for a version.
type waiter struct {
	version uint64
	reached chan struct{}
}

// waitersMax bounds those who wait for a version.
const waitersMax = 16 << 10

// wait registers for a version; nil if it is here already. Subscribers have run when the channel is closed.
func (p *publisher) wait(version uint64) (*waiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.delivered >= version {
		return nil, nil
	}
	if n := len(p.mu.waiters); n >= waitersMax {
		return nil, fmt.Errorf("%w: %d wait for a change, at most %d", ErrBackpressure, n, waitersMax)
	}
	w := &waiter{version, make(chan struct{})}
	p.mu.waiters = append(p.mu.waiters, w)
	return w, nil
}

func (p *publisher) giveUp(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.waiters = slices.DeleteFunc(p.mu.waiters, func(x *waiter) bool { return x == w })
}
