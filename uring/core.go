package uring

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ring is what all backends share: the table of operations in flight, their deadlines, and the delivery of results. A backend only
// moves bytes.
//
// An operation is at any time in one of these states:
//
//	parked    accepted by an Engine's ring, not yet handed to the backend
//	running   the backend has it: the kernel may touch its memory
//	expired   running, but its waiter has been failed
//	lingering finished, but the kernel still holds its timeout; its slot is not free yet
//
// All of it belongs to the owner's goroutine, but for the fields marked atomic.
type ring struct {
	opt   Options
	b     backend
	clock func() time.Time
	base  time.Time // monotonic zero of all times below, which are nanoseconds since

	slots     []slot
	free      []*slot
	deadlines heap
	parked    list // by age
	running   list // by age; expired ones included
	lingering int
	roomAgain bool // the table was full and no longer is, without any event

	due  int64 // when the owner is to run again, math.MaxInt64: any time; see standstill.go
	away span  // when it last did not

	finished []finish // what the backend has gathered since the last delivery
	events   []event

	held    atomic.Int64  // operations accepted and not released, an Engine's intake included
	oldest  atomic.Int64  // start of the oldest running operation, 0: none
	wakeup  atomic.Uint32 // see wake.go
	returns atomic.Uint64 // how often a blocking wait of the backend returned
	waiting bool
	closed  bool
	broken  error
}

// slot is one operation in the table.
type slot struct {
	op       *Op
	index    int
	accepted int64
	started  int64
	deadline int64
	heapAt   int // index in deadlines, -1: not there
	failed   bool
	moved    int // bytes transferred by earlier legs
	in       *list
	prev     *slot
	next     *slot

	k kernelState
}

// finish is a backend's report that it no longer holds the memory of a slot's operation.
type finish struct {
	s   *slot
	n   int
	err error
}

// event is a callback that is due.
type event struct {
	op       *Op
	n        int
	err      error
	done     bool
	released bool
}

// backend moves the bytes of operations. All methods but interrupt are called by the owner of the ring.
type backend interface {
	name() string
	// describe says in a few words what was found at set-up.
	describe() string
	// accept tells why an operation cannot be served, if so.
	accept(op *Op) error
	// start takes an operation. Its result comes as a finish during gather.
	start(s *slot)
	// cancel asks for an early finish; nothing may come of it.
	cancel(s *slot)
	// gather hands over what was started and appends what finished to ring.finished. With block set, and nothing
	// finished, it sleeps for at most limit (0: no limit), or until interrupt. When it has slept, and before it looks at what finished, it calls
	// ring.back.
	gather(block bool, limit time.Duration) error
	// interrupt makes a sleeping gather return. Any goroutine.
	interrupt()
	// close frees everything. Nothing is running or lingering.
	close() error
	// abandon gives up without freeing anything that the kernel may still use.
	abandon()
}

func newCore(o Options, queue int) *ring {
	r := &ring{opt: o, clock: time.Now, base: time.Now().Add(-1), due: math.MaxInt64} // -1: no time is 0
	// A finished operation lingers until the kernel has let go of its timeout: room for Depth of those.
	r.slots = make([]slot, queue+o.Depth)
	r.free = make([]*slot, 0, len(r.slots))
	for i := len(r.slots) - 1; i >= 0; i-- {
		s := &r.slots[i]
		s.index, s.heapAt = i, -1
		r.free = append(r.free, s)
	}
	return r
}

func (r *ring) now() int64 { return int64(r.clock().Sub(r.base)) }

// Name tells the backend.
func (r *ring) Name() string { return r.b.name() }

// InFlight is the number of operations not yet released.
func (r *ring) InFlight() int { return r.running.n + r.parked.n }

// OldestAge is the age of the oldest operation that the backend holds.
func (r *ring) OldestAge() time.Duration {
	at := r.oldest.Load()
	if at == 0 {
		return 0
	}
	return time.Duration(max(r.now()-at, 1))
}

func (r *ring) stalled(now int64) bool {
	at := r.oldest.Load()
	return at != 0 && r.opt.StallAfter > 0 && now-at > int64(r.opt.StallAfter)
}

// check tells what is wrong with op.
func (r *ring) check(op *Op) error {
	if r.closed {
		return ErrClosed
	}
	if r.broken != nil {
		return r.broken
	}
	if err := op.check(); err != nil {
		return err
	}
	return r.b.accept(op)
}

