package segment

import (
	"fmt"
	"time"
)

// deletableLocked returns how many segments, the oldest first, lie wholly below the log start, durably so, and are flushed. The
// active one stays. If a crash brought an older log start back, it would find some of them gone.
func (l *Log) deletableLocked() int {
	n := 0
	for n < len(l.mu.segs)-1 && l.mu.segs[n+1].base <= l.mu.saved && l.mu.segs[n].flushed == l.mu.segs[n].size {
		n++
	}
	return n
}

// trim deletes segments below the log start in the background, if there are any.
func (s *Store) trim(l *Log) {
	l.mu.Lock()
	start := l.deletableLocked() > 0 && !l.mu.trimming && !l.mu.closed
	if start {
		l.mu.trimming = true
	}
	l.mu.Unlock()
	if start {
		s.background(func() { s.deleteSegments(l) })
	}
}

func (s *Store) deleteSegments(l *Log) {
	defer l.releaseFiles()
	if err := s.keepEnd(l); err != nil {
		s.log.Warn("deleting old segments failed", "dir", l.dir, "error", err)
		return
	}
	l.mu.Lock()
	n := l.deletableLocked()
	if l.mu.removed {
		n = 0
	}
	gone := append([]*segment(nil), l.mu.segs[:n]...)
	for _, g := range gone {
		g.deleted = true
		g.ix = nil
	}
	l.mu.segs = append([]*segment(nil), l.mu.segs[n:]...)
	l.mu.Unlock()
	if n > 0 {
		// After a reset a segment may have one of these names again: no index of the old one may be written behind its deletion.
		if err := l.indexesWritten(); err != nil {
			s.log.Warn("deleting old segments failed; it is retried at the next start", "dir", l.dir, "segments", n, "error", err)
			return
		}
	}
	for _, g := range gone {
		s.indexes.drop(g)
		s.handles.drop(g)
		if err := s.unlink(g); err != nil {
			s.log.Warn("deleting a segment failed; it is retried at the next start", "file", g.name, "error", err)
		}
	}
	if n == 0 {
		return
	}
	if err := s.fs.SyncDir(l.path); err != nil {
		s.log.Warn("deleting old segments: sync of the directory failed", "dir", l.dir, "error", err)
	}
	s.metrics.Deleted.Add(float64(n))
	s.log.Info("deleted old segments", "dir", l.dir, "segments", n, "log_start", l.LogStart())
	s.Kick() // there may be room again
}

// keepEnd makes sure that the segment that stays exists as a file: its name is the only place besides the checkpoint that remembers
// where an otherwise empty log ends.
func (s *Store) keepEnd(l *Log) error {
	l.mu.Lock()
	var keep *segment
	if n := l.deletableLocked(); n > 0 && !l.mu.segs[n].created {
		keep = l.mu.segs[n]
	}
	l.mu.Unlock()
	if keep == nil {
		return nil
	}
	h, err := s.openForFlush(l, keep)
	if err != nil {
		return err
	}
	s.handles.release(h)
	return nil
}

// unlink removes a segment's files; the log file last, so that no index is ever without its log.
func (s *Store) unlink(g *segment) error {
	for _, name := range []string{g.indexName(offsetIndex), g.indexName(timeIndex), g.name} {
		if err := s.fs.Remove(name); ignoreNotExist(err) != nil {
			return err
		}
	}
	return nil
}

// EnforceRetention moves the log start past the segments that the configuration no longer keeps, and has them deleted in the background. Segments
// with records at or beyond limit (the high watermark) stay. deleted counts the segments given up.
func (l *Log) EnforceRetention(now time.Time, limit int64) (deleted int, err error) {
	cfg := l.cfg()
	if !cfg.Delete {
		return 0, nil
	}
	l.mu.Lock()
	start, cuts := l.mu.start, l.mu.cuts
	l.mu.Unlock()
	for {
		g, ok := l.oldestSealed(start, limit)
		if g == nil {
			break
		}
		expired, err := l.expired(g, cfg, now) // also loads what NextRetention needs to know
		if isReplaced(err) {
			continue // a compaction was faster
		}
		if err != nil {
			return deleted, err
		}
		if !ok && !l.rollExpired(g, cfg, now, limit) || !expired && !l.exceeds(g, start, cfg) {
			break
		}
		start = g.next
		deleted++
	}
	if deleted == 0 {
		return 0, nil
	}
	l.mu.Lock()
	moved := l.mu.cuts == cuts && !l.fixedStartLocked()
	if moved {
		l.mu.start = max(l.mu.start, start)
	}
	l.mu.Unlock()
	if !moved { // it is being truncated; there will be another time
		return 0, nil
	}
	l.s.checkpointThen(func() { l.s.trim(l) })
	return deleted, nil
}

