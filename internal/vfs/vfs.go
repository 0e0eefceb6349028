// Package vfs is the seam between Weir's storage and the disk. Everything that touches a file does so
// through FS and File, so that tests can put a crashing, failing or full disk under the same code.
//
// Data I/O (read, write, fsync, fallocate) normally goes through a uring.Ring, which takes a File and uses its
// descriptor where there is one and its methods where there is none. The methods here block without
// a deadline; only a ring's worker threads, start-up, and tests call them directly.
package vfs

import (
	"errors"
	"io"
	"io/fs"
)

// Flag selects how OpenFile opens a file. Flags are combined with |.
type Flag uint32

const (
	// ReadOnly opens for reading; without it a file is opened for reading and writing.
	ReadOnly Flag = 1 << iota
	// Create makes the file if it is missing.
	Create
	// Exclusive, with Create, fails with fs.ErrExist if the file is there.
	Exclusive
	// Truncate cuts an existing file to zero bytes.
	Truncate
	// Direct bypasses the page cache (O_DIRECT): offsets, lengths and buffers must be multiples of BlockSize.
	// A file system that cannot (EINVAL at open) makes OpenFile fail with ErrNoDirect.
	Direct
	// DSync makes every write durable before it completes (O_DSYNC).
	DSync
)

// BlockSize is the alignment, in bytes, that Direct I/O needs of offsets, lengths and buffers.
const BlockSize = 4096

var (
	// ErrNoDirect says that the file system does not support O_DIRECT.
	ErrNoDirect = errors.New("file system does not support O_DIRECT")
	// ErrLocked says that another process holds the lock file.
	ErrLocked = errors.New("locked by another process")
)

// FS is a file system. Names are slash-separated paths as the operating system takes them.
// Errors satisfy errors.Is against io/fs sentinels (fs.ErrNotExist, fs.ErrExist) and syscall.Errno.
type FS interface {
	OpenFile(name string, flag Flag) (File, error)
	// Remove deletes one file or empty directory. The deletion is durable after SyncDir of its directory.
	Remove(name string) error
	RemoveAll(name string) error
	// Rename atomically replaces newName. Durable after SyncDir of the directory.
	Rename(oldName, newName string) error
	MkdirAll(name string) error
	// List returns the entries of a directory, sorted by name.
	List(dir string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes creations, renames and removals in dir durable.
	SyncDir(dir string) error
	// Space reports the size and the room left of the file system that holds dir.
	Space(dir string) (Space, error)
	// Lock takes an exclusive advisory lock on name, creating it; ErrLocked if another process has it.
	Lock(name string) (io.Closer, error)
}

// Space is the size of a file system, in bytes.
type Space struct {
	Total     uint64 // usable by anyone: used + Available
	Available uint64 // left for an ordinary writer
}

// File is an open file. Methods may be called from several goroutines.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Name() string
	// Fd is the kernel's descriptor, or -1 for a file that has none (an in-memory file of a test).
	Fd() int
	Size() (int64, error)
	Truncate(size int64) error
	// Allocate reserves room for [off, off+length) (fallocate mode 0: size grows, content reads as zeroes).
	Allocate(off, length int64) error
	Sync() error     // fsync
	Datasync() error // fdatasync
}
