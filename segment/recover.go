package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"strings"

	"weir/internal/lockmeter"
	"weir/internal/record"
)

// Open opens a log in dir, a name below the store's directory. Everything below recoveryPoint is known to be synced (0: unknown); logStart is the
// remembered log start. Both normally come from LoadCheckpoint.
//
// A log without a directory is a new, empty one and costs no I/O. Of an existing one only the newest segment is
// read: beyond the recovery point batches are verified, and the first bad one ends the log (what it cuts is in the WAL and comes back by
// Recovered); below it damage is a *CorruptError. Sealed segments are looked into when they are first needed.
//
// cfg is called often, also under the log's lock: it returns the present configuration from memory and calls nothing back.
func (s *Store) Open(dir string, cfg func() *Config, recoveryPoint, logStart int64) (*Log, error) {
	if dir == "" || dir[0] == '.' || strings.ContainsAny(dir, "/\x00") || strings.HasSuffix(dir, deletedSuffix) || dir == checkpointFile {
		return nil, fmt.Errorf("open log %q: %w: directory name not allowed", dir, fs.ErrInvalid)
	}
	if recoveryPoint < 0 || logStart < 0 {
		return nil, fmt.Errorf("open log %s: recovery point %d, log start %d, want >= 0", dir, recoveryPoint, logStart)
	}
	l := &Log{s: s, dir: dir, path: path.Join(s.opt.Dir, dir), cfg: cfg}
	l.mu.MeterBy(s.opt.Locks, lockmeter.SegmentLog)
	l.mu.clean.horizon = noHorizon
	l.mu.cutDone = uint64(s.knownPoint(dir).Cut)
	l.mu.cutLSN, l.mu.cutSaved = l.mu.cutDone, l.mu.cutDone
	s.mu.Lock()
	exists := s.mu.dirs[dir] && s.mu.going[dir] == nil
	l.mu.cutLSN = max(l.mu.cutLSN, s.mu.left[dir])
	switch {
	case s.mu.closed:
		s.mu.Unlock()
		return nil, fmt.Errorf("open log %s: %w", dir, ErrClosed)
	case s.mu.logs[dir] != nil:
		s.mu.Unlock()
		return nil, fmt.Errorf("open log %s: %w: it is open", dir, fs.ErrExist)
	}
	s.mu.Unlock()
	if err := s.openFiles(l, exists, recoveryPoint, logStart); err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed || s.mu.logs[dir] != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, ErrClosed)
	}
	s.mu.logs[dir] = l
	delete(s.mu.left, dir)
	return l, nil
}

func (s *Store) openFiles(l *Log, exists bool, recoveryPoint, logStart int64) error {
	var bases []int64
	if exists {
		var err error
		if bases, err = s.listSegments(l); err != nil {
			return err
		}
	}
	l.mu.dirMade = exists
	if len(bases) == 0 {
		if recoveryPoint > logStart {
			return &CorruptError{File: l.path, Offset: logStart, Err: fmt.Errorf("no segment files, but offsets %d to %d were flushed", logStart, recoveryPoint)}
		}
		return l.begin([]*segment{newSegment(l, logStart)}, logStart)
	}
	segs := make([]*segment, len(bases))
	for i, base := range bases {
		g := newSegment(l, base)
		info, err := s.fs.Stat(g.name)
		if err != nil {
			return err
		}
		g.size, g.flushed, g.created = info.Size(), info.Size(), true
		if t := info.ModTime(); !t.IsZero() {
			g.touched = t
		}
		if i < len(bases)-1 {
			g.sealed, g.indexSaved, g.settled, g.summed = true, true, true, false
			g.next, g.flushedNext = bases[i+1], bases[i+1]
			if base < l.mu.clean.gaps {
				g.gapsEnd = g.next
			}
		}
		segs[i] = g
	}
	start := max(logStart, segs[0].base)
	if s.knownPoint(l.dir).Resetting != 0 {
		l.mu.resetting = true
		start = logStart // and the WAL has the record of it, whatever is left of the files
	} else if err := l.checkFirst(segs[0], logStart); err != nil {
		return err
	}
	last := segs[len(segs)-1]
	if gaps := l.mu.clean.gaps; last.base < gaps && gaps < math.MaxInt64 {
		last.gapsEnd = gaps // what came behind was truncated, and nothing has come in its place yet
	}
	if err := s.recoverActive(last, max(recoveryPoint, last.base)); err != nil {
		return err
	}
	if last.gapsEnd > 0 && last.size > 0 {
		// Nothing is appended to a compacted segment.
		last.sealed, last.gapsEnd = true, last.next
		segs = append(segs, newSegment(l, last.next))
		defer s.background(func() { s.sealed(l, last) })
	} else {
		last.gapsEnd = 0
	}
	return l.begin(segs, start)
}

