//go:build giouring

package uring

import (
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"github.com/pawelgaczynski/giouring"
	"golang.org/x/sys/unix"
)

const kernelName = "giouring"

// The two descriptions of an entry must agree: library entries are filled through ours.
var _ [unsafe.Sizeof(sqe{})]byte = [unsafe.Sizeof(giouring.SubmissionQueueEntry{})]byte{}

// library is a bare io_uring by way of the giouring library. Go 1.23 and later link it only with -ldflags=-checklinkname=0.
//
// Of the library only what is sound is used: set-up, the queues, and enter. Its Prepare functions leave stale
// fields in entries and hand the kernel addresses of dead stack frames (PrepareLinkTimeout, PrepareTimeout), so entries are
// zeroed and filled here and the caller owns every timespec.
type library struct {
	ring     *giouring.Ring
	disabled bool
	deferred bool
}

func openKring(entries uint32, locked bool) (kring, error) {
	var err error
	for _, flags := range setupFlags(locked) {
		l := &library{ring: giouring.NewRing(), disabled: flags&setupRDisabled != 0, deferred: flags&setupDeferTaskrun != 0}
		if err = l.ring.QueueInit(roundUp(entries), flags); err == nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("%w: io_uring_setup with %d entries: %w", ErrUnavailable, entries, err)
}

// roundUp gives the next power of two: the library maps what was asked for, the kernel what it made of it.
func roundUp(n uint32) uint32 {
	p := uint32(1)
	for p < n {
		p <<= 1
	}
	return p
}

func (l *library) entry() *sqe {
	e := (*sqe)(unsafe.Pointer(l.ring.GetSQE()))
	if e != nil {
		*e = sqe{}
	}
	return e
}

func (l *library) descriptor() int { return l.ring.RingFd() }

func (l *library) ready() bool { return l.ring.CQReady() > 0 }

func (l *library) next() (data uint64, res int32, ok bool) {
	var one [1]*giouring.CompletionQueueEvent
	if l.ring.CQReady() == 0 || l.ring.PeekBatchCQE(one[:]) == 0 {
		return 0, 0, false
	}
	data, res = one[0].UserData, one[0].Res
	l.ring.CQAdvance(1)
	return data, res, true
}

func (l *library) enter(wait bool, limit *timespec) error {
	if l.disabled {
		if _, err := l.ring.EnableRings(); err != nil && err != unix.Errno(0) {
			return fmt.Errorf("enabling the ring: %w", err)
		}
		l.disabled = false
	}
	err := l.enterOnce(wait && !l.ready(), limit)
	if wait && (err == unix.EAGAIN || err == unix.EBUSY) && !l.ready() {
		// The kernel has no memory for more requests, or none for completions: wait a moment for one.
		moment := &syscall.Timespec{Nsec: int64(time.Millisecond)}
		_, err = l.ring.WaitCQEsNew(1, moment, nil)
	}
	switch err {
	case nil, unix.ETIME, unix.EINTR, unix.EAGAIN, unix.EBUSY, unix.Errno(0):
		return nil
	}
	return fmt.Errorf("io_uring_enter: %w", err)
}

func (l *library) enterOnce(wait bool, limit *timespec) error {
	var err error
	switch {
	case wait && limit != nil:
		_, err = l.ring.SubmitAndWaitTimeout(1, (*syscall.Timespec)(unsafe.Pointer(limit)), nil)
	case wait:
		_, err = l.ring.SubmitAndWait(1)
	default:
		_, err = l.ring.SubmitAndGetEvents()
	}
	return err
}

func (l *library) describe() string {
	if l.deferred {
		return "giouring, single issuer, deferred completions"
	}
	return "giouring, shared issuer"
}

func (l *library) close() error {
	l.ring.QueueExit()
	return nil
}
