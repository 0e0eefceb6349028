package segment

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"weir/internal/vfs"
)

// How a compacted segment takes the place of those it was made of, so that a crash at any time leaves all of the old ones or the new one:
//
//	1  X.cleaned is written and synced. It counts for nothing; the next start removes it.
//	2  X.cleaned is renamed to X-Y.swap, and the directory synced. From here on it stands for offsets X to Y; a start that finds it goes
//	   on at step 4.
//	3  Readers get the new segment, through the file that is open already. Those that have the old files open go on undisturbed.
//	4  The files of the old segments are removed, except X.log, and the directory is synced: otherwise a crash could bring one back
//	   beside the new one.
//	5  X-Y.swap is renamed to X.log, and the directory synced.
//
// Meanwhile the log deletes no segments (claimFiles).
const swapSuffix = ".swap"

func trimLog(name string) string { return strings.TrimSuffix(name, logSuffix) }

// swapName is the name of a compacted segment that has not taken its place yet.
func swapName(base, end int64) string { return segmentName(base) + "-" + segmentName(end) + swapSuffix }

func parseSwapName(name string) (base, end int64, ok bool) {
	first, second, ok := strings.Cut(strings.TrimSuffix(name, swapSuffix), "-")
	if !ok {
		return 0, 0, false
	}
	base, err1 := strconv.ParseInt(first, 10, 64)
	end, err2 := strconv.ParseInt(second, 10, 64)
	return base, end, err1 == nil && err2 == nil && base >= 0 && end > base && swapName(base, end) == name
}

// claimFiles keeps the log from deleting segments until releaseFiles.
func (l *Log) claimFiles(ctx context.Context) error {
	for {
		l.mu.Lock()
		if l.mu.closed {
			l.mu.Unlock()
			return ErrClosed
		}
		if !l.mu.trimming {
			l.mu.trimming = true
			l.mu.Unlock()
			return nil
		}
		if l.mu.trimmed == nil {
			l.mu.trimmed = make(chan struct{})
		}
		trimmed := l.mu.trimmed
		l.mu.Unlock()
		select {
		case <-trimmed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for a deletion of segments: %w", context.Cause(ctx))
		}
	}
}

func (l *Log) releaseFiles() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.releaseFilesLocked()
}

func (l *Log) releaseFilesLocked() {
	l.mu.trimming = false
	if l.mu.trimmed != nil {
		close(l.mu.trimmed)
		l.mu.trimmed = nil
	}
}

// swap puts what w wrote in the place of the segments old. It takes w over.
func (c *compaction) swap(ctx context.Context, w *cleanedFile, old []*segment) error {
	l, s := c.l, c.s
	if err := l.claimFiles(ctx); err != nil {
		w.discard()
		return err
	}
	defer func() {
		l.releaseFiles()
		s.trim(l)
	}()
	// What lies below the log start by now may have been deleted; then the group is not what it was.
	if err := c.prepareSwap(w, old); err != nil {
		w.discard()
		return err
	}
	swap := path.Join(l.path, swapName(w.g.base, w.g.next))
	if err := s.fs.Rename(w.name, swap); err != nil {
		if late := asDeadline(err); errors.Is(late, ErrDeadline) {
			s.handles.release(w.h)
			return c.halfSwapped(late) // it may still happen
		}
		w.discard()
		return err
	}
	if err := s.fs.SyncDir(l.path); err != nil {
		s.handles.release(w.h)
		return c.halfSwapped(asDeadline(err))
	}
	if err := c.install(w, old); err != nil {
		s.handles.release(w.h)
		return err
	}
	bases := make([]int64, len(old))
	for i, g := range old {
		bases[i] = g.base
		s.indexes.drop(g)
		s.handles.drop(g)
	}
	if err := finishSwap(s.fs, l.path, swap, w.g.base, bases); err != nil {
		return c.halfSwapped(asDeadline(err))
	}
	s.unpin(w.g)
	if err := s.saveIndex(l, w.g); err != nil {
		s.log.Warn("saving an index failed", "file", w.g.name, "error", err) // not fatal: a missing index is rebuilt
	}
	s.indexes.add(w.g)
	return nil
}

