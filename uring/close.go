package uring

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// leaked keeps rings that were closed while the kernel still held memory of theirs: whatever they refer to
// must neither be collected nor reused before the process ends.
var leaked struct {
	sync.Mutex
	rings []*ring
}

// Close fails what is in flight and waits a bounded time for the kernel to let go; see Ring.
func (r *ring) Close() error {
	if r.closed {
		return nil
	}
	if r.waiting {
		return fmt.Errorf("%w: Close inside Done or Released", ErrInvalid)
	}
	r.closed, r.waiting = true, true
	for len(r.deadlines) > 0 {
		r.fail(r.deadlines[0], ErrClosed)
	}
	r.deliver()
	err := r.drain()
	if r.running.n == 0 && r.lingering == 0 {
		return errors.Join(err, r.b.close())
	}
	return errors.Join(err, r.leak())
}

// drain delivers what finishes within closeWait.
func (r *ring) drain() error {
	until := r.now() + int64(closeWait)
	for r.running.n > 0 || r.lingering > 0 {
		left := until - r.now()
		if left <= 0 || r.broken != nil {
			break
		}
		if err := r.b.gather(true, time.Duration(left)); err != nil {
			r.broken = fmt.Errorf("%s: %w", r.b.name(), err)
		}
		r.settle()
		r.deliver()
	}
	return r.broken
}

// leak keeps all that the kernel may still write to, for ever.
func (r *ring) leak() error {
	bytes := 0
	for s := r.running.first; s != nil; s = s.next {
		bytes += len(s.op.Buf)
	}
	leaked.Lock()
	leaked.rings = append(leaked.rings, r)
	leaked.Unlock()
	r.b.abandon()
	err := fmt.Errorf("%w: closed with %d operations stuck for %s; %d bytes leaked because the kernel may still use them",
		ErrDeadline, r.running.n, r.OldestAge().Round(time.Millisecond), bytes)
	r.opt.Logger.Error("ring leaks memory of stuck disk operations", "backend", r.b.name(), "operations", r.running.n,
		"bytes", bytes, "oldest", r.OldestAge())
	return err
}
