package segment

import (
	"container/heap"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/clock"
)

// flusher decides which log is flushed when: oldest LSN first, because that frees the WAL. A log becomes due by
// bytes, by age, by WAL pressure (flushBelow), by memory pressure, or by flushAll. Workers sleep while nothing is due, and
// the one timer is armed only while something is dirty: an idle store does nothing.
type flusher struct {
	s       *Store
	maxLSN  atomic.Uint64 // greatest LSN passed to Commit
	workers sync.WaitGroup

	mu struct {
		sync.Mutex
		work    sync.Cond
		byLSN   dirtyHeap          // all dirty logs
		due     dueHeap            // those to be flushed now
		running int                // flushes under way
		entries map[*Log]*dirtyLog // dirty or being flushed
		timer   clock.Timer        // armed for the oldest dirty log
		armed   bool
		full    bool // the disk is full: nothing runs until kick
		fullErr error
		stopped bool
		changed chan struct{} // closed at the next change, for flushAll; nil: nobody waits
		eager   bool          // the present round was asked for by age or pressure: end it with a checkpoint
		since   int64         // bytes flushed since the last checkpoint
		cpBusy  bool          // a worker is writing it
		cpDue   bool          // write one although nothing needs a flush
	}
}

// checkpointJob is what take returns when only a checkpoint is due.
var checkpointJob = &dirtyLog{}

// dirtyLog is a log's entry in the flusher.
type dirtyLog struct {
	log     *Log
	lsn     uint64
	since   time.Time
	bytes   int64 // committed and unflushed
	atLSN   int   // index in byLSN; -1: not dirty any more (a flush is ending)
	atDue   int   // index in due, -1: not due
	running bool
	again   bool // became due while running
}

// checkpointBytes is how much may be flushed before a checkpoint is written in the middle of a round.
const checkpointBytes = 16 << 20

func newFlusher(s *Store, workers int) *flusher {
	f := &flusher{s: s}
	f.mu.work.L = &f.mu
	f.mu.entries = make(map[*Log]*dirtyLog)
	for range workers {
		f.workers.Go(f.run)
	}
	return f
}

// dirty tells that l has bytes committed to flush, the oldest of them at lsn since then; latest is the newest LSN. The
// caller holds l.mu.
func (f *flusher) dirty(l *Log, lsn uint64, since time.Time, latest uint64, bytes int64) {
	for seen := f.maxLSN.Load(); latest > seen && !f.maxLSN.CompareAndSwap(seen, latest); seen = f.maxLSN.Load() {
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.mu.entries[l]
	if d == nil {
		d = &dirtyLog{log: l, lsn: lsn, since: since, atLSN: -1, atDue: -1}
		f.mu.entries[l] = d
		heap.Push(&f.mu.byLSN, d)
		f.armLocked()
	} else if lsn != d.lsn {
		d.lsn, d.since = lsn, since
		f.fixLocked(d)
	}
	d.bytes = bytes
	switch {
	case bytes >= int64(f.s.opt.FlushBytes):
		f.dueLocked(d)
	case f.s.budget.pressed():
		f.mu.work.Signal()
	}
}

func (f *flusher) fixLocked(d *dirtyLog) {
	heap.Fix(&f.mu.byLSN, d.atLSN)
	if d.atDue >= 0 {
		heap.Fix(&f.mu.due, d.atDue)
	}
}

func (f *flusher) dueLocked(d *dirtyLog) {
	if d.running {
		d.again = true
		return
	}
	if d.atDue >= 0 {
		return
	}
	heap.Push(&f.mu.due, d)
	f.mu.work.Signal()
}

// armLocked arms the timer for the oldest dirty log if it is not armed yet. Logs are aged roughly in the order of their LSNs.
func (f *flusher) armLocked() {
	if f.mu.armed || f.mu.full || f.mu.stopped || len(f.mu.byLSN) == 0 || f.s.Failed() != nil {
		return
	}
	wait := max(f.mu.byLSN[0].since.Add(f.s.opt.FlushAge).Sub(f.s.clock.Now()), 0)
	f.mu.armed = true
	f.mu.timer = f.s.clock.AfterFunc(wait, f.aged)
}

// aged makes due what is old, and with it what will be soon, so that rounds (each ends with a checkpoint) stay rare.
func (f *flusher) aged() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.armed = false
	if f.mu.stopped || f.mu.full {
		return
	}
	limit := f.s.clock.Now().Add(-f.s.opt.FlushAge * 3 / 4)
	for _, d := range f.mu.byLSN {
		if !d.running && !d.since.After(limit) {
			f.mu.eager = true
			f.dueLocked(d)
		}
	}
	// The next timer is armed when the round ends; what is running now decides about itself then.
	if len(f.mu.due) == 0 && f.mu.running == 0 {
		f.armLocked()
	}
}

