package segment

import (
	"context"
	"errors"
	"fmt"

	"weir/internal/iobuf"
	"weir/internal/record"
)

// A truncation takes the end of a log away: everything from an offset on, or, as a reset, all of it, and the log begins anew elsewhere. A
// follower does so when its log and its leader's differ. It goes in four steps:
//
//	1  PrepareTruncate, PrepareReset: finds the batch at which the log will end, which may mean to read, and keeps the log from changing
//	   meanwhile: it takes no appends, its start stays, no segments are deleted or exchanged.
//	2  The caller makes a record of it durable in the WAL.
//	3  Apply: the log ends there, in memory. It can be read and appended to. The record's LSN counts as that of something unflushed, so the
//	   WAL keeps it.
//	4  The flusher puts the files right before it flushes anything behind the cut (cutfiles.go).
//
// A crash after step 2 brings the log back as the files and the WAL have it, and RecoveredTruncate does all of it again; whatever was appended
// afterwards follows in the WAL. The argument is in recovercut.go.

// ErrTruncating: the log is being truncated. Nothing was changed; it can be tried again when that is over.
var ErrTruncating = errors.New("log is being truncated")

// Cut is a truncation that was prepared: Apply or Abort must follow.
type Cut struct {
	l     *Log
	end   int64 // the log's end afterwards
	reset bool  // it begins there, too

	seg   *segment // the last one that stays; nil with reset
	pos   int64    // where it ends
	sum   summary  // of it, up to there
	since int64    // bytes since its last index entry
	gap   bool     // the kept batches end before end, where compaction has taken some away
}

// End is the offset at which the log will end. It is at most the one that was asked for.
func (c *Cut) End() int64 { return c.end }

// Reset reports whether the log will begin at End, too, and so be empty.
func (c *Cut) Reset() bool { return c.reset }

// PrepareTruncate prepares to take away everything at or beyond offset, and with it the batch that contains offset. At or below the log's
// start that is a reset. nil: there is nothing there. Everything appended must have been committed. It may read, each step within its
// deadline; ctx bounds the wait for a deletion or exchange of segments that is under way. After an error nothing has changed.
func (l *Log) PrepareTruncate(ctx context.Context, offset int64) (*Cut, error) {
	return l.prepare(ctx, offset, false)
}

// PrepareReset prepares to empty the log, which then begins and ends at offset.
func (l *Log) PrepareReset(ctx context.Context, offset int64) (*Cut, error) {
	return l.prepare(ctx, offset, true)
}

func (l *Log) prepare(ctx context.Context, offset int64, reset bool) (*Cut, error) {
	c := &Cut{l: l, end: offset, reset: reset}
	if offset < 0 {
		return nil, fmt.Errorf("truncate %s: offset %d, want >= 0", l.dir, offset)
	}
	if err := l.beginCut(ctx); err != nil {
		return nil, fmt.Errorf("truncate %s to offset %d: %w", l.dir, offset, err)
	}
	l.mu.Lock()
	start, end := l.mu.start, l.mu.end
	l.mu.Unlock()
	if !reset && offset >= end {
		c.Abort()
		return nil, nil
	}
	if c.reset = reset || offset <= start; c.reset {
		return c, nil
	}
	if err := c.locate(offset); err != nil {
		c.Abort()
		return nil, fmt.Errorf("truncate %s to offset %d: %w", l.dir, offset, asDeadline(err))
	}
	if c.end <= start {
		// The start lies inside the batch that goes, or in a gap before it: nothing stays.
		*c = Cut{l: l, end: start, reset: true}
	}
	return c, nil
}

// beginCut freezes the log and takes its files.
func (l *Log) beginCut(ctx context.Context) error {
	for {
		l.mu.Lock()
		switch {
		case l.mu.closed:
			l.mu.Unlock()
			return ErrClosed
		case l.mu.halfSwapped != nil:
			l.mu.Unlock()
			return l.mu.halfSwapped
		case l.mu.cutting:
			l.mu.Unlock()
			return ErrTruncating
		case l.mu.tail.committedNext != l.mu.end:
			next, end := l.mu.tail.committedNext, l.mu.end
			l.mu.Unlock()
			return fmt.Errorf("%w: offsets %d to %d are not durable yet", ErrTruncating, next, end-1)
		case l.mu.cut != nil || !l.mu.trimming:
			l.mu.cutting, l.mu.trimming = true, true
			l.mu.Unlock()
			return nil
		}
		l.mu.Unlock()
		if err := l.claimFiles(ctx); err != nil {
			return err
		}
		l.releaseFiles() // it is free now; look again
	}
}

// Abort gives a truncation up of which nothing was made durable.
func (c *Cut) Abort() {
	c.l.mu.Lock()
	c.l.mu.cutting = false
	c.l.releaseCutLocked()
	c.l.mu.Unlock()
	c.l.s.trim(c.l) // what it kept from being deleted
}

