package segment

import (
	"fmt"
	"path"
	"time"
)

// AdvanceLogStart raises the log start offset (never lowers it). Whole segments below it are deleted in the
// background; the new start is in the next checkpoint, which is written before that.
func (l *Log) AdvanceLogStart(offset int64) error {
	l.mu.Lock()
	switch {
	case l.mu.closed:
		l.mu.Unlock()
		return fmt.Errorf("advance log start of %s: %w", l.dir, ErrClosed)
	case offset > l.mu.end:
		err := &OffsetError{Offset: offset, Start: l.mu.start, End: l.mu.end}
		l.mu.Unlock()
		return fmt.Errorf("advance log start of %s: %w", l.dir, err)
	case offset <= l.mu.start:
		l.mu.Unlock()
		return nil
	}
	l.mu.start = offset
	l.mu.Unlock()
	l.s.checkpointThen(func() { l.s.trim(l) })
	return nil
}

// deletableLocked returns how many segments, the oldest first, lie wholly below the log start and are flushed. The
// active one stays.
func (l *Log) deletableLocked() int {
	n := 0
	for n < len(l.mu.segs)-1 && l.mu.segs[n+1].base <= l.mu.start && l.mu.segs[n].flushed == l.mu.segs[n].size {
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
	defer func() {
		l.mu.Lock()
		l.mu.trimming = false
		l.mu.Unlock()
	}()
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
	if err := l.rollExpired(cfg, now, limit); err != nil {
		return 0, err
	}
	start := l.LogStart()
	for {
		g, ok := l.oldestSealed(start, limit)
		if g == nil {
			break
		}
		expired, err := l.expired(g, cfg, now) // also loads what NextRetention needs to know
		if err != nil {
			return deleted, err
		}
		if !ok || !expired && !l.exceeds(g, start, cfg) {
			break
		}
		start = g.next
		deleted++
	}
	if deleted == 0 {
		return 0, nil
	}
	l.mu.Lock()
	l.mu.start = max(l.mu.start, start)
	l.mu.Unlock()
	l.s.checkpointThen(func() { l.s.trim(l) })
	return deleted, nil
}

// rollExpired seals the active segment if all its records are expired, so that it can be deleted like the others.
func (l *Log) rollExpired(cfg *Config, now time.Time, limit int64) error {
	if cfg.RetentionAge < 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.activeLocked()
	if l.mu.closed || g.size == 0 || g.next > limit || !g.sum.expired(cfg, now) || l.mu.tail.committedNext < g.next {
		return nil
	}
	l.rollLocked()
	if g.flushed == g.size { // otherwise its flush finishes it
		l.s.background(func() { l.s.sealed(l, g) })
	}
	return nil
}

func (s *summary) expired(cfg *Config, now time.Time) bool {
	return cfg.RetentionAge >= 0 && s.maxTime >= 0 && now.UnixMilli()-s.maxTime > cfg.RetentionAge.Milliseconds()
}

func (l *Log) expired(g *segment, cfg *Config, now time.Time) (bool, error) {
	if cfg.RetentionAge < 0 {
		return false, nil
	}
	sum, _, err := l.s.summaryOf(g)
	if err != nil {
		return false, fmt.Errorf("retention of %s: %w", l.dir, err)
	}
	return sum.expired(cfg, now), nil
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

// retentionRetry is when to look again at a segment that is expired but could not be deleted, because the high watermark has
// not passed it.
const retentionRetry = time.Minute

// NextRetention tells when age makes it worth calling EnforceRetention again; ok is false if age never will, as things are. It is now only for a log
// whose oldest segment has not been looked into since it was opened. Size may make it worthwhile after any roll: see OnRoll.
func (l *Log) NextRetention(now time.Time) (at time.Time, ok bool) {
	cfg := l.cfg()
	if !cfg.Delete || cfg.RetentionAge < 0 {
		return time.Time{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.mu.segs {
		switch {
		case g.next <= l.mu.start || g.size == 0:
			continue
		case !g.summed:
			return now, true // not looked into yet
		case g.sum.maxTime < 0:
			return time.Time{}, false // has no timestamps and so never expires
		}
		at = time.UnixMilli(g.sum.maxTime).Add(cfg.RetentionAge + time.Millisecond)
		if !at.After(now) {
			at = now.Add(retentionRetry)
		}
		return at, true
	}
	return time.Time{}, false
}

// Remove closes l and deletes its directory in the background. Ranges that are out stay valid. Memory that the WAL may still read is
// kept until its Commit.
func (s *Store) Remove(l *Log) {
	l.mu.Lock()
	if l.mu.removed {
		l.mu.Unlock()
		return
	}
	l.mu.closed, l.mu.removed = true, true
	l.mu.Unlock()
	s.mu.Lock()
	delete(s.mu.logs, l.dir)
	s.mu.Unlock()
	s.points.mu.Lock()
	delete(s.points.mu.known, l.dir)
	s.points.mu.Unlock()
	if !s.flusher.forget(l) {
		s.finishRemove(l)
	}
}

// finishRemove runs when no flush of l is under way any more.
func (s *Store) finishRemove(l *Log) {
	l.mu.Lock()
	l.mu.dirty = dirtyState{}
	free := l.freeTailLocked()
	segs := l.mu.segs
	for _, g := range segs {
		g.deleted = true
	}
	made := l.mu.dirMade
	l.mu.Unlock()
	release(free)
	for _, g := range segs {
		s.indexes.drop(g)
		s.handles.drop(g)
	}
	if !made {
		return
	}
	s.mu.Lock()
	delete(s.mu.dirs, l.dir)
	s.mu.Unlock()
	s.checkpointThen(func() {}) // forgets it
	s.background(func() {
		s.removeDir(l.path)
		s.Kick()
	})
}

// removeDir renames a directory out of the way, so that a crash leaves it whole or marked, and deletes it.
func (s *Store) removeDir(dir string) {
	gone := dir + deletedSuffix
	err := s.fs.Rename(dir, gone)
	if err == nil {
		err = s.fs.SyncDir(path.Dir(dir))
	}
	if ignoreNotExist(err) != nil {
		s.log.Warn("deleting a log failed", "dir", dir, "error", err)
		return
	}
	s.removeTree(gone)
}

// removeTree deletes a directory file by file, each step within its deadline.
func (s *Store) removeTree(dir string) {
	list, err := s.fs.List(dir)
	for _, e := range list {
		if err == nil {
			err = ignoreNotExist(s.fs.Remove(path.Join(dir, e.Name())))
		}
	}
	if err == nil {
		err = s.fs.RemoveAll(dir)
	}
	if err == nil {
		err = s.fs.SyncDir(path.Dir(dir))
	}
	if ignoreNotExist(err) != nil {
		s.log.Warn("deleting a log failed; it is retried at the next start", "dir", dir, "error", err)
	}
}
