package segment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weir/internal/record"
)

// CompactOptions are what a run of compaction needs.
type CompactOptions struct {
	Limit      int64     // high watermark, or last stable offset: nothing at or beyond it is touched
	Now        time.Time // for lags and delete horizons
	MapBytes   int64     // the most memory for the map of keys
	MapLoad    float64   // how full it may become, between 0 and 1
	ReadBytes  int       // of the read buffer; a larger batch gets a larger one for its sake
	WriteBytes int       // of the write buffer
	// Throttle is called before each read and each write with its size. It may wait, and its error ends the run.
	Throttle func(ctx context.Context, bytes int) error
	// Producers returns the last batch of each producer that the log's owner still knows: those batches stay, without records if need be, so that
	// the owner can find their sequence numbers in the log.
	Producers func() map[int64]LastBatch
}

// LastBatch is the last that is known of a producer id.
type LastBatch struct {
	Offset int64 // last offset of its last data batch; -1: it has only written markers
	Epoch  int16
}

// CompactStats say what a run did; also a run that failed.
type CompactStats struct {
	FirstDirty     int64 // what is still dirty begins here
	Before, After  int   // segments that were replaced, and by how many
	BytesRead      int64
	BytesWritten   int64
	RecordsKept    int64
	RecordsDropped int64
	MapBytes       int64 // memory that the map of keys took
	Partial        bool  // the map was full before everything dirty was in it: another run goes on
}

var (
	// ErrMapFull: not even one batch's keys fit the map of keys.
	ErrMapFull = errors.New("log.cleaner.dedupe.buffer.size is too small")
	// ErrHalfSwapped: exchanging segments failed half-way. What is read is right; the next start finishes it.
	ErrHalfSwapped = errors.New("compacted segments could not be put in place")
	// errReplaced: the segment was compacted meanwhile; whoever meets it looks the offset up again.
	errReplaced = errors.New("segment was replaced")
)

func isReplaced(err error) bool { return errors.Is(err, errReplaced) }

// isReplaced reports whether a compaction has put another segment into g's place.
func (g *segment) isReplaced() bool {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	return g.replaced
}

// compaction is one run over one log.
//
// What makes it safe: (1) a key's older records go only because a newer one is in the map, which is at or above the first dirty offset and stays:
// its segment is either not rewritten, or rewritten with it. (2) Segments are exchanged oldest first, each group in one step (see
// swap), so that at any time, and after a crash, what has gone is superseded by something that is there. (3) A tombstone goes only
// when its batch carries a delete horizon that has passed; the horizon is written by a run that had the tombstone in its map, when all
// older groups were exchanged already.
type compaction struct {
	s   *Store
	l   *Log
	cfg *Config
	opt CompactOptions

	cuts     uint64 // truncations of the log when the run began; what it knows means nothing after another one
	plan     plan
	keys     *offsetMap
	mapped   int64 // offsets below are in the map, or were clean before
	txns     bool  // a transactional batch or a marker was met, now or by an earlier run
	aborted  []abortedTxn
	horizon  int64 // of what this run keeps
	at       int64 // position of the batch at hand in its file
	filter   record.Filter
	readBuf  []byte
	writeBuf []byte
	stats    CompactStats
}

// Compact runs once over the log and removes the records that later ones with the same key have made superfluous. One run at a time may be
// under way. It may take long; ctx ends it between two steps, with nothing lost. Errors: *CorruptError for damage, ErrNoSpace,
// ErrDeadline, ErrClosed, ErrMapFull, ErrHalfSwapped, ErrTruncating: the log was truncated meanwhile, another run is needed.
func (l *Log) Compact(ctx context.Context, o CompactOptions) (CompactStats, error) {
	c := &compaction{s: l.s, l: l, cfg: l.cfg(), opt: o, horizon: noHorizon}
	var err error
	if c.cuts, err = l.beginCompaction(); err != nil {
		return c.stats, fmt.Errorf("compact %s: %w", l.dir, err)
	}
	defer l.endCompaction()
	if err = l.cutsBehind(); err == nil {
		err = c.run(ctx)
	}
	if err != nil && !errors.Is(err, ErrHalfSwapped) && l.cutSince(c.cuts) != nil {
		err = fmt.Errorf("%w: %w", ErrTruncating, err)
	}
	if err != nil && !errors.Is(err, ErrClosed) && l.isClosed() {
		err = fmt.Errorf("%w: %w", ErrClosed, err) // its files are being deleted
	}
	if err == nil {
		return c.stats, nil
	}
	if isNoSpace(err) && !errors.Is(err, ErrNoSpace) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return c.stats, fmt.Errorf("compact %s: %w", l.dir, asDeadline(err))
}

