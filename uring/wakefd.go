package uring

import (
	"encoding/binary"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// wakeFD is the eventfd that ends the owner's wait. Anybody may signal it at any time, also while it is being closed, and without a lock: the write
// to it is a system call after which the kernel likes to run whoever was woken, with a lock held by the one who woke. Instead signals under way are counted. After close none begins to write, and the
// last one closes the descriptor, so none writes into a file that got its number.
type wakeFD struct {
	fd    int          // -1: there is none
	state atomic.Int64 // signals under way, wakeClosing, wakeClosed
}

const (
	wakeClosing = 1 << 32
	wakeClosed  = 1 << 33
)

// signal wakes the owner.
func (w *wakeFD) signal() {
	if w.state.Add(1) < wakeClosing {
		var one [8]byte
		binary.NativeEndian.PutUint64(one[:], 1)
		for {
			if _, err := unix.Write(w.fd, one[:]); err != unix.EINTR {
				break
			}
		}
	}
	if w.state.Add(-1) == wakeClosing {
		w.end()
	}
}

// close may be called more than once.
func (w *wakeFD) close() {
	if w.state.Or(wakeClosing) == 0 {
		w.end()
	}
}

// end closes the descriptor, if no signal is under way and nobody did yet.
func (w *wakeFD) end() {
	if w.state.CompareAndSwap(wakeClosing, wakeClosing|wakeClosed) && w.fd >= 0 {
		_ = unix.Close(w.fd) // an eventfd has nothing to lose
	}
}
