package segment

import (
	"path"
	"strings"
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
	if !made {
		return
	}
	s.mu.Lock()
	delete(s.mu.dirs, l.dir)
	s.mu.Unlock()
	s.checkpointThen(func() {}) // forgets it
	s.removals.add(l.path)
}

// removeDirs deletes a batch of log directories.
func (s *Store) removeDirs(dirs []string) {
	if s.closing() {
		return // the next start goes on
	}
	marked := make([]string, 0, len(dirs))
	for _, dir := range dirs {
		if strings.HasSuffix(dir, deletedSuffix) {
			marked = append(marked, dir)
			continue
		}
		gone := dir + deletedSuffix
		if err := s.fs.Rename(dir, gone); err != nil {
			if ignoreNotExist(err) != nil {
				s.log.Warn("deleting a log failed", "dir", dir, "error", err)
			}
			continue
		}
		marked = append(marked, gone)
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
