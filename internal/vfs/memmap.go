package vfs

import (
	"fmt"
	"io/fs"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// memMapping is a mapping of a file in memory. Unlike the kernel's it shows what the file held at the last Populate of a range, so a
// reader that forgets to populate finds zeroes. Populate writes only bytes that differ: ranges that are in use by readers and
// have not changed in the file are left alone.
type memMapping struct {
	file *memFile
	b    []byte // from the operating system: a touch after Close faults, as it should
	mu   sync.Mutex
}

// Map maps the first length bytes read-only.
func (f *memFile) Map(length int64) (Mapping, error) {
	if err := f.before("map", 0, int(length)); err != nil {
		return nil, err
	}
	if length <= 0 || int64(int(length)) != length {
		return nil, pathErr("map", f.name, fmt.Errorf("%w: length %d", syscall.EINVAL, length))
	}
	b, err := unix.Mmap(-1, 0, int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return nil, pathErr("map", f.name, err)
	}
	return &memMapping{file: f, b: b}, nil
}

func (m *memMapping) Bytes() []byte { return m.b }

func (m *memMapping) Populate(off, n int64) error {
	if err := m.file.fs.before("populate", m.file.name, off, int(n)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if off < 0 || n < 0 || off > int64(len(m.b)) || n > int64(len(m.b))-off {
		return pathErr("populate", m.file.name, fmt.Errorf("%w: %d bytes at %d of a mapping of %d", syscall.EINVAL, n, off, len(m.b)))
	}
	// Pages come as a whole, and one that lies beyond the end of the file does not come at all.
	start, end := off&^(BlockSize-1), min((off+n+BlockSize-1)&^(BlockSize-1), int64(len(m.b)))
	var block memBlock
	for at := start; at < end; at += BlockSize {
		got := m.file.node.read(block[:], at)
		if got == 0 {
			return pathErr("populate", m.file.name, fmt.Errorf("%d bytes at %d: %w", n, off, syscall.EFAULT))
		}
		clear(block[got:])
		copyChanged(m.b[at:min(at+BlockSize, end)], block[:])
	}
	return nil
}

// copyChanged copies src over dst from the first to the last byte that differs.
func copyChanged(dst, src []byte) {
	src = src[:len(dst)]
	lo, hi := 0, len(dst)
	for lo < hi && dst[lo] == src[lo] {
		lo++
	}
	for hi > lo && dst[hi-1] == src[hi-1] {
		hi--
	}
	copy(dst[lo:hi], src[lo:hi])
}

func (m *memMapping) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.b == nil {
		return pathErr("munmap", m.file.name, fs.ErrClosed)
	}
	err := unix.Munmap(m.b)
	m.b = nil
	if err != nil {
		return pathErr("munmap", m.file.name, err)
	}
	return nil
}
