package uring

import (
	"fmt"
	"io"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kring is a bare io_uring: entries go in, completions come out. There are two: native, and the giouring library's under
// the build tag of that name.
type kring interface {
	descriptor() int
	// entry is the next free submission entry, zeroed; nil if there is none.
	entry() *sqe
	// enter hands all entries over and, with wait and no completion at hand, sleeps until there is one or limit (nil:
	// none) has passed. limit must stay where it is.
	enter(wait bool, limit *timespec) error
	ready() bool
	// next takes a completion.
	next() (data uint64, res int32, ok bool)
	describe() string
	close() error
}

// legBytesMax bounds what one request transfers; the kernel's own bound is 4 KiB less than 2 GiB.
const legBytesMax = 1 << 30

// kernel is the backend over io_uring.
//
// A read or write goes to the kernel as a leg: one request with a LINK_TIMEOUT behind it. The leg ends when
// both have completed. The timeout takes the request out of the kernel even if the owner's thread cannot; the authority is the ring's
// own deadline, after which it asks for cancellation and fails the waiter whether or not anything comes of it. A running
// fsync cannot be cancelled, and a timeout linked to one fires only after its end, so it gets none.
//
// Whatever the kernel is told to read or write lies in mem, in a buffer that the slot's Op keeps alive, or in the ring.
type kernel struct {
	r    *ring
	ring kring
	mem  []byte // off the Go heap; holds what follows

	timeouts []timespec // by slot index
	limit    *timespec
	woken    *[8]byte // the wake-up's read goes here

	wakeArmed bool // the kernel has a read of eventfd
	eventfd   wakeFD
}

// kernelState is a slot's part that belongs to this backend.
type kernelState struct {
	seq     uint32 // tells a slot's successive operations apart
	until   int64  // when the kernel's timeout of this leg fires
	request bool   // the kernel has the request
	timeout bool   // the kernel has the timeout
	resume  bool   // the request wants another leg, once the timeout is back
	async   bool   // this leg was sent to the kernel's worker threads
}

func (k kernelState) next() kernelState { return kernelState{seq: k.seq + 1} }

func (k kernelState) lingers() bool { return k.timeout }

// User data of requests: sequence number, slot index, and what it is.
const (
	tagRequest = iota + 1
	tagTimeout
	tagCancel
	tagWake
)

func userData(s *slot, tag uint64) uint64 {
	return uint64(s.k.seq)<<32 | uint64(s.index)<<8 | tag
}

func newKernel(r *ring) (backend, error) {
	if err := checkKernel(); err != nil {
		return nil, err
	}
	k := &kernel{r: r}
	k.eventfd.fd = -1
	size := len(r.slots)*int(unsafe.Sizeof(timespec{})) + int(unsafe.Sizeof(timespec{})) + len(k.woken)
	page := os.Getpagesize()
	var err error
	k.mem, err = unix.Mmap(-1, 0, (size+page-1)&^(page-1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("%w: mapping %d bytes: %w", ErrUnavailable, size, err)
	}
	all := unsafe.Slice((*timespec)(unsafe.Pointer(&k.mem[0])), len(r.slots)+1)
	k.timeouts, k.limit = all[:len(r.slots)], &all[len(r.slots)]
	k.woken = (*[8]byte)(k.mem[len(all)*int(unsafe.Sizeof(timespec{})):])
	k.eventfd.fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		_ = k.close()
		return nil, fmt.Errorf("%w: eventfd: %w", ErrUnavailable, err)
	}
	// Room for a leg and a cancellation of all that can be running, and the wake-up: entry never fails.
	k.ring, err = openKring(uint32(3*r.opt.Depth+1), r.opt.Locked)
	if err == nil {
		err = limitWorkers(k.ring.descriptor(), r.opt.Depth)
	}
	if err != nil {
		_ = k.close()
		return nil, err
	}
	return k, nil
}

func (k *kernel) name() string { return kernelName }

func (k *kernel) describe() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return k.ring.describe()
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:]) + " has it; " + k.ring.describe()
}

