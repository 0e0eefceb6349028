package wal

import (
	"errors"
	"fmt"
	"path"

	"weir/internal/lockmeter"
	"weir/internal/vfs"
)

// files knows every slot: which hold the log, which are free to be written next, which are being made. Slots become free in
// the order of the log and are used in that order, so that the files on disk are always a run of sequence numbers.
type files struct {
	w          *WAL
	bytes      int64   // size of a file: the one the log was created with, else Options.FileBytes
	layout     *layout // as found by load
	generation uint64  // highest found by load

	kicks chan struct{} // capacity 1: look whether a spare is wanted
	stop  chan struct{}

	mu struct {
		lockmeter.Mutex
		live     []*slot
		free     []*slot
		names    map[int]bool // slots that exist or are being made
		released LSN
		making   bool  // the maker is at it, or about to be: its outcome wakes a blocked committer
		blocked  bool  // the committer waits for a free file
		stopped  bool  // no more files are made
		failed   error // of the last attempt to make a file
	}
}

func (fs *files) init(w *WAL) {
	fs.w = w
	fs.kicks = make(chan struct{}, 1)
	fs.stop = make(chan struct{})
	fs.mu.names = make(map[int]bool)
}

// load opens what is in the directory and checks that it fits together.
func (fs *files) load() error {
	w := fs.w
	fs.bytes = w.o.FileBytes
	if err := makeDir(w.fs, w.o.Dir); err != nil {
		return err
	}
	slots, tmps, err := listSlots(w.fs, w.o.Dir, w.io)
	fs.mu.free = slots // for closeAll, should load fail
	if err != nil {
		return err
	}
	l, err := makeLayout(slots, w.io)
	if err != nil {
		return err
	}
	proof, why, err := readProof(w.fs, w.o.Dir, w.io)
	if err != nil {
		return err
	}
	if why != nil {
		w.o.Logger.Warn("wal: the proof file is damaged; it is made anew", "dir", w.o.Dir, "file", proofName, "error", why)
	}
	if l.proof = max(l.proof, proof); len(l.live) == 0 && proof > 0 {
		return lostEnd(0, proof)
	}
	for _, name := range tmps {
		if err := removeIfThere(w.fs, name); err != nil {
			return fmt.Errorf("remove half-made file: %w", err)
		}
	}
	if l.fileBytes != 0 && l.fileBytes != fs.bytes {
		w.o.Logger.Warn("wal: file size is fixed when the log is created; keeping it", "dir", w.o.Dir, "configured", fs.bytes, "kept", l.fileBytes)
		fs.bytes = l.fileBytes
	}
	if err := fs.adopt(l); err != nil {
		return err
	}
	for _, s := range slots {
		if !s.direct {
			w.o.Logger.Warn("wal: the file system has no O_DIRECT; writes go through the page cache", "dir", w.o.Dir)
			break
		}
	}
	return nil
}

// makeDir creates dir durably if it is not there.
func makeDir(fsys vfs.FS, dir string) error {
	if _, err := fsys.Stat(dir); err == nil {
		return nil
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if parent := path.Dir(path.Clean(dir)); parent != dir {
		if err := fsys.SyncDir(parent); err != nil {
			return fmt.Errorf("sync directory %s: %w", parent, err)
		}
	}
	return nil
}

// adopt takes over a checked layout. Free slots of another size are deleted, they would have to grow while being written.
func (fs *files) adopt(l *layout) error {
	var free []*slot
	for i, s := range l.free {
		if s.size == fs.bytes {
			free = append(free, s)
			continue
		}
		if err := fs.drop(s); err != nil {
			fs.mu.free = append(append(free, l.free[i+1:]...), l.live...)
			return err
		}
	}
	fs.layout, fs.generation = l, l.generation
	fs.mu.free, fs.mu.live = free, l.live
	for _, s := range append(l.live[:len(l.live):len(l.live)], free...) {
		fs.mu.names[s.index] = true
	}
	fs.w.recovered = LSN(fs.bytes) // before the first file
	return nil
}

func (fs *files) drop(s *slot) error {
	s.file.Close() //nolint:errcheck // the file is deleted
	if err := removeIfThere(fs.w.fs, s.file.Name()); err != nil {
		return fmt.Errorf("remove file of unfit size %d: %w", s.size, err)
	}
	return nil
}

// take makes the oldest free slot the log's newest file, with header h apart from oldest, which it fills in. It returns nil if none
// is free; then the committer is woken when one may be.
func (fs *files) take(h fileHeader) *slot {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.freeReleasedLocked()
	if len(fs.mu.free) == 0 {
		fs.mu.blocked = true
		return nil
	}
	s := fs.mu.free[0]
	fs.mu.free = append(fs.mu.free[:0], fs.mu.free[1:]...)
	fs.mu.blocked = false
	h.oldest = h.start()
	if len(fs.mu.live) > 0 {
		h.oldest = fs.mu.live[0].header.start()
	}
	s.header = h
	fs.mu.live = append(fs.mu.live, s)
	return s
}

// pressure returns the end of the oldest file if few files, or none, are left to be written.
func (fs *files) pressure() (oldest LSN, scarce bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if len(fs.mu.live) == 0 {
		return 0, false
	}
	left := len(fs.mu.free)
	if fs.mu.failed == nil {
		left = max(fs.w.o.FilesMax-len(fs.mu.live), left)
	}
	return fs.mu.live[0].header.start() + LSN(fs.bytes), left <= fs.w.o.FilesMax/4
}

// hopeless says whether a committer that waits for a file would have to wait for a Release.
func (fs *files) hopeless() bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return len(fs.mu.free) == 0 && !fs.mu.making
}

