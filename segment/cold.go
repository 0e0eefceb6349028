package segment

import (
	"errors"
	"fmt"
	"sync"

	"weir/internal/record"
)

const (
	// Buffers of file reads have one of these sizes: few, so that what one read has given back serves the next, whatever its size.
	coldSmall  = 16 << 10
	coldMiddle = 64 << 10
	coldLarge  = 256 << 10
	// coldGroup is read by one worker within one deadline; coldGroups of them are read side by side.
	coldGroup  = 1 << 20
	coldGroups = 4
	// firstBatchAhead is how far beyond maxBytes a read goes at once if the index says that the first batch may be that long.
	firstBatchAhead = 4 << 20
)

// coldBuffer is the size of the next buffer for n bytes, given that room may be taken. 0: room is too little for any.
func coldBuffer(n, room int64) int64 {
	switch {
	case room < coldSmall:
		return 0
	case n > coldMiddle && room >= coldLarge:
		return coldLarge
	case n > coldSmall && room >= coldMiddle:
		return coldMiddle
	}
	return coldSmall
}

// coldCost is what the buffers for n bytes take.
func coldCost(n int64) (cost int64) {
	whole := n / coldLarge
	cost, n = whole*coldLarge, n-whole*coldLarge
	if n > 0 {
		cost += coldBuffer(n, coldLarge)
	}
	return cost
}

// coldRead is one read of a segment file.
type coldRead struct {
	l     *Log
	v     fileView
	ix    *index
	h     *handle
	q     query
	sh    *Share
	taken int64 // of the memory, and not yet in a buffer
	got   scatter
	why   error // why got ends before what was asked for

	boundFrom, bound int64 // a batch between these ends before bound

	scratch [record.HeaderSize]byte // of the batch at hand, where its header lies in two buffers
}

// readFile reads from a segment file. It returns no range if there is no batch from q.offset on.
func (l *Log) readFile(sh *Share, v fileView, q query) (*Range, error) {
	if q.offset >= v.next {
		return nil, v.g.corrupt(v.end, v.next, fmt.Errorf("segment ends before offset %d", q.offset))
	}
	ix, err := l.s.index(v.g)
	if err != nil {
		return nil, err
	}
	h, err := l.s.handles.acquire(v.g, false)
	if err != nil {
		return nil, err
	}
	defer l.s.handles.release(h)
	began := l.s.clock.Now()
	c := &coldRead{l: l, v: v, ix: &ix, h: h, q: q, sh: sh}
	r, err := c.run()
	c.drop()
	err = v.g.outdated(err)
	l.s.metrics.ReadSecs.Observe(l.s.clock.Now().Sub(began).Seconds())
	if e, ok := errors.AsType[*CorruptError](err); ok {
		l.s.damage(e)
	}
	return r, err
}

func (c *coldRead) run() (*Range, error) {
	at, pos := c.q.offset, c.v.from
	if pos < 0 {
		at, pos = c.ix.floor(c.q.offset)
	}
	for {
		var err error
		if at, pos, err = c.locate(at, pos); err != nil {
			return nil, err
		}
		if pos >= c.v.end {
			return nil, c.ended(at)
		}
		r, err := c.readFrom(at, pos)
		bad, ok := errors.AsType[*CorruptError](err)
		if !ok {
			return r, err
		}
		// The batch that should begin the range is damaged. Its header may have lied about the offsets in it.
		c.drop()
		if at, pos, err = c.beyond(bad); err != nil {
			return nil, err
		}
	}
}

// ended says what it means that a file ends before the offset that is asked for: a gap that compaction has left, or missing records.
func (c *coldRead) ended(at int64) error {
	g := c.v.g
	if g.gapsEnd > 0 {
		return nil
	}
	return &CorruptError{
		File: g.name, Position: c.v.end, Offset: at, End: c.v.end, NextOffset: c.v.next,
		Err: fmt.Errorf("%w: file ends at offset %d, the next one begins at %d", record.ErrShort, at, c.v.next),
	}
}

