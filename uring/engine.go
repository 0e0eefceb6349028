package uring

import (
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"weir/internal/clock"
	"weir/internal/lockmeter"
)

// doGrace is how much longer than an operation's Timeout Do waits for the engine to say so, before it says so itself.
// It is only ever used if the engine's thread is held inside a system call.
const doGrace = 100 * time.Millisecond

// Engine is a ring on an OS thread of its own, usable from any goroutine. Operations beyond Depth, and those that arrive while
// the disk is stalled, wait in a bounded queue; their Timeout runs from Submit all the same.
type Engine struct {
	r       *ring
	log     *slog.Logger
	stopped chan struct{}

	mu struct {
		lockmeter.Mutex
		intake []*Op
		closed bool
		err    error // why the engine stopped by itself
	}
	closeErr error // valid after stopped
}

// NewEngine starts an engine. Options.Locked is implied.
func NewEngine(o Options) (*Engine, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	o.Locked = true
	e := &Engine{log: o.Logger, stopped: make(chan struct{})}
	e.mu.MeterBy(o.Locks, lockmeter.DiskQueue)
	started := make(chan error, 1)
	go e.run(o, started)
	if err := <-started; err != nil {
		return nil, err
	}
	return e, nil
}

// Name tells the backend.
func (e *Engine) Name() string { return e.r.Name() }

// OldestAge is the age of the oldest operation that the backend holds.
func (e *Engine) OldestAge() time.Duration { return e.r.OldestAge() }

// Submit queues all of ops or none. Done and Released run on the engine's thread and must not block, nor call Do or Close. It fails
// with ErrFull, ErrClosed, or a description of what is wrong with an operation.
func (e *Engine) Submit(ops ...*Op) error {
	now := e.r.now()
	for i, op := range ops {
		err := op.check()
		if err == nil {
			err = e.r.b.accept(op)
		}
		if err == nil && !atomic.CompareAndSwapUint32(&op.state.held, 0, 1) {
			err = fmt.Errorf("%w: %s: already given to a ring and not released", ErrInvalid, op.Kind)
		}
		if err != nil {
			letGo(ops[:i])
			return err
		}
		op.state.accepted = now
	}
	if err := e.enqueue(ops); err != nil {
		letGo(ops)
		return err
	}
	e.r.Wake()
	return nil
}

func letGo(ops []*Op) {
	for _, op := range ops {
		atomic.StoreUint32(&op.state.held, 0)
	}
}

func (e *Engine) enqueue(ops []*Op) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.closed {
		return e.closedLocked()
	}
	if held := e.r.held.Add(int64(len(ops))); held > int64(e.r.opt.Queue) {
		e.r.held.Add(-int64(len(ops)))
		return fmt.Errorf("%w: %d operations queued or in flight, %d more, limit %d", ErrFull, held-int64(len(ops)), len(ops), e.r.opt.Queue)
	}
	e.mu.intake = append(e.mu.intake, ops...)
	return nil
}

func (e *Engine) closedLocked() error {
	if e.mu.err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, e.mu.err)
	}
	return ErrClosed
}

// Do runs one operation and waits for its end. Its Done must be nil, its Released may be set. After any error that is
// ErrDeadline or ErrClosed the buffer stays the engine's until Released.
func (e *Engine) Do(op *Op) (int, error) {
	if op.Done != nil {
		return 0, fmt.Errorf("%w: %s: Do with a Done", ErrInvalid, op.Kind)
	}
	type result struct {
		n   int
		err error
	}
	ended := make(chan result, 1)
	op.Done = func(op *Op, n int, err error) {
		op.Done = nil
		ended <- result{n, err}
	}
	kind, target, off, size, timeout := op.Kind, op.File, op.Off, len(op.Buf), op.Timeout
	began := time.Now()
	if err := e.Submit(op); err != nil {
		op.Done = nil
		return 0, err
	}
	blocked := make(chan struct{})
	guard := clock.AfterRunning(clock.Real{}, timeout+doGrace, func() { close(blocked) })
	defer guard.Stop()
	select {
	case r := <-ended:
		return r.n, r.err
	case <-blocked:
		return 0, &OpError{Op: kind, Target: target.Name(), Off: off, Bytes: size, Elapsed: time.Since(began),
			Err: fmt.Errorf("%w (the I/O thread itself is blocked)", ErrDeadline)}
	}
}

// Close fails what is queued and in flight, waits a bounded time for the kernel to let go and ends the thread; see Ring.
// Callbacks must not call it.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.mu.closed = true
	e.mu.Unlock()
	e.r.Wake()
	guard := time.NewTimer(2 * closeWait)
	defer guard.Stop()
	select {
	case <-e.stopped:
		return e.closeErr
	case <-guard.C:
		return fmt.Errorf("%w: closing the %s engine: its thread has been blocked for %s", ErrDeadline, e.Name(), e.OldestAge().Round(time.Millisecond))
	}
}

// run owns the ring.
func (e *Engine) run(o Options, started chan<- error) {
	if o.Backend != BackendPortable {
		runtime.LockOSThread()
		// Given back at the end: the exit of a thread waits for all operations it ever submitted.
		defer runtime.UnlockOSThread()
	}
	r, err := newRing(o, o.Queue)
	if err != nil {
		started <- err
		return
	}
	e.r = r
	defer close(e.stopped)
	started <- nil
	e.closeErr = e.serve()
}

// serve moves operations from the intake to the ring until Close.
func (e *Engine) serve() error {
	var batch []*Op
	for {
		e.mu.Lock()
		batch, e.mu.intake = e.mu.intake, batch[:0]
		closed := e.mu.closed
		e.mu.Unlock()
		e.take(batch)
		clear(batch)
		if closed {
			return e.r.Close()
		}
		if err := e.r.Wait(true); err != nil {
			e.log.Error("disk I/O engine broke", "error", err)
			e.mu.Lock()
			e.mu.closed, e.mu.err = true, err
			e.mu.Unlock()
		}
	}
}

func (e *Engine) take(batch []*Op) {
	if len(batch) == 0 {
		return
	}
	now := e.r.now()
	for _, op := range batch {
		if len(e.r.free) == 0 {
			e.r.refuse(op)
			continue
		}
		e.r.take(op, op.state.accepted, now)
	}
}
