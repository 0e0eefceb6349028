package segment

import (
	"errors"
	"fmt"
	"sort"

	"weir/internal/record"
	"weir/internal/vfs"
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

// Read returns whole batches from the one that contains offset on, all of whose records are below limitOffset, at most maxBytes of
// them; with minOneBatch the first one even if it is larger. It returns what lies together: in the tail, or in
// one segment file. Nothing below the limit (offset == End included) gives an empty Range. An offset outside the log is an
// *OffsetError. The caller must Release the Range.
//
// Tail reads touch memory only. File reads may block, at most the I/O timeout for each of the few steps they need, and then
// fail with ErrDeadline.
func (l *Log) Read(offset, limitOffset int64, maxBytes int, minOneBatch bool) (*Range, error) {
	q := query{offset: offset, limit: limitOffset, max: int64(max(maxBytes, 0)), one: minOneBatch}
	l.mu.Lock()
	if err := l.checkOffsetLocked(offset); err != nil {
		l.mu.Unlock()
		return nil, err
	}
	q.limit = min(q.limit, l.mu.end)
	if offset >= q.limit {
		l.mu.Unlock()
		return l.s.newRange(offset), nil
	}
	if first, ok := l.mu.tail.first(); ok && offset >= first {
		r, err := l.readTailLocked(q)
		l.mu.Unlock()
		if err != nil {
			return nil, err
		}
		return r.handOut(), nil
	}
	v := l.fileViewLocked(offset)
	l.mu.Unlock()
	r, err := l.readFile(v, q)
	if err != nil {
		return nil, fmt.Errorf("read %s at offset %d: %w", l.dir, offset, err)
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
	g        *segment
	end      int64 // position and offset up to which the file may be read
	next     int64
	capacity int64
	from     int64 // known position of the offset asked for; -1: to be searched
	damage   error // reading ends at damage
}

func (l *Log) fileViewLocked(offset int64) fileView {
	from := int64(-1)
	g := l.segmentLocked(offset)
	if seg, pos, ok := l.mu.cursors.find(offset); ok && seg == g {
		from = pos
	} else if offset == g.base {
		from = 0
	}
	v := fileView{g: g, end: g.flushed, next: g.flushedNext, from: from, capacity: g.flushed}
	if !g.sealed {
		v.capacity = max(v.capacity, l.cfg().SegmentBytes)
	}
	v.limitLocked()
	return v
}

// limitLocked keeps a view before known damage.
func (v *fileView) limitLocked() {
	if v.g.damage != nil && v.g.damageAt <= v.end {
		v.end, v.next, v.damage = v.g.damageAt, v.g.damageOf, v.g.damage
	}
}

func (l *Log) readFile(v fileView, q query) (*Range, error) {
	ix, err := l.s.index(v.g)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	v.limitLocked() // loading the index may have found damage
	l.mu.Unlock()
	if q.offset >= v.next {
		if v.damage != nil {
			return nil, v.damage
		}
		return nil, v.g.corrupt(v.end, v.next, fmt.Errorf("segment ends before offset %d", q.offset))
	}
	h, err := l.s.handles.acquire(v.g, false)
	if err != nil {
		return nil, err
	}
	r, err := l.cutFile(h, v, &ix, q)
	if err != nil || r.h == nil {
		l.s.handles.release(h)
	}
	return r, err
}

// cutFile decides what of the file is returned, and brings it into memory. If the range has bytes it takes over the reference to h.
func (l *Log) cutFile(h *handle, v fileView, ix *index, q query) (*Range, error) {
	hr := newHeaderReader(l.s, v.g, h, v.end, lookupWindow)
	defer hr.close()
	at, pos, err := findBatch(hr, ix, v, q.offset)
	if err != nil {
		return nil, err
	}
	end, next, err := endBatch(hr, ix, v, q, at, pos)
	if err != nil {
		return nil, err
	}
	if end == pos {
		return l.s.newRange(q.offset), nil
	}
	m, err := h.mapping(end, v.capacity)
	if err != nil {
		return nil, err
	}
	if err := l.s.populate(h, m, pos, end-pos); err != nil {
		return nil, err
	}
	r := l.s.newRange(at)
	r.h, r.next, r.size = h, next, int(end-pos)
	r.bufs = append(r.bufs, m.Bytes()[pos:end:end])
	l.remember(next, v.g, end)
	return r, nil
}

// findBatch returns the offset and position of the batch that contains offset.
func findBatch(hr *headerReader, ix *index, v fileView, offset int64) (at, pos int64, err error) {
	if v.from >= 0 {
		return offset, v.from, nil
	}
	for at, pos = ix.floor(offset); ; {
		b, err := hr.header(pos, at)
		if err != nil {
			return 0, 0, err
		}
		if b.NextOffset() > offset {
			return at, pos, nil
		}
		at, pos = b.NextOffset(), pos+int64(b.Size())
	}
}

// endBatch returns where the range that starts with the batch at pos ends. Without walking it can end at
// the file's end or before any indexed batch.
func endBatch(hr *headerReader, ix *index, v fileView, q query, at, pos int64) (end, next int64, err error) {
	if v.end-pos <= q.max && v.next <= q.limit {
		return v.end, v.next, nil
	}
	if o, p, ok := ix.cut(min(pos+q.max, v.end), min(q.limit, v.next)); ok && p > pos {
		return p, o, nil
	}
	for end, next = pos, at; end < v.end; {
		b, err := hr.header(end, next)
		if err != nil {
			return 0, 0, err
		}
		if !q.fits(end-pos, int64(b.Size()), b.NextOffset()) {
			break
		}
		end, next = end+int64(b.Size()), b.NextOffset()
	}
	return end, next, nil
}

// populate brings a mapped range into memory. The mapping stays until the system call ends, even if that is after the deadline.
func (s *Store) populate(h *handle, m vfs.Mapping, off, n int64) error {
	began := s.clock.Now()
	s.handles.retain(h)
	err := s.reads.do("populate", h.file.Name(), func() error {
		defer s.handles.release(h)
		return m.Populate(off, n)
	})
	if late, ok := errors.AsType[*DeadlineError](err); ok && late.Queued {
		s.handles.release(h) // it never ran
	}
	s.metrics.PopulateSecs.Observe(s.clock.Now().Sub(began).Seconds())
	return err
}