// locate walks from a batch at or before the offset that is asked for to the one that contains it, or to the first after it where the log
// has a gap. What it passes over is verified: a wrong header would lead astray.
func (c *coldRead) locate(at, pos int64) (int64, int64, error) {
	if pos == c.v.from && at == c.q.offset {
		return at, pos, nil
	}
	hr := newHeaderReader(c.l.s, c.v.g, c.h, c.v.end, lookupWindow)
	defer hr.close()
	for pos < c.v.end {
		hdr, err := hr.indexed(c.ix, pos, at)
		if err == nil {
			if hdr.NextOffset() > c.q.offset {
				return at, pos, nil
			}
			after, size := hdr.NextOffset(), int64(hdr.Size())
			if err = hr.verify(hdr, pos, at); err == nil {
				at, pos = after, pos+size
				continue
			}
		}
		bad, ok := errors.AsType[*CorruptError](err)
		if !ok {
			return 0, 0, err
		}
		if at, pos, err = c.beyond(bad); err != nil {
			return 0, 0, err
		}
	}
	return at, pos, nil
}

// beyond finds where good data begins again after damage. If the offset that is asked for lies before that, that is the error.
func (c *coldRead) beyond(bad *CorruptError) (at, pos int64, err error) {
	if bad.NextOffset, bad.End, err = c.l.s.resync(c.v, c.h, c.ix, bad.Position, bad.Offset); err != nil {
		return 0, 0, err
	}
	if c.q.offset < bad.NextOffset {
		return 0, 0, bad
	}
	c.l.s.damage(bad)
	return bad.NextOffset, bad.End, nil
}

// readFrom reads and verifies what is returned from the batch at pos on, which should have offset at.
func (c *coldRead) readFrom(at, pos int64) (*Range, error) {
	want := min(c.q.max, c.v.end-pos)
	if want < record.HeaderSize && !c.q.one {
		return c.l.s.newRange(c.q.offset), nil
	}
	if c.q.one {
		first := c.v.end - pos
		if p, ok := c.ix.after(pos); ok {
			first = min(first, p-pos)
		}
		want = max(want, min(first, firstBatchAhead))
	}
	least := int64(coldSmall)
	if want > c.q.max {
		least = want // a batch that must come whole
	}
	if err := c.fill(pos, want, least); err != nil {
		return nil, err
	}
	end, next, first, err := c.cut(at, pos)
	if err != nil {
		return nil, err
	}
	if end == pos {
		return c.l.s.newRange(c.q.offset), nil
	}
	r := c.l.s.newRange(first)
	if c.sh != nil {
		r.r = c.sh.r
	}
	r.cold, r.next = true, next
	c.got.into(r, pos, end)
	c.l.remember(next, c.v.g, end)
	return r, nil
}

// cut verifies batch after batch and returns where the range ends.
func (c *coldRead) cut(at, pos int64) (end, next, first int64, err error) {
	end, next, first = pos, at, at
	for end < c.v.end {
		hdr, err := c.batch(end, next)
		if err == nil && !c.q.fits(end-pos, int64(hdr.Size()), hdr.NextOffset()) {
			if end > pos || hdr.NextOffset() <= c.q.limit {
				break
			}
			// Limits lie between batches, so this is a strange one. If it is damaged, that is what its reader has to know.
			if err = c.prove(hdr, end, next); err == nil {
				break
			}
		}
		if err == nil && !c.has(end+int64(hdr.Size())) {
			if end > pos {
				break
			}
			if err = c.whole(hdr, end, next); err == nil {
				continue
			}
		}
		if err == nil {
			if err = c.got.verifyBatch(hdr, end); err != nil {
				err = c.v.g.corrupt(end, next, err)
			}
		}
		if err != nil {
			if end > pos {
				break // what is before it is served; who asks for this gets the error
			}
			return 0, 0, 0, err
		}
		if end == pos {
			first = hdr.BaseOffset()
		}
		end, next = end+int64(hdr.Size()), hdr.NextOffset()
	}
	return end, next, first, nil
}

func (c *coldRead) has(position int64) bool { return c.got.end >= position }

// batch returns the checked header of the batch at position. It is valid until the next call.
func (c *coldRead) batch(position, next int64) (record.Batch, error) {
	hdr, ok := c.got.header(position, &c.scratch)
	if !ok {
		if c.why != nil {
			return nil, c.why
		}
		return nil, c.v.g.corrupt(position, next, fmt.Errorf("%w: file ends %d bytes into a header", record.ErrShort, c.got.end-position))
	}
	if position < c.boundFrom || position >= c.bound {
		c.boundFrom, c.bound = position, c.ix.bound(position, c.v.end)
	}
	if err := c.v.g.checkPlace(hdr, position, next, c.bound); err != nil {
		return nil, c.v.g.corrupt(position, next, err)
	}
	return hdr, nil
}

