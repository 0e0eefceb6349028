package segment

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"weir/internal/clock"
	"weir/internal/vfs"
)

// The files after a cut. A log keeps a list of steps, to which each cut adds its own; the flusher does them, in order, before it writes
// anything else of that log:
//
//	1  A checkpoint that was made after the cut is durable. It says less than is in the files: where a crash leaves the next steps half done,
//	   a start finds what it says, and then the record in the WAL.
//	2  The cleaner's state is lowered.
//	3  The index files of what is cut or deleted go, durably: none may cover more than its file.
//	4  The files behind the cut go, the newest first, and the one that is cut is cut, durably. From then on nothing is written to it.
//
// A step that fails, or is late, is done again by the next flush. One that is late is still under way: it is waited for instead of being
// begun a second time, since a deletion that comes late would take the file that has got the name meanwhile.

// cutWork is what is left to do.
type cutWork struct {
	steps []cutStep
	late  chan error // the outcome of the first step, which was given up on; nil: it is not under way
	reset bool       // one of the cuts is a reset
}

// cutStep is one step. It blocks for as long as the disk does if wait is set, else it has deadlines of its own.
type cutStep struct {
	op, name string
	wait     bool
	do       func() error
}

// addWorkLocked queues what a cut has to do.
func (l *Log) addWorkLocked(c *Cut, a *cutApply) {
	w := l.mu.cut
	if w == nil {
		w = &cutWork{}
		l.mu.cut = w
	}
	s, cuts := l.s, l.mu.cuts
	step := func(op, name string, do func() error) { w.steps = append(w.steps, cutStep{op: op, name: name, do: do}) }
	raw := func(op, name string, do func(fs vfs.FS) error) {
		fsys := vfs.Unbounded(s.opt.FS)
		w.steps = append(w.steps, cutStep{op: op, name: name, wait: true, do: func() error { return do(fsys) }})
	}
	if c.reset {
		w.reset = true
		l.mu.resetLSN = l.mu.cutLSN
	}
	step("checkpoint", checkpointFile, func() error { return s.savedCut(l, cuts) })
	if l.cleanBeyondLocked(c.end) {
		step("write", path.Join(l.path, cleanerFile), func() error { return l.saveLoweredState() })
	}
	files := a.files
	cut := a.kept != nil && a.kept.written > a.kept.size
	if !cut && len(files) == 0 {
		return
	}
	step("wait for the indexes of", l.path, func() error { return l.indexesWritten() })
	raw("remove the indexes in", l.path, func(fsys vfs.FS) error {
		for _, g := range files {
			if err := removeAll(fsys, g.indexName(offsetIndex), g.indexName(timeIndex)); err != nil {
				return err
			}
		}
		if cut {
			if err := removeAll(fsys, a.kept.indexName(offsetIndex), a.kept.indexName(timeIndex)); err != nil {
				return err
			}
		}
		return ignoreNotExist(fsys.SyncDir(l.path))
	})
	for i := len(files) - 1; i >= 0; i-- {
		raw("remove", files[i].name, func(fsys vfs.FS) error { return removeAll(fsys, files[i].name) })
	}
	if cut && len(files) > 0 {
		raw("sync", l.path, func(fsys vfs.FS) error { return ignoreNotExist(fsys.SyncDir(l.path)) })
	}
	if cut {
		name, size, state := a.kept.name, a.kept.size, a.kept.state
		step("wait for the writes to", name, func() error {
			if n := state.writes.Load(); n > 0 {
				return &DeadlineError{Op: "truncate", Target: name, Queued: true}
			}
			return nil
		})
		raw("truncate", name, func(fsys vfs.FS) error { return truncateFile(fsys, name, size) })
		return
	}
	raw("sync", l.path, func(fsys vfs.FS) error { return ignoreNotExist(fsys.SyncDir(l.path)) })
}

func removeAll(fsys vfs.FS, names ...string) error {
	for _, name := range names {
		if err := ignoreNotExist(fsys.Remove(name)); err != nil {
			return err
		}
	}
	return nil
}

