package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoSyncer says that a file system cannot be made durable as a whole, or not in a way that reports every error.
var ErrNoSyncer = errors.New("whole file system sync is not available")

// Syncer makes everything on a file system durable at once: contents, sizes, directory entries. It may take as long as whatever
// anybody wrote there takes to reach the disk.
type Syncer interface {
	// Sync makes durable what was done before the call. It reports a failed write-back of any file of the file system since the last
	// call, or since the Syncer was opened: it must be opened before the writes that it shall vouch for.
	// It blocks without a deadline. One call at a time.
	Sync() error
	io.Closer
}

// syncOpener is what an FS implements that has Syncers.
type syncOpener interface {
	openSyncer(dir string) (Syncer, error)
}

// OpenSyncer returns a Syncer for the file system that holds dir, or ErrNoSyncer.
func OpenSyncer(fs FS, dir string) (Syncer, error) {
	if o, ok := fs.(syncOpener); ok {
		return o.openSyncer(dir)
	}
	return nil, fmt.Errorf("%s: %w: not a file system of the kernel", dir, ErrNoSyncer)
}

// Since Linux 5.8 syncfs reports failed write-back, since 5.17 also what the file system itself found when it flushed its journal. On
// the file systems named here both was read in their source; overlayfs, for one, does not hand on what happened below it.
const (
	syncfsMajor, syncfsMinor = 5, 17
)

var syncfsKinds = map[int64]bool{unix.EXT4_SUPER_MAGIC: true, unix.XFS_SUPER_MAGIC: true}

func (OS) openSyncer(dir string) (Syncer, error) {
	if major, minor := kernelVersion(); major < syncfsMajor || major == syncfsMajor && minor < syncfsMinor {
		return nil, fmt.Errorf("%s: %w: Linux %d.%d does not report all errors", dir, ErrNoSyncer, major, minor)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if !syncfsKinds[int64(st.Type)] {
		return nil, fmt.Errorf("%s: %w: file system type %#x", dir, ErrNoSyncer, st.Type)
	}
	fd, err := openRetry(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return &osSyncer{osFile{File: os.NewFile(uintptr(fd), dir)}}, nil
}

// osSyncer is a directory's descriptor. Close waits for no Sync: the descriptor goes when the last one returns.
type osSyncer struct{ f osFile }

func (s *osSyncer) Sync() error  { return s.f.control("syncfs", unix.Syncfs) }
func (s *osSyncer) Close() error { return s.f.File.Close() }

// kernelVersion is 0, 0 if the kernel does not say.
func kernelVersion() (major, minor int) {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return 0, 0
	}
	return parseRelease(unix.ByteSliceToString(u.Release[:]))
}

func parseRelease(release string) (major, minor int) {
	// 6.18.44-fc, 5.17-rc1: only the first two numbers count.
	if n, _ := fmt.Fscanf(strings.NewReader(release), "%d.%d", &major, &minor); n != 2 {
		return 0, 0
	}
	return major, minor
}

func (b *bounded) openSyncer(dir string) (Syncer, error) {
	return within(b, "open", dir, func() (Syncer, error) { return OpenSyncer(b.fs, dir) }, discardCloser[Syncer])
}

// A Syncer waits for everybody's writes, so how long it takes says nothing of the disk, and Watch does not count it.
func (w *Watch) openSyncer(dir string) (Syncer, error) { return OpenSyncer(w.FS, dir) }

// Unbounded returns what Bounded wrapped, for somebody who has bounds of its own; fs itself if it is no such file system.
func Unbounded(fs FS) FS {
	if b, ok := fs.(*bounded); ok {
		return b.fs
	}
	return fs
}

func (m *MemFS) openSyncer(dir string) (Syncer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.mu.dirs[clean(dir)] {
		return nil, pathErr("open", dir, unix.ENOENT)
	}
	return &memSyncer{m, dir}, nil
}

// memSyncer is a Syncer of a MemFS. The hook sees it as syncfs.
type memSyncer struct {
	fs  *MemFS
	dir string
}

func (s *memSyncer) Sync() error {
	if err := s.fs.before("syncfs", s.dir, 0, 0); err != nil {
		return err
	}
	s.fs.mu.Lock()
	defer s.fs.mu.Unlock()
	for _, p := range s.fs.mu.pending {
		p.apply(s.fs.mu.durable)
	}
	s.fs.mu.pending = nil
	for _, node := range s.fs.mu.entries {
		node.sync()
	}
	return nil
}

func (*memSyncer) Close() error { return nil }

// writebackStarter is what a File implements that can be asked to begin its write-back.
type writebackStarter interface{ startWriteback() error }

// StartWriteback gives what was written to f to the disk without waiting for it, and allocates the room for it: an error of that is
// reported here, to f's own user, where write-back by others would drop the data and keep silent. It may block as writes do. ErrNoSyncer: f
// cannot do that.
func StartWriteback(f File) error {
	if w, ok := f.(writebackStarter); ok {
		return w.startWriteback()
	}
	return fmt.Errorf("%s: %w: not a file of the kernel", f.Name(), ErrNoSyncer)
}

func (f *osFile) startWriteback() error {
	return f.control("sync_file_range", func(fd int) error { return unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE) })
}

func (f *boundedFile) startWriteback() error { return StartWriteback(f.File) }

func (f *memFile) startWriteback() error { return f.before("writeback", 0, 0) }
