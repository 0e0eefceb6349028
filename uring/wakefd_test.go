package uring

import (
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Signals that meet a close: none writes into another file that got the descriptor's number, and it is closed once.
func TestWakeFDClosesOnce(t *testing.T) {
	for round := range 300 {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		// Another name for the same eventfd: what is written to it is seen here also after the first is closed.
		other, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 1000)
		if err != nil {
			t.Fatal(err)
		}
		w := &wakeFD{fd: fd}
		w.signal()
		var signals sync.WaitGroup
		for range 4 {
			signals.Go(func() {
				for range 50 {
					w.signal()
				}
			})
		}
		for range round % 7 {
			runtime.Gosched()
		}
		w.close()
		w.close()
		signals.Wait()
		if state := w.state.Load(); state != wakeClosing|wakeClosed {
			t.Fatalf("state %#x when all is over, want closed and no signal under way", state)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
			t.Fatalf("the descriptor is there still: %v", err)
		}
		var count [8]byte
		if n, err := unix.Read(other, count[:]); n != 8 || err != nil {
			t.Fatalf("nothing was written: %d, %v", n, err)
		}
		w.signal()
		w.close()
		if _, err := unix.Read(other, count[:]); err != unix.EAGAIN {
			t.Fatalf("a signal after the close was written: %v", err)
		}
		if err := unix.Close(other); err != nil {
			t.Fatal(err)
		}
	}
}

// The descriptor stays for as long as a signal that began before the close is under way.
func TestWakeFDWaitsForSignals(t *testing.T) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	w := &wakeFD{fd: fd}
	w.state.Add(1) // in the write
	w.close()
	w.signal() // comes too late, and must not close it either
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
		t.Fatalf("closed under a signal: %v", err)
	}
	if w.state.Add(-1) == wakeClosing { // the end of signal
		w.end()
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
		t.Fatalf("the descriptor is there still: %v", err)
	}
	(&wakeFD{fd: -1}).close()
}