func (op *Op) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrInvalid, op.Kind, fmt.Sprintf(format, args...))
	}
	if op.File == nil {
		return bad("no file")
	}
	switch op.Kind {
	case OpRead, OpWrite:
		if len(op.Buf) == 0 || op.Off < 0 {
			return bad("%d bytes at %d, want at least 1 byte at 0 or more", len(op.Buf), op.Off)
		}
	case OpFallocate:
		if op.Len <= 0 || op.Off < 0 {
			return bad("%d bytes at %d, want at least 1 byte at 0 or more", op.Len, op.Off)
		}
	case OpFsync, OpFdatasync:
	default:
		return bad("unknown kind")
	}
	switch {
	case op.Timeout <= 0:
		return bad("timeout %v, want > 0", op.Timeout)
	case op.Done == nil:
		return bad("no Done")
	case atomic.LoadUint32(&op.state.held) != 0:
		return bad("already given to a ring and not released")
	}
	return nil
}

// Push queues op.
func (r *ring) Push(op *Op) error {
	if err := r.check(op); err != nil {
		return err
	}
	now := r.now()
	if r.stalled(now) {
		return fmt.Errorf("%w: oldest operation in flight is %s old, limit %s", ErrStalled, r.OldestAge().Round(time.Millisecond), r.opt.StallAfter)
	}
	if r.InFlight() >= r.opt.Depth || len(r.free) == 0 {
		return fmt.Errorf("%w: %d in flight, depth %d", ErrFull, r.InFlight(), r.opt.Depth)
	}
	atomic.StoreUint32(&op.state.held, 1)
	r.held.Add(1)
	r.take(op, now, now)
	return nil
}

// take puts op, which was checked, into the table; accepted is when its time began to count. The caller knows that a
// slot is free.
func (r *ring) take(op *Op, accepted, now int64) {
	s := r.free[len(r.free)-1]
	r.free = r.free[:len(r.free)-1]
	*s = slot{index: s.index, heapAt: -1, op: op, accepted: accepted, k: s.k.next()}
	s.deadline = later(accepted+r.away.since(accepted), int64(op.Timeout))
	r.deadlines.push(s)
	if len(r.deadlines) == 1 {
		r.due = now
	}
	if s.deadline > now && r.running.n < r.opt.Depth && r.parked.n == 0 && !r.stalled(now) {
		r.start(s, now)
		return
	}
	r.parked.add(s)
}

// refuse fails an accepted operation for which the table has no room. The bound of an Engine's queue keeps that from happening
// unless the kernel sits on a table's worth of timeouts.
func (r *ring) refuse(op *Op) {
	err := &OpError{Op: op.Kind, Target: op.File.Name(), Off: op.Off, Bytes: len(op.Buf), Err: ErrFull}
	r.events = append(r.events, event{op: op, err: err, done: true, released: true})
}

func (r *ring) start(s *slot, now int64) {
	s.started = now
	r.running.add(s)
	if r.running.n == 1 {
		r.oldest.Store(now)
		r.changed()
	}
	r.b.start(s)
}

// startParked hands over what an Engine's ring held back, as far as there is room.
func (r *ring) startParked() {
	if r.parked.n == 0 {
		return
	}
	now := r.now()
	for r.parked.n > 0 && r.running.n < r.opt.Depth && !r.stalled(now) {
		s := r.parked.first
		r.parked.remove(s)
		r.start(s, now)
	}
}

// Wait hands over what was pushed and delivers events; see Ring.
func (r *ring) Wait(block bool) error {
	if r.closed {
		return ErrClosed
	}
	if r.waiting {
		return fmt.Errorf("%w: Wait inside Done or Released", ErrInvalid)
	}
	r.waiting = true
	defer func() { r.waiting = false }()
	for {
		if r.broken != nil {
			return r.broken
		}
		r.back()
		sleep := block && len(r.events) == 0 && r.fallAsleep()
		limit := r.untilDeadline(sleep)
		r.expect(limit)
		err := r.b.gather(sleep, limit)
		woken := block && r.wakeUp()
		if err != nil {
			r.broken = fmt.Errorf("%s: %w", r.b.name(), err)
		}
		r.settle()
		r.expire()
		r.startParked()
		delivered := r.deliver()
		if delivered || woken || r.roomAgain || !block {
			r.roomAgain = false
			return r.broken
		}
	}
}

