package segment

import (
	"container/list"
	"context"
	"fmt"
	"sync/atomic"

	"weir/internal/lockmeter"
)

// budget bounds the bytes of all unflushed tails. Bytes are reserved before they are appended and
// given back when they are in a file; who finds no room waits, first come first served.
type budget struct {
	max   int64
	tight atomic.Bool // the flusher should make room although nothing is due yet
	mu    struct {
		lockmeter.Mutex
		used    int64
		waiting list.List // of *reservation
		failed  error
	}
}

type reservation struct {
	n     int64
	ready chan struct{} // closed when granted or failed
	err   error
}

// tryReserve takes n bytes if nobody waits and there is room. One reservation always fits an empty tail, however large.
func (b *budget) tryReserve(n int64) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.failed != nil {
		return false, b.mu.failed
	}
	if b.mu.waiting.Len() > 0 || !b.fitsLocked(n) {
		return false, nil
	}
	b.mu.used += n
	b.settleLocked()
	return true, nil
}

// keptPart: one part in so many comes on top of the budget, for tryReserveKept.
const keptPart = 16

// tryReserveKept is tryReserve for what must not stand behind those who fill the budget: small, rare, and of the node's own.
func (b *budget) tryReserveKept(n int64) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.failed != nil {
		return false, b.mu.failed
	}
	if b.mu.used > 0 && b.mu.used+n > b.max+b.max/keptPart {
		return false, nil
	}
	b.mu.used += n
	b.settleLocked()
	return true, nil
}

// force takes n bytes whether there is room or not.
func (b *budget) force(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.used += n
	b.settleLocked()
}

func (b *budget) fitsLocked(n int64) bool { return b.mu.used == 0 || b.mu.used+n <= b.max }

// reserve waits for n bytes of room until ctx ends; it calls waiting once it is in the queue.
func (b *budget) reserve(ctx context.Context, n int64, waiting func()) error {
	b.mu.Lock()
	if b.mu.failed != nil {
		b.mu.Unlock()
		return b.mu.failed
	}
	if b.mu.waiting.Len() == 0 && b.fitsLocked(n) {
		b.mu.used += n
		b.settleLocked()
		b.mu.Unlock()
		return nil
	}
	r := &reservation{n: n, ready: make(chan struct{})}
	e := b.mu.waiting.PushBack(r)
	b.settleLocked()
	b.mu.Unlock()
	waiting()
	select {
	case <-r.ready:
		return r.err
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-r.ready: // granted while giving up
		return r.err
	default:
	}
	b.mu.waiting.Remove(e)
	b.grantLocked() // a smaller one behind may fit
	return fmt.Errorf("%w: %d bytes wanted, %d of %d in use: %w", ErrTailFull, n, b.mu.used, b.max, context.Cause(ctx))
}

// release gives n bytes back.
func (b *budget) release(n int64) {
	b.mu.Lock()
	b.mu.used -= n
	if b.mu.used < 0 {
		used := b.mu.used
		b.mu.Unlock()
		panic(fmt.Sprintf("BUG: segment: %d more tail bytes released than reserved", -used))
	}
	b.grantLocked()
	b.mu.Unlock()
}

func (b *budget) grantLocked() {
	defer b.settleLocked()
	for e := b.mu.waiting.Front(); e != nil; e = b.mu.waiting.Front() {
		r := e.Value.(*reservation)
		if !b.fitsLocked(r.n) {
			return
		}
		b.mu.used += r.n
		b.mu.waiting.Remove(e)
		close(r.ready)
	}
}

// fail makes all present and later reservations fail with err.
func (b *budget) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.failed != nil {
		return
	}
	b.mu.failed = err
	for e := b.mu.waiting.Front(); e != nil; e = b.mu.waiting.Front() {
		r := e.Value.(*reservation)
		r.err = err
		b.mu.waiting.Remove(e)
		close(r.ready)
	}
}

// used is the number of bytes reserved.
func (b *budget) used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.used
}

// pressed reports whether the flusher should make room although nothing is due yet.
func (b *budget) pressed() bool { return b.tight.Load() }

// settleLocked follows each change of used or waiting.
func (b *budget) settleLocked() {
	b.tight.Store(b.mu.waiting.Len() > 0 || b.mu.used > b.max/4*3)
}