func (f *flusher) flushBelow(lsn uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	any := false
	for _, d := range f.mu.byLSN {
		if d.lsn < lsn {
			any, f.mu.eager = true, true
			f.dueLocked(d)
		}
	}
	if !any && f.mu.since > 0 {
		f.mu.cpDue = true
		f.mu.work.Signal()
	}
}

// press wakes a worker to make room in the tail.
func (f *flusher) press() {
	f.mu.Lock()
	f.mu.work.Broadcast()
	f.mu.Unlock()
}

func (f *flusher) kick() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.mu.full {
		return
	}
	f.mu.full, f.mu.fullErr = false, nil
	for _, d := range f.mu.byLSN {
		f.dueLocked(d)
	}
	f.mu.eager = true
	f.mu.work.Broadcast()
}

// take waits for a log to flush; nil means stop.
func (f *flusher) take() *dirtyLog {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.mu.stopped:
			return nil
		case f.mu.full || f.s.Failed() != nil:
		case len(f.mu.due) > 0:
			d := heap.Pop(&f.mu.due).(*dirtyLog)
			return f.startLocked(d)
		case f.mu.cpDue:
			f.mu.cpDue, f.mu.eager = false, true
			return checkpointJob
		case len(f.mu.byLSN) > 0 && f.s.budget.pressed():
			if d := f.oldestIdleLocked(); d != nil {
				f.mu.eager = true
				return f.startLocked(d)
			}
		}
		f.mu.work.Wait()
	}
}

func (f *flusher) startLocked(d *dirtyLog) *dirtyLog {
	d.running, d.again = true, false
	f.mu.running++
	return d
}

// oldestIdleLocked is the dirty log of the lowest LSN that no worker has. At most as many are skipped as there are workers, so a
// search near the top of the heap would do; the heap is scanned because this is the slow path.
func (f *flusher) oldestIdleLocked() *dirtyLog {
	var best *dirtyLog
	for _, d := range f.mu.byLSN {
		if !d.running && (best == nil || d.lsn < best.lsn) {
			best = d
		}
	}
	return best
}

func (f *flusher) run() {
	for d := f.take(); d != nil; d = f.take() {
		if d == checkpointJob {
			f.endOfFlush()
			continue
		}
		n, err := f.s.flushLog(d.log)
		f.finish(d, n, err)
	}
}

// finish puts a log back after a flush of n bytes and ends the round if there is nothing more to do.
func (f *flusher) finish(d *dirtyLog, n int64, err error) {
	l := d.log
	l.mu.Lock()
	l.mu.dirty.endFlush(err == nil)
	state, bytes, removed := l.mu.dirty, l.mu.committed, l.mu.removed
	f.mu.Lock()
	d.running = false
	f.mu.running--
	f.mu.since += n
	switch {
	case !state.any || removed:
		f.forgetLocked(d)
	default:
		d.lsn, d.since, d.bytes = state.lsn, state.since, bytes
		f.fixLocked(d)
		if err == nil && (d.again || bytes >= int64(f.s.opt.FlushBytes)) {
			f.dueLocked(d)
		}
	}
	f.mu.Unlock()
	l.mu.Unlock()
	if err != nil {
		f.failed(l, err)
	}
	if removed {
		f.s.finishRemove(l)
	}
	f.endOfFlush()
}

// failed tells a full disk, which is waited out, from everything else, which is final.
func (f *flusher) failed(l *Log, err error) {
	f.s.metrics.FlushFailures.Inc()
	if !isNoSpace(err) {
		f.s.fail(l.dir, err)
		return
	}
	err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	f.mu.Lock()
	first := !f.mu.full
	f.mu.full, f.mu.fullErr = true, err
	f.mu.Unlock()
	if first {
		f.s.log.Warn("disk is full, data stays in memory and in the WAL", "dir", l.dir, "error", err)
		f.s.opt.OnError(l.dir, err)
	}
}