// prove verifies a batch without keeping it.
func (c *coldRead) prove(hdr record.Batch, position, next int64) error {
	hr := newHeaderReader(c.l.s, c.v.g, c.h, c.v.end, scanWindow)
	defer hr.close()
	return hr.verify(hdr, position, next)
}

// whole reads the first batch again, which is longer than was foreseen. Its header is not proven yet: before memory is taken for it, it is
// read through.
func (c *coldRead) whole(hdr record.Batch, position, next int64) error {
	if c.why != nil {
		return c.why
	}
	n := int64(hdr.Size())
	if err := c.prove(hdr, position, next); err != nil {
		return err
	}
	if err := c.fill(position, n, n); err != nil {
		return err
	}
	if c.why == nil && !c.has(position+n) {
		return c.v.g.corrupt(position, next, fmt.Errorf("%w: file ends %d bytes into a batch of %d", record.ErrShort, c.got.end-position, n))
	}
	return c.why
}

// fill reads n bytes from position on, or as many as there is memory for. ErrReadMemory: there is not even for least.
func (c *coldRead) fill(position, n, least int64) error {
	c.drop()
	m := &c.l.s.memory
	if c.taken = m.take(c.sh, coldCost(min(least, n)), coldCost(n)); c.taken == 0 {
		return ErrReadMemory
	}
	c.got.end, c.why = position, nil
	end := position + n
	for before := int64(-1); c.got.end < end && c.got.end > before && c.why == nil; {
		before = c.got.end
		c.round(end)
	}
	m.give(c.reader(), c.taken)
	c.taken = 0
	return nil
}

func (c *coldRead) reader() *Reader {
	if c.sh == nil {
		return nil
	}
	return c.sh.r
}

// round reads a few groups side by side, as far as there is memory. What comes before the first that fails counts.
func (c *coldRead) round(end int64) {
	var groups [coldGroups][]part
	n, at := 0, c.got.end
	for at < end && n < coldGroups {
		var size int64
		for at < end && size < coldGroup {
			b := coldBuffer(end-at, c.taken)
			if b == 0 {
				break
			}
			c.taken -= b
			use := min(b, end-at)
			groups[n] = append(groups[n], part{c: c.l.s.memory.newChunk(c.sh, int(b)), pos: at, n: int(use)})
			at, size = at+use, size+use
		}
		if size == 0 {
			break
		}
		n++
	}
	var errs [coldGroups]error
	var wg sync.WaitGroup
	for i := 1; i < n; i++ {
		wg.Go(func() { errs[i] = c.readGroup(groups[i]) })
	}
	if n > 0 {
		errs[0] = c.readGroup(groups[0])
	}
	wg.Wait()
	for i := range groups[:n] {
		if c.why == nil {
			c.why = errs[i]
		}
		for j := range groups[i] {
			c.take(&groups[i][j])
		}
	}
}

// take appends a buffer that was read to what there is, unless the one before it was not filled.
func (c *coldRead) take(p *part) {
	if c.why != nil || p.n == 0 || p.pos != c.got.end {
		p.c.release()
		return
	}
	c.got.parts = append(c.got.parts, *p)
	c.got.end += int64(p.n)
}

// readGroup reads some buffers, and shortens what the file does not fill. A buffer stays with the system call until that ends, even if
// that is after the deadline: then its bytes are nobody's.
func (c *coldRead) readGroup(parts []part) error {
	for _, p := range parts {
		p.c.retain()
	}
	free := func() {
		for _, p := range parts {
			p.c.release()
		}
	}
	s, h := c.l.s, c.h
	s.handles.retain(h)
	read, err := call(s.reads, "read", h.file.Name(), func() ([]int, error) {
		defer s.handles.release(h)
		defer free()
		read := make([]int, len(parts))
		for i, p := range parts {
			n, err := readFull(h.file, p.c.buf.Bytes()[:p.n], p.pos)
			if err != nil {
				return nil, err
			}
			read[i] = n
			if n < p.n {
				break
			}
		}
		return read, nil
	}, nil)
	if err != nil {
		if late, ok := errors.AsType[*DeadlineError](err); ok && late.Queued { // it never ran
			s.handles.release(h)
			free()
		}
		return fmt.Errorf("read segment: %w", err)
	}
	for i := range parts {
		parts[i].n = read[i]
	}
	return nil
}

// drop gives up what was read.
func (c *coldRead) drop() {
	c.got.release()
	c.got.end = 0
}
