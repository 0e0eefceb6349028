package uring

import (
	"fmt"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The parts of <linux/io_uring.h> that are used here.

// sqe is struct io_uring_sqe.
type sqe struct {
	opcode   uint8
	flags    uint8
	ioprio   uint16
	fd       int32
	off      uint64
	addr     uint64
	len      uint32
	opFlags  uint32 // rw_flags, fsync_flags, timeout_flags, cancel_flags
	userData uint64
	_        [3]uint64
}

// cqe is struct io_uring_cqe.
type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

// timespec is struct __kernel_timespec.
type timespec struct {
	sec  int64
	nsec int64
}

func (t *timespec) set(d time.Duration) {
	t.sec, t.nsec = int64(d/time.Second), int64(d%time.Second)
}

// params is struct io_uring_params.
type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFd uint32
	_                                                                      [3]uint32
	sq                                                                     sqOffsets
	cq                                                                     cqOffsets
}

type sqOffsets struct {
	head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
	userAddr                                                    uint64
}

type cqOffsets struct {
	head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
	userAddr                                                    uint64
}

// probe is struct io_uring_probe.
type probe struct {
	lastOp uint8
	opsLen uint8
	_      uint16
	_      [3]uint32
	ops    [256]struct {
		op    uint8
		_     uint8
		flags uint16
		_     uint32
	}
}

const (
	opFsync       = 3
	opAsyncCancel = 14
	opLinkTimeout = 15
	opFallocate   = 17
	opRead        = 22
	opWrite       = 23

	sqeLink  = 1 << 2
	sqeAsync = 1 << 4

	fsyncDatasync = 1

	setupRDisabled    = 1 << 6
	setupSubmitAll    = 1 << 7
	setupTaskrunFlag  = 1 << 9
	setupSingleIssuer = 1 << 12
	setupDeferTaskrun = 1 << 13

	featSingleMmap = 1 << 0
	featNoDrop     = 1 << 1
	featExtArg     = 1 << 8

	enterGetEvents = 1 << 0
	enterExtArg    = 1 << 3

	sqCQOverflow = 1 << 1
	sqTaskrun    = 1 << 2

	offSQRing = 0
	offSQEs   = 0x10000000

	registerProbe          = 8
	registerEnableRings    = 12
	registerIOWQWorkersMax = 19
	probeSupported         = 1
)

// setupFlags are the ways to set a ring up, best first; an older kernel answers EINVAL to what it does not know.
func setupFlags(locked bool) []uint32 {
	plain := []uint32{setupSubmitAll, 0}
	if !locked {
		return plain
	}
	// R_DISABLED: the issuing thread is the one that enables the ring, in its first Wait, not the one that made it.
	return append([]uint32{setupSubmitAll | setupSingleIssuer | setupDeferTaskrun | setupTaskrunFlag | setupRDisabled}, plain...)
}

func setup(entries uint32, p *params) (fd int, err error) {
	r, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(p)), 0)
	if errno != 0 {
		return -1, fmt.Errorf("%w: io_uring_setup with %d entries: %w%s", ErrUnavailable, entries, errno, setupHint(errno))
	}
	return int(r), nil
}

// setupHint says what an operator can do about a refusal.
func setupHint(errno unix.Errno) string {
	switch errno {
	case unix.ENOSYS:
		return " (the kernel is older than 5.1 or a seccomp filter hides it)"
	case unix.EPERM:
		return " (forbidden by sysctl kernel.io_uring_disabled or a seccomp filter, as containers have)"
	case unix.ENOMEM:
		return " (the limit on locked memory, ulimit -l, is too small)"
	}
	return ""
}

// register makes an io_uring_register call.
func register(fd int, code uintptr, arg unsafe.Pointer, n uintptr) unix.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(fd), code, uintptr(arg), n, 0, 0)
	return errno
}

// limitWorkers sets how many kernel threads may block in file operations for the thread that uses the ring. Without it the first
// ring ever made on a thread decides, with its number of entries; a worker held by a stalled operation would then
// hold up all others. Kernels before 5.15 do not know it, and their limit is four for each CPU.
func limitWorkers(fd, workers int) error {
	counts := [2]uint32{uint32(workers), 0} // for regular files; for the rest: as it is
	if errno := register(fd, registerIOWQWorkersMax, unsafe.Pointer(&counts), 2); errno != 0 && errno != unix.EINVAL {
		return fmt.Errorf("%w: allowing %d worker threads: %w", ErrUnavailable, workers, errno)
	}
	return nil
}

// checkKernel tells whether the kernel has all that is needed: timeouts on enter (5.11) and the operations.
func checkKernel() error {
	var p params
	fd, err := setup(1, &p)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, f := range []struct {
		bit  uint32
		name string
	}{{featSingleMmap, "SINGLE_MMAP"}, {featNoDrop, "NODROP"}, {featExtArg, "EXT_ARG"}} {
		if p.features&f.bit == 0 {
			return fmt.Errorf("%w: the kernel's io_uring lacks %s (Linux 5.11)", ErrUnavailable, f.name)
		}
	}
	pr := new(probe)
	if errno := register(fd, registerProbe, unsafe.Pointer(pr), uintptr(len(pr.ops))); errno != 0 {
		return fmt.Errorf("%w: listing its operations: %w", ErrUnavailable, errno)
	}
	var missing []string
	for _, o := range []struct {
		op   int
		name string
	}{{opFsync, "FSYNC"}, {opAsyncCancel, "ASYNC_CANCEL"}, {opLinkTimeout, "LINK_TIMEOUT"}, {opFallocate, "FALLOCATE"}, {opRead, "READ"}, {opWrite, "WRITE"}} {
		if pr.ops[o.op].flags&probeSupported == 0 {
			missing = append(missing, o.name)
		}
	}
	if missing != nil {
		return fmt.Errorf("%w: the kernel's io_uring lacks %s", ErrUnavailable, strings.Join(missing, ", "))
	}
	return nil
}
