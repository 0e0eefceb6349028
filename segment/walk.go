package segment

import (
	"bytes"
	"fmt"

	"weir/internal/record"
)

// stretch is a part of one segment, from a batch's start on: in memory (ext) or in the file.
type stretch struct {
	offset int64 // of the first batch, if known to begin here; else somewhere inside
	ext    []extent
	view   fileView
	next   int64 // offset after it
}

// stretchAt returns the stretch that contains offset, with references to its memory. ok is false at or beyond limit.
func (l *Log) stretchAt(offset, limit int64) (st stretch, ok bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if offset > l.mu.end && l.mu.cuts > 0 && !l.mu.closed {
		return st, false, nil // it was truncated meanwhile
	}
	if err := l.checkOffsetLocked(offset); err != nil {
		return st, false, err
	}
	if offset >= min(limit, l.mu.end) {
		return st, false, nil
	}
	st.offset = offset
	first, inTail := l.mu.tail.first()
	if !inTail || offset < first {
		st.view = l.fileViewLocked(offset)
		st.next = st.view.next
		return st, true, nil
	}
	t := &l.mu.tail
	i := t.find(offset)
	g := t.ext[i].seg
	st.next = g.next
	for ; i < len(t.ext) && t.ext[i].seg == g; i++ {
		e := t.ext[i]
		e.buf.Retain()
		st.ext = append(st.ext, e)
	}
	return st, true, nil
}

func (st *stretch) release() {
	for _, e := range st.ext {
		e.buf.Release()
	}
	st.ext = nil
}

// place is where a walk has come to.
type place struct {
	offset int64
	hdr    record.Batch // at least the header
	whole  record.Batch // the whole batch if it is in memory
	file   *headerReader
	pos    int64 // in file
}

// walk calls fn for each batch from the one containing from up to limit, which is fixed at the start. fn returns false to stop.
func (l *Log) walk(from, limit int64, window int, fn func(p *place) (bool, error)) error {
	for offset := from; ; {
		st, ok, err := l.stretchAt(offset, limit)
		if err != nil || !ok {
			return err
		}
		again, err := l.walkStretch(&st, offset, limit, window, func(p *place) (bool, error) {
			next := p.hdr.NextOffset() // the header is not valid after fn
			more, err := fn(p)
			if err == nil {
				offset = next
			}
			return more, err
		})
		st.release()
		if isReplaced(err) {
			continue // go on behind the last batch that was handed out
		}
		if err != nil {
			return fmt.Errorf("scan %s: %w", l.dir, err)
		}
		if !again {
			return nil
		}
		offset = st.next
	}
}

func (l *Log) walkStretch(st *stretch, from, limit int64, window int, fn func(p *place) (bool, error)) (again bool, err error) {
	if len(st.ext) == 0 {
		return l.walkFile(st, from, limit, window, fn)
	}
	for _, e := range st.ext {
		for rest := e.data; len(rest) > 0; {
			b := record.Batch(rest)
			b = b[:b.Size():b.Size()]
			rest = rest[len(b):]
			if b.NextOffset() <= from {
				continue
			}
			if b.BaseOffset() >= limit {
				return false, nil
			}
			if ok, err := fn(&place{offset: b.BaseOffset(), hdr: b, whole: b}); err != nil || !ok {
				return false, err
			}
		}
	}
	return true, nil
}

func (l *Log) walkFile(st *stretch, from, limit int64, window int, fn func(p *place) (bool, error)) (again bool, err error) {
	v := st.view
	defer func() { err = v.g.outdated(err) }()
	ix, err := l.s.index(v.g)
	if err != nil {
		return false, err
	}
	l.mu.Lock()
	v.limitLocked()
	l.mu.Unlock()
	h, err := l.s.handles.acquire(v.g, false)
	if err != nil {
		return false, err
	}
	defer l.s.handles.release(h)
	hr := newHeaderReader(l.s, v.g, h, v.end, window)
	defer hr.close()
	offset, pos := ix.floor(from)
	if v.from >= 0 {
		offset, pos = from, v.from
	}
	for pos < v.end && offset < limit {
		b, err := hr.header(pos, offset)
		if err != nil {
			return false, err
		}
		size, next := int64(b.Size()), b.NextOffset()
		if next > from {
			if b.BaseOffset() >= limit {
				return false, nil
			}
			if ok, err := fn(&place{offset: b.BaseOffset(), hdr: b, file: hr, pos: pos}); err != nil || !ok {
				return false, err
			}
		}
		offset, pos = next, pos+size
	}
	if pos >= v.end && v.damage != nil {
		return false, v.damage
	}
	return offset < limit, nil
}

// load returns the whole batch, copied to the heap, its checksum verified.
func (p *place) load() (record.Batch, error) {
	if p.whole != nil {
		return record.Batch(bytes.Clone(p.whole)), p.whole.Check()
	}
	r := p.file
	buf := make([]byte, p.hdr.Size())
	if p.pos >= r.at && p.pos+int64(len(buf)) <= r.at+int64(r.n) {
		copy(buf, (*r.buf)[p.pos-r.at:])
	} else {
		n, err := r.s.reads.readAt(r.h.file, buf, p.pos)
		if err != nil {
			return nil, fmt.Errorf("read segment: %w", err)
		}
		if n < len(buf) {
			return nil, r.g.corrupt(p.pos, p.offset, fmt.Errorf("%w: file ends %d bytes into a batch of %d", record.ErrShort, n, len(buf)))
		}
	}
	b := record.Batch(buf)
	if err := b.Check(); err != nil {
		return nil, r.g.corrupt(p.pos, p.offset, err)
	}
	return b, nil
}

// Scan calls fn with the header (at least record.HeaderSize bytes, valid during the call) of each batch from the one containing from to the
// log's end as of now. Batches are verified whole, except those without a producer: of them nothing but the offsets means anything to
// who scans, and those are held against their neighbours. Damage is a *CorruptError.
func (l *Log) Scan(from int64, fn func(header record.Batch) error) error {
	return l.walk(from, l.End(), scanWindow, func(p *place) (bool, error) {
		if p.hdr.ProducerID() != record.NoProducerID {
			if err := p.check(); err != nil {
				return false, err
			}
		}
		return true, fn(p.hdr[:record.HeaderSize:record.HeaderSize])
	})
}

// ReadAll calls fn with each whole batch from the one containing from to the log's end as of now. Batches are verified heap copies
// that fn may keep. Damage is a *CorruptError.
func (l *Log) ReadAll(from int64, fn func(record.Batch) error) error {
	return l.walk(from, l.End(), scanWindow, func(p *place) (bool, error) {
		b, err := p.load()
		if err != nil {
			return false, err
		}
		return true, fn(b)
	})
}
