package wal

import (
	"errors"
	"fmt"
	"syscall"

	"weir/internal/iobuf"
	"weir/internal/pace"
	"weir/internal/vfs"
	"weir/uring"
)

// A new slot is made under a temporary name: room reserved, all of it written with zeroes (a write into
// merely allocated extents costs twice as much, as each converts them), synced, and only then given its name. So a file with a slot's
// name is always whole.

// draft is a slot whose room is reserved and which is not written yet.
type draft struct {
	fs    *files
	index int
	file  vfs.File
}

func (d *draft) tmpName() string { return d.fs.slotPath(d.index) + tmpSuffix }

// reserve makes a draft. With ErrNoSpace there is no room for one more file.
func (fs *files) reserve(io *engineIO, index int) (*draft, error) {
	d := &draft{fs: fs, index: index}
	name := d.tmpName()
	f, err := fs.w.fs.OpenFile(name, vfs.Create|vfs.Truncate|vfs.Direct)
	if errors.Is(err, vfs.ErrNoDirect) {
		f, err = fs.w.fs.OpenFile(name, vfs.Create|vfs.Truncate)
	}
	if err != nil {
		fs.unreserve(index)
		return nil, fmt.Errorf("make %s: %w", name, noSpace(err))
	}
	d.file = f
	_, err = io.engine.Do(&uring.Op{Kind: uring.OpFallocate, File: f, Len: fs.bytes, Timeout: makeTimeout})
	// A file system without fallocate says so; then the zeroes reserve the room as they are written.
	if err != nil && !errors.Is(err, syscall.EOPNOTSUPP) {
		d.discard(err)
		return nil, fmt.Errorf("reserve %d bytes for %s: %w", fs.bytes, name, noSpace(err))
	}
	return d, nil
}

func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// discard gives up a draft because of err. After a deadline the kernel still works on the file, so it stays open.
func (d *draft) discard(err error) {
	if !errors.Is(err, uring.ErrDeadline) && !errors.Is(err, uring.ErrClosed) {
		d.file.Close() //nolint:errcheck // it is deleted
	}
	removeIfThere(d.fs.w.fs, d.tmpName()) //nolint:errcheck // else the next Open does it
	d.fs.unreserve(d.index)
}

// finish prewrites a draft and makes it a slot. It gives up early when the log is closed.
func (d *draft) finish(io *engineIO) (*slot, error) {
	w, name := d.fs.w, d.fs.slotPath(d.index)
	err := io.prewrite(d.file, d.fs.bytes, w.o.Pace, d.fs.stop)
	if err == nil {
		err = io.sync(d.file)
	}
	if err != nil {
		d.discard(err)
		return nil, fmt.Errorf("prewrite %s: %w", d.tmpName(), noSpace(err))
	}
	if err := d.file.Close(); err != nil {
		d.discard(uring.ErrClosed)
		return nil, fmt.Errorf("close %s: %w", d.tmpName(), err)
	}
	if err := w.fs.Rename(d.tmpName(), name); err != nil {
		d.discard(uring.ErrClosed)
		return nil, fmt.Errorf("name %s: %w", name, noSpace(err))
	}
	s := &slot{index: d.index, size: d.fs.bytes}
	if err := w.fs.SyncDir(w.o.Dir); err != nil {
		return nil, d.unname(name, fmt.Errorf("sync directory %s: %w", w.o.Dir, noSpace(err)))
	}
	if s.file, s.direct, err = openSlot(w.fs, name); err != nil {
		return nil, d.unname(name, fmt.Errorf("open %s: %w", name, err))
	}
	return s, nil
}

func (d *draft) unname(name string, err error) error {
	removeIfThere(d.fs.w.fs, name) //nolint:errcheck // left there, it is a good spare for the next Open
	d.fs.unreserve(d.index)
	return err
}

// prewrite fills a file with zeroes, a few writes at a time and no larger than p allows: nobody waits for them, and what somebody waits for goes to
// the same device. It returns when no write is in flight, or when one has passed its
// deadline; the zeroes then stay with the engine until it lets go.
func (e *engineIO) prewrite(f vfs.File, size int64, p *pace.Pace, stop <-chan struct{}) error {
	zeroes := iobuf.Get(int(min(prewriteBytes, size)))
	defer zeroes.Release()
	clear(zeroes.Bytes())
	done := make(chan error, ioDepth)
	inFlight := 0
	var first error
	for off := int64(0); off < size || inFlight > 0; {
		if off < size && inFlight < ioDepth && first == nil {
			step, ok, err := stepOf(p, min(prewriteBytes, size-off), inFlight > 0, stop)
			if err != nil {
				first = err
				continue
			}
			if ok {
				if first = e.submitZeroes(f, zeroes, step, off, done); first == nil {
					off += step.Bytes
					inFlight++
				}
				continue
			}
		}
		if inFlight == 0 {
			break
		}
		err := <-done
		inFlight--
		if first == nil {
			first = err
		}
	}
	return first
}

