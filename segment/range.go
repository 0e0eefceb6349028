package segment

import (
	"weir/internal/iobuf"
)

// Range is a stretch of whole batches for a reader: references to tail memory or to a mapped file. The bytes are valid
// until Release, whatever is flushed or deleted meanwhile. Mapped bytes (Cold) were brought into memory when the Range was made; they
// are for writev, not for Go code.
type Range struct {
	s     *Store
	size  int
	first int64
	next  int64
	held  []*iobuf.Buf
	h     *handle
	bufs  [][]byte

	heldArray [4]*iobuf.Buf
	bufsArray [4][]byte
}

func (s *Store) newRange(offset int64) *Range {
	r := &Range{s: s, first: offset, next: offset}
	r.held, r.bufs = r.heldArray[:0], r.bufsArray[:0]
	return r
}

// add appends bytes and keeps a reference to their memory.
func (r *Range) add(buf *iobuf.Buf, data []byte) {
	r.held = append(r.held, buf.Retain())
	r.bufs = append(r.bufs, data)
	r.size += len(data)
}

// Buffers are the bytes, in order. The slices must not be written to.
func (r *Range) Buffers() [][]byte { return r.bufs }

// Size is the number of bytes. It is 0 where there is nothing below the limit, or the first batch does not fit.
func (r *Range) Size() int { return r.size }

// FirstOffset is the base offset of the first batch, which may be below the offset that was asked for.
func (r *Range) FirstOffset() int64 { return r.first }

// NextOffset is where to continue.
func (r *Range) NextOffset() int64 { return r.next }

// Cold tells whether the bytes are those of a mapped file.
func (r *Range) Cold() bool { return r.h != nil }

// Release gives the bytes up. It is called once, does no I/O, and may come from any goroutine.
func (r *Range) Release() {
	if r.s == nil {
		panic("BUG: segment: Range released twice")
	}
	s := r.s
	r.s = nil
	for _, b := range r.held {
		b.Release()
	}
	if r.h != nil {
		s.handles.release(r.h)
	}
	if r.size > 0 {
		s.metrics.RangeBytes.Sub(float64(r.size))
	}
	r.held, r.bufs, r.h = nil, nil, nil
}

func (r *Range) handOut() *Range {
	if r.size > 0 {
		r.s.metrics.RangeBytes.Add(float64(r.size))
		if r.h != nil {
			r.s.metrics.ColdBytes.Add(float64(r.size))
		} else {
			r.s.metrics.TailReadBytes.Add(float64(r.size))
		}
	}
	return r
}