// release frees the files below upTo, never the newest, and says whether the committer waits for one.
func (fs *files) release(upTo LSN) (wake bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.mu.released = max(fs.mu.released, upTo)
	if !fs.freeReleasedLocked() {
		return false
	}
	wake = fs.mu.blocked
	fs.mu.blocked = false
	return wake
}

// freeReleasedLocked moves files that lie wholly below released to the free ones.
func (fs *files) freeReleasedLocked() bool {
	n := 0
	for n < len(fs.mu.live)-1 && fs.mu.live[n+1].header.prevEnd <= fs.mu.released {
		n++
	}
	if n == 0 {
		return false
	}
	fs.mu.free = append(fs.mu.free, fs.mu.live[:n]...)
	fs.mu.live = append(fs.mu.live[:0], fs.mu.live[n:]...)
	return true
}

func (fs *files) count() (all, free int) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return len(fs.mu.live) + len(fs.mu.free), len(fs.mu.free)
}

// closeAll closes every slot. Nothing may be in flight.
func (fs *files) closeAll() {
	fs.mu.Lock()
	all := append(fs.mu.live, fs.mu.free...)
	fs.mu.live, fs.mu.free = nil, nil
	fs.mu.Unlock()
	for _, s := range all {
		if s.file != nil {
			s.file.Close() //nolint:errcheck // every write was durable by itself
		}
	}
}

func (fs *files) slotPath(index int) string { return path.Join(fs.w.o.Dir, slotName(index)) }

// reserveName claims the lowest index that no slot has, if there may be one more slot and one is wanted. spare is
// how many free slots are enough.
func (fs *files) reserveName(spare int) (int, bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.mu.stopped || len(fs.mu.free) >= spare || len(fs.mu.names) >= fs.w.o.FilesMax {
		return 0, false
	}
	index := 0
	for fs.mu.names[index] {
		index++
	}
	fs.mu.names[index] = true
	return index, true
}

func (fs *files) unreserve(index int) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.mu.names, index)
}

// add makes a new slot free to be used.
func (fs *files) add(s *slot) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.mu.free = append(fs.mu.free, s)
}

// kick makes the maker look whether a spare is wanted.
func (fs *files) kick() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.mu.stopped || len(fs.mu.free) >= max(fs.w.o.SpareFiles, 1) || len(fs.mu.names) >= fs.w.o.FilesMax {
		return
	}
	fs.mu.making = true
	select {
	case fs.kicks <- struct{}{}:
	default: // it is about to look anyway
	}
}

func (fs *files) stopMaking() {
	fs.mu.Lock()
	fs.mu.stopped = true
	fs.mu.Unlock()
	close(fs.stop)
}

// expectDraft says that the maker will begin with a draft that Start left.
func (fs *files) expectDraft() {
	fs.mu.Lock()
	fs.mu.making = true
	fs.mu.Unlock()
}

// made notes the outcome of the maker's round and says whether it must wake the committer.
func (fs *files) made(err error) (wake, news bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	news = (err == nil) != (fs.mu.failed == nil)
	fs.mu.failed = err
	fs.mu.making = len(fs.kicks) > 0 && !fs.mu.stopped
	return fs.mu.blocked, news
}

// errStopped ends the making of a file because the log is being closed.
var errStopped = errors.New("wal is closing")
