package segment

import (
	"errors"
	"fmt"

	"weir/internal/record"
)

const (
	// resyncEntriesMax is how many indexed places behind damage are tried, and resyncBytesMax how much is searched, before a reader is told
	// that the damage goes at least so far. A reader who asks for an offset beyond that begins at the index entry before it.
	resyncEntriesMax = 64
	resyncBytesMax   = 64 << 20
	// resyncLinksMax is how many batches are followed where no index entry comes before.
	resyncLinksMax = 64
)

// resync finds where good data begins again behind damage at position pos, where offset next was expected: a batch with the right checksum
// that leads, header by header, to an indexed batch or the segment's end. That is, in this order, where the damaged batch ends if its
// header can be believed; or the first such place before the next indexed batch that is good, found by looking at every position. At worst
// it is the segment's end.
//
// The checksum alone is not enough: a record may hold a batch, and a write that went to the wrong place brings good batches to where they do not
// belong. Neither leads on to what follows.
func (s *Store) resync(v fileView, h *handle, ix *index, pos, next int64) (at, position int64, err error) {
	y := &resyncer{r: newHeaderReader(s, v.g, h, v.end, scanWindow), v: v, ix: ix}
	defer y.r.close()
	if hdr, err := y.r.raw(pos); err != nil {
		return 0, 0, err
	} else if hdr != nil {
		if end, ok := y.believable(hdr, pos); ok {
			if end == v.end {
				return v.next, v.end, nil
			}
			claimed := hdr.NextOffset()
			base, ok, err := y.whole(end, next)
			if err == nil && ok && base != claimed { // what the header says of the offsets would be one more witness
				_, ok, err = y.good(end, next)
			}
			if err != nil || ok {
				return base, end, err
			}
		}
	}
	limit, limitAt, err := y.anchor(pos, next)
	if err != nil {
		return 0, 0, err
	}
	for p := pos + 1; p+record.HeaderSize <= limit; p++ {
		if p, err = y.candidate(p, limit); err != nil || p < 0 {
			break
		}
		base, ok, err := y.good(p, next)
		if err != nil {
			return 0, 0, err
		}
		if ok {
			return base, p, nil
		}
	}
	return limitAt, limit, err
}

// indexBatches extends an index and its summary by the batches of a file, each of them verified: a wrong timestamp in the index would last.
// The first damage is returned when the rest has been indexed.
func (s *Store) indexBatches(v fileView, h *handle, ix *index, sum *summary, interval int64) error {
	r := newHeaderReader(s, v.g, h, v.end, scanWindow)
	defer r.close()
	var first error
	for since := int64(0); sum.bytes < v.end; {
		b, err := r.header(sum.bytes, sum.next)
		if err == nil {
			head := [record.HeaderSize]byte(b)
			b = head[:]
			err = r.verify(b, sum.bytes, sum.next)
		}
		if err == nil {
			sum.note(ix, b, int64(b.Size()), &since, interval)
			continue
		}
		bad, ok := errors.AsType[*CorruptError](err)
		if !ok {
			return err
		}
		if sum.next, sum.bytes, err = s.resync(v, h, ix, bad.Position, bad.Offset); err != nil {
			return err
		}
		bad.End, bad.NextOffset = sum.bytes, sum.next
		if first == nil {
			first = bad
		}
		since = interval + 1 // what comes behind is to be found without passing the damage
	}
	return first
}

// resyncer looks at places of a file where a batch may begin.
type resyncer struct {
	r  *headerReader
	v  fileView
	ix *index
}

// believable reports where a batch whose checksum is wrong ends by its header.
func (y *resyncer) believable(hdr record.Batch, pos int64) (end int64, ok bool) {
	size, err := record.PeekSize(hdr)
	if err != nil || hdr.Magic() != record.Magic {
		return 0, false
	}
	end = pos + int64(size)
	if p, indexed := y.ix.after(pos); indexed && end > p {
		return 0, false
	}
	return end, end <= y.v.end
}

// plausible checks a header at pos as far as it can be when it is not known what precedes it.
func (y *resyncer) plausible(hdr record.Batch, pos, next int64) bool {
	if _, ok := y.believable(hdr, pos); !ok {
		return false
	}
	base, delta := hdr.BaseOffset(), int64(hdr.LastOffsetDelta())
	return base >= next && delta >= 0 && base < y.v.next && delta < y.v.next-base
}

// whole reports whether there is a batch at pos, of offset next or later, with the right checksum.
func (y *resyncer) whole(pos, next int64) (base int64, ok bool, err error) {
	hdr, err := y.r.raw(pos)
	if err != nil || hdr == nil || !y.plausible(hdr, pos, next) {
		return 0, false, err
	}
	base = hdr.BaseOffset()
	if err := y.r.verify(hdr, pos, base); err != nil {
		if errors.Is(err, ErrCorrupt) {
			err = nil
		}
		return 0, false, err
	}
	return base, true, nil
}