// cutsBehind makes sure that a durable checkpoint has all truncations of the log behind it. A start would do one again of which the WAL still has the record, and where
// compaction has taken the batches around the cut it would not find its place. While there is unflushed data of before a truncation that has to wait.
func (l *Log) cutsBehind() error {
	for tried := false; ; tried = true {
		l.mu.Lock()
		cut, saved := l.mu.cutLSN, l.mu.cutSaved
		l.mu.Unlock()
		switch {
		case cut <= saved:
			return nil
		case tried:
			return fmt.Errorf("%w: the record of it, at LSN %d, is still needed", ErrTruncating, cut)
		}
		if err := l.s.checkpoint(); err != nil {
			return err
		}
	}
}

func (l *Log) beginCompaction() (cuts uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.mu.closed:
		return 0, ErrClosed
	case l.mu.halfSwapped != nil:
		return 0, l.mu.halfSwapped
	case l.mu.compacting:
		return 0, errors.New("BUG: two runs at once")
	}
	l.mu.compacting = true
	return l.mu.cuts, nil
}

func (l *Log) endCompaction() {
	l.mu.Lock()
	l.mu.compacting = false
	l.mu.Unlock()
}

func (c *compaction) run(ctx context.Context) error {
	var state CompactionState
	l := c.l
	c.plan, _ = l.cleanable(c.opt.Limit, &state)
	c.stats.FirstDirty = c.plan.dirty
	segs, err := l.oldEnough(c.cfg, c.plan, c.opt.Now, &state)
	if err != nil {
		return err
	}
	c.plan.segs = segs
	l.mu.Lock()
	before := l.mu.clean
	l.mu.Unlock()
	c.txns = before.txns
	c.readBuf, c.writeBuf = make([]byte, c.opt.ReadBytes), make([]byte, 0, c.opt.WriteBytes)
	if err := c.mapKeys(ctx); err != nil {
		return err
	}
	defer c.keys.release()
	segs = c.affected()
	if len(segs) == 0 {
		return nil
	}
	// From here on there may be gaps below the end of the last group, whatever becomes of this run.
	now := before
	now.dirty = c.plan.dirty
	now.gaps, now.txns = max(before.gaps, c.end(segs)), c.txns
	if err := c.saveState(ctx, now); err != nil {
		return err
	}
	if err := c.clean(ctx, segs); err != nil {
		return err
	}
	now.dirty, now.horizon = c.mapped, c.horizon
	c.stats.FirstDirty = c.mapped
	return c.saveState(ctx, now)
}

func (c *compaction) end(segs []*segment) int64 { return c.nextOf(segs[len(segs)-1]) }

// affected returns the segments that begin below the end of what is in the map.
func (c *compaction) affected() []*segment {
	n := 0
	for n < len(c.plan.segs) && c.plan.segs[n].base < c.mapped {
		n++
	}
	return c.plan.segs[:n]
}

// mapKeys fills the map with the keys of the dirty segments. If these turn out to have transactions, it begins again with
// knowledge of which were aborted.
func (c *compaction) mapKeys(ctx context.Context) error {
	for {
		scanned := c.txns
		if scanned {
			if err := c.findAborted(ctx); err != nil {
				return err
			}
		}
		c.keys = newOffsetMap(c.opt.MapBytes, c.opt.MapLoad, c.dirtyOffsets())
		c.stats.MapBytes = int64(len(c.keys.mem))
		err := c.mapDirty(ctx, scanned)
		if err == nil && c.txns == scanned {
			return nil
		}
		c.keys.release()
		c.keys = nil
		if err != nil {
			return err
		}
	}
}