// begin installs the segments.
func (l *Log) begin(segs []*segment, start int64) error {
	last := segs[len(segs)-1]
	if start > last.next {
		// Records below the start were never flushed; the WAL has them, up to the start at least.
		l.s.log.Info("log start lies beyond the flushed end; the WAL must continue it", "dir", l.dir, "start", start, "end", last.next)
	}
	l.mu.Lock()
	l.mu.segs, l.mu.start, l.mu.end = segs, start, last.next
	l.mu.saved = start
	l.mu.tail.committedNext = last.next
	l.mu.Unlock()
	l.s.trim(l)
	return nil
}

// listNames returns what the log's directory holds, after finishing what a compaction had begun.
func (s *Store) listNames(l *Log) ([]fs.DirEntry, error) {
	for {
		list, err := s.fs.List(l.path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		names := make([]string, len(list))
		for i, e := range list {
			names[i] = e.Name()
		}
		if changed, err := s.resumeSwaps(l.path, names); err != nil || !changed {
			return list, err
		}
	}
}

// listSegments returns the base offsets of the segment files in order and removes what a crash left half written.
func (s *Store) listSegments(l *Log) ([]int64, error) {
	list, err := s.listNames(l)
	if err != nil {
		return nil, err
	}
	names := make(map[string]bool, len(list))
	for _, e := range list {
		names[e.Name()] = true
	}
	if names[cleanerFile] {
		if l.mu.clean, err = l.loadCleanState(); err != nil {
			return nil, err
		}
	}
	var bases []int64
	for _, e := range list { // sorted by name, and names have a fixed width
		if base, ok := parseSegmentName(e.Name()); ok {
			bases = append(bases, base)
		}
		stray := strings.HasSuffix(e.Name(), tmpSuffix) || strings.HasSuffix(e.Name(), cleanedSuffix)
		for _, kind := range []indexKind{offsetIndex, timeIndex} {
			of, ok := strings.CutSuffix(e.Name(), kind.suffix())
			stray = stray || ok && !names[of+logSuffix]
		}
		if stray {
			if err := s.fs.Remove(path.Join(l.path, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return bases, nil
}

// recoverActive finds the end of the newest segment. Batches below trusted, the recovery point, must be whole; so must those that a valid index file
// covers (it is written after the sync), unless the WAL has them; of the rest the good ones are kept.
func (s *Store) recoverActive(g *segment, trusted int64) error {
	size := g.size
	ix, sum, err := s.readIndexFiles(g)
	if err != nil || sum.bytes > size {
		ix, sum = index{base: g.base}, emptySummary(g.base)
		if err == nil {
			return g.corrupt(size, sum.next, fmt.Errorf("%w: file has %d bytes, its index covers more", record.ErrShort, size))
		}
	}
	verified := false // something was found good that nobody has promised to be synced
	h, err := s.handles.acquire(g, false)
	if err != nil {
		return err
	}
	defer s.handles.release(h)
	r := newHeaderReader(s, g, h, size, scanWindow)
	defer r.close()
	if bad := checkUnproven(r, &ix, sum, trusted); bad != nil {
		if !errors.Is(bad, ErrCorrupt) {
			return bad
		}
		if err := s.dropIndexFiles(g); err != nil {
			return err
		}
		ix, sum = index{base: g.base}, emptySummary(g.base)
	}
	g.indexed = sum.bytes
	trusted = max(trusted, sum.next)
	interval := g.log.cfg().indexInterval()
	var since int64
	if point := s.knownPoint(g.log.dir); point.RecoveryPoint == trusted {
		if skipped, ok := point.Active.skip(g, size, trusted, sum); ok {
			sum, since = skipped, interval+1 // the next batch gets an entry
		}
	}
	for sum.bytes < size {
		b, bad := r.header(sum.bytes, sum.next)
		if bad == nil && sum.next < trusted && b.NextOffset() > trusted {
			// A recovery point lies between batches. Believing this header would mean to cut what is behind it, and that was synced.
			bad = g.corrupt(sum.bytes, sum.next, fmt.Errorf("%w: batch of offsets %d to %d reaches beyond the recovery point %d", record.ErrInvalid,
				b.BaseOffset(), b.LastOffset(), trusted))
		}
		if bad == nil && sum.next >= trusted {
			p := place{offset: sum.next, hdr: b, file: r, pos: sum.bytes}
			b, bad = p.load()
			verified = verified || bad == nil
		}
		if bad != nil {
			if sum.next < trusted || !errors.Is(bad, ErrCorrupt) {
				return bad
			}
			if err := s.cut(g, h, sum, bad); err != nil {
				return err
			}
			break
		}
		sum.note(&ix, b, int64(b.Size()), &since, interval)
	}
	if sum.next < trusted {
		return g.corrupt(sum.bytes, sum.next, fmt.Errorf("%w: file ends at offset %d, %d was synced", record.ErrShort, sum.next, trusted))
	}
	g.size, g.flushed = sum.bytes, sum.bytes
	g.next, g.flushedNext = sum.next, sum.next
	g.sum, g.ix, g.sinceEntry = sum, &ix, since
	if !verified && sum.bytes == size {
		return nil
	}
	// From now on it counts as flushed.
	return s.syncRecovered(h)
}

// checkUnproven verifies what the index covers beyond the recovery point: it was synced, but no checkpoint says so yet. The WAL is released
// after the checkpoint, so it has that, and damage there is healed by cutting before it. Damage below is for the readers to find.
func checkUnproven(r *headerReader, ix *index, sum summary, point int64) error {
	if point >= sum.next {
		return nil
	}
	for at, pos := ix.floor(point); pos < sum.bytes; {
		b, bad := r.header(pos, at)
		if bad == nil && at >= point {
			p := place{offset: at, hdr: b, file: r, pos: pos}
			b, bad = p.load()
		}
		if bad != nil {
			if at < point && errors.Is(bad, ErrCorrupt) {
				return nil
			}
			return bad
		}
		at, pos = b.NextOffset(), pos+int64(b.Size())
	}
	return nil
}

// dropIndexFiles deletes the index files of a segment that is going to be cut, durably: an index that covers more than its file is damage.
func (s *Store) dropIndexFiles(g *segment) error {
	for _, kind := range []indexKind{offsetIndex, timeIndex} {
		if err := s.fs.Remove(g.indexName(kind)); ignoreNotExist(err) != nil {
			return err
		}
	}
	return s.fs.SyncDir(g.log.path)
}

// knownPoint is what the checkpoint said of a log when the store was opened.
func (s *Store) knownPoint(dir string) Checkpoint {
	s.points.mu.Lock()
	defer s.points.mu.Unlock()
	return s.points.mu.known[dir]
}

// cut ends a torn segment at its last good batch.
func (s *Store) cut(g *segment, h *handle, sum summary, why error) error {
	s.metrics.TornTails.Inc()
	s.log.Warn("unsynced end of a log is torn and cut; the WAL has what was acknowledged",
		"file", g.name, "position", sum.bytes, "offset", sum.next, "bytes", g.size-sum.bytes, "error", why)
	return s.meta.do("truncate", g.name, func() error { return h.file.Truncate(sum.bytes) })
}

// RemoveDir deletes the directory of a log that is not open, such as one whose topic was deleted while the broker was down. It does not
// wait.
func (s *Store) RemoveDir(dir string) error {
	s.mu.Lock()
	if s.mu.logs[dir] != nil {
		s.mu.Unlock()
		return fmt.Errorf("remove %s: %w: it is open", dir, fs.ErrExist)
	}
	exists := s.mu.dirs[dir]
	delete(s.mu.dirs, dir)
	var e *goingDir
	if exists {
		e = s.goLocked(dir, nil)
	}
	s.mu.Unlock()
	s.points.mu.Lock()
	_, named := s.points.mu.known[dir]
	delete(s.points.mu.known, dir)
	s.points.mu.Unlock()
	switch {
	case !exists:
	case named:
		s.goAfterCheckpoint(path.Join(s.opt.Dir, dir), e)
	default:
		s.goNow(path.Join(s.opt.Dir, dir), e)
	}
	return nil
}
