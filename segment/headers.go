package segment

import (
	"fmt"
	"sync"

	"weir/internal/record"
)

const (
	lookupWindow = 4 << 10  // read ahead when looking for one place
	scanWindow   = 64 << 10 // read ahead when walking through
)

var (
	lookupBuffers = sync.Pool{New: func() any { b := make([]byte, lookupWindow); return &b }}
	scanBuffers   = sync.Pool{New: func() any { b := make([]byte, scanWindow); return &b }}
)

// headerReader reads batch headers of a segment file with pread, a window at a time.
type headerReader struct {
	s    *Store
	g    *segment
	h    *handle
	end  int64 // nothing at or beyond is looked at
	pool *sync.Pool
	buf  *[]byte
	at   int64 // position of the window
	n    int   // bytes in it
}

func newHeaderReader(s *Store, g *segment, h *handle, end int64, window int) *headerReader {
	r := &headerReader{s: s, g: g, h: h, end: end, pool: &lookupBuffers}
	if window == scanWindow {
		r.pool = &scanBuffers
	}
	r.buf = r.pool.Get().(*[]byte)
	return r
}

// close gives the window back. After an expired read it is dropped instead: the kernel may still write to it.
func (r *headerReader) close() {
	if r.buf != nil {
		r.pool.Put(r.buf)
		r.buf = nil
	}
}

// header returns the checked header (HeaderSize bytes) of the batch at position, which should begin at offset next. It is valid until
// the next call.
func (r *headerReader) header(position, next int64) (record.Batch, error) {
	if r.end-position < record.HeaderSize {
		return nil, r.g.corrupt(position, next, fmt.Errorf("%w: %d bytes where a header needs %d", record.ErrShort, r.end-position, record.HeaderSize))
	}
	if position < r.at || position+record.HeaderSize > r.at+int64(r.n) {
		if err := r.fill(position); err != nil {
			return nil, err
		}
	}
	at := position - r.at
	if int64(r.n)-at < record.HeaderSize {
		return nil, r.g.corrupt(position, next, fmt.Errorf("%w: file ends %d bytes into a header", record.ErrShort, int64(r.n)-at))
	}
	b := record.Batch((*r.buf)[at : at+record.HeaderSize])
	if err := checkHeader(b, next, r.end-position, r.g.gapsEnd); err != nil {
		return nil, r.g.corrupt(position, next, err)
	}
	return b, nil
}

func (r *headerReader) fill(position int64) error {
	if r.buf == nil {
		return fmt.Errorf("read %s: %w: after a failed read", r.g.name, ErrClosed)
	}
	want := min(int64(len(*r.buf)), r.end-position)
	n, err := r.s.reads.readAt(r.h.file, (*r.buf)[:want], position)
	r.at, r.n = position, n
	if err != nil {
		r.n = 0
		r.buf = nil
		return fmt.Errorf("read segment: %w", err)
	}
	return nil
}