// findAborted looks for transactions in the whole plan, and ends the plan before one that has no end yet.
func (c *compaction) findAborted(ctx context.Context) error {
	aborted, open, err := c.scanTransactions(ctx, c.plan.segs)
	if err != nil {
		return err
	}
	c.aborted = aborted
	for i, g := range c.plan.segs {
		if c.nextOf(g) > open {
			c.plan.segs = c.plan.segs[:i]
			break
		}
	}
	return nil
}

// dirtyOffsets is an upper bound of the number of keys in the dirty segments.
func (c *compaction) dirtyOffsets() int64 {
	if len(c.plan.segs) == 0 {
		return 0
	}
	return max(c.end(c.plan.segs)-c.plan.dirty, 0)
}

// mapDirty does one pass. It ends early, with c.txns set, at the first sign of transactions unless it knows of them.
func (c *compaction) mapDirty(ctx context.Context, known bool) error {
	t := newTransactions(c.aborted, c.plan.dirty)
	c.mapped = c.plan.dirty
	full := false
	for _, g := range c.plan.segs {
		end := c.nextOf(g)
		if end <= c.plan.dirty {
			continue
		}
		err := c.each(ctx, g, c.plan.dirty, func(b record.Batch) (more bool, err error) {
			if b.IsControl() || b.IsTransactional() {
				if c.txns = true; !known {
					return false, nil
				}
			}
			gone, err := t.discard(b)
			if err != nil {
				return false, g.corrupt(c.at, b.BaseOffset(), err)
			}
			if !gone && !b.IsControl() {
				if full, err = c.mapBatch(b); err != nil {
					return false, g.corrupt(c.at, b.BaseOffset(), err)
				}
			}
			if !full {
				c.mapped = b.NextOffset()
			}
			return !full, nil
		})
		if err != nil || c.txns && !known {
			return err
		}
		if full {
			break
		}
		c.mapped = end
	}
	if c.stats.Partial = full; full && c.mapped == c.plan.dirty {
		return fmt.Errorf("%w: a batch at offset %d has more than %d keys", ErrMapFull, c.mapped, c.keys.max)
	}
	return nil
}

// mapBatch puts a batch's keys into the map. full: not all of them had room.
func (c *compaction) mapBatch(b record.Batch) (full bool, err error) {
	err = b.Skim(func(s *record.Skim) bool {
		offset := b.BaseOffset() + s.OffsetDelta
		full = s.Key != nil && offset >= c.plan.dirty && !c.keys.put(s.Key, offset)
		return !full
	})
	return full, err
}

// clean rewrites the segments group by group.
func (c *compaction) clean(ctx context.Context, segs []*segment) error {
	t := newTransactions(c.aborted, segs[0].base)
	for _, group := range c.l.groups(segs, c.cfg.SegmentBytes) {
		if err := c.cleanGroup(ctx, group, t); err != nil {
			return err
		}
	}
	return nil
}

func (c *compaction) cleanGroup(ctx context.Context, group []*segment, t *transactions) error {
	for _, g := range group {
		if _, err := c.s.index(g); err != nil { // whoever is rebuilding it has finished then
			return err
		}
	}
	f := batchFilter{c: c, ctx: ctx, txns: t, base: group[0].base, end: c.end(group)}
	if c.opt.Producers != nil {
		f.producers = c.opt.Producers()
	}
	err := c.filterGroup(&f, group)
	w := f.w
	if w == nil {
		return err // nil: nothing changes
	}
	if err == nil {
		err = w.finish()
	}
	c.stats.BytesWritten += w.written
	c.writeBuf = w.buf[:0]
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		w.discard()
		return err
	}
	if err := c.swap(ctx, w, group); err != nil {
		return err
	}
	c.stats.Before += len(group)
	c.stats.After++
	c.s.log.Debug("segments compacted", "dir", c.l.dir, "segments", len(group), "base_offset", f.base, "end_offset", f.end, "bytes", w.written)
	return nil
}

// filterGroup reads the group's segments through f. Several become one in any case.
func (c *compaction) filterGroup(f *batchFilter, group []*segment) error {
	if len(group) > 1 {
		if err := f.begin(group[0], f.base); err != nil {
			return err
		}
	}
	for _, g := range group {
		if err := c.each(f.ctx, g, g.base, func(b record.Batch) (bool, error) { return true, f.take(g, b) }); err != nil {
			return err
		}
	}
	return nil
}
