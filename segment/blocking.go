package segment

import (
	"errors"
	"io"
	"time"

	"weir/internal/clock"
	"weir/internal/vfs"
)

// pool runs blocking system calls (pread, truncate) with a deadline. Each runs on a goroutine of its
// own, at most cap(slots) at once; one that outlives its deadline keeps its slot until the kernel lets go, so a
// stalled disk costs a bounded number of threads, and then callers fail after waiting for a slot.
type pool struct {
	clock   clock.Clock
	timeout time.Duration
	slots   chan struct{}
}

func newPool(c clock.Clock, timeout time.Duration, n int) *pool {
	return &pool{clock: c, timeout: timeout, slots: make(chan struct{}, n)}
}

// call runs fn on p and returns its result, or a *DeadlineError. Whatever fn returns after the deadline
// goes to late, which may be nil. Memory that fn writes to must not be reused by the caller after a *DeadlineError.
func call[T any](p *pool, op, target string, fn func() (T, error), late func(T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	var zero T
	start := p.clock.Now()
	expired := make(chan struct{})
	timer := clock.AfterRunning(p.clock, p.timeout, func() { close(expired) })
	defer timer.Stop()
	select {
	case p.slots <- struct{}{}:
	default:
		select {
		case p.slots <- struct{}{}:
		case <-expired:
			return zero, &DeadlineError{Op: op, Target: target, Elapsed: p.clock.Now().Sub(start), Queued: true}
		}
	}
	done := make(chan result) // unbuffered: exactly one of "taken" and "late" happens
	gone := make(chan struct{})
	go func() {
		v, err := fn()
		<-p.slots
		select {
		case done <- result{v, err}:
		case <-gone:
			if err == nil && late != nil {
				late(v)
			}
		}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-expired:
		close(gone)
		return zero, &DeadlineError{Op: op, Target: target, Elapsed: p.clock.Now().Sub(start)}
	}
}

// do is call for functions without a result.
func (p *pool) do(op, target string, fn func() error) error {
	_, err := call(p, op, target, func() (struct{}, error) { return struct{}{}, fn() }, nil)
	return err
}

// readAt fills buf from position off of f, as far as the file goes, and returns how much that was. After an error
// buf may still be written to and must be dropped.
func (p *pool) readAt(f vfs.File, buf []byte, off int64) (int, error) {
	return call(p, "read", f.Name(), func() (int, error) { return readFull(f, buf, off) }, nil)
}

// readFull fills buf from position off of f, as far as the file goes.
func readFull(f vfs.File, buf []byte, off int64) (int, error) {
	n, err := f.ReadAt(buf, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
