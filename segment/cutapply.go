package segment

import (
	"slices"
)

// Apply makes the log end where the cut says; lsn is that of its record, which is durable in the WAL. It touches memory only. It comes in the
// order of LSNs, as Commit does.
func (c *Cut) Apply(lsn uint64) {
	l := c.l
	l.mu.Lock()
	l.mu.cutting = false
	if l.mu.closed {
		l.releaseCutLocked()
		l.mu.Unlock()
		return
	}
	l.mu.cuts++
	l.mu.cutLSN = max(l.mu.cutLSN, lsn)
	l.mu.epochKnown = false
	// What is in the flusher's hands is of a log that is no more: it finds cuts changed.
	var a cutApply
	if c.reset {
		l.mu.resetting = false // what is left to do says so
		a.resetLocked(c)
	} else {
		a.truncateLocked(c)
	}
	for _, g := range a.dropped {
		g.deleted, g.replaced, g.sealed, g.ix = true, true, true, nil
	}
	gone := l.cutTailLocked(c)
	l.mu.end = c.end
	l.mu.saved = min(l.mu.saved, l.mu.start)
	// After a reset no file may be made before a checkpoint says that the log begins elsewhere.
	if c.reset || len(a.files) > 0 || a.kept != nil && a.kept.written > a.kept.size || l.cleanBeyondLocked(c.end) {
		l.addWorkLocked(c, &a)
		l.markDirtyLocked(lsn)
	}
	l.mu.clean.dirty, l.mu.clean.gaps = min(l.mu.clean.dirty, c.end), min(l.mu.clean.gaps, c.end)
	l.releaseCutLocked()
	l.mu.Unlock()
	release(gone.bufs)
	l.s.giveBack(gone.bytes)
	for _, g := range a.dropped {
		l.s.indexes.drop(g)
		l.s.handles.drop(g)
	}
	l.s.metrics.Truncations.Inc()
	l.s.trim(l)
}

// cutApply is what a cut changed.
type cutApply struct {
	dropped []*segment // no longer part of the log; kept may have taken the place of one
	files   []*segment // of these: those that have, or may have, files to be deleted; oldest first
	kept    *segment   // took the place of a segment that was cut; nil: none was, or only what was in no file
}

func (a *cutApply) dropLocked(segs []*segment) {
	for _, g := range segs {
		a.dropped = append(a.dropped, g)
		if g.created || g.inFileLocked() > 0 {
			a.files = append(a.files, g)
		}
	}
}

func (a *cutApply) resetLocked(c *Cut) {
	l := c.l
	a.dropLocked(l.mu.segs)
	l.mu.segs = []*segment{newSegment(l, c.end)}
	l.mu.start = c.end
}

func (a *cutApply) truncateLocked(c *Cut) {
	l, g := c.l, c.seg
	at := slices.Index(l.mu.segs, g)
	if at < 0 {
		panic("BUG: segment: " + g.name + " was exchanged while its log was being cut")
	}
	later := l.mu.segs[at+1:]
	a.dropLocked(later)
	segs := slices.Clone(l.mu.segs[:at+1])
	switch {
	case c.pos == g.size && c.end == g.next:
	case !g.sealed && g.inFileLocked() <= c.pos:
		// Nothing of what goes has been near the file, so it is as if it had never been appended.
		g.cutLocked(c)
		l.mu.segs = segs
		return
	default:
		a.kept = g.keptLocked(c)
		a.dropped = append(a.dropped, g)
		segs[at] = a.kept
		for i := range l.mu.tail.ext {
			if e := &l.mu.tail.ext[i]; e.seg == g {
				e.seg = a.kept
			}
		}
		c.seg = a.kept
	}
	// What comes goes into a file of its own. A reader that has an older view of the cut one finds it shorter, but never with other bytes.
	l.mu.segs = append(segs, newSegment(l, c.end))
}

// inFileLocked is how many bytes of g may be in its file.
func (g *segment) inFileLocked() int64 { return max(g.written, g.flushed) }

// cutLocked ends an active segment earlier.
func (g *segment) cutLocked(c *Cut) {
	g.size, g.next, g.sum, g.sinceEntry = c.pos, c.end, c.sum, c.since
	g.ix = g.ix.upTo(c.pos, c.end)
	if g.size == 0 {
		g.sum = emptySummary(g.base)
	}
}

// upTo is a copy of the index without what lies at or beyond a position and its offset. Others may hold what follows, so it is not written over.
func (ix *index) upTo(position, offset int64) *index {
	if ix == nil {
		return nil
	}
	cut := *ix
	cut.truncate(position, offset)
	cut.offsets, cut.times = slices.Clip(cut.offsets), slices.Clip(cut.times)
	return &cut
}

// keptLocked makes a sealed segment of the beginning of g, in the same file.
func (g *segment) keptLocked(c *Cut) *segment {
	k := newSegment(g.log, g.base)
	k.state = g.state
	k.size, k.next, k.sum, k.sinceEntry, k.summed = c.pos, c.end, c.sum, c.since, true
	k.flushed, k.flushedNext = g.flushed, g.flushedNext
	if k.flushed >= k.size {
		k.flushed, k.flushedNext = k.size, k.next
	}
	k.written, k.created, k.sealed = g.inFileLocked(), g.created, true
	k.began, k.touched = g.began, g.touched
	if g.gapsEnd > 0 {
		k.gapsEnd = k.next
	}
	k.ix = g.ix.upTo(c.pos, c.end)
	return k
}

// cutTailLocked takes what goes out of the tail. Everything that stays is committed. What is given up counts no more.
func (l *Log) cutTailLocked(c *Cut) (gone tailCut) {
	t := &l.mu.tail
	if c.reset {
		gone.bufs = t.cut(nil, 0)
	} else {
		gone.bufs = t.cut(c.seg, c.pos)
	}
	t.committedNext = c.end
	if n := len(t.ext); n > 0 {
		t.committedExt, t.committedAt = n-1, len(t.ext[n-1].data)
	}
	var unflushed int64
	for _, g := range l.mu.segs {
		unflushed += g.size - g.flushed
	}
	gone.bytes = l.mu.tailBytes - unflushed
	l.mu.tailBytes, l.mu.committed = unflushed, unflushed
	return gone
}

// cleanBeyondLocked reports whether the cleaner's state on disk speaks of offsets that are gone.
func (l *Log) cleanBeyondLocked(end int64) bool {
	return l.mu.clean != cleanState{horizon: noHorizon} && (l.mu.clean.dirty > end || l.mu.clean.gaps > end)
}
