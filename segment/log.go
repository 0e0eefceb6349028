package segment

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"weir/internal/iobuf"
	"weir/internal/lockmeter"
	"weir/internal/record"
)

// Config is what a topic's configuration says about its logs.
type Config struct {
	SegmentBytes       int64         // roll before a segment would exceed this; at most 2^31-1
	SegmentAge         time.Duration // roll when a batch is this much newer than the segment's first; <= 0: never
	SegmentJitter      time.Duration // shorten SegmentAge by up to this much, differently for each segment
	IndexBytes         int64         // roll when an index has this size; <= 0: never
	RetentionBytes     int64         // delete the oldest segments beyond this size; < 0: never
	RetentionAge       time.Duration // delete segments whose newest record is older; < 0: never
	RetentionCheck     time.Duration // a segment is not rolled by retention, nor a deletion tried again, sooner than this; default 1 min
	IndexIntervalBytes int           // an index entry per so many bytes, held between 512 B and 64 KiB
	FileDeleteDelay    time.Duration // accepted and not needed: readers hold references, so files go at once
	Delete             bool          // cleanup.policy has delete
	Compact            bool          // cleanup.policy has compact
	DeleteRetention    time.Duration // compaction keeps tombstones for so long
	MinCompactionLag   time.Duration // a record is not compacted before
	MaxCompactionLag   time.Duration // nor, if possible, later than this; <= 0 or the greatest Duration: no bound
	MinDirtyRatio      float64       // share of a log that must be dirty before it is compacted
}

const (
	indexIntervalMin = 512
	indexIntervalMax = 64 << 10
)

func (c *Config) indexInterval() int64 {
	return int64(min(max(c.IndexIntervalBytes, indexIntervalMin), indexIntervalMax))
}

// Log is one partition's data: segments of which the newest takes the appends, and the tail that is not yet
// in a file. Offsets are ordered: start <= flushed <= committed <= end.
//
// Appends (Append, Recovered) are serialized by the caller; everything else may be called at any time.
type Log struct {
	s    *Store
	dir  string // below the store's directory
	path string
	cfg  func() *Config

	epochEnd atomic.Int64 // the newest leader epoch plus 1; 0: not known

	mu struct { // lock order: Log.mu, then flusher.mu, cache locks, budget
		lockmeter.Mutex
		start     int64 // log start offset
		saved     int64 // the log start of a durable checkpoint: files below it may go
		end       int64 // next offset to append
		segs      []*segment
		tail      tail
		tailBytes int64 // appended and not yet flushed
		committed int64 // bytes of tailBytes that are committed
		cursors   *cursors
		onRoll    func(newBase int64)
		dirMade   bool
		closed    bool
		removed   bool
		trimming  bool          // a background deletion or an exchange of segments runs
		trimmed   chan struct{} // closed when trimming ends; nil: nobody waits

		lastEpoch  int32 // of the last batch
		epochKnown bool

		cutting   bool          // a truncation was prepared: no appends, no other start
		cut       *cutWork      // what truncations have still to do with the files; then the files are claimed
		cuts      uint64        // truncations of this process
		cutsSaved uint64        // as many of them are in a durable checkpoint, which may be older than their work on the files
		cutLSN    uint64        // record of the last truncation
		cutDone   uint64        // up to here the files have what the WAL has, and nothing else
		cutSaved  uint64        // cutDone of a durable checkpoint
		resetLSN  uint64        // record of the last reset, until cutDone is durable beyond it: the log start stays. 0: none
		indexing  int           // index files being written
		indexed   chan struct{} // closed when none is any more; nil: nobody waits
		resetting bool          // it was being reset when the node ended, and the replay has not come to that yet: the files are of before
		gap       error         // a replay has met a batch that does not fit, which a truncation has yet to explain

		clean       cleanState
		compacting  bool  // a compaction runs
		halfSwapped error // one has failed at a point where only a restart helps
		dirty       dirtyState
	}
}

// dirtyState is what the WAL must keep for this log.
type dirtyState struct {
	any   bool      // something committed is unflushed
	lsn   uint64    // of the oldest of it, or older
	since time.Time // when it was committed
	// The same for what was committed after the present flush took its snapshot.
	flushing bool
	later    bool
	laterLSN uint64
	laterAt  time.Time
}

func (l *Log) activeLocked() *segment { return l.mu.segs[len(l.mu.segs)-1] }

// LogStart is the first offset that can be read.
func (l *Log) LogStart() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.start
}

// End is the offset of the next record to be appended.
func (l *Log) End() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.end
}

