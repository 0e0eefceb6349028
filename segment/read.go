package segment

import (
	"errors"
	"fmt"
	"sort"

	"weir/internal/record"
)

// cursors remember where sequential readers will continue, so that they need no search.
type cursors struct {
	at   [8]cursor
	next int
}

type cursor struct {
	offset   int64
	seg      *segment
	position int64
}

func (c *cursors) find(offset int64) (*segment, int64, bool) {
	if c == nil {
		return nil, 0, false
	}
	for i := range c.at {
		if e := &c.at[i]; e.offset == offset && e.seg != nil && !e.seg.deleted {
			return e.seg, e.position, true
		}
	}
	return nil, 0, false
}

func (l *Log) remember(offset int64, g *segment, position int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g.deleted {
		return
	}
	if l.mu.cursors == nil {
		l.mu.cursors = &cursors{}
	}
	c := l.mu.cursors
	c.at[c.next] = cursor{offset, g, position}
	c.next = (c.next + 1) % len(c.at)
}

// Read is ReadShare for a reader whose memory is not bounded.
func (l *Log) Read(offset, limitOffset int64, maxBytes int, minOneBatch bool) (*Range, error) {
	return l.ReadShare(nil, offset, limitOffset, maxBytes, minOneBatch)
}

// ReadShare returns whole batches from the one that contains offset on, all of whose records are below limitOffset, at most maxBytes of
// them; with minOneBatch the first one even if it is larger. It returns what lies together: in the tail, or in
// one segment file. Nothing below the limit (offset == End included) gives an empty Range. An offset outside the log is an
// *OffsetError. The caller must Release the Range.
//
// If there is no memory for that much the range is smaller, and ErrReadMemory if there is none for one batch.
//
// Tail reads touch memory only. File reads may block, at most the I/O timeout for each of the few steps they need, and then
// fail with ErrDeadline. They are verified: a range ends before damage, and one that would begin in it is a *CorruptError.
func (l *Log) ReadShare(sh *Share, offset, limitOffset int64, maxBytes int, minOneBatch bool) (*Range, error) {
	q := query{offset: offset, limit: limitOffset, max: int64(max(maxBytes, 0)), one: minOneBatch}
	for {
		r, err := l.readOnce(sh, &q)
		if errors.Is(err, errReplaced) { // by a compaction: the next look finds its successor
			continue
		}
		if err != nil || r != nil {
			return r, err
		}
	}
}

// readOnce reads from where q says. It returns no range where nothing from q.offset on is left in that segment, and moves q to the next one.
func (l *Log) readOnce(sh *Share, q *query) (*Range, error) {
	l.mu.Lock()
	if err := l.checkOffsetLocked(q.offset); err != nil {
		l.mu.Unlock()
		return nil, err
	}
	q.limit = min(q.limit, l.mu.end)
	if q.offset >= q.limit {
		l.mu.Unlock()
		return l.s.newRange(q.offset), nil
	}
	if first, ok := l.mu.tail.first(); ok && q.offset >= first {
		r, err := l.readTailLocked(*q)
		l.mu.Unlock()
		if err == nil {
			err = r.admit(sh)
		}
		if err != nil {
			return nil, err
		}
		return r.handOut(), nil
	}
	v := l.fileViewLocked(q.offset)
	l.mu.Unlock()
	r, err := l.readFile(sh, v, *q)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s at offset %d: %w", l.dir, q.offset, err)
	case r == nil:
		q.offset = v.next
		return nil, nil
	}
	return r.handOut(), nil
}

type query struct {
	offset, limit, max int64
	one                bool
}

// fits reports whether a range may grow from size by a batch of n bytes that ends at next.
func (q *query) fits(size, n, next int64) bool {
	return next <= q.limit && (size+n <= q.max || size == 0 && q.one)
}

func (l *Log) checkOffsetLocked(offset int64) error {
	switch {
	case l.mu.closed:
		return fmt.Errorf("read %s: %w", l.dir, ErrClosed)
	case offset < l.mu.start || offset > l.mu.end:
		return &OffsetError{Offset: offset, Start: l.mu.start, End: l.mu.end}
	}
	return nil
}

// segmentLocked returns the segment that holds offset, which is inside the log.
func (l *Log) segmentLocked(offset int64) *segment {
	i := sort.Search(len(l.mu.segs), func(i int) bool { return l.mu.segs[i].base > offset })
	return l.mu.segs[max(i-1, 0)]
}

// readTailLocked walks in memory: at most an index interval to the start, and another to the end.
func (l *Log) readTailLocked(q query) (*Range, error) {
	t := &l.mu.tail
	i := t.find(q.offset)
	e := &t.ext[i]
	g := e.seg
	ix, _ := g.indexLocked()
	at, pos := e.base, e.pos
	if o, p := ix.floor(q.offset); p > pos {
		at, pos = o, p
	}
	for {
		b := record.Batch(e.data[pos-e.pos:])
		if b.NextOffset() > q.offset {
			break
		}
		at, pos = b.NextOffset(), pos+int64(b.Size())
	}
	r := l.s.newRange(at)
	end, next := pos, at
	// Jump to the last indexed batch within the bounds, then step.
	if o, p, ok := ix.cut(pos+q.max, q.limit); ok && p > pos {
		end, next = p, o
	}
	if g.size-pos <= q.max && g.next <= q.limit {
		end, next = g.size, g.next
	}
	for j := l.extentAtLocked(g, i, end); j < len(t.ext) && t.ext[j].seg == g; {
		x := &t.ext[j]
		if end >= x.end() {
			j++
			continue
		}
		b := record.Batch(x.data[end-x.pos:])
		if !q.fits(end-pos, int64(b.Size()), b.NextOffset()) {
			break
		}
		end, next = end+int64(b.Size()), b.NextOffset()
	}
	if end == pos {
		return l.s.newRange(q.offset), nil
	}
	for j := i; j < len(t.ext) && t.ext[j].seg == g && t.ext[j].pos < end; j++ {
		x := &t.ext[j]
		from, to := max(pos-x.pos, 0), min(end-x.pos, int64(len(x.data)))
		r.add(x.buf, x.data[from:to:to])
	}
	r.next = next
	return r, nil
}

// extentAtLocked returns the first extent from i on that ends beyond position of g.
func (l *Log) extentAtLocked(g *segment, i int, position int64) int {
	t := &l.mu.tail
	return i + sort.Search(len(t.ext)-i, func(k int) bool {
		e := &t.ext[i+k]
		return e.seg != g || e.end() > position
	})
}

// fileView is what a reader of a segment's file needs to know of it, taken under the lock.
type fileView struct {
	g      *segment
	end    int64 // position and offset up to which the file may be read
	next   int64
	from   int64 // known position of the offset asked for; -1: to be searched
	damage error // a walk ends at damage that is known; a read goes on behind it
}

func (l *Log) fileViewLocked(offset int64) fileView {
	from := int64(-1)
	g := l.segmentLocked(offset)
	if seg, pos, ok := l.mu.cursors.find(offset); ok && seg == g {
		from = pos
	} else if offset == g.base {
		from = 0
	}
	return fileView{g: g, end: g.flushed, next: g.flushedNext, from: from}
}

// limitLocked keeps a walk's view before known damage.
func (v *fileView) limitLocked() {
	if v.g.damage != nil && v.g.damageAt <= v.end {
		v.end, v.next, v.damage = v.g.damageAt, v.g.damageOf, v.g.damage
	}
}
