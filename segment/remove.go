package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"weir/internal/clock"
	"weir/internal/vfs"
)

// Directories of deleted logs go in the background: a batch is renamed out of the way (*.deleted), which one sync of the data directory makes
// durable, and then deleted file by file. A crash leaves a directory whole, to be deleted by RemoveDir when its topic is found missing,
// or marked, to be deleted when the store is opened. The names that go are synced once a batch, too.

const (
	removeBatch = 256
	// removeWorkers is how many directories are emptied at once.
	removeWorkers = 4
)

// removeLeftovers finishes the deletions that a crash interrupted.
func (s *Store) removeLeftovers() {
	for dir := range s.mu.dirs {
		if strings.HasSuffix(dir, deletedSuffix) {
			delete(s.mu.dirs, dir)
			s.removals.add(path.Join(s.opt.Dir, dir))
		}
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
	s.mu.Lock()
	if made {
		delete(s.mu.dirs, l.dir)
	}
	e := s.mu.going[l.dir]
	if e != nil && e.log != l {
		e = nil
	}
	if e != nil && !made {
		e.release()
		delete(s.mu.going, l.dir)
	}
	s.mu.Unlock()
	if made {
		s.goAfterCheckpoint(l.path, e)
	}
}

// goAfterCheckpoint deletes a directory when a checkpoint says nothing of it any more: a start that finds it gone, and is given the replica back, must not
// take that for damage. Where there is no room for a checkpoint the directory goes all the same, to make some.
func (s *Store) goAfterCheckpoint(dir string, e *goingDir) {
	s.checkpointDone(func(error) { s.goNow(dir, e) })
}

func (s *Store) goNow(dir string, e *goingDir) {
	if e != nil {
		s.mu.Lock()
		e.release()
		s.mu.Unlock()
	}
	s.removals.add(dir)
}

// removeDirs deletes a batch of log directories.
func (s *Store) removeDirs(dirs []string) {
	if s.closing() {
		return // the next start goes on
	}
	marked := make([]string, 0, len(dirs))
	for _, dir := range dirs {
		if !strings.HasSuffix(dir, deletedSuffix) {
			gone, err := s.moveAway(path.Base(dir))
			if err != nil {
				s.log.Warn("deleting a log failed", "dir", dir, "error", err)
			}
			dir = gone
		}
		if dir != "" {
			marked = append(marked, dir)
		}
	}
	if len(marked) == 0 {
		return
	}
	if err := s.fs.SyncDir(s.opt.Dir); err != nil {
		s.log.Warn("deleting logs failed; it is retried at the next start", "logs", len(marked), "error", err)
		return
	}
	inParallel(len(marked), removeWorkers, func(i int) { s.removeTree(marked[i]) })
	if err := s.fs.SyncDir(s.opt.Dir); err != nil {
		s.log.Warn("deleting logs: sync of the data directory failed", "logs", len(marked), "error", err)
	}
	s.Kick() // there may be room again
}

// removeTree deletes a directory file by file, each step within its deadline.
func (s *Store) removeTree(dir string) {
	if s.closing() {
		return
	}
	list, err := s.fs.List(dir)
	for _, e := range list {
		if err == nil {
			err = ignoreNotExist(s.fs.Remove(path.Join(dir, e.Name())))
		}
	}
	if err == nil {
		err = s.fs.RemoveAll(dir)
	}
	if ignoreNotExist(err) != nil {
		s.log.Warn("deleting a log failed; it is retried at the next start", "dir", dir, "error", err)
	}
}

func (s *Store) closing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.closed
}

// goingDir is the directory of a removed log that still has its name. Its name may be wanted again, by a log that is opened meanwhile: a
// replica that has left this node and comes back. That log needs no directory before its first flush, which moves this one away if nobody
// has yet.
type goingDir struct {
	log    *Log          // nil: it was not open
	holds  int           // until it is ready: a flush that is under way, an entry that is not durable yet
	stays  bool          // until the next start: that entry failed
	ready  chan struct{} // closed when nothing is written to it any more
	moving chan struct{} // closed when it has another name, or cannot get one; nil: nobody has begun
	gone   string        // its new name
	err    error
}

