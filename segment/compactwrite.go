package segment

import (
	"context"
	"errors"
	"fmt"

	"weir/internal/record"
	"weir/uring"
)

// compactSyncBytes is written between two syncs, at most. It is small, so that what others write never waits long behind it on the device, and smaller
// where that is slow.
const compactSyncBytes = 1 << 20

// cleanedSuffix is that of a segment which compaction is writing: it counts for nothing.
const cleanedSuffix = ".cleaned"

// cleanedFile is the segment that a compaction writes.
type cleanedFile struct {
	s        *Store
	ctx      context.Context
	g        *segment // what it will be
	name     string
	h        *handle // outlives an operation that the kernel has not let go of
	throttle func(ctx context.Context, bytes int) error
	buf      []byte // not yet written
	written  int64
	unsynced int64
	interval int64
}

// newCleaned makes the file for a segment of offsets base to end. buf is memory that the writer may use, empty.
func (c *compaction) newCleaned(ctx context.Context, base, end int64) (*cleanedFile, error) {
	g := newSegment(c.l, base)
	g.gapsEnd = end
	g.ix = &index{base: base}
	w := &cleanedFile{
		s: c.s, ctx: ctx, g: g, name: trimLog(g.name) + cleanedSuffix, throttle: c.opt.Throttle, buf: c.writeBuf[:0],
		interval: c.cfg.indexInterval(),
	}
	f, err := c.s.createAnew(w.name)
	if err != nil {
		return nil, asDeadline(err)
	}
	w.h = &handle{s: c.s, file: f, state: g.state, refs: 1}
	return w, nil
}

// add appends a batch.
func (w *cleanedFile) add(b record.Batch) error {
	if w.g.sum.bytes+int64(len(b)) > positionMax {
		return fmt.Errorf("compact into %s: %w: more than %d bytes", w.name, errBatchSize, positionMax)
	}
	if len(w.buf) > 0 && len(w.buf)+len(b) > cap(w.buf) {
		if err := w.write(); err != nil {
			return err
		}
	}
	w.buf = append(w.buf, b...)
	w.g.sum.note(w.g.ix, b, int64(len(b)), &w.g.sinceEntry, w.interval)
	return nil
}

// write writes the buffer, and syncs now and then, each within its deadline.
func (w *cleanedFile) write() error {
	for data := w.buf; len(data) > 0; {
		n := int(min(int64(len(data)), compactSyncBytes, w.s.pace.Limit()))
		if err := w.throttle(w.ctx, n); err != nil {
			return err
		}
		n, err := w.writeStep(data[:n])
		if err != nil {
			return err
		}
		data = data[n:]
	}
	w.buf = w.buf[:0]
	return nil
}

// writeStep writes some of data and says how much; it syncs if that is due.
func (w *cleanedFile) writeStep(data []byte) (n int, err error) {
	step, ok := w.s.pace.Begin(int64(len(data)), w.ctx.Done())
	if !ok {
		return 0, context.Cause(w.ctx)
	}
	defer func() { step.End(err) }()
	n = int(step.Bytes)
	done, err := w.do(&uring.Op{Kind: uring.OpWrite, Buf: data[:n:n], Off: w.written})
	if err == nil && done != n {
		err = fmt.Errorf("write %s: %d of %d bytes written at %d", w.name, done, n, w.written)
	}
	if err != nil {
		w.buf = nil // the kernel may still read it
		return 0, w.s.writeFailed(w.g.log.dir, err)
	}
	w.written += int64(n)
	if w.unsynced += int64(n); w.unsynced >= min(compactSyncBytes, step.Limit) {
		err = w.sync()
	}
	return n, err
}

func (w *cleanedFile) sync() error {
	w.unsynced = 0
	if _, err := w.do(&uring.Op{Kind: uring.OpFdatasync}); err != nil {
		return w.s.writeFailed(w.g.log.dir, err)
	}
	return nil
}

// do runs an operation on the file within its deadline. The file stays open until the kernel has let go of it, which after a missed deadline
// may be long after.
func (w *cleanedFile) do(op *uring.Op) (int, error) {
	s := w.s
	op.File, op.Timeout = w.h.file, s.opt.IOTimeout
	op.Released = func(*uring.Op) { s.handles.release(w.h) }
	s.handles.retain(w.h)
	r := s.doAll([]*uring.Op{op})[0]
	if r.refused { // nothing was begun, and so nothing will be released
		s.handles.release(w.h)
	}
	return r.n, r.err
}

// writeFailed ends the store's service, as a failed flush does, unless the disk is full, slow, or being let go of. Nothing of value was in the
// file, but a device that refuses one write cannot be trusted with the next.
func (s *Store) writeFailed(dir string, err error) error {
	if !isNoSpace(err) && !IsLate(err) && !errors.Is(err, uring.ErrClosed) && !errors.Is(err, uring.ErrStalled) {
		s.fail(dir, err)
	}
	return err
}

// finish writes the rest and makes it durable; then the segment is what a reader needs to know of it.
func (w *cleanedFile) finish() error {
	if err := w.write(); err != nil {
		return err
	}
	if err := w.sync(); err != nil {
		return err
	}
	g := w.g
	if g.sum.next != g.gapsEnd {
		return fmt.Errorf("BUG: compact into %s: ends at offset %d, want %d", w.name, g.sum.next, g.gapsEnd)
	}
	g.size, g.flushed = g.sum.bytes, g.sum.bytes
	g.next, g.flushedNext = g.sum.next, g.sum.next
	g.sealed, g.created, g.indexSaved, g.settled = true, true, true, true
	return nil
}

// discard closes and removes the file. What cannot be removed now is removed at the next start, or by the next run.
func (w *cleanedFile) discard() {
	w.s.handles.release(w.h)
	w.s.removeCleaned(w.name)
}

func (s *Store) removeCleaned(name string) {
	if err := s.fs.Remove(name); ignoreNotExist(err) != nil {
		s.log.Warn("removing a file of a compaction failed", "file", name, "error", err)
	}
}
