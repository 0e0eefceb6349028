package segment

import (
	"fmt"
	"path"
	"sync"

	"weir/internal/clock"
	"weir/uring"
)

// A group is the flush of many logs that have little each. Everything is written first; then one sync of the whole file system
// (wholesync.go) makes files, sizes and new names durable; then each log's flushed offset rises. Where that sync is not to be had, or
// failed, or is late, the files are synced one by one, which is also what gives the exact verdict on each. The crash argument
// is that of a single flush: a log takes part with one round, so with one segment, whose bytes count, and behind which the next one may be
// created, only after the sync; and the checkpoint comes after that.

const (
	// wholeSyncWorth: from so many logs on one sync of everything costs less than one for each.
	wholeSyncWorth = 16
	// groupOps is how many writes, or syncs, of a group are in flight at once.
	groupOps = 32
	// groupDirs is how many directories are synced at once.
	groupDirs = 8
)

// member is a log's part in a group. Until the group has been synced it holds a reference to its file.
type member struct {
	d       *dirtyLog
	log     *Log
	limit   flushLimit
	round   *round // nil: nothing to write
	pieces  []piece
	h       *handle
	newFile bool // the segment's file was made for this group, and its directory is to be synced
	newDir  bool // and so was the directory
	flushed int64
	err     error
}

func (m *member) live() bool { return m.round != nil && m.err == nil }

func living(group []*member) []*member {
	live := make([]*member, 0, len(group))
	for _, m := range group {
		if m.live() {
			live = append(live, m)
		}
	}
	return live
}

// flushGroup flushes the logs of job together and calls finish for each with what was flushed.
func (s *Store) flushGroup(job []*dirtyLog, finish func(d *dirtyLog, n int64, err error)) {
	began := s.clock.Now()
	group := make([]*member, len(job))
	for i, d := range job {
		group[i] = &member{d: d, log: d.log}
	}
	s.finishCuts(group)
	for _, m := range group {
		if m.err != nil {
			continue
		}
		m.limit = m.log.beginFlush()
		if m.round = m.log.nextRound(m.limit, s.roundMax()); m.round != nil {
			m.pieces = s.joinPieces(m.round.pieces)
			m.err = s.openMember(m)
		}
	}
	for left := group; len(left) > 0; {
		left = left[s.flushPart(left):]
	}
	for _, m := range group {
		if m.h != nil {
			s.handles.release(m.h)
		}
		if m.err == nil {
			// Whatever else was committed at the start, in another segment or beyond a round's bytes.
			var more int64
			more, m.err = s.flushRest(m.log, m.limit)
			m.flushed += more
		} else {
			if isReplaced(m.err) {
				m.err = errCut
			}
			m.err = fmt.Errorf("flush %s: %w", m.log.dir, m.err)
		}
		s.trim(m.log)
		finish(m.d, m.flushed, m.err)
	}
	s.metrics.Flushes.Add(float64(len(group)))
	s.metrics.GroupSeconds.Observe(s.clock.Now().Sub(began).Seconds())
}

// openMember opens the file to write to. What it makes is not durable before the group's sync.
func (s *Store) openMember(m *member) (err error) {
	l, g := m.log, m.round.seg
	l.mu.Lock()
	created, made := g.created, l.mu.dirMade
	l.mu.Unlock()
	if !created && !made {
		if err := s.ownName(l); err != nil {
			return err
		}
		if err := s.fs.MkdirAll(l.path); err != nil {
			return err
		}
		m.newDir = true
	}
	m.newFile = !created
	m.h, err = s.handles.acquire(g, !created)
	return err
}

// writeGroup writes all pieces of all members and gives up their memory.
func (s *Store) writeGroup(group []*member) {
	var writes []fileWrite
	var owners []*member // of writes
	flush := func() {
		for i, err := range s.writeAll(writes) {
			if m := owners[i]; m.err == nil {
				m.err = err
			}
		}
		writes, owners = writes[:0], owners[:0]
	}
	for _, m := range group {
		for _, p := range m.pieces {
			if m.err != nil {
				p.buf.Release()
				continue
			}
			writes, owners = append(writes, fileWrite{m.h, p}), append(owners, m)
			if len(writes) == groupOps {
				flush()
			}
		}
	}
	if len(writes) > 0 {
		flush()
	}
}

// fileWrite is one write. Its memory is given up at the kernel's completion.
type fileWrite struct {
	h *handle
	piece
}

