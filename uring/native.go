//go:build !giouring

package uring

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const kernelName = "io_uring"

// native is a bare io_uring over system calls.
type native struct {
	fd       int
	flags    uint32 // as set up
	disabled bool   // set up with R_DISABLED and not enabled yet

	rings []byte // submission and completion ring
	sqes  []byte

	sqHead, sqTail, sqFlags *uint32 // sqHead and sqFlags are the kernel's
	sqMask                  uint32
	entries                 []sqe
	tail                    uint32 // entries handed out; published to *sqTail by enter

	cqHead, cqTail *uint32 // cqTail is the kernel's
	cqMask         uint32
	cqes           []cqe

	arg getEventsArg
}

// getEventsArg is struct io_uring_getevents_arg.
type getEventsArg struct {
	sigmask   uint64
	sigmaskSz uint32
	_         uint32
	ts        uint64
}

// openKring sets a ring of at least entries up.
func openKring(entries uint32, locked bool) (kring, error) {
	var p params
	var fd int
	var err error
	for _, flags := range setupFlags(locked) {
		p = params{flags: flags}
		if fd, err = setup(entries, &p); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	n := &native{fd: fd, flags: p.flags, disabled: p.flags&setupRDisabled != 0}
	if err := n.mmap(&p); err != nil {
		_ = n.close()
		return nil, err
	}
	return n, nil
}

func (n *native) mmap(p *params) error {
	// With SINGLE_MMAP, which checkKernel demands, one mapping holds both rings.
	size := max(p.sq.array+p.sqEntries*4, p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(cqe{})))
	var err error
	n.rings, err = unix.Mmap(n.fd, offSQRing, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("%w: mapping %d bytes of rings: %w", ErrUnavailable, size, err)
	}
	sqesSize := int(p.sqEntries) * int(unsafe.Sizeof(sqe{}))
	n.sqes, err = unix.Mmap(n.fd, offSQEs, sqesSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("%w: mapping %d bytes of entries: %w", ErrUnavailable, sqesSize, err)
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&n.rings[off])) }
	n.sqHead, n.sqTail, n.sqFlags, n.sqMask = word(p.sq.head), word(p.sq.tail), word(p.sq.flags), *word(p.sq.ringMask)
	n.cqHead, n.cqTail, n.cqMask = word(p.cq.head), word(p.cq.tail), *word(p.cq.ringMask)
	n.entries = unsafe.Slice((*sqe)(unsafe.Pointer(&n.sqes[0])), p.sqEntries)
	n.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&n.rings[p.cq.cqes])), p.cqEntries)
	array := unsafe.Slice(word(p.sq.array), p.sqEntries)
	for i := range array {
		array[i] = uint32(i) // entry i is always at place i
	}
	return nil
}

func (n *native) entry() *sqe {
	if n.tail-atomic.LoadUint32(n.sqHead) >= uint32(len(n.entries)) {
		return nil
	}
	e := &n.entries[n.tail&n.sqMask]
	n.tail++
	*e = sqe{}
	return e
}

func (n *native) descriptor() int { return n.fd }

func (n *native) ready() bool {
	return atomic.LoadUint32(n.cqTail) != atomic.LoadUint32(n.cqHead)
}

func (n *native) next() (data uint64, res int32, ok bool) {
	head := atomic.LoadUint32(n.cqHead)
	if head == atomic.LoadUint32(n.cqTail) {
		return 0, 0, false
	}
	c := n.cqes[head&n.cqMask]
	atomic.StoreUint32(n.cqHead, head+1)
	return c.userData, c.res, true
}

// enter hands over all entries and, with wait, sleeps until there is a completion or limit (nil: none) has passed.
func (n *native) enter(wait bool, limit *timespec) error {
	if n.disabled {
		if errno := register(n.fd, registerEnableRings, nil, 0); errno != 0 {
			return fmt.Errorf("enabling the ring: %w", errno)
		}
		n.disabled = false
	}
	atomic.StoreUint32(n.sqTail, n.tail)
	for {
		submit := n.tail - atomic.LoadUint32(n.sqHead)
		var flags uint32
		wait = wait && !n.ready()
		if wait || atomic.LoadUint32(n.sqFlags)&(sqCQOverflow|sqTaskrun) != 0 {
			flags = enterGetEvents
		}
		if submit == 0 && flags == 0 {
			return nil
		}
		taken, errno := n.enterOnce(submit, wait, flags, limit)
		switch {
		case errno == 0 && taken > 0 && taken < submit:
			continue // an entry that failed at once stopped the rest, without a wait
		case errno == 0 && taken == submit, errno == unix.ETIME, errno == unix.EINTR:
			return nil
		case errno == 0, errno == unix.EAGAIN, errno == unix.EBUSY:
			return n.backOff(wait)
		}
		return fmt.Errorf("io_uring_enter: %w", errno)
	}
}

// backOff waits a moment for a completion: the kernel has no memory for more requests, or none for completions.
func (n *native) backOff(wait bool) error {
	if !wait {
		return nil
	}
	moment := timespec{nsec: int64(time.Millisecond)}
	_, errno := n.enterOnce(0, true, enterGetEvents, &moment)
	runtime.KeepAlive(&moment)
	switch errno {
	case 0, unix.ETIME, unix.EINTR, unix.EAGAIN, unix.EBUSY:
		return nil
	}
	return fmt.Errorf("io_uring_enter: %w", errno)
}

func (n *native) enterOnce(submit uint32, wait bool, flags uint32, limit *timespec) (uint32, unix.Errno) {
	if !wait || limit == nil {
		var least uintptr
		if wait {
			least = 1
		}
		taken, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(n.fd), uintptr(submit), least, uintptr(flags), 0, 0)
		return uint32(taken), errno
	}
	n.arg.ts = uint64(uintptr(unsafe.Pointer(limit)))
	taken, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(n.fd), uintptr(submit), 1, uintptr(flags|enterExtArg),
		uintptr(unsafe.Pointer(&n.arg)), unsafe.Sizeof(n.arg))
	runtime.KeepAlive(limit)
	return uint32(taken), errno
}

func (n *native) describe() string {
	if n.flags&setupDeferTaskrun != 0 {
		return "single issuer, deferred completions"
	}
	return "shared issuer"
}

func (n *native) close() error {
	var first error
	for _, m := range [][]byte{n.rings, n.sqes} {
		if m == nil {
			continue
		}
		if err := unix.Munmap(m); err != nil && first == nil {
			first = fmt.Errorf("unmapping the ring: %w", err)
		}
	}
	if err := unix.Close(n.fd); err != nil && first == nil {
		first = fmt.Errorf("closing the ring: %w", err)
	}
	return first
}
