package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"weir/internal/iobuf"
	"weir/internal/vfs"
)

const (
	// roundBytes is written between two syncs, at most; less where the disk is slow (flushpace.go).
	roundBytes = 8 << 20
	// opsInFlight is how many writes of one flush are in flight at once.
	opsInFlight = 8
	// joinBelow: neighbouring extents smaller than this are copied together into writes of up to joinBytes.
	joinBelow = 64 << 10
	joinBytes = 1 << 20
	// writeBytesMax is the largest single write; a larger batch goes in several.
	writeBytesMax = 4 << 20
	// indexEvery is how much may be flushed to the active segment before its index is saved, which bounds what a
	// restart must walk through.
	indexEvery = 64 << 20
	// indexSyncWorth: the index of a sealed segment smaller than this is not synced. If a power cut takes it, walking through the segment makes
	// it again; thousands of partitions that roll would pay four syncs each.
	indexSyncWorth = 16 << 20
)

// piece is a stretch of bytes to be written. It holds a reference to its memory.
type piece struct {
	buf  *iobuf.Buf
	data []byte
	pos  int64
}

// round is one write-and-sync of one segment.
type round struct {
	seg    *segment
	pieces []piece
	end    int64 // position after the last piece
	next   int64 // offset there
	bytes  int64
	cuts   uint64 // the log's when the pieces were taken
}

// errCut: the log was truncated while it was flushed. What was written counts for nothing; it is flushed again.
var errCut = errors.New("log was truncated meanwhile")

// flushLog writes everything of l that is committed now to its files and syncs it. It returns the bytes that were flushed,
// also when a later round failed: those stay in the tail, and are written again to the same place if ever.
func (s *Store) flushLog(l *Log) (int64, error) {
	began := s.clock.Now()
	total, err := s.finishCut(l)
	if err != nil {
		return 0, fmt.Errorf("flush %s: %w", l.dir, err)
	}
	n, err := s.flushRest(l, l.beginFlush())
	total += n
	if err != nil {
		return total, err
	}
	s.metrics.Flushes.Inc()
	s.metrics.FlushSeconds.Observe(s.clock.Now().Sub(began).Seconds())
	s.trim(l)
	return total, nil
}

// flushRest writes and syncs what l has below limit, a round at a time.
func (s *Store) flushRest(l *Log, limit flushLimit) (total int64, err error) {
	for {
		r := l.nextRound(limit, s.roundMax())
		if r == nil {
			return total, l.interrupted(limit)
		}
		if err := s.flushRound(l, r); err != nil {
			if isReplaced(err) {
				err = errCut
			}
			return total, fmt.Errorf("flush %s: %w", l.dir, err)
		}
		total += r.bytes
		s.sealed(l, r.seg)
	}
}

// flushLimit is where a flush ends: the committed position at its start. What is committed later belongs to the
// next flush, with its LSN: taking more along would leave a log dirty that has nothing to flush.
type flushLimit struct {
	seg  *segment // nil: nothing is committed
	pos  int64
	next int64 // offset at pos
	cuts uint64
}

// cutSince is errCut if the log was truncated after cuts was taken.
func (l *Log) cutSince(cuts uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.cuts != cuts {
		return errCut
	}
	return nil
}

// interrupted is errCut if the log was truncated since limit was taken, or just before, so that its files have to be put right first.
func (l *Log) interrupted(limit flushLimit) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.interruptedLocked(limit) {
		return errCut
	}
	return nil
}

func (l *Log) interruptedLocked(limit flushLimit) bool {
	return !l.mu.removed && (l.mu.cuts != limit.cuts || l.mu.cut != nil)
}

func (l *Log) beginFlush() (limit flushLimit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.dirty.flushing = true
	limit.cuts = l.mu.cuts
	t := &l.mu.tail
	if t.committedExt < len(t.ext) {
		e := &t.ext[t.committedExt]
		limit.seg, limit.pos, limit.next = e.seg, e.pos+int64(t.committedAt), t.committedNext
	}
	return limit
}

