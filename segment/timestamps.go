package segment

import (
	"errors"

	"weir/internal/record"
)

// FindByTimestamp returns the first record, in offset order, whose timestamp is at least ts (ms since 1970). One batch is decompressed. ok is
// false if there is none. Uncommitted records count: the caller compares the offset with its high watermark.
func (l *Log) FindByTimestamp(ts int64) (offset, timestamp int64, ok bool, err error) {
	from := l.LogStart()
	for {
		g, more := l.segmentFrom(from)
		if !more {
			return 0, 0, false, nil
		}
		sum, next, err := l.s.summaryOf(g)
		if isReplaced(err) {
			continue // by a compaction: its successor is looked into
		}
		if err != nil {
			return 0, 0, false, err
		}
		if sum.maxTime >= ts {
			offset, timestamp, ok, err = l.findIn(g, max(from, l.LogStart()), next, ts)
			if isReplaced(err) {
				continue
			}
			if start := l.LogStart(); errors.Is(err, ErrOffsetOutOfRange) && start > from {
				from = start // retention was faster
				continue
			}
			if ok || err != nil {
				return offset, timestamp, ok, err
			}
		}
		if next <= from {
			return 0, 0, false, nil
		}
		from = next
	}
}

// segmentFrom returns the segment that holds offset; more is false at the log's end.
func (l *Log) segmentFrom(offset int64) (g *segment, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	offset = max(offset, l.mu.start)
	if offset >= l.mu.end {
		return nil, false
	}
	return l.segmentLocked(offset), true
}

// summaryOf returns what is known about a segment, loading its index if it is sealed and was not needed yet.
func (s *Store) summaryOf(g *segment) (sum summary, next int64, err error) {
	l := g.log
	l.mu.Lock()
	sum, next = g.sum, g.next
	known := g.summed
	l.mu.Unlock()
	if known {
		return sum, next, nil
	}
	if _, err := s.index(g); err != nil {
		return summary{}, 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return g.sum, g.next, nil
}

// findIn looks for the first record of at least ts between from and limit, all in g.
func (l *Log) findIn(g *segment, from, limit, ts int64) (offset, timestamp int64, ok bool, err error) {
	ix, err := l.s.index(g)
	if err != nil {
		return 0, 0, false, err
	}
	start := max(from, ix.timeFloor(ts))
	err = l.walk(start, limit, scanWindow, func(p *place) (bool, error) {
		if p.hdr.MaxTimestamp() < ts {
			return true, p.check() // a batch is not passed over on the word of a header that may be damaged
		}
		b, err := p.load()
		if err != nil {
			return false, err
		}
		err = eachRecord(b, func(r *record.Record) bool {
			if r.Timestamp >= ts && r.Offset >= from {
				offset, timestamp, ok = r.Offset, r.Timestamp, true
			}
			return !ok
		})
		return !ok, err
	})
	return offset, timestamp, ok, err
}

// MaxTimestamp returns the first record that has the log's greatest timestamp. ok is false if no record has one.
func (l *Log) MaxTimestamp() (offset, timestamp int64, ok bool, err error) {
	for {
		offset, timestamp, ok, err = l.findMax()
		if !isReplaced(err) {
			return offset, timestamp, ok, err
		}
	}
}

// findMax is MaxTimestamp; it fails with errReplaced if a compaction came between.
func (l *Log) findMax() (offset, timestamp int64, ok bool, err error) {
	var best summary
	var in *segment
	for from := l.LogStart(); ; {
		g, more := l.segmentFrom(from)
		if !more {
			break
		}
		sum, next, err := l.s.summaryOf(g)
		if err != nil {
			return 0, 0, false, err
		}
		if sum.maxTime >= 0 && (in == nil || sum.maxTime > best.maxTime) {
			best, in = sum, g
		}
		if next <= from {
			break
		}
		from = next
	}
	if in == nil {
		return 0, 0, false, nil
	}
	start := l.LogStart()
	if best.maxTimeAt < start {
		return l.maxFrom(start)
	}
	offset, timestamp, ok, err = l.findIn(in, max(start, best.maxTimeAt), best.next, best.maxTime)
	if err == nil && !ok {
		return l.maxFrom(start)
	}
	return offset, timestamp, ok, err
}

// maxFrom is the slow way, for when the batch with the greatest timestamp lies below the log's start or does not
// hold the record its header promises: it looks at every header and then at one batch.
func (l *Log) maxFrom(start int64) (offset, timestamp int64, ok bool, err error) {
	timestamp = noTime
	err = l.walk(start, l.End(), scanWindow, func(p *place) (bool, error) {
		if p.hdr.MaxTimestamp() <= timestamp {
			return true, p.check()
		}
		b, err := p.load()
		if err != nil {
			return false, err
		}
		return true, eachRecord(b, func(r *record.Record) bool {
			if r.Timestamp > timestamp && r.Offset >= start {
				offset, timestamp, ok = r.Offset, r.Timestamp, true
			}
			return true
		})
	})
	return offset, timestamp, ok, err
}