// truncateFile cuts a file, durably. One that is shorter, or missing, was never written so far.
func truncateFile(fsys vfs.FS, name string, size int64) (err error) {
	f, err := fsys.OpenFile(name, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if now, err := f.Size(); err != nil || now <= size {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}

// finishCut does what truncations have left to do with the log's files. worth counts as bytes flushed, so that a checkpoint tells of it. Only
// one flush of a log is under way at a time.
func (s *Store) finishCut(l *Log) (worth int64, err error) {
	l.mu.Lock()
	w := l.mu.cut
	l.mu.Unlock()
	if w == nil {
		return 0, nil
	}
	for {
		l.mu.Lock()
		if l.mu.removed || len(w.steps) == 0 {
			l.mu.cut = nil
			l.releaseCutLocked()
			l.mu.Unlock()
			break
		}
		st := w.steps[0]
		l.mu.Unlock()
		if err := s.cutStep(w, &st); err != nil {
			return 0, fmt.Errorf("put the files right after a truncation: %w", asDeadline(err))
		}
		l.mu.Lock()
		w.steps = w.steps[1:]
		l.mu.Unlock()
	}
	for _, g := range l.sealedFlushed() {
		s.sealed(l, g)
	}
	s.trim(l)
	return 1, nil
}

// sealedFlushed are the segments that are whole in their files and have no index files yet.
func (l *Log) sealedFlushed() (out []*segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.mu.segs {
		if g.sealed && g.flushed == g.size && g.size > 0 && !g.indexSaved {
			out = append(out, g)
		}
	}
	return out
}

// cutStep does a step or, where it was given up on before, goes on waiting for it.
func (s *Store) cutStep(w *cutWork, st *cutStep) error {
	if !st.wait {
		return st.do()
	}
	if w.late == nil {
		done := make(chan error, 1)
		w.late = done
		s.background(func() { done <- st.do() })
	}
	began := s.clock.Now()
	expired := make(chan struct{})
	timer := clock.AfterRunning(s.clock, s.writeTimeout(), func() { close(expired) })
	defer timer.Stop()
	select {
	case err := <-w.late:
		w.late = nil
		return err
	case <-expired:
		return &DeadlineError{Op: st.op, Target: st.name, Elapsed: s.clock.Now().Sub(began)}
	}
}

// finishCuts is finishCut for a group.
func (s *Store) finishCuts(group []*member) {
	var cut []*member
	for _, m := range group {
		m.log.mu.Lock()
		if m.log.mu.cut != nil {
			cut = append(cut, m)
		}
		m.log.mu.Unlock()
	}
	if len(cut) > 1 {
		// One checkpoint for all; without it each would make one.
		if err := s.checkpoint(); err != nil {
			for _, m := range cut {
				m.err = err
			}
			return
		}
	}
	inParallel(len(cut), groupDirs, func(i int) { cut[i].flushed, cut[i].err = s.finishCut(cut[i].log) })
}

// savedCut makes sure that a checkpoint is durable which knows of so many truncations of the log.
func (s *Store) savedCut(l *Log, cuts uint64) error {
	l.mu.Lock()
	saved := l.mu.cutsSaved >= cuts
	l.mu.Unlock()
	if saved {
		return nil
	}
	return s.checkpoint()
}

// saveLoweredState makes the cleaner's state durable as the last truncation has left it.
func (l *Log) saveLoweredState() error {
	l.mu.Lock()
	c := l.mu.clean
	l.mu.Unlock()
	return l.WriteSide(cleanerFile, c.encode())
}

// indexing notes that index files of g are about to be written; false: g is no longer part of the log. indexingDone must follow.
func (l *Log) beginIndexing(g *segment) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g.deleted {
		return false
	}
	l.mu.indexing++
	return true
}

func (l *Log) endIndexing() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.indexing--; l.mu.indexing == 0 && l.mu.indexed != nil {
		close(l.mu.indexed)
		l.mu.indexed = nil
	}
}

// indexesWritten waits until no index file of the log is being written: one of a segment that is gone would say what is not true any more.
func (l *Log) indexesWritten() error {
	l.mu.Lock()
	if l.mu.indexing == 0 {
		l.mu.Unlock()
		return nil
	}
	if l.mu.indexed == nil {
		l.mu.indexed = make(chan struct{})
	}
	indexed := l.mu.indexed
	l.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	timer := clock.AfterRunning(l.s.clock, l.s.writeTimeout(), cancel)
	defer timer.Stop()
	select {
	case <-indexed:
		return nil
	case <-ctx.Done():
		return &DeadlineError{Op: "write indexes in", Target: l.path, Elapsed: l.s.writeTimeout()}
	}
}
