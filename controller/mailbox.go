package controller

import (
	"context"
	"fmt"
	"time"

	"weir/controller/machine"
	"weir/internal/lockmeter"
	"weir/raftmeta"
)

const (
	// requestsMax is how many requests may wait, and heartbeatsMax how many heartbeats: one kind must not keep the other out.
	requestsMax   = 1024
	heartbeatsMax = 1024
	// newsMax is how many images may wait before the machine has to look at the newest as a whole.
	newsMax = 256
)

// request is somebody who waits. The answer is sent once; whoever gave up is not answered.
type request struct {
	ctx    context.Context
	beat   bool
	answer chan machine.Answer // holds one
}

// news is an image that the machine has not seen.
type news struct {
	img   *raftmeta.Image
	delta *raftmeta.Delta
}

// goneNote is a PeerGone.
type goneNote struct {
	node int32
	at   time.Time
}

// mailbox is what run has not looked at yet. Its methods take memory and never wait.
type mailbox struct {
	wake chan struct{} // holds one: there is something to look at

	mu struct {
		lockmeter.Mutex
		mail
		requests, beats int // not answered yet
		closed          bool
	}
}

// mail is the contents of a mailbox.
type mail struct {
	latest   *raftmeta.Image // to be seen before the change of office
	term     uint64
	leading  bool
	news     []news // to be seen after it; empty if not leading
	gone     []goneNote
	requests []machine.Request
	due      time.Time // when the timer was to fire, if it did
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

func (b *mailbox) ring() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// changed takes an image from the goroutine that applies. Out of office only the newest matters, and nobody is woken.
func (b *mailbox) changed(img *raftmeta.Image, d *raftmeta.Delta) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.mu.leading:
		b.mu.latest = img
		return
	case len(b.mu.news) < newsMax:
		b.mu.news = append(b.mu.news, news{img, d})
	default:
		b.mu.latest, b.mu.news = img, nil
	}
	b.ring()
}

func (b *mailbox) office(term uint64, leading bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.mu.news); n > 0 {
		b.mu.latest, b.mu.news = b.mu.news[n-1].img, nil
	}
	b.mu.term, b.mu.leading = term, leading
	b.ring()
}

// notesMax bounds what is remembered of nodes that are gone: run takes it at once.
const notesMax = 1024

func (b *mailbox) gone(node int32, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.mu.gone) < notesMax {
		b.mu.gone = append(b.mu.gone, goneNote{node, at})
		b.ring()
	}
}

func (b *mailbox) fired(due time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.due = due
	b.ring()
}

// put queues a request.
func (b *mailbox) put(r *request, op machine.Op) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, most, what := &b.mu.requests, requestsMax, "requests"
	if _, r.beat = op.(*machine.Heartbeat); r.beat {
		n, most, what = &b.mu.beats, heartbeatsMax, "heartbeats"
	}
	switch {
	case b.mu.closed:
		return ErrClosed
	case !b.mu.leading:
		return ErrNotController
	case *n >= most:
		return fmt.Errorf("%w: %d %s wait, at most %d", ErrBusy, *n, what, most)
	}
	*n++
	b.mu.mail.requests = append(b.mu.mail.requests, machine.Request{Op: op, Token: r})
	b.ring()
	return nil
}

// answered makes room for as many.
func (b *mailbox) answered(requests, beats int) (left int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.requests -= requests
	b.mu.beats -= beats
	return b.mu.requests + b.mu.beats
}

// take empties the mailbox, but for the state of the office.
func (b *mailbox) take() mail {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.mu.mail
	b.mu.mail = mail{term: all.term, leading: all.leading}
	return all
}

// close refuses what comes from now on. It reports whether it was open.
func (b *mailbox) close() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.mu.closed
	b.mu.closed = true
	return !was
}