// rollExpired seals g, the only segment left, if it is the active one, and all its records are expired or nothing may be kept, so that it can
// be deleted like the others. A segment lives for RetentionCheck at least: a producer of old records would otherwise make one
// for each batch.
func (l *Log) rollExpired(g *segment, cfg *Config, now time.Time, limit int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed || g.sealed || g.size == 0 || g.next > limit || l.mu.tail.committedNext < g.next {
		return false
	}
	if now.Before(g.began.Add(cfg.retentionCheck())) || cfg.RetentionBytes != 0 && !g.expiredLocked(cfg, now) {
		return false
	}
	l.sealActiveLocked(g)
	return true
}

func (l *Log) expired(g *segment, cfg *Config, now time.Time) (bool, error) {
	if cfg.RetentionAge < 0 {
		return false, nil
	}
	if _, _, err := l.s.summaryOf(g); err != nil {
		return false, fmt.Errorf("retention of %s: %w", l.dir, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return g.expiredLocked(cfg, now), nil
}

// oldestSealed returns the oldest segment from start on; ok tells whether it is sealed and wholly below limit.
func (l *Log) oldestSealed(start, limit int64) (oldest *segment, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.mu.segs {
		if g.next > start || !g.sealed {
			return g, g.sealed && g.next <= limit && !l.mu.closed
		}
	}
	return nil, false
}

// exceeds reports whether the log without g, from start on, is still at least as large as retention allows.
func (l *Log) exceeds(g *segment, start int64, cfg *Config) bool {
	if cfg.RetentionBytes < 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var size int64
	for _, x := range l.mu.segs {
		if x.next > start {
			size += x.size
		}
	}
	return size-g.size >= cfg.RetentionBytes
}

// retentionCheckDefault is what RetentionCheck is without a value.
const retentionCheckDefault = time.Minute

func (c *Config) retentionCheck() time.Duration {
	if c.RetentionCheck <= 0 {
		return retentionCheckDefault
	}
	return c.RetentionCheck
}

// NextRetention tells when time alone makes it worth calling EnforceRetention again; ok is false if it never will, as things are. It is now only
// for a log whose oldest segment has not been looked into since it was opened. Size may make it worthwhile before: see RetentionRoom.
func (l *Log) NextRetention(now time.Time) (at time.Time, ok bool) {
	cfg := l.cfg()
	if !cfg.Delete || cfg.RetentionAge < 0 && cfg.RetentionBytes != 0 {
		return time.Time{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.mu.segs {
		if g.next <= l.mu.start || g.size == 0 {
			continue
		}
		if cfg.RetentionAge >= 0 && !g.summed {
			return now, true // not looked into yet
		}
		at = g.began // RetentionBytes is 0: as soon as it may be
		if cfg.RetentionBytes != 0 {
			at = time.UnixMilli(g.largestTimeLocked()).Add(cfg.RetentionAge + time.Millisecond)
		}
		if soonest := g.began.Add(cfg.retentionCheck()); !g.sealed && at.Before(soonest) {
			at = soonest
		}
		if !at.After(now) {
			at = now.Add(cfg.retentionCheck()) // it could not be deleted: the high watermark has not passed it
		}
		return at, true
	}
	return time.Time{}, false
}

// RetentionRoom is how much the log may grow until retention by size lets its oldest segment go; ok is false if there is nothing to let go.
// Negative: it could go now.
func (l *Log) RetentionRoom() (bytes int64, ok bool) {
	cfg := l.cfg()
	if !cfg.Delete || cfg.RetentionBytes < 0 {
		return 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var size, oldest int64
	for _, g := range l.mu.segs {
		if g.next <= l.mu.start {
			continue
		}
		if size == 0 {
			if !g.sealed {
				return 0, false
			}
			oldest = g.size
		}
		size += g.size
	}
	return cfg.RetentionBytes + oldest - size, size > 0
}

// Remove closes l and deletes its directory in the background. Ranges that are out stay valid. Memory that the WAL may still read is
// kept until its Commit.
func (s *Store) Remove(l *Log) {
	if s.markRemoved(l) {
		s.remove(l)
	}
}

// markRemoved reports whether l was not removed before. From here on no directory is made for it.
func (s *Store) markRemoved(l *Log) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !l.mu.removed
	l.mu.closed, l.mu.removed = true, true
	return first
}

func (s *Store) remove(l *Log) {
	s.mu.Lock()
	if s.mu.logs[l.dir] == l {
		delete(s.mu.logs, l.dir)
	}
	s.goLocked(l.dir, l)
	s.mu.Unlock()
	s.points.mu.Lock()
	delete(s.points.mu.known, l.dir)
	s.points.mu.Unlock()
	if !s.flusher.forget(l) {
		s.finishRemove(l)
	}
}
