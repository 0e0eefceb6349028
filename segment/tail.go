package segment

import (
	"sort"

	"weir/internal/iobuf"
	"weir/internal/record"
)

const (
	chunkBytesMin = 4 << 10
	chunkBytesMax = 1 << 20
	// keepBytes: a batch this large is kept where it was received instead of being copied.
	keepBytes = 16 << 10
)

// extent is a stretch of one segment's bytes in memory: a chunk that small batches are copied into, or one large
// batch in the buffer it came in. Batches never straddle extents.
type extent struct {
	seg  *segment
	buf  *iobuf.Buf
	data []byte // the batches; its bytes never change, its length only grows
	pos  int64  // position of data[0] in the segment's file
	base int64  // offset of the first batch
	open bool   // data may grow within its capacity
}

func (e *extent) end() int64 { return e.pos + int64(len(e.data)) }

// tail is the part of a log that is not yet in a file. Invariant: extents are in offset order and contiguous;
// everything before committed is durable in the WAL. Chunks grow from 4 KiB to 1 MiB while the tail is not empty and all memory
// is given back as it empties, so that thousands of idle logs hold none.
type tail struct {
	ext       []extent
	nextChunk int

	// How far the WAL has made the tail durable: up to offset committedNext, which is at committedAt in
	// ext[committedExt] (all earlier extents included).
	committedExt  int
	committedAt   int
	committedNext int64
}

// place returns memory for n bytes at the end of seg and makes it part of the tail. own, if not nil, already holds them.
func (t *tail) place(seg *segment, own *iobuf.Buf, kept, b []byte, base int64) []byte {
	if own != nil {
		t.ext = append(t.ext, extent{seg: seg, buf: own, data: kept, pos: seg.size, base: base})
		return kept
	}
	n := len(b)
	if last := len(t.ext) - 1; last >= 0 {
		if e := &t.ext[last]; e.open && e.seg == seg && cap(e.data)-len(e.data) >= n {
			at := len(e.data)
			e.data = e.data[:at+n]
			copy(e.data[at:], b)
			return e.data[at : at+n : at+n]
		}
	}
	size := max(t.nextChunk, chunkBytesMin)
	for size < n {
		size *= 2
	}
	t.nextChunk = min(size*2, chunkBytesMax)
	buf := iobuf.Get(size)
	data := buf.Bytes()[:n]
	copy(data, b)
	t.ext = append(t.ext, extent{seg: seg, buf: buf, data: data, pos: seg.size, base: base, open: true})
	return data[:n:n]
}

// first is the offset of the first batch that is still in memory; ok is false if the tail is empty.
func (t *tail) first() (int64, bool) {
	if len(t.ext) == 0 {
		return 0, false
	}
	return t.ext[0].base, true
}

// find returns the extent that holds offset, which must be at or beyond first.
func (t *tail) find(offset int64) int {
	return sort.Search(len(t.ext), func(i int) bool { return t.ext[i].base > offset }) - 1
}

// commit moves the committed position to the batch that begins at next, or to the end, and returns how many bytes
// that was. Only batches of an extent that is committed in part are stepped over.
func (t *tail) commit(next, end int64) (moved int64) {
	for t.committedNext < next && t.committedExt < len(t.ext) {
		e := &t.ext[t.committedExt]
		last := t.committedExt == len(t.ext)-1
		limit := end
		if !last {
			limit = t.ext[t.committedExt+1].base
		}
		if next < limit {
			for t.committedNext < next {
				b := record.Batch(e.data[t.committedAt:])
				t.committedAt += b.Size()
				t.committedNext = b.NextOffset()
				moved += int64(b.Size())
			}
			return moved
		}
		moved += int64(len(e.data) - t.committedAt)
		t.committedNext = limit
		if last {
			t.committedAt = len(e.data)
			return moved
		}
		t.committedExt++
		t.committedAt = 0
	}
	return moved
}

// drop releases the extents that end at or before position pos of seg, or belong to earlier segments. It gives back
// the memory's references through free, which must be called without locks.
func (t *tail) drop(seg *segment, pos int64, free []*iobuf.Buf) []*iobuf.Buf {
	n := 0
	for n < len(t.ext) && (t.ext[n].seg.base < seg.base || (t.ext[n].seg == seg && t.ext[n].end() <= pos)) {
		free = append(free, t.ext[n].buf)
		n++
	}
	if n == 0 {
		return free
	}
	rest := copy(t.ext, t.ext[n:])
	clear(t.ext[rest:])
	t.ext = t.ext[:rest]
	if t.committedExt -= n; t.committedExt < 0 {
		t.committedExt, t.committedAt = 0, 0
	}
	if rest == 0 {
		t.nextChunk = 0
		if cap(t.ext) > 64 {
			t.ext = nil
		}
	}
	return free
}

// tailCut is what a truncation took out of a tail.
type tailCut struct {
	bufs  []*iobuf.Buf // to be released without locks
	bytes int64        // that were not flushed
}

// cut takes out what lies behind position pos of seg, nil: everything. An extent that is cut is not written to any more: readers may hold what
// followed.
func (t *tail) cut(seg *segment, pos int64) (free []*iobuf.Buf) {
	n := 0
	for ; seg != nil && n < len(t.ext); n++ {
		e := &t.ext[n]
		if e.seg != seg && e.seg.base >= seg.base || e.seg == seg && e.pos >= pos {
			break
		}
		if e.seg == seg && e.end() > pos {
			e.data = e.data[: pos-e.pos : pos-e.pos]
		}
		e.open = false
	}
	for i := range t.ext[n:] {
		free = append(free, t.ext[n+i].buf)
	}
	clear(t.ext[n:])
	t.ext = t.ext[:n]
	// What is left of an extent may all be in the file.
	done := 0
	for done < n && t.ext[done].end() <= t.ext[done].seg.flushed {
		free = append(free, t.ext[done].buf)
		done++
	}
	rest := copy(t.ext, t.ext[done:])
	clear(t.ext[rest:])
	t.ext, n = t.ext[:rest], rest
	if t.committedExt, t.committedAt = 0, 0; n == 0 {
		t.nextChunk = 0
	}
	return free
}
