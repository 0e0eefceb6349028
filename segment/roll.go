package segment

import (
	"hash/fnv"
	"time"

	"weir/internal/record"
)

// mustRollLocked reports whether b belongs into a new segment. As in Kafka, age is what b's greatest timestamp is ahead of that of the
// segment's first batch; where that one has none it is the time since the segment was begun. A segment is only ever rolled by an
// append, by retention, or when its log is emptied: an idle one stays.
func (g *segment) mustRollLocked(b record.Batch, c *Config) bool {
	n := int64(len(b))
	switch {
	case g.size == 0:
		return b.LastOffset()-g.base > 1<<31-1
	case g.size+n > c.SegmentBytes, g.size+n > positionMax, b.LastOffset()-g.base > 1<<31-1, g.ix.full(c.IndexBytes):
		return true
	case c.SegmentAge <= 0:
		return false
	}
	age := c.SegmentAge - g.jitter(c)
	if g.sum.firstTime < 0 {
		return g.log.s.clock.Now().Sub(g.began) > age
	}
	return b.MaxTimestamp()-g.sum.firstTime > age.Milliseconds()
}

// full reports whether either index has as many entries as fit limit bytes; one is allowed in any case. 0: no limit.
func (ix *index) full(limit int64) bool {
	if limit <= 0 || ix == nil {
		return false
	}
	return int64(len(ix.offsets)) >= max(limit/offsetEntrySize, 1)*offsetEntrySize ||
		// Kafka keeps a place in the time index for the entry that closing the segment adds.
		int64(len(ix.times)) >= max(limit/timeEntrySize-1, 1)*timeEntrySize
}

// jitter is by how much the segment's age is shortened, so that partitions that were begun together are not rolled together. It is drawn from
// the segment's name: spread like a random number, and the same after a restart.
func (g *segment) jitter(c *Config) time.Duration {
	limit := min(c.SegmentJitter, c.SegmentAge)
	if limit <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(g.name)) // never fails
	return time.Duration(h.Sum64() % uint64(limit))
}

// largestTimeLocked is the age that retention holds against the segment, in ms since 1970: its greatest timestamp, or, as in Kafka, when its
// file was last written if no record in it has one.
func (g *segment) largestTimeLocked() int64 {
	if g.sum.maxTime >= 0 {
		return g.sum.maxTime
	}
	return g.touched.UnixMilli()
}

// expiredLocked reports whether all records of a segment are older than retention keeps them. Its summary must be known.
func (g *segment) expiredLocked(c *Config, now time.Time) bool {
	return c.RetentionAge >= 0 && now.UnixMilli()-g.largestTimeLocked() > c.RetentionAge.Milliseconds()
}
