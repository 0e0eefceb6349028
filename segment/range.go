package segment

import (
	"weir/internal/iobuf"
	"weir/internal/record"
)

// Range is a stretch of whole batches for a reader: references to tail memory, or verified copies of a file's bytes. The bytes are valid
// until Release, whatever is flushed or deleted meanwhile, and they are in memory: no page of a file is behind them. What a range keeps
// alive counts against the memory for reads until then.
type Range struct {
	s     *Store
	r     *Reader // nil: nobody's
	size  int
	first int64
	next  int64
	cold  bool
	held  []holding
	bufs  [][]byte

	heldArray [4]holding
	bufsArray [4][]byte
}

// holding keeps bytes of a range alive: a chunk of the range's own, or a reference to tail memory, which is pinned.
type holding struct {
	chunk *chunk
	buf   *iobuf.Buf
	n     int64 // bytes of the reference, which its reader holds
	copy  bool  // to be replaced by a copy, which has been counted
}

func (s *Store) newRange(offset int64) *Range {
	r := &Range{s: s, first: offset, next: offset}
	r.held, r.bufs = r.heldArray[:0], r.bufsArray[:0]
	return r
}

// add appends bytes of the tail and keeps a reference to their memory, which admit has yet to count.
func (r *Range) add(buf *iobuf.Buf, data []byte) {
	r.held = append(r.held, holding{buf: buf.Retain(), n: int64(len(data))})
	r.bufs = append(r.bufs, data)
	r.size += len(data)
}

// Buffers are the bytes, in order. The slices must not be written to.
func (r *Range) Buffers() [][]byte { return r.bufs }

// Size is the number of bytes. It is 0 where there is nothing below the limit, or the first batch does not fit.
func (r *Range) Size() int { return r.size }

// FirstOffset is the base offset of the first batch. It may be below the offset that was asked for, or above it where the log has a gap.
func (r *Range) FirstOffset() int64 { return r.first }

// NextOffset is where to continue.
func (r *Range) NextOffset() int64 { return r.next }

// Cold tells whether the bytes were read from a file.
func (r *Range) Cold() bool { return r.cold }

// Release gives the bytes up. It is called once, does no I/O, and may come from any goroutine.
func (r *Range) Release() {
	if r.s == nil {
		panic("BUG: segment: Range released twice")
	}
	m := &r.s.memory
	r.s = nil
	for i := range r.held {
		h := &r.held[i]
		if h.chunk != nil {
			h.chunk.release()
		} else {
			m.unpin(r.r, h)
		}
		*h = holding{}
	}
	r.held, r.bufs = nil, nil
}

func (r *Range) handOut() *Range {
	if r.cold {
		r.s.metrics.ColdBytes.Add(float64(r.size))
	} else if r.size > 0 {
		r.s.metrics.TailReadBytes.Add(float64(r.size))
	}
	return r
}

// admit counts what a range of the tail keeps alive, and makes the range smaller if that is more than sh may have. Small pieces of large
// chunks are copied. ErrReadMemory: not even the first batch fits, and the range is released.
func (r *Range) admit(sh *Share) error {
	if sh != nil {
		r.r = sh.r
	}
	m := &r.s.memory
	var prefix int // of the first piece, if that does not fit as a whole
	m.mu.Lock()
	m.useCreditLocked(sh)
	n := 0
	for n < len(r.held) && m.pinLocked(sh, &r.held[n], n == 0) {
		n++
	}
	if n == 0 && len(r.held) > 0 {
		prefix = m.prefixLocked(sh, r.bufs[0])
	}
	m.mu.Unlock()
	switch {
	case prefix > 0:
		r.keep(1, prefix)
		r.held[0].copy = true
	case n == 0 && len(r.held) > 0:
		r.keep(0, 0)
		r.Release()
		return ErrReadMemory
	case n < len(r.held):
		r.keep(n, len(r.bufs[n-1]))
	}
	for i := range r.held {
		if r.held[i].copy {
			r.copyPiece(sh, i)
		}
	}
	return nil
}