// nextRound collects the next bytes below limit, of one segment: at most most, or one extent that is larger.
func (l *Log) nextRound(limit flushLimit, most int64) *round {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &l.mu.tail
	if l.mu.removed || len(t.ext) == 0 || limit.seg == nil || l.interruptedLocked(limit) {
		return nil
	}
	seg := t.ext[0].seg
	r := &round{seg: seg, end: seg.flushed, next: seg.flushedNext, cuts: limit.cuts}
	for i := range t.ext {
		e := &t.ext[i]
		atLimit := e.seg == limit.seg && e.end() > limit.pos
		if e.seg != seg || e.seg.base > limit.seg.base || atLimit && e.pos >= limit.pos || r.bytes > 0 && r.bytes+int64(len(e.data)) > most {
			break
		}
		data, next := e.data, l.mu.end
		if i+1 < len(t.ext) {
			next = t.ext[i+1].base
		}
		if atLimit {
			data, next = e.data[:limit.pos-e.pos], limit.next
		}
		from := max(seg.flushed-e.pos, 0)
		if from >= int64(len(data)) {
			continue
		}
		r.pieces = append(r.pieces, piece{buf: e.buf.Retain(), data: data[from:], pos: e.pos + from})
		r.end, r.next = e.pos+int64(len(data)), next
		r.bytes += int64(len(data)) - from
	}
	if len(r.pieces) == 0 {
		return nil
	}
	seg.written = max(seg.written, r.end)
	return r
}

func (s *Store) flushRound(l *Log, r *round) error {
	pieces := s.joinPieces(r.pieces)
	h, err := s.openForFlush(l, r.seg)
	if err != nil {
		for _, p := range pieces {
			p.buf.Release()
		}
		return err
	}
	defer s.handles.release(h)
	if err := s.writePaced(h, pieces); err != nil {
		return err
	}
	return s.roundFlushed(l, r)
}

// roundFlushed lets the flushed offset rise after a round was synced, and frees its memory. errCut: the log is another one now.
func (s *Store) roundFlushed(l *Log, r *round) error {
	l.mu.Lock()
	if l.mu.cuts != r.cuts {
		l.mu.Unlock()
		return errCut
	}
	g := r.seg
	g.flushed, g.flushedNext = r.end, r.next
	l.mu.tailBytes -= r.bytes
	l.mu.committed -= r.bytes
	free := l.mu.tail.drop(g, g.flushed, nil)
	l.mu.Unlock()
	release(free)
	s.giveBack(r.bytes)
	s.metrics.FlushedBytes.Add(float64(r.bytes))
	return nil
}

// openForFlush returns the segment's open file, making it and the log's directory if need be.
func (s *Store) openForFlush(l *Log, g *segment) (*handle, error) {
	l.mu.Lock()
	created := g.created
	l.mu.Unlock()
	if created {
		return s.handles.acquire(g, false)
	}
	if err := s.ensureDir(l); err != nil {
		return nil, err
	}
	h, err := s.handles.acquire(g, true)
	if err != nil {
		return nil, err
	}
	if err := s.fs.SyncDir(l.path); err != nil {
		s.handles.release(h)
		return nil, err
	}
	l.mu.Lock()
	g.created = true
	l.mu.Unlock()
	return h, nil
}

// ensureDir makes the log's directory, durably.
func (s *Store) ensureDir(l *Log) error {
	l.mu.Lock()
	made := l.mu.dirMade
	l.mu.Unlock()
	if made {
		return nil
	}
	if err := s.ownName(l); err != nil {
		return err
	}
	if err := s.fs.MkdirAll(l.path); err != nil {
		return err
	}
	if err := s.fs.SyncDir(path.Dir(l.path)); err != nil {
		return err
	}
	s.madeDir(l)
	return nil
}

// joinPieces copies runs of small neighbours together, because one write call costs more than the copy, and splits large ones. It makes
// writes of at most most bytes.
func joinPieces(in []piece, most int64) []piece {
	writeMax, joinMax := int(min(writeBytesMax, most)), int(min(joinBytes, most))
	out := make([]piece, 0, len(in))
	for i := 0; i < len(in); {
		if p := &in[i]; len(p.data) > writeMax {
			out = append(out, p.cut(writeMax))
			continue
		}
		n, total := 0, 0
		for i+n < len(in) && len(in[i+n].data) < joinBelow && total+len(in[i+n].data) <= joinMax {
			total += len(in[i+n].data)
			n++
		}
		if n < 2 {
			out = append(out, in[i])
			i++
			continue
		}
		buf := iobuf.Get(total)
		joined := piece{buf: buf, data: buf.Bytes()[:0], pos: in[i].pos}
		for _, p := range in[i : i+n] {
			joined.data = append(joined.data, p.data...)
			p.buf.Release()
		}
		out = append(out, joined)
		i += n
	}
	return out
}

