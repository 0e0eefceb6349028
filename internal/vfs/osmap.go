package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// populateSupported tells whether the kernel has MADV_POPULATE_READ (Linux 5.14).
var populateSupported = sync.OnceValue(func() bool {
	m, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return false
	}
	err = unix.Madvise(m, unix.MADV_POPULATE_READ)
	_ = unix.Munmap(m)
	return err == nil
})

// osMapping is a mapping of the kernel's. The pages it covers are the page cache's.
type osMapping struct {
	b    []byte
	name string
	// fallback is a descriptor of the file where Populate has to read through one, else -1.
	fallback int
}

func (m *osMapping) Bytes() []byte { return m.b }

// Populate brings the pages of [off, off+n) into the page cache and maps them. Past the end of the file it
// fails, as touching the bytes would.
func (m *osMapping) Populate(off, n int64) error {
	if off < 0 || n < 0 || off > int64(len(m.b)) || n > int64(len(m.b))-off {
		return m.failed(off, n, fmt.Errorf("%w: the mapping has %d bytes", unix.EINVAL, len(m.b)))
	}
	if n == 0 {
		return nil
	}
	page := int64(os.Getpagesize())
	start := off &^ (page - 1)
	if m.fallback >= 0 {
		return m.readThrough(start, off+n, page)
	}
	for {
		err := unix.Madvise(m.b[start:off+n], unix.MADV_POPULATE_READ)
		if err == nil {
			return nil
		}
		if err != unix.EINTR && err != unix.EAGAIN {
			return m.failed(off, n, err)
		}
	}
}

// readThrough reads one byte of each page: the page cache then has all of it.
func (m *osMapping) readThrough(start, end, page int64) error {
	var one [1]byte
	for at := start; at < end; {
		n, err := unix.Pread(m.fallback, one[:], at)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return m.failed(start, end-start, err)
		case n == 0:
			return m.failed(start, end-start, unix.EFAULT)
		}
		at += page
	}
	return nil
}

func (m *osMapping) failed(off, n int64, err error) error {
	return &fs.PathError{Op: "populate", Path: m.name, Err: fmt.Errorf("%d bytes at %d: %w", n, off, err)}
}

// Close unmaps. The bytes must not be in use by anyone, a running writev included.
func (m *osMapping) Close() error {
	if m.b == nil {
		return &fs.PathError{Op: "munmap", Path: m.name, Err: fs.ErrClosed}
	}
	err := unix.Munmap(m.b)
	m.b = nil
	if m.fallback >= 0 {
		err = errors.Join(err, unix.Close(m.fallback))
	}
	if err != nil {
		return &fs.PathError{Op: "munmap", Path: m.name, Err: err}
	}
	return nil
}