// Flushed is the offset below which everything is synced in segment files.
func (l *Log) Flushed() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flushedLocked()
}

// RecoveryPoint is the offset below which a restart need not verify: the same as Flushed.
func (l *Log) RecoveryPoint() int64 { return l.Flushed() }

func (l *Log) flushedLocked() int64 {
	for _, g := range l.mu.segs {
		if g.flushed < g.size {
			return g.flushedNext
		}
	}
	return l.mu.end
}

// Size is the size of all segments in bytes, the tail included.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sizeLocked()
}

func (l *Log) sizeLocked() int64 {
	var n int64
	for _, g := range l.mu.segs {
		n += g.size
	}
	return n
}

// Segments is the number of segments; the empty one of a new log counts.
func (l *Log) Segments() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.mu.segs)
}

// Dir is the log's directory below the store's.
func (l *Log) Dir() string { return l.dir }

// OnRoll registers fn to be called on a flusher's goroutine after a segment was sealed and flushed; newBase is the
// base offset of the segment after it. fn may use the log but must not block on a flush.
func (l *Log) OnRoll(fn func(newBase int64)) {
	l.mu.Lock()
	l.mu.onRoll = fn
	l.mu.Unlock()
}

// Append adds a whole batch whose offsets are stamped and continue the log. It touches memory only. The bytes
// must have been reserved with Store.Reserve. The result is the batch as it stays in the tail, unchanged until it has been committed:
// small batches are copied, one of 16 KiB or more inside src is kept by retaining src. The caller still owns b and its reference to src.
func (l *Log) Append(b record.Batch, src *iobuf.Buf) ([]byte, error) {
	if len(b) < record.HeaderSize || b.Size() != len(b) || b.LastOffsetDelta() < 0 {
		return nil, fmt.Errorf("append to %s: %w: not one whole batch in %d bytes", l.dir, record.ErrInvalid, len(b))
	}
	if int64(len(b)) > positionMax {
		return nil, fmt.Errorf("append to %s: %w: %d bytes, a segment has at most %d", l.dir, record.ErrInvalid, len(b), positionMax)
	}
	if err := l.s.Failed(); err != nil {
		return nil, fmt.Errorf("append to %s: %w", l.dir, err)
	}
	var own *iobuf.Buf
	kept := []byte(b)
	if len(b) >= keepBytes {
		if src != nil {
			own = src.Retain()
		} else {
			own = iobuf.Get(len(b))
			kept = own.Bytes()
			copy(kept, b)
		}
		kept = kept[:len(b):len(b)]
	}
	data, err := l.append(b, own, kept, l.cfg())
	if err != nil && own != nil {
		own.Release()
	}
	return data, err
}

func (l *Log) append(b record.Batch, own *iobuf.Buf, kept []byte, cfg *Config) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		return nil, fmt.Errorf("append to %s: %w", l.dir, ErrClosed)
	}
	if l.mu.cutting {
		return nil, fmt.Errorf("append to %s: %w", l.dir, ErrTruncating)
	}
	if base := b.BaseOffset(); base != l.mu.end {
		return nil, fmt.Errorf("append to %s: %w: batch at offset %d, log ends at %d", l.dir, ErrGap, base, l.mu.end)
	}
	g := l.activeLocked()
	if g.mustRollLocked(b, cfg) {
		l.sealActiveLocked(g)
		g = l.activeLocked()
	}
	data := l.mu.tail.place(g, own, kept, b, l.mu.end)
	g.noteLocked(b, int64(len(b)), cfg.indexInterval())
	l.mu.end = g.next
	l.mu.lastEpoch, l.mu.epochKnown = b.LeaderEpoch(), true
	l.mu.tailBytes += int64(len(b))
	return data, nil
}

// rollLocked seals the active segment and begins a new one at the log's end.
func (l *Log) rollLocked() *segment {
	old := l.activeLocked()
	old.sealed = true
	g := newSegment(l, l.mu.end)
	l.mu.segs = append(l.mu.segs, g)
	l.s.metrics.Rolls.Inc()
	return g
}

// Commit says that everything below nextOffset is durable in the WAL, which makes it flushable; lsn is that of the first WAL
// entry that this call covers. The callers of one store's logs must commit in the order of their LSNs, or bound what they
// release by their own progress: see StoreOptions.OnFlushed.
func (l *Log) Commit(nextOffset int64, lsn uint64) {
	var free []*iobuf.Buf
	l.mu.Lock()
	moved := l.mu.tail.commit(nextOffset, l.mu.end)
	l.mu.committed += moved
	switch {
	case l.mu.removed && !l.mu.dirty.flushing:
		free = l.freeTailLocked()
	case moved > 0 && !l.mu.closed:
		l.markDirtyLocked(lsn)
	}
	l.mu.Unlock()
	release(free)
}