// writePieces writes all pieces and gives up their memory: at the kernel's completion, which after a missed deadline may be later
// than the return.
func (s *Store) writePieces(h *handle, pieces []piece) error {
	for len(pieces) > 0 {
		n := min(len(pieces), opsInFlight)
		if err := s.writeSome(h, pieces[:n]); err != nil {
			for _, p := range pieces[n:] {
				p.buf.Release()
			}
			return err
		}
		pieces = pieces[n:]
	}
	return nil
}

// opGrace is how much longer than an operation's own deadline is waited for the engine to report it, in case its
// thread is held inside a system call.
const opGrace = 200 * time.Millisecond

// writeSome writes pieces of one file and returns the first error.
func (s *Store) writeSome(h *handle, pieces []piece) error {
	writes := make([]fileWrite, len(pieces))
	for i, p := range pieces {
		writes[i] = fileWrite{h, p}
	}
	for _, err := range s.writeAll(writes) {
		if err != nil {
			return err
		}
	}
	return nil
}

// sealed finishes a segment that is sealed and flushed whole: index files, hook. Of the active one it saves the index now and then.
func (s *Store) sealed(l *Log, g *segment) {
	l.mu.Lock()
	whole := g.sealed && g.flushed == g.size && !g.indexSaved
	var hook func(int64)
	if whole {
		g.indexSaved = true
		hook = l.mu.onRoll
	}
	small := g.flushed < indexSyncWorth
	partial := !g.sealed && g.flushed-g.indexed >= indexEvery
	l.mu.Unlock()
	switch {
	case whole:
		write := s.writeFile
		if small {
			write = s.putFile
		}
		if err := s.saveIndexBy(l, g, write); err != nil {
			// Not fatal: a missing index is rebuilt.
			s.log.Warn("saving an index failed", "file", g.name, "error", err)
		}
		s.indexes.add(g)
		l.mu.Lock()
		g.settled = true
		l.mu.Unlock()
		if hook != nil {
			hook(g.sum.next)
		}
	case partial:
		if err := s.saveIndex(l, g); err != nil {
			s.log.Warn("saving an index failed", "file", g.name, "error", err)
		}
	}
}

// writeFile puts data into a file atomically and durably: under another name, synced, renamed, directory synced.
func (s *Store) writeFile(name string, data []byte) error {
	if err := s.replaceFile(name, data, true); err != nil {
		return err
	}
	return s.fs.SyncDir(path.Dir(name))
}

// putFile is writeFile without the syncs. After a power cut the file may be missing, older, or not what it says: its reader must be able to tell.
func (s *Store) putFile(name string, data []byte) error { return s.replaceFile(name, data, false) }

func (s *Store) replaceFile(name string, data []byte, durable bool) error {
	tmp := name + tmpSuffix
	f, err := s.createAnew(tmp)
	if err != nil {
		return err
	}
	err = s.fillFile(f, data, durable)
	if closeErr := s.meta.do("close", tmp, f.Close); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return s.fs.Rename(tmp, name)
}

const tmpSuffix = ".tmp"

// createAnew makes an empty file. One of that name is not used again but removed: a write that was given up on may still be on its way to it.
func (s *Store) createAnew(name string) (vfs.File, error) {
	f, err := s.openFile(name, vfs.Create|vfs.Exclusive)
	if errors.Is(err, fs.ErrExist) {
		if err = s.fs.Remove(name); err == nil {
			f, err = s.openFile(name, vfs.Create|vfs.Exclusive)
		}
	}
	return f, err
}

// writeTimeout is the deadline of a write or sync behind the WAL. It covers the time that the engine holds an operation back because
// the disk is slow, and then the operation's own: whoever watches OldestIO has decided about a stall before.
func (s *Store) writeTimeout() time.Duration { return 2 * s.opt.IOTimeout }

// fileBytesMax bounds what readFile takes: the largest index of a segment of 2^31 bytes is below it.
const fileBytesMax = 64 << 20

// readFile reads a whole small file.
func (s *Store) readFile(name string) ([]byte, error) {
	f, err := s.openFile(name, vfs.ReadOnly)
	if err != nil {
		return nil, asDeadline(err)
	}
	data, err := call(s.meta, "read", name, func() ([]byte, error) {
		size, err := f.Size()
		if err != nil {
			return nil, err
		}
		if size > fileBytesMax {
			return nil, fmt.Errorf("%s has %d bytes, more than %d", name, size, fileBytesMax)
		}
		buf := make([]byte, size)
		n, err := f.ReadAt(buf, 0)
		if int64(n) == size {
			err = nil
		}
		return buf[:n], err
	}, nil)
	if closeErr := s.meta.do("close", name, f.Close); err == nil {
		err = closeErr
	}
	return data, err
}
