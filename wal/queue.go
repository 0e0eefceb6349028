package wal

import (
	"fmt"
	"math"
	"time"

	"weir/internal/lockmeter"
)

// queue holds the entries between Append and the committer. Its lock is the only one that Append takes, and the order in which
// Append gets it is the order of the log.
type queue struct {
	bytesMax int64
	entryMax int           // frame included
	wakeRing func()        // set before the first Append
	closed   chan struct{} // closed by close
	mu       struct {
		lockmeter.Mutex
		state   queueState
		cause   error // of statePoisoned
		head    *Entry
		tail    *Entry
		bytes   int64     // frames of the entries in the list
		pending int64     // bytes and what the committer holds: everything not reported yet
		since   time.Time // when the list became non-empty
		wakeAt  int64     // wake the committer when bytes reaches this; neverWake while it is awake
		closing bool
		gaveUp  bool // closing, and no longer waiting for the disk
		woken   bool // something other than an entry happened
	}
}

type queueState uint8

const (
	stateStopped queueState = iota
	stateRunning
	statePoisoned
)

const neverWake = math.MaxInt64

func (q *queue) init(bytesMax int64, entryMax int) {
	q.bytesMax, q.entryMax = bytesMax, entryMax
	q.mu.wakeAt = neverWake
	q.closed = make(chan struct{})
}

// start accepts entries from now on. wake makes the committer's ring return from Wait.
func (q *queue) start(wake func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wakeRing = wake
	q.mu.state = stateRunning
}

// Append queues e. It never blocks and does not allocate; the order of calls is the order in the log. A nil result means that OnCommit
// will be called for e exactly once, else it will not be. Errors: ErrClosed, ErrPoisoned, ErrBackpressure, ErrTooLarge, ErrKind.
func (w *WAL) Append(e *Entry) error {
	return woken(w.Enqueue(e))
}

// Enqueue is Append for who holds a lock. To wake the committer is a system call, after which the kernel may well run the committer in the caller's
// place: wake is to be called, soon, when the lock is free. nil: the committer is awake.
func (w *WAL) Enqueue(e *Entry) (wake func(), err error) {
	if err := w.queue.check(e); err != nil {
		return nil, err
	}
	e.next = nil
	e.LSN, e.began = 0, 0
	return w.queue.push(e, e, int64(e.frameSize()))
}

// AppendBatch queues all entries in order, with none of another caller between them, or none at all.
func (w *WAL) AppendBatch(es []*Entry) error {
	return woken(w.EnqueueBatch(es))
}

// EnqueueBatch is to AppendBatch what Enqueue is to Append.
func (w *WAL) EnqueueBatch(es []*Entry) (wake func(), err error) {
	if len(es) == 0 {
		return nil, nil
	}
	size := int64(0)
	for _, e := range es {
		if err := w.queue.check(e); err != nil {
			return nil, err
		}
		size += int64(e.frameSize())
	}
	for i, e := range es {
		e.LSN, e.began = 0, 0
		e.next = nil
		if i > 0 {
			es[i-1].next = e
		}
	}
	return w.queue.push(es[0], es[len(es)-1], size)
}

func woken(wake func(), err error) error {
	if wake != nil {
		wake()
	}
	return err
}

func (q *queue) check(e *Entry) error {
	if len(e.Head) > HeadBytesMax {
		return fmt.Errorf("%w: head has %d bytes, want at most %d", ErrTooLarge, len(e.Head), HeadBytesMax)
	}
	if n := e.frameSize(); n > q.entryMax {
		return fmt.Errorf("%w: %d bytes with its frame, want at most %d", ErrTooLarge, n, q.entryMax)
	}
	if e.Kind == KindInline {
		return nil
	}
	return checkPayload(e.Kind, e.Body)
}

// push appends a chain of entries with frames of size bytes. wake is to be called then, without locks, if it is not nil.
func (q *queue) push(first, last *Entry, size int64) (wake func(), err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.refuseLocked(size); err != nil {
		return nil, err
	}
	if q.mu.tail == nil {
		q.mu.head = first
		q.mu.since = time.Now()
	} else {
		q.mu.tail.next = first
	}
	q.mu.tail = last
	q.mu.bytes += size
	q.mu.pending += size
	if q.mu.bytes >= q.mu.wakeAt {
		q.mu.wakeAt = neverWake
		return q.wakeRing, nil
	}
	return nil, nil
}

func (q *queue) refuseLocked(size int64) error {
	switch q.mu.state {
	case statePoisoned:
		return q.mu.cause
	case stateStopped:
		return ErrClosed
	}
	if q.mu.closing {
		return ErrClosed
	}
	// A single chain larger than the bound is let in when nothing else waits, or it could never be written.
	if q.mu.pending > 0 && q.mu.pending+size > q.bytesMax {
		return ErrBackpressure
	}
	return nil
}

// taken is what the committer gets from the queue at once.
type taken struct {
	head, tail *Entry
	bytes      int64
	since      time.Time // when the oldest was appended
	closing    bool
	gaveUp     bool
}

// take empties the list.
func (q *queue) take() taken {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := taken{head: q.mu.head, tail: q.mu.tail, bytes: q.mu.bytes, since: q.mu.since, closing: q.mu.closing, gaveUp: q.mu.gaveUp}
	q.mu.head, q.mu.tail, q.mu.bytes = nil, nil, 0
	q.mu.wakeAt = neverWake
	q.mu.woken = false
	return t
}

// sleep says whether the committer may block: not if at least wakeAt bytes are in the list or something else happened since the
// last take. If it may, the ring is woken when that changes.
func (q *queue) sleep(wakeAt int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mu.woken || q.mu.bytes >= wakeAt {
		return false
	}
	q.mu.wakeAt = wakeAt
	return true
}

// wake makes the committer look around: a file became free, or the log is closing.
func (q *queue) wake() {
	q.mu.Lock()
	running := q.mu.state != stateStopped
	q.mu.woken = true
	q.mu.Unlock()
	if running {
		q.wakeRing()
	}
}

// reported gives back the room of entries that OnCommit has seen.
func (q *queue) reported(bytes int64) {
	q.mu.Lock()
	q.mu.pending -= bytes
	q.mu.Unlock()
}

func (q *queue) bytesPending() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.mu.pending
}

// close refuses further entries and wakes the committer to finish.
func (q *queue) close() {
	q.mu.Lock()
	q.mu.closing = true
	close(q.closed)
	q.mu.Unlock()
	q.wake()
}

// setPoisoned makes every later Append fail with cause.
func (q *queue) setPoisoned(cause error) {
	q.mu.Lock()
	q.mu.state = statePoisoned
	q.mu.cause = fmt.Errorf("%w: %w", ErrPoisoned, cause)
	q.mu.Unlock()
}

// poison is what Append fails with, or nil.
func (q *queue) poison() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.mu.cause
}