func (l *Log) markDirtyLocked(lsn uint64) {
	d := &l.mu.dirty
	switch {
	case !d.any:
		d.any, d.lsn, d.since = true, lsn, l.s.clock.Now()
	case d.flushing && !d.later:
		d.later, d.laterLSN, d.laterAt = true, lsn, l.s.clock.Now()
		d.lsn = min(d.lsn, lsn)
	default:
		d.lsn = min(d.lsn, lsn)
	}
	l.s.flusher.dirty(l, d.lsn, d.since, lsn, l.mu.committed)
}

// freeTailLocked empties the committed part of a removed log's tail.
func (l *Log) freeTailLocked() []*iobuf.Buf {
	t := &l.mu.tail
	n := t.committedExt
	if n < len(t.ext) && t.committedAt == len(t.ext[n].data) {
		n++
	}
	if n == 0 {
		return nil
	}
	last := &t.ext[n-1]
	var bytes int64
	for i := range t.ext[:n] {
		e := &t.ext[i]
		bytes += int64(len(e.data)) - max(0, min(e.seg.flushed-e.pos, int64(len(e.data))))
	}
	free := t.drop(last.seg, last.end(), nil)
	l.mu.tailBytes -= bytes
	l.s.giveBack(bytes)
	return free
}

func release(bufs []*iobuf.Buf) {
	for _, b := range bufs {
		b.Release()
	}
}

// Recovered takes a batch from the WAL at start-up, in LSN order: it is copied to the end of the log and committed; one that the log
// already has is skipped, and so is one that leaves a gap: unless a truncation explains it later, Replayed returns ErrGap. It may block, for at
// most the I/O timeout at a time without progress, while the flusher makes room.
func (l *Log) Recovered(b record.Batch, lsn uint64) error {
	if len(b) < record.HeaderSize || b.Size() != len(b) {
		return fmt.Errorf("recover %s: %w: not one whole batch in %d bytes", l.dir, record.ErrInvalid, len(b))
	}
	end, known := l.replayEnd(b, lsn)
	switch {
	case known || b.LastOffset() < end:
		return nil
	case b.BaseOffset() != end:
		l.noteGap(fmt.Errorf("recover %s: %w: WAL has offsets %d to %d (LSN %d), log ends at %d", l.dir, ErrGap, b.BaseOffset(), b.LastOffset(), lsn, end))
		return nil
	}
	if err := l.s.reserveForRecovery(len(b)); err != nil {
		return fmt.Errorf("recover %s: %w", l.dir, err)
	}
	if _, err := l.Append(b, nil); err != nil {
		l.s.Unreserve(len(b))
		return err
	}
	l.Commit(b.NextOffset(), lsn)
	return nil
}

// replayEnd is rebase for a batch of the WAL; known tells that all that the WAL has up to lsn is accounted for.
func (l *Log) replayEnd(b record.Batch, lsn uint64) (end int64, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lsn <= l.mu.cutDone {
		return l.mu.end, true
	}
	return l.rebaseLocked(b), false
}

// rebase returns the log's end. A log that has no files begins at its remembered start, which may lie inside the first batch that the
// WAL, or its leader, has for it: then the log begins with that batch.
func (l *Log) rebase(b record.Batch) (end int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rebaseLocked(b)
}

func (l *Log) rebaseLocked(b record.Batch) (end int64) {
	g := l.activeLocked()
	if len(l.mu.segs) == 1 && g.size == 0 && !g.created && b.BaseOffset() < l.mu.end && b.LastOffset() >= l.mu.end && !l.mu.cutting && !l.mu.closed {
		l.mu.segs[0] = newSegment(l, b.BaseOffset())
		l.mu.end = b.BaseOffset()
		l.mu.tail.committedNext = l.mu.end
	}
	return l.mu.end
}

// reserveForRecovery waits for room as long as the flusher makes progress; each flush is bounded by deadlines of its own.
func (s *Store) reserveForRecovery(n int) error {
	for {
		before := s.budget.used()
		ctx, cancel := context.WithTimeout(context.Background(), 4*s.opt.IOTimeout)
		err := s.Reserve(ctx, n)
		cancel()
		if err == nil || s.budget.used() >= before {
			return err
		}
	}
}
