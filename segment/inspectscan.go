package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"

	"weir/internal/record"
	"weir/internal/vfs"
)

// What offline tools see of a segment file: batches, and what lies between them. Nothing here has a deadline.

// Stretch is a run of bytes of a segment file: one good batch, or damage up to the next good one.
type Stretch struct {
	Position, Length int64
	Batch            record.Batch // whole, verified, valid during the call; nil: damage
	From, To         int64        // offsets: of the batch, or those that must have been here; To is unknownEnd if nothing tells
	Err              error        // what is wrong
}

// unknownEnd is Stretch.To where the file ends in damage and no later file says where it should have.
const unknownEnd = math.MaxInt64

var errMissing = errors.New("records are missing")

// fileWindow gives views of a file, reading ahead.
type fileWindow struct {
	f    vfs.File
	size int64
	buf  []byte
	off  int64
	n    int
}

const windowBytes = 1 << 20

// at returns the n bytes at off, fewer at the end of the file, valid until the next call.
func (w *fileWindow) at(off int64, n int) ([]byte, error) {
	n = int(min(int64(n), w.size-off))
	if n <= 0 {
		return nil, nil
	}
	if off < w.off || off+int64(n) > w.off+int64(w.n) {
		if want := max(n, windowBytes); len(w.buf) < want {
			w.buf = make([]byte, want)
		}
		got, err := w.f.ReadAt(w.buf[:min(int64(len(w.buf)), w.size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			w.n = 0
			return nil, fmt.Errorf("read %s at %d: %w", w.f.Name(), off, err)
		}
		w.off, w.n = off, got
		n = min(n, got)
	}
	at := int(off - w.off)
	return w.buf[at : at+n : at+n], nil
}

// batchScan walks through one segment file.
type batchScan struct {
	w        fileWindow
	limit    int64 // offset where the next segment begins; unknownEnd for the newest
	epochEnd int32 // leader epochs from it on are damage, which the checksum does not cover; 0: not known
	gaps     bool  // offsets may be missing between batches: the log was compacted
}

// batch returns the batch at pos if it is good where the next expected offset is next.
func (s *batchScan) batch(pos, next int64) (record.Batch, error) {
	head, err := s.w.at(pos, record.HeaderSize)
	if err != nil {
		return nil, err
	}
	if len(head) < record.HeaderSize {
		return nil, s.bad("%w: file ends %d bytes into a header", record.ErrShort, len(head))
	}
	b := record.Batch(head)
	size, err := record.PeekSize(b)
	base, last := b.BaseOffset(), b.LastOffset()
	switch {
	case b.Magic() != record.Magic:
		return nil, s.bad("%w: magic %d, want %d", record.ErrMagic, b.Magic(), record.Magic)
	case err != nil:
		return nil, s.bad("%w", err)
	case int64(size) > s.w.size-pos:
		return nil, s.bad("%w: %d bytes where %d are left", record.ErrShort, size, s.w.size-pos)
	case s.epochEnd > 0 && b.LeaderEpoch() >= s.epochEnd:
		return nil, s.bad("%w: %d, the newest is %d", errEpoch, b.LeaderEpoch(), s.epochEnd-1)
	case base < next || base > next && !s.gaps || last < base || last >= s.limit:
		return nil, s.bad("%w: batch of offsets %d to %d where %d is expected", record.ErrInvalid, base, last, next)
	}
	whole, err := s.w.at(pos, size)
	if err != nil {
		return nil, err
	}
	if len(whole) < size {
		return nil, s.bad("%w: file ends %d bytes into a batch of %d", record.ErrShort, len(whole), size)
	}
	if err := record.Batch(whole).Check(); err != nil {
		return nil, s.bad("%w", err)
	}
	if base > next {
		return s.afterGap(record.Batch(whole), pos, next)
	}
	return record.Batch(whole), nil
}

// afterGap accepts a good batch behind a gap only if the one that follows it agrees: the checksum does not cover the base offset.
func (s *batchScan) afterGap(b record.Batch, pos, next int64) (record.Batch, error) {
	peek := fileWindow{f: s.w.f, size: s.w.size}
	behind, err := peek.at(pos+int64(len(b)), record.HeaderSize)
	if err != nil {
		return nil, err
	}
	if len(behind) == record.HeaderSize && behind[16] == record.Magic && record.Batch(behind).BaseOffset() < b.NextOffset() {
		return nil, s.bad("%w: batch of offsets %d to %d where %d is expected, and %d follows it", record.ErrInvalid, b.BaseOffset(), b.LastOffset(), next,
			record.Batch(behind).BaseOffset())
	}
	return b, nil
}

// notHere is why there is no good batch at a place; other errors are those of reading.
type notHere struct{ error }

func (e notHere) Unwrap() error { return e.error }

func (s *batchScan) bad(format string, args ...any) error {
	return notHere{fmt.Errorf(format, args...)}
}

// resync looks for the next good batch behind a bad one at pos: where that says to end if its header makes sense, else byte by byte. Its
// offsets must lie beyond next. A record may itself contain a batch, so one that is found by search counts only if another
// good one, or the end of the file, follows it.
func (s *batchScan) resync(pos, next int64) (int64, record.Batch, error) {
	search := &batchScan{w: fileWindow{f: s.w.f, size: s.w.size}, limit: s.limit, epochEnd: s.epochEnd, gaps: true}
	head, err := search.w.at(pos, record.HeaderSize)
	if err != nil {
		return 0, nil, err
	}
	if len(head) == record.HeaderSize && plausible(head, next, s.limit, s.w.size-pos) {
		end := pos + int64(record.Batch(head).Size())
		if end == s.w.size {
			return end, nil, nil
		}
		b, err := search.batch(end, next)
		if _, no := errors.AsType[notHere](err); !no {
			return end, b, err
		}
	}
	pos++
	for s.w.size-pos >= record.HeaderSize {
		chunk, err := s.w.at(pos, windowBytes)
		if err != nil {
			return 0, nil, err
		}
		i := 0
		for ; i+record.HeaderSize <= len(chunk); i++ {
			at := pos + int64(i)
			if !plausible(chunk[i:], next, s.limit, s.w.size-at) {
				continue
			}
			b, err := search.batch(at, next)
			if err == nil {
				if b, err = search.followed(at, b); err == nil {
					return at, b, nil
				}
			}
			if _, no := errors.AsType[notHere](err); !no {
				return 0, nil, err
			}
		}
		if i == 0 {
			break // the file has become shorter
		}
		pos += int64(i)
	}
	return s.w.size, nil, nil
}

// followed returns the batch b at a position if the file ends behind it, or goes on with another good one.
func (s *batchScan) followed(at int64, b record.Batch) (record.Batch, error) {
	b = bytes.Clone(b) // the window moves on
	if end := at + int64(len(b)); end < s.w.size {
		if _, err := s.batch(end, b.NextOffset()); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// plausible is a cheap test for the start of a batch.
func plausible(b record.Batch, next, limit, room int64) bool {
	if b.Magic() != record.Magic || b.LastOffsetDelta() < 0 {
		return false
	}
	base := b.BaseOffset()
	return base >= next && base <= b.LastOffset() && b.LastOffset() < limit && b.Size() >= record.HeaderSize && int64(b.Size()) <= room
}

// run calls fn for every stretch from the start of the file, in order, and returns the offset after the last batch. base is the
// segment's. A file that ends before the limit ends with a Stretch of length 0.
func (s *batchScan) run(base int64, fn func(Stretch) error) (next int64, err error) {
	next = base
	for pos := int64(0); pos < s.w.size; {
		b, err := s.batch(pos, next)
		if why, no := errors.AsType[notHere](err); no {
			at, after, err := s.resync(pos, next)
			if err != nil {
				return next, err
			}
			st := Stretch{Position: pos, Length: at - pos, From: next, To: s.limit, Err: why.error}
			if after != nil {
				st.To = after.BaseOffset()
			}
			if err := fn(st); err != nil {
				return next, err
			}
			if pos = at; after == nil {
				return next, nil
			}
			next = st.To
			continue
		}
		if err != nil {
			return next, err
		}
		st := Stretch{Position: pos, Length: int64(len(b)), Batch: b, From: b.BaseOffset(), To: b.NextOffset()}
		pos, next = pos+int64(len(b)), b.NextOffset()
		if err := fn(st); err != nil {
			return next, err
		}
	}
	if next < s.limit && s.limit != unknownEnd {
		st := Stretch{Position: s.w.size, From: next, To: s.limit, Err: fmt.Errorf("%w: file ends at offset %d, %d is where the next begins", errMissing, next, s.limit)}
		return next, fn(st)
	}
	return next, nil
}
