// Package uring does disk I/O with deadlines. A Ring is one submission and completion queue with a single
// owner: io_uring where the kernel has it, a bounded pool of threads (the portable twin) where it does not. An
// Engine is a ring with its own OS thread, for callers that have none.
//
// The rule that everything here serves: an operation's result is delivered exactly once, at its
// deadline at the latest, and its memory stays with the ring until the kernel's own completion. These are two events,
// Done and Released; on a healthy disk they come together, on a stalled one Released may never come.
package uring

import (
	"errors"
	"fmt"
	"time"

	"weir/internal/vfs"
)

// Kind is what an Op does.
type Kind uint8

const (
	OpRead Kind = iota + 1
	OpWrite
	OpFsync
	OpFdatasync
	OpFallocate
)

// String names the operation as the kernel does: read, write, fsync, fdatasync, fallocate.
func (k Kind) String() string {
	switch k {
	case OpRead:
		return "read"
	case OpWrite:
		return "write"
	case OpFsync:
		return "fsync"
	case OpFdatasync:
		return "fdatasync"
	case OpFallocate:
		return "fallocate"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Op is one operation. The caller fills the exported fields and pushes it; until Released has been
// called the Op and Buf belong to the ring and must be neither read, written nor reused.
type Op struct {
	Kind Kind
	File vfs.File
	Buf  []byte // read and write: the whole of it is transferred unless end of file is met
	Off  int64  // read, write, fallocate: position in bytes
	Len  int64  // fallocate: length in bytes
	// Timeout bounds the time from Push to Done. It must be > 0.
	Timeout time.Duration
	// Done is called exactly once, on the owner's goroutine, from inside Wait. n is the number of bytes
	// transferred; a read that meets end of file gives n < len(Buf) and io.EOF itself. Any other err is an *OpError;
	// errors.Is(err, ErrDeadline) tells an expired operation from a failed one. Done may Push further operations.
	Done func(op *Op, n int, err error)
	// Released, if set, is called exactly once, after Done, on the owner's goroutine, when the kernel no
	// longer holds Buf and Op.
	Released func(op *Op)
	// Ctx is the caller's; the ring does not touch it.
	Ctx any

	state opState
}

var (
	// ErrDeadline: the operation did not complete within its Timeout. Whether it will still reach the disk is unknown.
	ErrDeadline = errors.New("deadline exceeded")
	// ErrFull: the ring already holds Depth operations.
	ErrFull = errors.New("ring is full")
	// ErrClosed: the ring was closed.
	ErrClosed = errors.New("ring is closed")
	// ErrStalled: refused because the oldest operation in flight is older than StallAfter.
	ErrStalled = errors.New("disk is stalled")
	// ErrInvalid: the operation or the call makes no sense; the text says why.
	ErrInvalid = errors.New("invalid")
	// ErrOptions: the Options are out of range; the text says which.
	ErrOptions = errors.New("invalid uring options")
	// ErrUnavailable: this kernel, or the rules it runs under, do not offer what io_uring needs.
	ErrUnavailable = errors.New("io_uring is not available")
)

// opState is the ring's part of an Op.
type opState struct {
	held     uint32 // atomic: 1 while a ring has the Op
	accepted int64  // an Engine's: when Submit took it, in the ring's time
}

// OpError describes a failed operation: what was done, where, how much, and how long it took.
type OpError struct {
	Op      Kind
	Target  string // file name
	Off     int64
	Bytes   int
	Elapsed time.Duration
	Err     error
}

func (e *OpError) Error() string {
	return fmt.Sprintf("%s %s (%d bytes at %d): %v after %s", e.Op, e.Target, e.Bytes, e.Off, e.Err, e.Elapsed.Round(time.Microsecond))
}

func (e *OpError) Unwrap() error { return e.Err }

// Ring is a submission and completion queue with one owner: all methods except Wake and OldestAge must
// be called from the owner's goroutine.
type Ring interface {
	// Push queues op. It fails with ErrFull, ErrClosed, ErrStalled or a description of what is wrong with op; then
	// op was not taken and neither Done nor Released will be called.
	Push(op *Op) error
	// Wait hands what was pushed to the kernel and delivers every event at hand: completions, expired deadlines. With
	// block set and nothing delivered it sleeps until there is an event or a Wake; with nothing in flight that is no timer
	// and no wake-up at all. It returns an error only if the ring itself broke.
	Wait(block bool) error
	// Wake makes a present or the next blocking Wait return. Any goroutine may call it; it is cheap when one is already pending.
	Wake()
	// InFlight is the number of operations not yet Released, expired ones included.
	InFlight() int
	// OldestAge is the age of the oldest operation in flight (0: none). Any goroutine may call it.
	OldestAge() time.Duration
	// Name is "io_uring", "giouring" or "portable".
	Name() string
	// Close fails what is in flight with ErrClosed, waits at most 1 s for the kernel to let go, and frees
	// the ring. Memory that the kernel still holds then is leaked on purpose, and said so in the error.
	Close() error
}
