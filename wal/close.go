package wal

import (
	"fmt"
	"time"

	"weir/uring"
)

// threadTimeout is how long a committer that was told to give up may take to end: its ring waits 1 s for the kernel to let go.
const threadTimeout = 3 * time.Second

// awaitCommitter waits for the end of a committer that is closing. One whose oldest write makes no progress for CloseTimeout is told to
// give up; writes with a longer deadline than that do not hold up Close. If even that brings no end, its thread is held inside a
// system call and the error says so; it ends when the disk lets go.
func (w *WAL) awaitCommitter() error {
	guard := time.NewTimer(w.o.CloseTimeout)
	defer guard.Stop()
	told := false
	for {
		select {
		case <-w.committer:
			return nil
		case <-guard.C:
		}
		age := w.OldestIO()
		switch {
		case told:
			return fmt.Errorf("%w: the committer's thread is blocked, its oldest write is in flight for %s", uring.ErrDeadline, age.Round(time.Millisecond))
		case age >= w.o.CloseTimeout:
			told = true
			w.queue.giveUp()
			guard.Reset(threadTimeout)
		default:
			guard.Reset(w.o.CloseTimeout - age)
		}
	}
}

// giveUp makes a closing committer fail what it has, in flight or not.
func (q *queue) giveUp() {
	q.mu.Lock()
	q.mu.gaveUp = true
	q.mu.Unlock()
	q.wake()
}
