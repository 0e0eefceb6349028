package uring

import (
	"fmt"
	"log/slog"
	"time"

	"weir/internal/lockmeter"
)

const (
	depthDefault   = 32
	depthMax       = 4096
	threadsDefault = 4
	queueDefault   = 1024
	queueMax       = 16384
	stallDefault   = 250 * time.Millisecond
	// closeWait is how long Close waits for the kernel to let go of what is in flight.
	closeWait = time.Second
)

// Backend names for Options.
const (
	BackendAuto     = ""         // io_uring where the kernel has it, else portable
	BackendKernel   = "io_uring" // io_uring or an error
	BackendPortable = "portable"
)

// Options says how a Ring or an Engine is made. The zero value is good.
type Options struct {
	// Depth is how many operations may be in flight; 0 means 32, at most 4096.
	Depth int
	// Backend is one of the Backend names. Files without a descriptor need BackendPortable.
	Backend string
	// StallAfter: new operations are refused with ErrStalled (Ring) or held back (Engine) while the oldest in flight
	// is older, because steady submission into a stalled disk can block the submitting thread itself. 0 means 250
	// ms, < 0 never.
	StallAfter time.Duration
	// Threads is the number of worker threads of the portable ring; 0 means 4.
	Threads int
	// Queue is how many operations an Engine holds, those in flight included; 0 means 1024, at most 16384,
	// never less than Depth.
	Queue int
	// Locked promises that the owner calls Push, Wait and Close from one goroutine locked to its OS thread. The
	// kernel then skips work (SINGLE_ISSUER, DEFER_TASKRUN). An owner that is not locked loses more
	// than speed: io_uring finishes an operation on the thread that submitted it, and if the scheduler has meanwhile put another
	// goroutine's blocking system call there, the completion waits for that call.
	Locked bool
	// OnChange, if set, is called when the first operation goes in flight, and whenever some have come back: the moments at which
	// OldestAge begins to mean something and at which it falls. It runs on the owner's goroutine and must be quick.
	OnChange func()
	// OnLate, if set, is called on the owner's goroutine with the error of a write or flush that ended so after its waiter had been failed
	// with ErrDeadline: the last word of the disk about it, which nobody else hears.
	OnLate func(err error)
	// Locks, if set, measures the locks.
	Locks *lockmeter.Meter
	// Logger receives the reason for a fallback and what Close had to leak; nil discards.
	Logger *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.Depth == 0 {
		o.Depth = depthDefault
	}
	if o.Threads == 0 {
		o.Threads = threadsDefault
	}
	if o.Queue == 0 {
		o.Queue = queueDefault
	}
	if o.StallAfter == 0 {
		o.StallAfter = stallDefault
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Depth < 1 || o.Depth > depthMax:
		return o, fmt.Errorf("%w: Depth is %d, want 1 to %d", ErrOptions, o.Depth, depthMax)
	case o.Threads < 1 || o.Threads > depthMax:
		return o, fmt.Errorf("%w: Threads is %d, want 1 to %d", ErrOptions, o.Threads, depthMax)
	case o.Queue < 1 || o.Queue > queueMax:
		return o, fmt.Errorf("%w: Queue is %d, want 1 to %d", ErrOptions, o.Queue, queueMax)
	}
	switch o.Backend {
	case BackendAuto, BackendKernel, BackendPortable:
	default:
		return o, fmt.Errorf("%w: Backend is %q, want %q, %q or %q", ErrOptions, o.Backend, BackendAuto, BackendKernel, BackendPortable)
	}
	o.Queue = max(o.Queue, o.Depth)
	return o, nil
}

// New makes a ring. With BackendAuto it falls back to the portable one where the kernel refuses io_uring, and logs why.
func New(o Options) (Ring, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	r, err := newRing(o, o.Depth)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// newRing makes a ring that holds up to queue operations, at most o.Depth of them handed to the backend.
func newRing(o Options, queue int) (*ring, error) {
	r := newCore(o, queue)
	if o.Backend != BackendPortable {
		b, err := newKernel(r)
		if err == nil {
			r.b = b
			return r, nil
		}
		if o.Backend == BackendKernel {
			return nil, err
		}
		o.Logger.Warn("io_uring is not usable, disk I/O goes through a thread pool", "reason", err, "threads", o.Threads)
	}
	r.b = newPortable(r)
	return r, nil
}

// Probe tells which backend BackendAuto selects on this machine, and why.
func Probe() (name, why string) {
	o, err := Options{Depth: 1}.withDefaults()
	if err != nil {
		return BackendPortable, err.Error()
	}
	b, err := newKernel(newCore(o, 1))
	if err != nil {
		return BackendPortable, err.Error()
	}
	name, why = b.name(), b.describe()
	if err := b.close(); err != nil {
		return BackendPortable, err.Error()
	}
	return name, why
}