// releaseCutLocked gives the files back when no truncation needs them any more.
func (l *Log) releaseCutLocked() {
	if l.mu.cut == nil && !l.mu.cutting {
		l.releaseFilesLocked()
	}
}

// locate finds where the log ends without the batch that contains offset, which is above the start and below the end. It walks through the
// headers from the index entry before; those in a file are verified, because one that is wrong would make it cut in the wrong place.
func (c *Cut) locate(offset int64) error {
	l := c.l
	l.mu.Lock()
	g := l.segmentLocked(offset)
	l.mu.Unlock()
	ix, err := l.s.index(g)
	if err != nil {
		return err
	}
	w := &cutWalk{c: c, g: g, offset: offset}
	l.mu.Lock()
	w.fileEnd, c.sum.firstTime = g.flushed, g.sum.firstTime
	for i := range l.mu.tail.ext {
		if e := l.mu.tail.ext[i]; e.seg == g {
			e.buf.Retain()
			w.ext = append(w.ext, e)
		}
	}
	l.mu.Unlock()
	defer release(bufsOf(w.ext))
	if len(w.ext) > 0 {
		w.fileEnd = w.ext[0].pos
	}
	c.seg, c.end = g, g.base
	if at, pos := ix.floor(offset); pos > 0 {
		c.pos, c.end = pos, at
	}
	first := c.sum.firstTime
	c.sum = summary{bytes: c.pos, next: c.end, firstTime: first, maxTime: noTime, maxTimeAt: g.base}
	before := ix.upTo(c.pos, c.end)
	if n := len(before.times) / timeEntrySize; n > 0 {
		c.sum.maxTime, c.sum.maxTimeAt = before.timeAt(n-1), before.timeOffset(n-1)
	}
	if err := w.run(); err != nil {
		return err
	}
	if c.pos == 0 {
		c.before(g)
	}
	return nil
}

func bufsOf(ext []extent) []*iobuf.Buf {
	bufs := make([]*iobuf.Buf, len(ext))
	for i := range ext {
		bufs[i] = ext[i].buf
	}
	return bufs
}

// before makes the segment before g, all of it, the last one that stays: the cut is at g's first batch.
func (c *Cut) before(g *segment) {
	l := c.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, x := range l.mu.segs {
		if x == g && i > 0 {
			prev := l.mu.segs[i-1]
			*c = Cut{l: l, end: prev.next, seg: prev, pos: prev.size, gap: c.gap}
			return
		}
	}
	*c = Cut{l: l, end: g.base, reset: true}
}

// cutWalk goes from batch to batch up to the one that goes.
type cutWalk struct {
	c       *Cut
	g       *segment
	offset  int64
	fileEnd int64 // from here on it is in ext
	ext     []extent
}

func (w *cutWalk) run() error {
	if w.c.pos < w.fileEnd {
		done, err := w.files()
		if done || err != nil {
			return err
		}
	}
	for i := range w.ext {
		e := &w.ext[i]
		for at := max(w.c.pos-e.pos, 0); at < int64(len(e.data)); {
			b := record.Batch(e.data[at:])
			if w.take(b) {
				return nil
			}
			at += int64(b.Size())
		}
	}
	if w.c.end == w.offset {
		return nil // the files behind it are gone in part already
	}
	return w.g.corrupt(w.c.pos, w.c.end, fmt.Errorf("%w: segment ends before offset %d, at which it is to be cut", record.ErrShort, w.offset))
}

func (w *cutWalk) files() (done bool, err error) {
	s := w.c.l.s
	h, err := s.handles.acquire(w.g, false)
	if err != nil {
		return false, err
	}
	defer s.handles.release(h)
	r := newHeaderReader(s, w.g, h, w.fileEnd, lookupWindow)
	defer r.close()
	for w.c.pos < w.fileEnd {
		b, err := r.header(w.c.pos, w.c.end)
		if err != nil {
			return false, err
		}
		head := [record.HeaderSize]byte(b)
		if err := r.verify(head[:], w.c.pos, w.c.end); err != nil {
			return false, err
		}
		if w.take(head[:]) {
			return true, nil
		}
	}
	return false, nil
}

// take steps over a batch that stays; true: it does not, and the log ends before it.
func (w *cutWalk) take(b record.Batch) (end bool) {
	c := w.c
	if b.NextOffset() > w.offset {
		c.gap = b.BaseOffset() >= w.offset && c.end < w.offset
		return true
	}
	latest := b.MaxTimestamp()
	if b.Count() == 0 {
		latest = noTime
	}
	if c.pos == 0 {
		c.sum.firstTime = latest
	}
	if latest > c.sum.maxTime {
		c.sum.maxTime, c.sum.maxTimeAt = latest, b.BaseOffset()
	}
	n := int64(b.Size())
	c.pos, c.end, c.since = c.pos+n, b.NextOffset(), c.since+n
	c.sum.bytes, c.sum.next = c.pos, c.end
	return false
}
