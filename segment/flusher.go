package segment

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/clock"
	"weir/internal/lockmeter"
)

// flusher decides which log is flushed when: oldest LSN first, because that frees the WAL. A log becomes due by
// bytes, by age, by WAL pressure (flushBelow), by memory pressure, or by flushAll. What is due by bytes is flushed by itself; everything
// else in groups of the oldest (group.go), so that thousands of logs with a little each cost one sync and not one each. Workers
// sleep while nothing is due, and the one timer is armed only while something is dirty: an idle store does nothing.
type flusher struct {
	s       *Store
	maxLSN  atomic.Uint64 // greatest LSN passed to Commit
	workers sync.WaitGroup

	mu struct {
		lockmeter.Mutex
		work    sync.Cond
		all     logHeap            // all dirty logs
		idle    logHeap            // of these, those that no worker has
		large   logHeap            // of the idle ones, those due by bytes
		below   uint64             // idle logs that need the WAL below this are due
		aged    time.Time          // idle logs that have been dirty since then are due
		running int                // logs being flushed
		entries map[*Log]*dirtyLog // dirty or being flushed
		timer   clock.Timer        // armed for the oldest dirty log
		armed   bool
		rest    time.Time // no round begins by age before
		began   time.Time // when the present round by age began; zero: there is none
		full    bool      // the disk is full: nothing runs until kick
		fullErr error
		stopped bool
		changed chan struct{} // closed at the next change, for flushAll; nil: nobody waits
		eager   bool          // the present round was asked for by age or pressure: end it with a checkpoint
		since   int64         // bytes flushed since the last checkpoint
		cpBytes int64         // size of the last checkpoint
		cpBusy  bool          // a worker is writing it
		cpDue   bool          // write one although nothing needs a flush
	}
}

// dirtyLog is a log's entry in the flusher.
type dirtyLog struct {
	log     *Log
	lsn     uint64
	since   time.Time
	bytes   int64 // committed and unflushed
	at      [heapSlots]int
	running bool
	again   bool // became due by bytes while running
}

const (
	// checkpointBytes is how much may be flushed before a checkpoint is written in the middle of a round; more where the checkpoint
	// itself is large, so that it stays a small part of what is written.
	checkpointBytes = 16 << 20
	checkpointShare = 32
	// groupLogs and groupBytes bound a group: between two syncs, so that one stays within its deadline on a slow disk. It holds the files of
	// its logs open, so it has fewer logs where few files can be open.
	groupLogs  = 1024
	groupBytes = 16 << 20
	// restFactor: between two rounds asked for by age the flusher rests this many times as long as the first one took, so that it leaves
	// the disk to the WAL; at most restAges times the age.
	restFactor = 9
	restAges   = 12
)

func newFlusher(s *Store, workers int) *flusher {
	f := &flusher{s: s}
	f.mu.MeterBy(s.opt.Locks, lockmeter.SegmentFlush)
	f.mu.work.L = &f.mu
	f.mu.all.slot, f.mu.idle.slot, f.mu.large.slot = slotAll, slotIdle, slotLarge
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
		d = &dirtyLog{log: l, lsn: lsn, since: since}
		f.mu.entries[l] = d
		f.mu.all.add(d)
		f.mu.idle.add(d)
		f.armLocked()
	} else if lsn != d.lsn {
		d.lsn, d.since = lsn, since
		f.fixLocked(d)
	}
	d.bytes = bytes
	switch {
	case bytes >= int64(f.s.opt.FlushBytes):
		f.largeLocked(d)
	case f.s.budget.pressed():
		f.mu.work.Signal()
	}
}

func (f *flusher) fixLocked(d *dirtyLog) {
	f.mu.all.fix(d)
	f.mu.idle.fix(d)
	f.mu.large.fix(d)
}

func (f *flusher) largeLocked(d *dirtyLog) {
	if d.running {
		d.again = true
		return
	}
	if !f.mu.large.has(d) {
		f.mu.large.add(d)
		f.mu.work.Signal()
	}
}

// armLocked arms the timer for the oldest dirty log if it is not armed yet. Logs are aged in the order of their LSNs.
func (f *flusher) armLocked() {
	if f.mu.armed || f.mu.full || f.mu.stopped || f.mu.all.Len() == 0 || f.s.Failed() != nil {
		return
	}
	at := f.mu.all.first().since.Add(f.s.opt.FlushAge)
	if f.mu.rest.After(at) {
		at = f.mu.rest
	}
	f.mu.armed = true
	f.mu.timer = f.s.clock.AfterFunc(max(at.Sub(f.s.clock.Now()), 0), f.age)
}

// age makes due what is old, and with it what will be soon, so that rounds (each ends with a checkpoint) stay rare.
func (f *flusher) age() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.armed = false
	if f.mu.stopped || f.mu.full {
		return
	}
	now := f.s.clock.Now()
	f.mu.aged = now.Add(-f.s.opt.FlushAge * 3 / 4)
	if f.oldLocked() {
		f.mu.eager = true
		if f.mu.began.IsZero() {
			f.mu.began = now
		}
		f.mu.work.Broadcast()
		return
	}
	// The next timer is armed when the round ends; what is running now decides about itself then.
	if f.mu.running == 0 && f.mu.large.Len() == 0 {
		f.armLocked()
	}
}

// oldLocked reports whether an idle log is due by its age or by the WAL's need.
func (f *flusher) oldLocked() bool {
	if f.mu.idle.Len() == 0 {
		return false
	}
	d := f.mu.idle.first()
	return d.lsn < f.mu.below || !d.since.After(f.mu.aged)
}