// stepOf begins a step of up to n bytes. Who has writes in flight waits for those if there is no room now: ok is false then.
func stepOf(p *pace.Pace, n int64, busy bool, stop <-chan struct{}) (step pace.Step, ok bool, err error) {
	select {
	case <-stop:
		return step, false, errStopped
	default:
	}
	if busy {
		step, ok = p.TryBegin(n)
		return step, ok, nil
	}
	if step, ok = p.Begin(n, stop); !ok {
		return step, false, errStopped
	}
	return step, true, nil
}

func (e *engineIO) submitZeroes(f vfs.File, zeroes *iobuf.Buf, step pace.Step, off int64, done chan<- error) error {
	n := int(step.Bytes)
	zeroes.Retain()
	op := &uring.Op{Kind: uring.OpWrite, File: f, Buf: zeroes.Bytes()[:n], Off: off, Timeout: makeTimeout,
		Done: func(_ *uring.Op, got int, err error) {
			if err == nil && got != n {
				err = fmt.Errorf("wrote %d bytes of %d at %d", got, n, off)
			}
			step.End(err)
			done <- err
		},
		Released: func(*uring.Op) { zeroes.Release() },
	}
	err := e.engine.Submit(op)
	if err != nil {
		zeroes.Release()
		step.End(err)
	}
	return err
}

// makeFirst gives a new log its first file, and reserves the room of the second, which the maker will finish: a log that starts can
// always recycle. An older log needs neither.
func (fs *files) makeFirst() (*draft, error) {
	all, free := fs.count()
	if all >= 2 {
		return nil, nil
	}
	var drafts []*draft
	giveUp := func(err error) (*draft, error) {
		for _, d := range drafts {
			d.discard(err)
		}
		return nil, err
	}
	for range 2 - all {
		index, _ := fs.reserveName(slotsMax)
		d, err := fs.reserve(fs.w.io, index)
		if err != nil {
			return giveUp(err)
		}
		drafts = append(drafts, d)
	}
	if free == 0 {
		first := drafts[0]
		drafts = drafts[1:]
		s, err := first.finish(fs.w.io)
		if err != nil {
			return giveUp(err)
		}
		fs.add(s)
	}
	if len(drafts) == 0 {
		return nil, nil
	}
	fs.expectDraft()
	return drafts[0], nil
}

// makeSpares is the maker: it finishes the draft that Start left, then makes a file whenever kicked and fewer than SpareFiles
// are free.
func (fs *files) makeSpares(d *draft) {
	defer close(fs.w.maker)
	if d != nil {
		fs.finishRound(fs.withEngine(func(io *engineIO) error { return fs.finishDraft(io, d) }))
	}
	for {
		select {
		case <-fs.stop:
			fs.finishRound(nil)
			return
		case <-fs.kicks:
			fs.finishRound(fs.withEngine(fs.round))
		}
	}
}

// round makes files until enough are free.
func (fs *files) round(io *engineIO) error {
	for {
		index, wanted := fs.reserveName(max(fs.w.o.SpareFiles, 1))
		if !wanted {
			return nil
		}
		d, err := fs.reserve(io, index)
		if err == nil {
			err = fs.finishDraft(io, d)
		}
		if err != nil {
			return err
		}
	}
}

func (fs *files) finishDraft(io *engineIO, d *draft) error {
	s, err := d.finish(io)
	if err != nil {
		return err
	}
	fs.add(s)
	if fs.takeBlocked() {
		fs.w.queue.wake()
	}
	return nil
}

func (fs *files) takeBlocked() bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	was := fs.mu.blocked
	fs.mu.blocked = false
	return was
}

// withEngine runs fn with an engine that lives as long: files are made too rarely to keep a thread for it.
func (fs *files) withEngine(fn func(io *engineIO) error) error {
	io, err := newEngineIO(fs.w.o.Ring)
	if err != nil {
		return err
	}
	defer io.close()
	return fn(io)
}

// finishRound records and reports how making files went. A blocked committer is told even of a failure, it may have to give up.
func (fs *files) finishRound(err error) {
	if errors.Is(err, errStopped) {
		err = nil
	}
	wake, news := fs.made(err)
	all, free := fs.count()
	if news && err != nil {
		fs.w.o.Logger.Error("wal: cannot make a spare file; going on with those at hand, trying again on release",
			"dir", fs.w.o.Dir, "files", all, "free", free, "error", err)
	}
	if err != nil {
		fs.w.o.Metrics.makeFailures.Inc()
	}
	fs.w.o.Metrics.files.Set(float64(all))
	if wake {
		fs.w.queue.wake()
	}
}