// writeAll does all writes together and returns the error of each.
func (s *Store) writeAll(writes []fileWrite) []error {
	ops := make([]*uring.Op, len(writes))
	for i, w := range writes {
		s.handles.retain(w.h)
		w.h.state.writes.Add(1)
		ops[i] = &uring.Op{
			Kind: uring.OpWrite, File: w.h.file, Buf: w.data, Off: w.pos, Timeout: s.writeTimeout(),
			Released: func(*uring.Op) {
				w.buf.Release()
				w.h.state.writes.Add(-1)
				s.handles.release(w.h)
			},
		}
	}
	errs := make([]error, len(writes))
	for i, r := range s.doAll(ops) {
		w := writes[i]
		if r.err == nil && r.n != len(w.data) {
			r.err = fmt.Errorf("write %s: %d of %d bytes written at %d", w.h.file.Name(), r.n, len(w.data), w.pos)
		}
		if r.refused { // nothing was begun, and so nothing will be released
			w.buf.Release()
			w.h.state.writes.Add(-1)
			s.handles.release(w.h)
		}
		errs[i] = r.err
	}
	return errs
}

// opResult is the end of one of several operations.
type opResult struct {
	n       int
	err     error
	refused bool // the engine did not take it
}

// doAll runs operations of one kind and deadline together and waits for all of them, a little longer than that deadline at most.
func (s *Store) doAll(ops []*uring.Op) []opResult {
	var mu sync.Mutex // results are written by the engine's thread, also after the wait was given up
	results := make([]opResult, len(ops))
	left, done := len(ops), make(chan struct{})
	for i, op := range ops {
		op.Done = func(_ *uring.Op, n int, err error) {
			mu.Lock()
			defer mu.Unlock()
			results[i] = opResult{n: n, err: err}
			if left--; left == 0 {
				close(done)
			}
		}
	}
	began := s.clock.Now()
	kind, target, timeout := ops[0].Kind, ops[0].File.Name(), ops[0].Timeout
	out := make([]opResult, len(ops))
	if err := s.engine.Submit(ops...); err != nil {
		for i := range out {
			out[i] = opResult{err: err, refused: true}
		}
		return out
	}
	expired := make(chan struct{})
	guard := clock.AfterRunning(s.clock, timeout+opGrace, func() { close(expired) })
	defer guard.Stop()
	select {
	case <-done:
		return results
	case <-expired:
		late := &DeadlineError{Op: kind.String(), Target: target, Elapsed: s.clock.Now().Sub(began)}
		for i := range out {
			out[i].err = late
		}
		return out
	}
}

// syncGroup makes durable what was written, with all files and directories made for it.
func (s *Store) syncGroup(group []*member) {
	live := living(group)
	if len(live) >= wholeSyncWorth && s.whole.usable() {
		able := s.whole.startWriteback(live)
		live = living(live)
		if able && s.whole.sync() {
			return
		}
	}
	for len(live) > 0 {
		n := min(len(live), groupOps)
		ops := make([]*uring.Op, n)
		for i, m := range live[:n] {
			s.handles.retain(m.h)
			ops[i] = &uring.Op{Kind: uring.OpFdatasync, File: m.h.file, Timeout: s.writeTimeout(),
				Released: func(*uring.Op) { s.handles.release(m.h) }}
		}
		for i, r := range s.doAll(ops) {
			if r.refused {
				s.handles.release(live[i].h)
			}
			live[i].err = r.err
		}
		live = live[n:]
	}
	s.syncNewDirs(group)
}

// syncNewDirs makes the names of new files and directories durable.
func (s *Store) syncNewDirs(group []*member) {
	var fresh []*member
	var parent error
	tried := false
	for _, m := range group {
		if m.live() && m.newDir {
			if !tried {
				parent, tried = s.fs.SyncDir(path.Dir(m.log.path)), true
			}
			m.err = parent
		}
		if m.live() && m.newFile {
			fresh = append(fresh, m)
		}
	}
	inParallel(len(fresh), groupDirs, func(i int) { fresh[i].err = s.fs.SyncDir(fresh[i].log.path) })
}

// inParallel calls fn for 0 to n-1, at most limit at a time, and waits.
func inParallel(n, limit int, fn func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(n, limit) {
		wg.Go(func() {
			for i := range next {
				fn(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// publishGroup lets the flushed offsets rise of all that is durable.
func (s *Store) publishGroup(group []*member) {
	for _, m := range group {
		if !m.live() {
			continue
		}
		l := m.log
		if m.newDir {
			s.madeDir(l)
		}
		if m.newFile {
			l.mu.Lock()
			m.round.seg.created = true
			l.mu.Unlock()
		}
		if m.err = s.roundFlushed(l, m.round); m.err != nil {
			continue
		}
		m.flushed += m.round.bytes
		s.sealed(l, m.round.seg)
	}
}

// madeDir notes that the log's directory exists durably.
func (s *Store) madeDir(l *Log) {
	l.mu.Lock()
	l.mu.dirMade = true
	l.mu.Unlock()
	s.mu.Lock()
	s.mu.dirs[l.dir] = true
	s.mu.Unlock()
}