// good reports whether a batch of the log begins at pos, at offset next or later.
func (y *resyncer) good(pos, next int64) (base int64, ok bool, err error) {
	base, ok, err = y.whole(pos, next)
	if err != nil || !ok || y.named(base, pos) {
		return base, ok, err
	}
	at, ok, err := y.step(pos, base)
	for links := 0; err == nil && ok && links < resyncLinksMax; links++ {
		if pos = at.pos; pos == y.v.end || y.named(at.offset, pos) {
			return base, at.offset <= y.v.next, nil
		}
		at, ok, err = y.step(pos, at.offset)
	}
	return base, ok, err
}

// named reports whether the index has a batch of offset base at pos.
func (y *resyncer) named(base, pos int64) bool {
	o, p := y.ix.floor(base)
	return o == base && p == pos && pos > 0
}

// step goes from a batch's header to where the next one is.
func (y *resyncer) step(pos, next int64) (to struct{ pos, offset int64 }, ok bool, err error) {
	hdr, err := y.r.raw(pos)
	if err != nil || hdr == nil || !y.plausible(hdr, pos, next) || y.v.g.gapsEnd == 0 && hdr.BaseOffset() != next {
		return to, false, err
	}
	to.pos, to.offset = pos+int64(hdr.Size()), hdr.NextOffset()
	return to, true, nil
}

// anchor returns the first indexed batch behind pos that is good; or how far nothing was found to be.
func (y *resyncer) anchor(pos, next int64) (position, at int64, err error) {
	position, at = min(y.v.end, pos+resyncBytesMax), y.v.next
	from, tried := pos, 0
	for ; tried < resyncEntriesMax; tried++ {
		p, ok := y.ix.after(from)
		if !ok || p >= y.v.end {
			break
		}
		base, ok, err := y.good(p, next)
		if err != nil || ok {
			return p, base, err
		}
		from = p
	}
	if tried == resyncEntriesMax {
		position = from
	}
	if position < y.v.end {
		// Where the search ends no batch need begin, so only the next indexed one tells an offset.
		if p, ok := y.ix.after(position - 1); ok && p < y.v.end {
			at, position = y.ix.offsetAt(p), p
		} else {
			position = y.v.end
		}
	}
	return position, at, nil
}

// candidate returns the next position from p on where the bytes look like a header; -1: none before limit.
func (y *resyncer) candidate(p, limit int64) (int64, error) {
	for p+record.HeaderSize <= limit {
		hdr, err := y.r.raw(p)
		if err != nil {
			return 0, err
		}
		if hdr == nil {
			return -1, nil
		}
		// The rest of the window is searched without further ado for the byte that every header has.
		b := (*y.r.buf)[p-y.r.at : y.r.n]
		for i := 0; i+record.HeaderSize <= len(b) && p+int64(i)+record.HeaderSize <= limit; i++ {
			if record.Batch(b[i:]).Magic() != record.Magic {
				continue
			}
			if _, ok := y.believable(record.Batch(b[i:]), p+int64(i)); ok {
				return p + int64(i), nil
			}
		}
		p += int64(max(len(b)-record.HeaderSize+1, 1))
	}
	return -1, nil
}

// offsetAt is the offset of the indexed batch at position.
func (ix *index) offsetAt(position int64) int64 {
	o, _, _ := ix.cut(position, 1<<62)
	return o
}

// raw returns the bytes where a header would be, unchecked; nil: the file ends before.
func (r *headerReader) raw(position int64) (record.Batch, error) {
	if r.end-position < record.HeaderSize {
		return nil, nil
	}
	if position < r.at || position+record.HeaderSize > r.at+int64(r.n) {
		if err := r.fill(position); err != nil {
			return nil, err
		}
	}
	at := position - r.at
	if int64(r.n)-at < record.HeaderSize {
		return nil, nil
	}
	return record.Batch((*r.buf)[at : at+record.HeaderSize]), nil
}

// indexed is header with the index's knowledge.
func (r *headerReader) indexed(ix *index, position, next int64) (record.Batch, error) {
	hdr, err := r.raw(position)
	if err != nil {
		return nil, err
	}
	if hdr == nil {
		return nil, r.g.corrupt(position, next, fmt.Errorf("%w: file ends within a header", record.ErrShort))
	}
	if err := r.g.checkPlace(hdr, position, next, ix.bound(position, r.end)); err != nil {
		return nil, r.g.corrupt(position, next, err)
	}
	return hdr, nil
}