func (f *flusher) flushBelow(lsn uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.below = max(f.mu.below, lsn)
	switch {
	case f.oldLocked():
		f.mu.eager = true
		f.mu.work.Broadcast()
	case f.mu.since > 0:
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
	f.mu.below = max(f.mu.below, f.maxLSN.Load()+1)
	f.mu.eager = true
	f.mu.work.Broadcast()
}

// take waits for logs to flush, to be flushed together. None: only a checkpoint is due. ok is false to stop.
func (f *flusher) take() (job []*dirtyLog, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.mu.stopped:
			return nil, false
		case f.mu.full || f.s.Failed() != nil:
		case f.oldLocked():
			return f.groupLocked(f.oldLocked), true
		case f.mu.large.Len() > 0:
			return []*dirtyLog{f.startLocked(f.mu.large.first())}, true
		case f.mu.cpDue:
			f.mu.cpDue, f.mu.eager = false, true
			return nil, true
		case f.mu.idle.Len() > 0 && f.s.budget.pressed():
			f.mu.eager = true
			return f.groupLocked(func() bool { return f.mu.idle.Len() > 0 }), true
		}
		f.mu.work.Wait()
	}
}

// groupLocked takes the oldest idle logs while more holds, within the bounds of a group.
func (f *flusher) groupLocked(more func() bool) []*dirtyLog {
	var job []*dirtyLog
	logs := max(min(groupLogs, f.s.opt.OpenFilesMax/2/f.s.opt.Flushers), 1)
	for bytes := int64(0); more() && len(job) < logs && bytes < groupBytes; {
		d := f.startLocked(f.mu.idle.first())
		bytes += d.bytes
		job = append(job, d)
	}
	return job
}

func (f *flusher) startLocked(d *dirtyLog) *dirtyLog {
	f.mu.idle.remove(d)
	f.mu.large.remove(d)
	d.running, d.again = true, false
	f.mu.running++
	return d
}

func (f *flusher) run() {
	for {
		job, ok := f.take()
		switch {
		case !ok:
			return
		case len(job) == 0:
		case len(job) == 1:
			n, err := f.s.flushLog(job[0].log)
			f.finish(job[0], n, err)
		default:
			f.s.flushGroup(job, f.finish)
		}
		f.endOfFlush()
	}
}

// finish puts a log back after a flush of n bytes. endOfFlush must follow.
func (f *flusher) finish(d *dirtyLog, n int64, err error) {
	l := d.log
	l.mu.Lock()
	again := errors.Is(err, errCut)
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
		f.mu.all.fix(d)
		f.mu.idle.add(d)
		if (err == nil || again) && (d.again || bytes >= int64(f.s.opt.FlushBytes)) {
			f.largeLocked(d)
		}
	}
	f.mu.Unlock()
	l.mu.Unlock()
	if err != nil && !again && (!removed || !errors.Is(err, ErrClosed)) { // a removed log gets no directory any more
		f.failed(l, err)
	}
	if removed {
		f.s.finishRemove(l)
	}
}

// failed tells a full disk, and one that is late if stalls are waited out, from everything else, which is final.
func (f *flusher) failed(l *Log, err error) {
	f.s.metrics.FlushFailures.Inc()
	switch {
	case isNoSpace(err):
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	case !f.s.opt.WaitOutStalls || !IsLate(err):
		f.s.fail(l.dir, err)
		return
	}
	f.mu.Lock()
	first := !f.mu.full
	f.mu.full, f.mu.fullErr = true, err
	f.mu.Unlock()
	if first {
		f.s.log.Warn("nothing is flushed for now, data stays in memory and in the WAL", "dir", l.dir, "error", err)
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
	quiet := f.mu.running == 0 && f.mu.large.Len() == 0 && !f.oldLocked()
	write := f.mu.since >= max(checkpointBytes, checkpointShare*f.mu.cpBytes) || quiet && f.mu.eager && f.mu.since > 0
	if quiet {
		f.mu.eager = false
		f.restLocked()
	}
	f.mu.cpBusy = write
	return write
}

// restLocked ends a round asked for by age: the next one keeps its distance.
func (f *flusher) restLocked() {
	if f.mu.began.IsZero() {
		return
	}
	now := f.s.clock.Now()
	f.mu.rest = now.Add(min(restFactor*now.Sub(f.mu.began), restAges*f.s.opt.FlushAge))
	f.mu.began = time.Time{}
}

func (f *flusher) wakeLocked() {
	if f.mu.changed != nil {
		close(f.mu.changed)
		f.mu.changed = nil
	}
	f.mu.work.Broadcast()
}

func (f *flusher) forgetLocked(d *dirtyLog) {
	f.mu.all.remove(d)
	f.mu.idle.remove(d)
	f.mu.large.remove(d)
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
	if f.mu.all.Len() == 0 {
		return bound, false
	}
	return min(bound, f.mu.all.first().lsn), true
}

// flushAll makes all dirty logs due and waits until what they have now is flushed.
func (f *flusher) flushAll(ctx context.Context) error {
	type target struct {
		log *Log
		to  int64
	}
	var wait []target
	f.mu.Lock()
	for l := range f.mu.entries {
		wait = append(wait, target{log: l})
	}
	f.mu.below = max(f.mu.below, f.maxLSN.Load()+1)
	f.mu.work.Broadcast()
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
			if t.log.behind(t.to) {
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

// behind reports whether the log has something below to to flush, of what it still has, or to put right in its files.
func (l *Log) behind(to int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.mu.closed && (l.mu.cut != nil || l.flushedLocked() < min(to, l.mu.tail.committedNext))
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
