package segment

import (
	"hash/crc32"

	"weir/internal/record"
)

// scatter is a stretch of a file in several buffers, which lie side by side in the file. It spares large reads large buffers: a batch of
// any size is read into pieces of a few sizes, verified and sent from there.
type scatter struct {
	parts []part
	end   int64 // position after the last byte that was read
	hint  int   // the part that was used last
}

type part struct {
	c   *chunk
	pos int64 // of its first byte in the file
	n   int   // bytes read
}

// each calls fn with the pieces of [from, to), which must have been read.
func (s *scatter) each(from, to int64, fn func(p *part, b []byte)) {
	i := s.hint
	if i >= len(s.parts) || s.parts[i].pos > from {
		i = 0
	}
	for s.parts[i].pos+int64(s.parts[i].n) <= from {
		i++
	}
	for ; from < to; i++ {
		p := &s.parts[i]
		s.hint = i
		b := p.c.buf.Bytes()[from-p.pos : min(int64(p.n), to-p.pos)]
		fn(p, b)
		from += int64(len(b))
	}
}

// header returns the header of the batch at position, copied to scratch if it lies in two buffers. ok is false if it was not read whole.
func (s *scatter) header(position int64, scratch *[record.HeaderSize]byte) (hdr record.Batch, ok bool) {
	if s.end-position < record.HeaderSize {
		return nil, false
	}
	n := 0
	s.each(position, position+record.HeaderSize, func(_ *part, b []byte) {
		if len(b) == record.HeaderSize {
			hdr = b
			return
		}
		n += copy(scratch[n:], b)
		hdr = scratch[:]
	})
	return hdr, true
}

// verifyBatch compares a batch that was read whole with its checksum.
func (s *scatter) verifyBatch(hdr record.Batch, position int64) error {
	var sum uint32
	s.each(position+crcFrom, position+int64(hdr.Size()), func(_ *part, b []byte) {
		sum = crc32.Update(sum, castagnoli, b)
	})
	return checkSum(hdr, sum)
}

// release gives all buffers up.
func (s *scatter) release() {
	for i := range s.parts {
		s.parts[i].c.release()
	}
	s.parts, s.hint = nil, 0
}

// into hands [from, to) over to r, and gives up the buffers that have no part in it.
func (s *scatter) into(r *Range, from, to int64) {
	for i := range s.parts {
		p := &s.parts[i]
		if p.pos >= to || p.pos+int64(p.n) <= from {
			p.c.release()
			continue
		}
		lo, hi := max(from-p.pos, 0), min(to-p.pos, int64(p.n))
		r.held = append(r.held, holding{chunk: p.c})
		r.bufs = append(r.bufs, p.c.buf.Bytes()[lo:hi:hi])
	}
	r.size = int(to - from)
	s.parts, s.hint = nil, 0
}