// goLocked notes that the directory of l, nil for one that is not open, is going to be deleted. While one of that name is going already l has
// none of its own.
func (s *Store) goLocked(dir string, l *Log) (e *goingDir) {
	if s.mu.going[dir] != nil {
		return nil
	}
	e = &goingDir{log: l, holds: 1, ready: make(chan struct{})}
	s.mu.going[dir] = e
	return e
}

// release gives up a hold. The store's lock guards it.
func (e *goingDir) release() {
	if e.holds--; e.holds == 0 {
		close(e.ready)
	}
}

// moveAway renames the directory of a removed log and returns its new name, "" if somebody else has done so. A rename that is late is waited
// for by the next caller, and never begun again: it would take the new directory.
func (s *Store) moveAway(dir string) (gone string, err error) {
	s.mu.Lock()
	e := s.mu.going[dir]
	if e == nil {
		s.mu.Unlock()
		return "", nil
	}
	mine := e.moving == nil
	if mine {
		e.moving = make(chan struct{})
		s.background(func() { s.rename(dir, e) })
	}
	s.mu.Unlock()
	expired := make(chan struct{})
	timer := clock.AfterRunning(s.clock, s.writeTimeout(), func() { close(expired) })
	defer timer.Stop()
	select {
	case <-e.moving:
	case <-expired:
		return "", &DeadlineError{Op: "rename", Target: path.Join(s.opt.Dir, dir), Elapsed: s.writeTimeout()}
	}
	if e.err != nil || !mine {
		return "", e.err
	}
	return e.gone, nil
}

// goneNamesMax is how many directories of the same former name may wait to be emptied.
const goneNamesMax = 64

func (s *Store) rename(dir string, e *goingDir) {
	<-e.ready
	s.mu.Lock()
	stays := e.stays
	s.mu.Unlock()
	if stays {
		e.err = ErrClosed
		close(e.moving)
		return
	}
	fsys, from := vfs.Unbounded(s.opt.FS), path.Join(s.opt.Dir, dir)
	to := from + deletedSuffix
	err := fsys.Rename(from, to)
	for n := 1; errors.Is(err, fs.ErrExist) && n < goneNamesMax; n++ { // one that went before it
		to = fmt.Sprintf("%s.%d%s", from, n, deletedSuffix)
		err = fsys.Rename(from, to)
	}
	if errors.Is(err, fs.ErrNotExist) {
		to, err = "", nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.gone, e.err = to, err; err != nil {
		e.gone = ""
		again := *e // the next one tries again
		again.moving = nil
		s.mu.going[dir] = &again
	} else if s.mu.going[dir] == e {
		delete(s.mu.going, dir)
	}
	close(e.moving)
}

// ownName makes sure that l's directory is not that of a log before it which had the same name.
func (s *Store) ownName(l *Log) error {
	gone, err := s.moveAway(l.dir)
	if gone != "" {
		s.removals.add(gone)
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.removed { // meanwhile: a directory that is made now nobody would delete
		return ErrClosed
	}
	return nil
}

// RemoveHeld is Remove for a log whose name may be used again at once. Its directory stays as it is until removed is called with the LSN of the
// entry that makes the WAL forget it: the log that is opened next in its place has nothing to do with what the WAL has up to there. With
// 0 the entry failed, and the directory stays until the next start.
func (s *Store) RemoveHeld(l *Log) (removed func(lsn uint64)) {
	first := s.markRemoved(l)
	s.mu.Lock()
	// While the directory of a log before it is on its way l has none of its own, and will not get one: there is nothing to hold.
	e := s.goLocked(l.dir, l)
	if e != nil {
		e.holds++
	}
	s.mu.Unlock()
	if first {
		s.remove(l)
	}
	return func(lsn uint64) {
		s.mu.Lock()
		if e != nil {
			e.stays = lsn == 0
			e.release()
		}
		next := s.mu.logs[l.dir]
		if next == nil && lsn > 0 {
			s.mu.left[l.dir] = lsn
		}
		s.mu.Unlock()
		if next != nil {
			next.mu.Lock()
			next.mu.cutLSN = max(next.mu.cutLSN, lsn)
			next.mu.Unlock()
		}
	}
}