// untilDeadline is how long a sleeping gather may take; 0: no limit.
func (r *ring) untilDeadline(sleep bool) time.Duration {
	if !sleep || len(r.deadlines) == 0 {
		return 0
	}
	return min(time.Duration(max(r.deadlines[0].deadline-r.now(), 1)), sliceMax)
}

// settle turns what the backend gathered into events.
func (r *ring) settle() {
	for i := range r.finished {
		f := &r.finished[i]
		s := f.s
		r.running.remove(s)
		ev := event{op: s.op, released: true}
		if !s.failed {
			r.deadlines.remove(s)
			ev.done, ev.n, ev.err = true, f.n, r.describe(s, f.n, f.err)
		} else {
			r.late(s, f)
		}
		s.op = nil
		r.events = append(r.events, ev)
		if s.k.lingers() {
			r.lingering++
		} else {
			r.free = append(r.free, s)
		}
		*f = finish{}
	}
	if len(r.finished) > 0 {
		r.finished = r.finished[:0]
		r.noteOldest()
		r.changed()
	}
}

func (r *ring) changed() {
	if r.opt.OnChange != nil {
		r.opt.OnChange()
	}
}

// late reports the error of a write or flush whose waiter was failed before. That it could be cancelled is no error.
func (r *ring) late(s *slot, f *finish) {
	if r.opt.OnLate == nil || f.err == nil || s.op.Kind == OpRead {
		return
	}
	for _, given := range []error{ErrDeadline, ErrClosed, unix.ECANCELED, unix.EINTR, unix.EAGAIN} {
		if errors.Is(f.err, given) {
			return
		}
	}
	r.opt.OnLate(r.describe(s, f.n, f.err))
}

// lingered says that the kernel let go of the last thing that held the finished slot s.
func (r *ring) lingered(s *slot) {
	r.lingering--
	r.roomAgain = r.roomAgain || len(r.free) == 0
	r.free = append(r.free, s)
}

func (r *ring) noteOldest() {
	at := int64(0)
	if r.running.first != nil {
		at = r.running.first.started
	}
	r.oldest.Store(at)
}

// expire fails the waiters of all operations whose deadline has passed. What is still parked never reaches the disk.
func (r *ring) expire() {
	if len(r.deadlines) == 0 {
		return
	}
	now := r.now()
	for len(r.deadlines) > 0 && r.deadlines[0].deadline <= now {
		r.fail(r.deadlines[0], ErrDeadline)
	}
}

// fail fails the waiter of s; its memory stays with the backend if it is there.
func (r *ring) fail(s *slot, err error) {
	r.deadlines.remove(s)
	s.failed = true
	ev := event{op: s.op, done: true, n: s.moved, err: r.describe(s, s.moved, err)}
	if s.in == &r.parked {
		r.parked.remove(s)
		s.op = nil
		r.free = append(r.free, s)
		ev.released = true
	} else {
		r.b.cancel(s)
	}
	r.events = append(r.events, ev)
}

// describe makes the error that the caller sees.
func (r *ring) describe(s *slot, n int, err error) error {
	op := s.op
	if err == nil || err == io.EOF {
		return err
	}
	elapsed := time.Duration(r.now() - s.accepted)
	if err == unix.ECANCELED && elapsed >= op.Timeout-time.Millisecond {
		err = ErrDeadline // the kernel's own timer was first
	}
	e := &OpError{Op: op.Kind, Target: op.File.Name(), Off: op.Off, Bytes: len(op.Buf), Elapsed: elapsed, Err: bareError(err)}
	if op.Kind == OpFallocate {
		e.Bytes = int(op.Len)
	}
	return e
}

// bareError strips what OpError says itself.
func bareError(err error) error {
	if p, ok := err.(*fs.PathError); ok {
		return p.Err
	}
	return err
}

// deliver calls what is due. The callbacks may push.
func (r *ring) deliver() bool {
	if len(r.events) == 0 {
		return false
	}
	for i := range r.events {
		ev := r.events[i]
		r.events[i] = event{}
		// The ring lets go of op before the first callback: the caller may hand it on from there.
		op, done, released := ev.op, ev.op.Done, ev.op.Released
		if ev.released {
			atomic.StoreUint32(&op.state.held, 0)
			r.held.Add(-1)
		}
		if ev.done {
			done(op, ev.n, ev.err)
		}
		if ev.released && released != nil {
			released(op)
		}
	}
	r.events = r.events[:0]
	return true
}