func (k *kernel) accept(op *Op) error {
	if fd := op.File.Fd(); fd < 0 {
		if fd == -1 {
			return fmt.Errorf("%w: %s %s: the file has no descriptor; in-memory files need Backend %q", ErrInvalid, op.Kind, op.File.Name(), BackendPortable)
		}
		return &OpError{Op: op.Kind, Target: op.File.Name(), Off: op.Off, Bytes: len(op.Buf), Err: os.ErrClosed}
	}
	return nil
}

func (k *kernel) entry(op uint8, data uint64) *sqe {
	e := k.ring.entry()
	if e == nil {
		panic("BUG: uring: submission queue is full")
	}
	e.opcode, e.userData = op, data
	return e
}

func (k *kernel) start(s *slot) { k.leg(s) }

// leg sends what is left of an operation.
func (k *kernel) leg(s *slot) {
	op := s.op
	data := userData(s, tagRequest)
	s.k.request, s.k.resume = true, false
	var e *sqe
	switch op.Kind {
	case OpRead, OpWrite:
		code := uint8(opRead)
		if op.Kind == OpWrite {
			code = opWrite
		}
		e = k.entry(code, data)
		rest := op.Buf[s.moved:]
		e.addr, e.len, e.off = uint64(uintptr(unsafe.Pointer(&rest[0]))), uint32(min(len(rest), legBytesMax)), uint64(op.Off)+uint64(s.moved)
		e.flags = sqeLink
	case OpFsync, OpFdatasync:
		e = k.entry(opFsync, data)
		if op.Kind == OpFdatasync {
			e.opFlags = fsyncDatasync
		}
	case OpFallocate:
		e = k.entry(opFallocate, data)
		e.off, e.addr = uint64(op.Off), uint64(op.Len) // as the kernel has it: the length travels in addr
	}
	e.fd = int32(op.File.Fd())
	if s.k.async {
		e.flags |= sqeAsync
	}
	if e.flags&sqeLink != 0 {
		k.linkTimeout(s)
	}
}

func (k *kernel) linkTimeout(s *slot) {
	t := &k.timeouts[s.index]
	s.k.until = s.deadline
	t.set(time.Duration(max(s.deadline-k.r.now(), 1)))
	e := k.entry(opLinkTimeout, userData(s, tagTimeout))
	e.fd, e.addr, e.len = -1, uint64(uintptr(unsafe.Pointer(t))), 1
	s.k.timeout = true
}

func (k *kernel) cancel(s *slot) {
	if !s.k.request {
		return // between two legs; it ends when the timeout is back
	}
	e := k.entry(opAsyncCancel, userData(s, tagCancel))
	e.fd, e.addr = -1, userData(s, tagRequest)
}

func (k *kernel) gather(block bool, limit time.Duration) error {
	if block && !k.wakeArmed {
		e := k.entry(opRead, tagWake)
		e.fd, e.addr, e.len = int32(k.eventfd.fd), uint64(uintptr(unsafe.Pointer(k.woken))), uint32(len(k.woken))
		k.wakeArmed = true
	}
	ts := k.limit
	if limit > 0 {
		ts.set(limit)
	} else {
		ts = nil
	}
	if block = block && !k.ring.ready(); block {
		k.r.returns.Add(1)
	}
	if err := k.ring.enter(block, ts); err != nil {
		return err
	}
	k.r.back()
	for {
		data, res, ok := k.ring.next()
		if !ok {
			return nil
		}
		if err := k.complete(data, res); err != nil {
			return err
		}
	}
}

// complete takes one completion. An error means that the ring cannot be trusted any more.
func (k *kernel) complete(data uint64, res int32) error {
	tag := data & 0xff
	switch tag {
	case tagWake:
		k.wakeArmed = false
		if res < 0 && res != -int32(unix.ECANCELED) && res != -int32(unix.EINTR) && res != -int32(unix.EAGAIN) {
			return fmt.Errorf("reading the wake-up eventfd: %w", unix.Errno(-res))
		}
		return nil
	case tagCancel:
		return nil // found (0), gone (ENOENT) or running (EALREADY): the request's own completion tells
	case tagRequest, tagTimeout:
	default:
		return fmt.Errorf("BUG: completion of unknown kind: user data %#x, result %d", data, res)
	}
	index := data >> 8 & (1<<24 - 1)
	if index >= uint64(len(k.r.slots)) || userData(&k.r.slots[index], tag) != data {
		return fmt.Errorf("BUG: completion of an operation that is not in flight: user data %#x, result %d", data, res)
	}
	s := &k.r.slots[index]
	if tag == tagRequest {
		k.requestDone(s, res)
	} else {
		k.timeoutDone(s)
	}
	return nil
}

