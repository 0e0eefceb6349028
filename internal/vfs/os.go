package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// OS is the kernel's file system. Its zero value is ready for use.
type OS struct{}

var _ FS = OS{}

const (
	filePerm = 0o640
	dirPerm  = 0o750
)

// OpenFile opens name. See Flag for what each flag promises.
func (OS) OpenFile(name string, flag Flag) (File, error) {
	mode := unix.O_RDWR
	if flag&ReadOnly != 0 {
		mode = unix.O_RDONLY
	}
	for _, f := range [...]struct {
		flag Flag
		mode int
	}{
		{Create, unix.O_CREAT}, {Exclusive, unix.O_EXCL}, {Truncate, unix.O_TRUNC},
		{Direct, unix.O_DIRECT}, {DSync, unix.O_DSYNC},
	} {
		if flag&f.flag != 0 {
			mode |= f.mode
		}
	}
	fd, err := openRetry(name, mode)
	if err != nil {
		if flag&Direct != 0 && errors.Is(err, unix.EINVAL) {
			return nil, &fs.PathError{Op: "open", Path: name, Err: ErrNoDirect}
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	// A blocking descriptor keeps os.File away from the network poller; its methods still guard against
	// a Close that races with them.
	f := &osFile{File: os.NewFile(uintptr(fd), name)}
	f.fd.Store(int32(fd))
	return f, nil
}

// openRetry opens name, again if a signal came between.
func openRetry(name string, mode int) (int, error) {
	for {
		fd, err := unix.Open(name, mode|unix.O_CLOEXEC, filePerm)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// Remove deletes one file or empty directory.
func (OS) Remove(name string) error { return os.Remove(name) }

// RemoveAll deletes name and what is below it; that it is not there is no error.
func (OS) RemoveAll(name string) error { return os.RemoveAll(name) }

// Rename atomically replaces newName.
func (OS) Rename(oldName, newName string) error { return os.Rename(oldName, newName) }

// MkdirAll makes a directory and its parents.
func (OS) MkdirAll(name string) error { return os.MkdirAll(name, dirPerm) }

// List returns the entries of a directory, sorted by name.
func (OS) List(dir string) ([]fs.DirEntry, error) { return os.ReadDir(dir) }

// Stat describes a file.
func (OS) Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }

// SyncDir makes creations, renames and removals in dir durable.
func (OS) SyncDir(dir string) error {
	fd, err := openRetry(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	d := os.NewFile(uintptr(fd), dir)
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// Space reports the size and the room left of the file system that holds dir. Blocks reserved for the
// superuser belong to neither.
func (OS) Space(dir string) (Space, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return Space{}, &fs.PathError{Op: "statfs", Path: dir, Err: err}
		}
	}
	// The counts are in units of f_frsize; f_bsize is the preferred size of a transfer and differs on
	// some network file systems.
	unit := uint64(st.Frsize)
	if unit == 0 {
		unit = uint64(st.Bsize)
	}
	return Space{Total: (st.Blocks - st.Bfree + st.Bavail) * unit, Available: st.Bavail * unit}, nil
}

// Lock takes an exclusive advisory lock (flock) on name, creating it. The kernel drops it when the process ends, however
// it ends.
func (OS) Lock(name string) (io.Closer, error) {
	fd, err := openRetry(name, unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	for {
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		_ = f.Close() // nothing was written to it
		if err == unix.EWOULDBLOCK {
			err = ErrLocked
		}
		return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
	}
	return f, nil
}

// closedFd is what Fd gives after Close: never -1, which means that there is no descriptor by nature.
const closedFd = -2

// osFile is a file of the kernel. Name, ReadAt, WriteAt, Truncate and Sync are os.File's.
type osFile struct {
	*os.File
	fd atomic.Int32
}

// Fd is the descriptor, closedFd after Close: its number may by then be that of another file.
func (f *osFile) Fd() int { return int(f.fd.Load()) }

// Close closes the file. Operations that a ring still holds on it must have been released.
func (f *osFile) Close() error {
	f.fd.Store(closedFd)
	return f.File.Close()
}

// Size is the length in bytes.
func (f *osFile) Size() (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// Allocate reserves room (fallocate, mode 0).
func (f *osFile) Allocate(off, length int64) error {
	return f.control("fallocate", func(fd int) error { return unix.Fallocate(fd, 0, off, length) })
}

// Datasync makes content and size durable (fdatasync).
func (f *osFile) Datasync() error {
	return f.control("fdatasync", unix.Fdatasync)
}

// control runs call on the descriptor while it cannot be closed, again if a signal came between.
func (f *osFile) control(op string, call func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	err = rc.Control(func(fd uintptr) {
		for {
			callErr = call(int(fd))
			if callErr != unix.EINTR {
				return
			}
		}
	})
	if err != nil { // there is only one reason
		return &fs.PathError{Op: op, Path: f.Name(), Err: fs.ErrClosed}
	}
	if callErr != nil {
		return &fs.PathError{Op: op, Path: f.Name(), Err: callErr}
	}
	return nil
}