// endOfFlush writes a checkpoint and tells the WAL if it is time, wakes waiters, and re-arms the timer.
func (f *flusher) endOfFlush() {
	for f.beginCheckpoint() {
		err := f.s.checkpoint()
		f.mu.Lock()
		f.mu.cpBusy = false
		f.mu.Unlock()
		if err != nil {
			break // said by checkpoint; the next round tries again
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armLocked()
	f.wakeLocked()
}

// beginCheckpoint decides whether the caller writes a checkpoint now: after many bytes, or at the end of a round that age
// or pressure asked for. While one is being written the decision is its writer's, afterwards.
func (f *flusher) beginCheckpoint() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.cpBusy || f.s.Failed() != nil {
		return false
	}
	quiet := len(f.mu.due) == 0 && f.mu.running == 0
	write := f.mu.since >= checkpointBytes || quiet && f.mu.eager && f.mu.since > 0
	if quiet {
		f.mu.eager = false
	}
	f.mu.cpBusy = write
	return write
}

func (f *flusher) wakeLocked() {
	if f.mu.changed != nil {
		close(f.mu.changed)
		f.mu.changed = nil
	}
	f.mu.work.Broadcast()
}

func (f *flusher) forgetLocked(d *dirtyLog) {
	if d.atLSN >= 0 {
		heap.Remove(&f.mu.byLSN, d.atLSN)
	}
	if d.atDue >= 0 {
		heap.Remove(&f.mu.due, d.atDue)
	}
	delete(f.mu.entries, d.log)
}

// forget takes a removed log out. It reports whether a flush of it is under way, which will then end the removal.
func (f *flusher) forget(l *Log) (running bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.mu.entries[l]
	if d == nil {
		return false
	}
	if d.running {
		return true
	}
	f.forgetLocked(d)
	f.wakeLocked()
	return false
}

// oldest returns the bound below which no log needs the WAL, among what was committed before the call.
func (f *flusher) oldest() (lsn uint64, any bool) {
	bound := f.maxLSN.Load()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.mu.byLSN) == 0 {
		return bound, false
	}
	return min(bound, f.mu.byLSN[0].lsn), true
}

// flushAll makes all dirty logs due and waits until what they have now is flushed.
func (f *flusher) flushAll(ctx context.Context) error {
	type target struct {
		log *Log
		to  int64
	}
	var wait []target
	f.mu.Lock()
	for l, d := range f.mu.entries {
		wait = append(wait, target{log: l})
		f.dueLocked(d)
	}
	f.mu.Unlock()
	for i := range wait {
		wait[i].to = wait[i].log.committedOffset()
	}
	for {
		f.mu.Lock()
		if f.mu.changed == nil {
			f.mu.changed = make(chan struct{})
		}
		changed, full, stopped := f.mu.changed, f.mu.fullErr, f.mu.stopped
		f.mu.Unlock()
		left := wait[:0]
		for _, t := range wait {
			if !t.log.isClosed() && t.log.Flushed() < t.to {
				left = append(left, t)
			}
		}
		wait = left
		err := f.s.Failed()
		switch {
		case len(wait) == 0:
			return nil
		case err != nil:
			return err
		case full != nil:
			return full
		case stopped:
			return ErrClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("segment: flushing %d logs: %w", len(wait), context.Cause(ctx))
		}
	}
}

func (f *flusher) stop() {
	f.mu.Lock()
	f.mu.stopped = true
	if f.mu.armed {
		f.mu.timer.Stop()
	}
	f.wakeLocked()
	f.mu.Unlock()
	f.workers.Wait()
}

// endFlush updates what the WAL must keep after a flush. A failed one needs everything as before.
func (d *dirtyState) endFlush(ok bool) {
	if !d.flushing {
		return
	}
	if ok {
		d.any, d.lsn, d.since = d.later, d.laterLSN, d.laterAt
	}
	d.flushing, d.later = false, false
}

type dirtyHeap []*dirtyLog

func (h dirtyHeap) Len() int           { return len(h) }
func (h dirtyHeap) Less(i, j int) bool { return h[i].lsn < h[j].lsn }
func (h dirtyHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].atLSN, h[j].atLSN = i, j
}

// Push is heap.Interface's.
func (h *dirtyHeap) Push(x any) {
	d := x.(*dirtyLog)
	d.atLSN = len(*h)
	*h = append(*h, d)
}

// Pop is heap.Interface's.
func (h *dirtyHeap) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	(*h)[last] = nil
	*h, d.atLSN = (*h)[:last], -1
	return d
}

type dueHeap []*dirtyLog

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].lsn < h[j].lsn }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].atDue, h[j].atDue = i, j
}

// Push is heap.Interface's.
func (h *dueHeap) Push(x any) {
	d := x.(*dirtyLog)
	d.atDue = len(*h)
	*h = append(*h, d)
}

// Pop is heap.Interface's.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	(*h)[last] = nil
	*h, d.atDue = (*h)[:last], -1
	return d
}
