package raftmeta

import (
	"slices"
	"sync"
	"sync/atomic"
)

// publisher holds the current image and those who want to hear of the next one. Subscribers are called one after another, under
// the lock, so that each sees every delta once and in order, beginning with the image it subscribed at.
type publisher struct {
	image atomic.Pointer[Image]

	mu struct {
		sync.Mutex
		subscribers []*subscriber
	}
}

type subscriber struct{ fn func(*Image, *Delta) }

func newPublisher() *publisher {
	p := &publisher{}
	p.image.Store(emptyImage())
	return p
}

// publish makes next the current image and tells the subscribers, if d has anything to tell. Only the apply goroutine calls it.
// ControllerID is not the state machine's and is carried over here.
func (p *publisher) publish(next *Image, d *Delta) {
	if d.Empty() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	next.ControllerID = p.image.Load().ControllerID
	p.deliverLocked(next, d)
}

// setController publishes a copy of the current image with another controller.
func (p *publisher) setController(id int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	cur := p.image.Load()
	if cur.ControllerID == id {
		return
	}
	next := *cur
	next.ControllerID = id
	p.deliverLocked(&next, &Delta{From: cur.Version, To: cur.Version, Controller: true})
}

func (p *publisher) deliverLocked(next *Image, d *Delta) {
	p.image.Store(next)
	for _, s := range p.mu.subscribers {
		s.fn(next, d)
	}
}

// subscribe calls fn with everything there is, and from then on with every delta until cancel.
func (p *publisher) subscribe(fn func(*Image, *Delta)) (cancel func()) {
	s := &subscriber{fn}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.subscribers = append(p.mu.subscribers, s)
	cur := p.image.Load()
	fn(cur, diff(emptyImage(), cur))
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.mu.subscribers = slices.DeleteFunc(slices.Clone(p.mu.subscribers), func(x *subscriber) bool { return x == s })
	}
}
