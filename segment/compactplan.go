package segment

import (
	"fmt"
	"math"
	"time"
)

// CompactionState is what a look at a log says about compacting it.
type CompactionState struct {
	FirstDirty int64
	CleanBytes int64     // of segments below the first dirty offset
	DirtyBytes int64     // of segments above it that may be compacted now
	Due        bool      // a run is worth it now
	Next       time.Time // when time alone changes the answer; zero: never
	Blocked    bool      // something waits for the limit to rise
	Watched    bool      // Next counts in the active segment, as it is now
}

// Ratio is the share of the log that is dirty, which min.cleanable.dirty.ratio is about.
func (c *CompactionState) Ratio() float64 {
	if total := c.CleanBytes + c.DirtyBytes; total > 0 {
		return float64(c.DirtyBytes) / float64(total)
	}
	return 0
}

func (c *CompactionState) wakeAt(at time.Time) {
	if c.Next.IsZero() || at.Before(c.Next) {
		c.Next = at
	}
}

// plan is what a run works on: the segments from the first one up to where nothing may be touched.
type plan struct {
	segs  []*segment
	dirty int64 // first dirty offset
}

// CompactionState looks at the log. Nothing at or beyond limit, the high watermark or the last stable offset, is compacted, nor anything in the
// active segment. It rolls the active segment if that is due because of max.compaction.lag.ms. It may block on I/O, with deadlines.
func (l *Log) CompactionState(now time.Time, limit int64) (CompactionState, error) {
	for {
		c, err := l.compactionState(now, limit)
		if !isReplaced(err) {
			return c, err
		}
	}
}

func (l *Log) compactionState(now time.Time, limit int64) (c CompactionState, err error) {
	cfg := l.cfg()
	if !cfg.Compact {
		return c, nil
	}
	l.rollForCompaction(cfg, now, limit, &c)
	p, horizon := l.cleanable(limit, &c)
	if p.segs, err = l.oldEnough(cfg, p, now, &c); err != nil {
		return c, fmt.Errorf("look at %s: %w", l.dir, err)
	}
	overdue, err := l.overdue(cfg, p, now, &c)
	if err != nil {
		return c, fmt.Errorf("look at %s: %w", l.dir, err)
	}
	c.FirstDirty = p.dirty
	l.mu.Lock()
	for _, g := range p.segs {
		if g.next > p.dirty {
			c.DirtyBytes += g.size
		} else {
			c.CleanBytes += g.size
		}
	}
	l.mu.Unlock()
	c.Due = c.DirtyBytes > 0 && (overdue || c.Ratio() > cfg.MinDirtyRatio)
	if horizon != noHorizon && c.CleanBytes > 0 {
		if at := time.UnixMilli(horizon); at.After(now) {
			c.wakeAt(at)
		} else {
			c.Due = true // tombstones have had their time
		}
	}
	return c, nil
}

// cleanable returns the segments that are sealed, settled and below limit, and where the dirty ones begin.
func (l *Log) cleanable(limit int64, c *CompactionState) (p plan, horizon int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.dirty, horizon = l.mu.clean.dirty, l.mu.clean.horizon
	if p.dirty < l.mu.start || p.dirty > l.mu.end {
		p.dirty = l.mu.start // the start has passed it, or the end of the log was lost
	}
	for _, g := range l.mu.segs {
		if !g.sealed || !g.settled || g.flushed != g.size || g.size == 0 {
			break
		}
		if g.next > limit {
			c.Blocked = true
			break
		}
		if g.next <= l.mu.start {
			continue // retention is about to delete it
		}
		p.segs = append(p.segs, g)
	}
	return p, horizon
}

// oldEnough ends the plan at the first dirty segment that has a record younger than min.compaction.lag.ms.
func (l *Log) oldEnough(cfg *Config, p plan, now time.Time, c *CompactionState) ([]*segment, error) {
	if cfg.MinCompactionLag <= 0 {
		return p.segs, nil
	}
	for i, g := range p.segs {
		if g.next <= p.dirty {
			continue
		}
		if _, _, err := l.s.summaryOf(g); err != nil {
			return nil, err
		}
		l.mu.Lock()
		at := after(g.largestTimeLocked(), cfg.MinCompactionLag)
		l.mu.Unlock()
		if at.After(now) {
			c.wakeAt(at)
			return p.segs[:i], nil
		}
	}
	return p.segs, nil
}

// overdue reports whether the oldest dirty record is older than max.compaction.lag.ms. As in Kafka the age of a segment is that of its
// first batch.
func (l *Log) overdue(cfg *Config, p plan, now time.Time, c *CompactionState) (bool, error) {
	if !cfg.lagBound() {
		return false, nil
	}
	for _, g := range p.segs {
		if g.next <= p.dirty {
			continue
		}
		sum, _, err := l.s.summaryOf(g)
		if err != nil {
			return false, err
		}
		if sum.firstTime <= 0 {
			continue
		}
		at := after(sum.firstTime, cfg.MaxCompactionLag)
		if !at.After(now) {
			return true, nil
		}
		c.wakeAt(at)
	}
	return false, nil
}

// rollForCompaction seals the active segment when its first batch is older than max.compaction.lag.ms, since only sealed ones are
// compacted. (Kafka does so at the next append only, so that in an idle log the bound is not kept.)
func (l *Log) rollForCompaction(cfg *Config, now time.Time, limit int64, c *CompactionState) {
	if !cfg.lagBound() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.activeLocked()
	if l.mu.closed || g.size == 0 || g.sum.firstTime <= 0 {
		return
	}
	at := after(g.sum.firstTime, cfg.MaxCompactionLag)
	c.Watched = true
	switch {
	case at.After(now):
		c.wakeAt(at)
	case g.next > limit || l.mu.tail.committedNext < g.next:
		c.Blocked = true
	case now.Before(g.began.Add(min(lagRollMin, cfg.MaxCompactionLag))):
		c.wakeAt(g.began.Add(min(lagRollMin, cfg.MaxCompactionLag)))
	default:
		c.Watched = false
		l.sealActiveLocked(g)
	}
}

// lagRollMin is how long a segment lives at least: a producer of old records would otherwise make one for each batch.
const lagRollMin = 10 * time.Second

// lagBound reports whether max.compaction.lag.ms bounds anything.
func (c *Config) lagBound() bool { return c.MaxCompactionLag > 0 && c.MaxCompactionLag < math.MaxInt64 }

// after is a time in ms plus d, or as good as never.
func after(ms int64, d time.Duration) time.Time {
	const never = math.MaxInt64 / 1_000_000 // ms; what a Time can still count in ns
	if plus := d.Milliseconds(); ms < never-plus {
		return time.UnixMilli(ms + plus + 1)
	}
	return time.UnixMilli(never)
}

// groups splits segments into runs that fit one segment together, as Kafka does, so that segments do not become ever smaller.
func (l *Log) groups(segs []*segment, segmentBytes int64) [][]*segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := min(segmentBytes, positionMax)
	var out [][]*segment
	for i := 0; i < len(segs); {
		n, size := 1, segs[i].size
		for i+n < len(segs) && size+segs[i+n].size <= limit && segs[i+n].next-segs[i].base <= 1<<31-1 {
			size += segs[i+n].size
			n++
		}
		out = append(out, segs[i:i+n:i+n])
		i += n
	}
	return out
}
