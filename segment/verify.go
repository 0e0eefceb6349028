package segment

import (
	"errors"
	"fmt"
	"hash/crc32"

	"weir/internal/record"
)

// What is read from a segment file is verified before it is used: a batch's header against its place, and the whole batch against its
// checksum. The checksum leaves four header fields out. The base offset is held against the batch before and the index; a wrong length
// gives a wrong checksum, and is held against the index first, so that it cannot make a reader swallow half a file; the magic has
// one value; the leader epoch is held against the newest one that the log knows.

// crcFrom is where what a batch's checksum covers begins.
const crcFrom = 21

// errEpoch: a batch has a leader epoch that its partition has not had.
var errEpoch = errors.New("impossible leader epoch")

func checkSum(hdr record.Batch, sum uint32) error {
	if sum != hdr.CRC() {
		return fmt.Errorf("%w: stored %08x, calculated %08x over %d bytes", record.ErrCRC, hdr.CRC(), sum, hdr.Size()-crcFrom)
	}
	return nil
}

// SetEpoch tells the newest leader epoch of the partition: a batch with a greater one in its header is damaged.
func (l *Log) SetEpoch(epoch int32) { l.epochEnd.Store(int64(epoch) + 1) }

// checkPlace verifies a header as checkHeader does, and what the log knows besides. The batch must end at bound or before.
func (g *segment) checkPlace(hdr record.Batch, position, next, bound int64) error {
	if err := checkHeader(hdr, next, bound-position, g.gapsEnd); err != nil {
		return err
	}
	if known, epoch := g.log.epochEnd.Load(), int64(hdr.LeaderEpoch()); known > 0 && (epoch >= known || epoch < -1) {
		return fmt.Errorf("%w: %d, the newest is %d", errEpoch, epoch, known-1)
	}
	return nil
}

// bound is where a batch at position must have ended: where an indexed one begins, or the end.
func (ix *index) bound(position, end int64) int64 {
	if p, ok := ix.after(position); ok && p < end {
		return p
	}
	return end
}

// after returns where the first indexed batch behind position begins.
func (ix *index) after(position int64) (p int64, ok bool) {
	lo, hi := 0, ix.len()
	for lo < hi {
		mid := (lo + hi) / 2
		if _, at := ix.entry(mid); at > position {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if lo == ix.len() {
		return 0, false
	}
	_, p = ix.entry(lo)
	return p, true
}

// verify compares the batch at position, whose header was checked, with its checksum, reading it window by window.
func (r *headerReader) verify(hdr record.Batch, position, next int64) error {
	head := [record.HeaderSize]byte(hdr) // the window moves on
	end := position + int64(hdr.Size())
	var sum uint32
	for at := position + crcFrom; at < end; {
		if at < r.at || at >= r.at+int64(r.n) {
			if err := r.fill(at); err != nil {
				return err
			}
			if r.n == 0 {
				return r.g.corrupt(position, next, fmt.Errorf("%w: file ends %d bytes into a batch of %d", record.ErrShort, at-position, end-position))
			}
		}
		b := (*r.buf)[at-r.at : min(int64(r.n), end-r.at)]
		sum = crc32.Update(sum, castagnoli, b)
		at += int64(len(b))
	}
	if err := checkSum(head[:], sum); err != nil {
		return r.g.corrupt(position, next, err)
	}
	return nil
}

// check verifies the batch that a walk has come to, without loading it. What is in memory was never away.
func (p *place) check() error {
	if p.file == nil {
		return nil
	}
	head := [record.HeaderSize]byte(p.hdr) // the window moves on
	p.hdr = head[:]
	return p.file.verify(p.hdr, p.pos, p.offset)
}

// damage tells of a damaged place, once in the log for each, and counts it.
func (s *Store) damage(e *CorruptError) {
	s.metrics.DamagedReads.Inc()
	if !s.damaged.add(e.File, e.Position) {
		return
	}
	s.metrics.Damaged.Inc()
	s.log.Error("segment is damaged", "file", e.File, "position", e.Position, "end", e.End, "offset", e.Offset, "next_offset", e.NextOffset, "error", e.Err)
}

// outdated is err, unless that is damage in a segment which has been taken out of its log meanwhile: its file may have become shorter.
func (g *segment) outdated(err error) error {
	if errors.Is(err, ErrCorrupt) && g.isReplaced() {
		return errReplaced
	}
	return err
}