// keep cuts a range of the tail down to its first n pieces, of the last of which only the given bytes stay.
func (r *Range) keep(n, lastBytes int) {
	cut := len(r.bufs) > n
	if cut {
		r.next = record.Batch(r.bufs[n]).BaseOffset()
	}
	if n > 0 && lastBytes < len(r.bufs[n-1]) {
		r.next = record.Batch(r.bufs[n-1][lastBytes:]).BaseOffset()
		r.bufs[n-1] = r.bufs[n-1][:lastBytes:lastBytes]
	}
	for i := n; i < len(r.held); i++ {
		r.held[i].buf.Release()
		r.held[i] = holding{}
	}
	r.held, r.bufs = r.held[:n], r.bufs[:n]
	r.size = 0
	for _, b := range r.bufs {
		r.size += len(b)
	}
}

// copyPiece replaces a reference by a copy, whose memory has been counted.
func (r *Range) copyPiece(sh *Share, i int) {
	data, from := r.bufs[i], r.held[i].buf
	c := r.s.memory.newChunk(sh, len(data))
	copy(c.buf.Bytes(), data)
	r.bufs[i] = c.buf.Bytes()[:len(data):len(data)]
	r.held[i] = holding{chunk: c}
	from.Release()
}

// pinLocked counts a reference to tail memory, or the memory for a copy of it where that is the better way.
func (m *readMemory) pinLocked(sh *Share, h *holding, first bool) bool {
	whole := int64(h.buf.Cap())
	h.copy = h.n <= copyBelow && h.n*copyPart <= whole
	cost, holds := whole, h.n
	switch {
	case h.copy:
		cost = int64(iobuf.Footprint(int(h.n)))
		holds = cost
	case h.buf.Pins > 0:
		cost = 0 // counted already
	}
	if sh.bounded() {
		free := m.freeLocked()
		alone := first && sh.r.held == 0
		if m.mu.used > 0 && (cost > free || !alone && holds > free/sharePart-sh.r.held) {
			return false
		}
	}
	if sh != nil {
		m.holdLocked(sh.r, holds)
	}
	m.mu.used += cost
	if !h.copy {
		h.buf.Pins++
	}
	m.metrics.RangeBytes.Set(float64(m.mu.used))
	return true
}

// prefixLocked finds how much of a piece, in whole batches, fits as a copy, and counts that. 0: nothing, which sh notes.
func (m *readMemory) prefixLocked(sh *Share, data []byte) int {
	first := record.Batch(data).Size()
	room := m.freeLocked()/sharePart - sh.r.held
	n := first
	for n < len(data) {
		next := n + record.Batch(data[n:]).Size()
		if int64(iobuf.Footprint(next)) > room {
			break
		}
		n = next
	}
	cost := int64(iobuf.Footprint(n))
	if !m.fitsLocked(sh.r, cost) {
		sh.lack(cost)
		return 0
	}
	m.addLocked(sh.r, cost)
	return n
}

// useCreditLocked turns what was kept for sh into room, which the caller takes before it gives the lock up.
func (m *readMemory) useCreditLocked(sh *Share) {
	if sh == nil {
		return
	}
	if sh.credit > 0 {
		m.addLocked(sh.r, -sh.credit)
		sh.credit = 0
	}
}

// unpin gives a reference to tail memory up.
func (m *readMemory) unpin(r *Reader, h *holding) {
	m.mu.Lock()
	h.buf.Pins--
	var n int64
	if h.buf.Pins == 0 {
		n = int64(h.buf.Cap())
	}
	m.holdLocked(r, n-h.n) // giveLocked takes n off it
	wakes := m.giveLocked(r, n)
	m.mu.Unlock()
	h.buf.Release()
	callAll(wakes)
}