// timeoutDone: the timespec is free again. The result tells nothing that the request's own does not: ECANCELED (the request was
// faster), ETIME (it was cancelled), ENOENT or EALREADY (it could not be, or was just ending).
func (k *kernel) timeoutDone(s *slot) {
	s.k.timeout = false
	switch {
	case s.op == nil:
		k.r.lingered(s)
	case s.k.resume && s.failed:
		k.finish(s, unix.ECANCELED)
	case s.k.resume:
		k.leg(s)
	}
}

func (k *kernel) requestDone(s *slot, res int32) {
	s.k.request = false
	again, err := k.account(s, res)
	switch {
	case !again || s.failed:
		k.finish(s, err)
	case s.k.timeout:
		s.k.resume = true
	default:
		k.leg(s)
	}
}

// account adds the result of a leg and tells whether there must be another.
func (k *kernel) account(s *slot, res int32) (again bool, err error) {
	op := s.op
	if res < 0 {
		errno := unix.Errno(-res)
		switch {
		case (errno == unix.EINTR || errno == unix.EAGAIN) && !s.k.async:
			// A worker thread may block where the submitting thread may not.
			s.k.async = true
			if s.deadline <= k.r.now() {
				return false, unix.ECANCELED
			}
			return true, nil
		case errno == unix.ECANCELED && k.early(s):
			return true, nil
		case errno == unix.EINVAL && op.Kind == OpRead && s.moved > 0 && (op.Off+int64(s.moved))%512 != 0:
			return false, io.EOF // a direct read stopped at the end of the file, which is not aligned
		}
		return false, errno
	}
	if !transfers(op.Kind) {
		return false, nil
	}
	if res == 0 {
		if op.Kind == OpRead {
			return false, io.EOF
		}
		return false, io.ErrShortWrite
	}
	s.moved += int(res)
	return s.moved < len(op.Buf), nil
}

// early reports whether the kernel's timeout, which counts the time that the owner was away, has ended a leg before its deadline.
func (k *kernel) early(s *slot) bool {
	soon := k.r.now() + int64(time.Millisecond)
	return transfers(s.op.Kind) && s.k.until <= soon && s.deadline > soon
}

func transfers(kind Kind) bool { return kind == OpRead || kind == OpWrite }

func (k *kernel) finish(s *slot, err error) {
	s.k.resume = false
	k.r.finished = append(k.r.finished, finish{s: s, n: s.moved, err: err})
}

func (k *kernel) interrupt() { k.eventfd.signal() }

// close frees all. The wake-up's read is ended first: it writes to mem.
func (k *kernel) close() error {
	var err error
	if k.wakeArmed {
		k.interrupt()
		err = k.awaitWake()
	}
	k.eventfd.close()
	if k.ring != nil {
		if cerr := k.ring.close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return err // mem is leaked: the kernel may still have it
	}
	return unix.Munmap(k.mem)
}

func (k *kernel) awaitWake() error {
	until := k.r.now() + int64(closeWait)
	for k.wakeArmed {
		left := until - k.r.now()
		if left <= 0 {
			return fmt.Errorf("%w: the wake-up read did not end in %s", ErrDeadline, closeWait)
		}
		k.limit.set(time.Duration(left))
		if err := k.ring.enter(true, k.limit); err != nil {
			return err
		}
		for data, _, ok := k.ring.next(); ok; data, _, ok = k.ring.next() {
			if data == tagWake {
				k.wakeArmed = false
			}
		}
	}
	return nil
}

// abandon keeps the ring and its memory: closing it would not make the kernel let go.
func (k *kernel) abandon() { k.eventfd.close() }