// prepareSwap makes sure that the segments are all still there and that there is a file behind them: a compacted one must not be
// the log's last, which is expected to be without gaps.
func (c *compaction) prepareSwap(w *cleanedFile, old []*segment) error {
	l := c.l
	l.mu.Lock()
	at := slices.Index(l.mu.segs, old[0])
	var next *segment
	if at >= 0 && len(l.mu.segs) > at+len(old) && slices.Equal(l.mu.segs[at:at+len(old)], old) {
		next = l.mu.segs[at+len(old)]
	}
	closed, cut := l.mu.closed, l.mu.cuts != c.cuts
	l.mu.Unlock()
	switch {
	case closed:
		return ErrClosed
	case cut: // records that it has left out may be superseded no longer
		return errCut
	case next == nil:
		return fmt.Errorf("segments from offset %d on: %w", old[0].base, errReplaced)
	}
	h, err := c.s.openForFlush(l, next)
	if err != nil {
		return err
	}
	c.s.handles.release(h)
	return nil
}

// install gives readers the new segment. Its file stays pinned until it has its name.
func (c *compaction) install(w *cleanedFile, old []*segment) error {
	l, g := c.l, w.g
	c.s.handles.pin(g, w.h)
	l.mu.Lock()
	defer l.mu.Unlock()
	at := slices.Index(l.mu.segs, old[0])
	if l.mu.closed || at < 0 {
		return ErrClosed // the next start finishes it, or deletes it with the directory
	}
	g.touched, g.began = old[len(old)-1].touched, old[0].began
	segs := slices.Clone(l.mu.segs[:at])
	segs = append(segs, g)
	l.mu.segs = append(segs, l.mu.segs[at+len(old):]...)
	for _, o := range old {
		o.deleted, o.replaced, o.ix = true, true, nil
	}
	return nil
}

// pin keeps a file that has another name open as g's. It takes over a reference to h.
func (c *handleCache) pin(g *segment, h *handle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g.pinned = h
}

// unpin lets the cache decide about the file from now on.
func (s *Store) unpin(g *segment) {
	s.handles.mu.Lock()
	h := g.pinned
	g.pinned = nil
	s.handles.mu.Unlock()
	if h != nil { // else the log was removed meanwhile
		s.handles.release(h)
	}
}

// halfSwapped notes that nobody knows which names the log's files have. Readers have the right segments, by their open files; compacting again
// must wait until the next start has finished the exchange.
func (c *compaction) halfSwapped(cause error) error {
	err := fmt.Errorf("%w: %w", ErrHalfSwapped, cause)
	c.l.mu.Lock()
	c.l.mu.halfSwapped = err
	c.l.mu.Unlock()
	return err
}

// finishSwap does the steps 4 and 5. bases are those of the segments that the file swap replaces.
func finishSwap(fsys vfs.FS, dir, swap string, base int64, bases []int64) error {
	for _, b := range bases {
		name := path.Join(dir, segmentName(b))
		gone := []string{name + offsetIndex.suffix(), name + timeIndex.suffix()}
		if b != base {
			gone = append(gone, name+logSuffix)
		}
		for _, n := range gone {
			if err := fsys.Remove(n); ignoreNotExist(err) != nil {
				return err
			}
		}
	}
	if err := fsys.SyncDir(dir); err != nil {
		return err
	}
	if err := fsys.Rename(swap, path.Join(dir, segmentName(base)+logSuffix)); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}

// pendingSwap is an exchange that a crash interrupted.
type pendingSwap struct {
	name      string
	base, end int64
	replaced  []int64 // bases of the segments it replaces, those that are still there
}

// pendingSwaps finds the interrupted exchanges among a directory's names.
func pendingSwaps(names []string) (swaps []pendingSwap) {
	for _, name := range names {
		base, end, ok := parseSwapName(name)
		if !ok {
			continue
		}
		s := pendingSwap{name: name, base: base, end: end}
		for _, n := range names {
			if b, ok := parseSegmentName(n); ok && b >= base && b < end {
				s.replaced = append(s.replaced, b)
			}
		}
		swaps = append(swaps, s)
	}
	return swaps
}

// finish goes on where the crash was.
func (p *pendingSwap) finish(fsys vfs.FS, dir string) error {
	if err := finishSwap(fsys, dir, path.Join(dir, p.name), p.base, p.replaced); err != nil {
		return fmt.Errorf("finish the compaction of offsets %d to %d: %w", p.base, p.end, err)
	}
	return nil
}

// resumeSwaps finishes the exchanges that a crash interrupted. names are what the directory holds; it reports whether it changed
// anything.
func (s *Store) resumeSwaps(dir string, names []string) (changed bool, err error) {
	for _, p := range pendingSwaps(names) {
		if err := p.finish(s.fs, dir); err != nil {
			return changed, err
		}
		s.log.Info("interrupted compaction finished", "dir", dir, "base_offset", p.base, "end_offset", p.end)
		changed = true
	}
	return changed, nil
}
