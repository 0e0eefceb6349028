package segment

import (
	"fmt"
	"math"

	"weir/internal/iobuf"
	"weir/internal/record"
)

// AppendFollower is Append for a batch that another node's log has: its offsets and its leader epoch are that log's and stay as they are.
//
// It may begin beyond the end, where that log has been compacted. The offsets between get an empty batch, as compaction leaves one, so that
// this log has no gap: whatever reads it goes on to tell a gap from lost data. It may begin below the end only if it holds the start of a log
// that is empty. Anything else is ErrGap. Room must have been reserved for b alone.
func (l *Log) AppendFollower(b record.Batch, src *iobuf.Buf) ([]byte, error) {
	if len(b) < record.HeaderSize {
		return l.Append(b, src) // says so
	}
	if end := l.rebase(b); b.BaseOffset() > end {
		if err := l.fill(end, b.BaseOffset(), b.LeaderEpoch()); err != nil {
			return nil, err
		}
	}
	if known := l.epochEnd.Load(); known > 0 && int64(b.LeaderEpoch()) >= known {
		l.SetEpoch(b.LeaderEpoch())
	}
	return l.Append(b, src)
}

// fill appends an empty batch for the offsets from the log's end to to. Its few bytes are counted though nobody has reserved them.
//
// Its epoch is that of the batch behind it: where that is the first of its epoch, the epoch may have begun at any of these offsets, and no record of an
// earlier one has been kept here. A replica that still has some, of a history that was given up, must not take them for this log's.
func (l *Log) fill(end, to int64, epoch int32) error {
	if to-end > math.MaxInt32 {
		return fmt.Errorf("append to %s: %w: batch at offset %d, log ends at %d: no compacted log has so wide a gap", l.dir, ErrGap, to, end)
	}
	b := record.NewFiller(end, int32(to-end-1))
	b.SetLeaderEpoch(epoch)
	l.s.forceReserve(len(b))
	if _, err := l.Append(b, nil); err != nil {
		l.s.Unreserve(len(b))
		return err
	}
	return nil
}

// forceReserve takes n bytes of the tail budget whether there is room or not.
func (s *Store) forceReserve(n int) {
	s.budget.force(int64(n))
	s.metrics.TailBytes.Add(float64(n))
}

// RecoveredAfterGap is Recovered for a batch that AppendFollower took when the log ended at before.
func (l *Log) RecoveredAfterGap(b record.Batch, before int64, lsn uint64) error {
	if len(b) < record.HeaderSize || b.Size() != len(b) {
		return fmt.Errorf("recover %s: %w: not one whole batch in %d bytes", l.dir, record.ErrInvalid, len(b))
	}
	if end := l.End(); l.inGap(before, b.BaseOffset()) && !l.inFiles(lsn) {
		if err := l.fill(end, b.BaseOffset(), b.LeaderEpoch()); err != nil {
			return fmt.Errorf("recover %s: %w", l.dir, err)
		}
		l.Commit(b.BaseOffset(), lsn)
	}
	return l.Recovered(b, lsn)
}

// inGap reports whether the log ends where the gap from before to base begins, or begins inside it and has nothing yet.
func (l *Log) inGap(before, base int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	empty := len(l.mu.segs) == 1 && l.mu.segs[0].size == 0
	return l.mu.end < base && (l.mu.end == before || empty && l.mu.end > before)
}

// LastEpoch is the leader epoch of the log's last batch, -1 if it has none. It reads that batch's header if nothing was appended since the
// log was opened or truncated.
func (l *Log) LastEpoch() (epoch int32, err error) {
	for {
		l.mu.Lock()
		known, cuts, end, start := l.mu.epochKnown, l.mu.cuts, l.mu.end, l.mu.start
		epoch = l.mu.lastEpoch
		l.mu.Unlock()
		switch {
		case known:
			return epoch, nil
		case end <= start:
			return -1, nil
		}
		epoch = -1
		err = l.walk(end-1, end, lookupWindow, func(p *place) (bool, error) {
			epoch = p.hdr.LeaderEpoch()
			return true, nil
		})
		l.mu.Lock()
		same := l.mu.cuts == cuts && l.mu.end == end
		if same && err == nil {
			l.mu.lastEpoch, l.mu.epochKnown = epoch, true
		}
		l.mu.Unlock()
		if same {
			return epoch, err
		}
	}
}

// BeginsBehind says that the log, which was just opened and is new, has nothing to do with what the WAL has up to lsn, which a reset ends there.
func (l *Log) BeginsBehind(lsn uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.cutLSN = max(l.mu.cutLSN, lsn)
}
