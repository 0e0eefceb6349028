package wal

import (
	"bytes"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"time"

	"weir/internal/vfs"
)

// imageFS is a flat file system whose contents tests can copy and damage at will. Every write is durable.
type imageFS struct {
	mu    sync.Mutex
	files map[string]*imageFile
	// hook, if set, sees every operation before it happens and may fail or delay it.
	hook func(op, name string, off int64, n int) error
	// wrote, if set, is told of every write after it happened. Set before use.
	wrote func(name string, off int64)
}

type imageFile struct {
	fs   *imageFS
	mu   sync.RWMutex
	name string
	data []byte
	// pending are writes that were begun and did not return yet: a crash may leave any of their sectors.
	pending map[*pendingWrite]bool
}

type pendingWrite struct {
	off  int64
	data []byte
}

// underWay is the number of writes that did not return yet.
func (m *imageFS) underWay() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, f := range m.files {
		f.mu.RLock()
		n += len(f.pending)
		f.mu.RUnlock()
	}
	return n
}

// crash copies the contents as a crash now could leave them: of writes under way, any sectors.
func (m *imageFS) crash(rng *rand.Rand) *imageFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := newImage()
	names := slices.Sorted(maps.Keys(m.files))
	for _, name := range names { // all at one moment: a write that begins after another ended must not survive it
		m.files[name].mu.RLock()
		defer m.files[name].mu.RUnlock()
	}
	for _, name := range names {
		f := m.files[name]
		g := &imageFile{fs: c, name: name, data: bytes.Clone(f.data)}
		keep := rng.Float64()
		for w := range f.pending {
			for at := 0; at < len(w.data); at += 512 {
				if rng.Float64() < keep {
					copy(g.data[min(int(w.off)+at, len(g.data)):], w.data[at:min(at+512, len(w.data))])
				}
			}
		}
		c.files[name] = g
	}
	return c
}

func newImage() *imageFS { return &imageFS{files: map[string]*imageFile{}} }

// clone copies the contents, without the hook.
func (m *imageFS) clone() *imageFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := newImage()
	for name, f := range m.files {
		f.mu.RLock()
		c.files[name] = &imageFile{fs: c, name: name, data: bytes.Clone(f.data)}
		f.mu.RUnlock()
	}
	return c
}

func (m *imageFS) bytes(name string) []byte { return m.files[path.Join("d", name)].data }

func (m *imageFS) call(op, name string, off int64, n int) error {
	m.mu.Lock()
	hook := m.hook
	m.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(op, name, off, n)
}

func (m *imageFS) setHook(h func(op, name string, off int64, n int) error) {
	m.mu.Lock()
	m.hook = h
	m.mu.Unlock()
}

func (m *imageFS) OpenFile(name string, flag vfs.Flag) (vfs.File, error) {
	if err := m.call("open", name, 0, 0); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[name]
	switch {
	case f == nil && flag&vfs.Create == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case f == nil:
		f = &imageFile{fs: m, name: name}
		m.files[name] = f
	case flag&vfs.Truncate != 0:
		f.Truncate(0)
	}
	return f, nil
}

func (m *imageFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[name] == nil {
		return fs.ErrNotExist
	}
	delete(m.files, name)
	return nil
}

func (m *imageFS) RemoveAll(name string) error { return m.Remove(name) }

func (m *imageFS) Rename(a, b string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[a]
	if f == nil {
		return fs.ErrNotExist
	}
	delete(m.files, a)
	m.files[b] = f
	f.mu.Lock()
	f.name = b
	f.mu.Unlock()
	return nil
}

func (m *imageFS) MkdirAll(string) error { return nil }

func (m *imageFS) List(dir string) ([]fs.DirEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []fs.DirEntry
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		if path.Dir(name) == dir {
			out = append(out, fs.FileInfoToDirEntry(imageInfo(path.Base(name))))
		}
	}
	return out, nil
}

func (m *imageFS) Stat(name string) (fs.FileInfo, error) { return imageInfo(name), nil }
func (m *imageFS) SyncDir(dir string) error              { return m.call("syncdir", dir, 0, 0) }
func (m *imageFS) Space(string) (vfs.Space, error)       { return vfs.Space{}, nil }
func (m *imageFS) Lock(string) (io.Closer, error)        { return io.NopCloser(nil), nil }

type imageInfo string

func (i imageInfo) Name() string     { return string(i) }
func (imageInfo) Size() int64        { return 0 }
func (imageInfo) Mode() fs.FileMode  { return 0 }
func (imageInfo) ModTime() time.Time { return time.Time{} }
func (imageInfo) IsDir() bool        { return false }
func (imageInfo) Sys() any           { return nil }

func (f *imageFile) Name() string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.name
}

func (f *imageFile) Fd() int { return -1 }

func (f *imageFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.call("read", f.Name(), off, len(p)); err != nil {
		return 0, err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if off >= int64(len(f.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *imageFile) WriteAt(p []byte, off int64) (int, error) {
	w := &pendingWrite{off, bytes.Clone(p)}
	f.mu.Lock()
	if f.pending == nil {
		f.pending = map[*pendingWrite]bool{}
	}
	f.pending[w] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.pending, w)
		f.mu.Unlock()
	}()
	if err := f.fs.call("write", f.Name(), off, len(p)); err != nil {
		return 0, err
	}
	if f.fs.wrote != nil {
		defer f.fs.wrote(f.Name(), off)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if end := int(off) + len(p); end > len(f.data) {
		f.data = append(f.data, make([]byte, end-len(f.data))...)
	}
	return copy(f.data[off:], p), nil
}

func (f *imageFile) Size() (int64, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return int64(len(f.data)), nil
}

func (f *imageFile) Truncate(n int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.data = append(f.data[:min(n, int64(len(f.data)))], make([]byte, max(n-int64(len(f.data)), 0))...)
	clear(f.pending)
	return nil
}

func (f *imageFile) Allocate(off, length int64) error {
	if err := f.fs.call("allocate", f.Name(), off, int(length)); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if need := off + length - int64(len(f.data)); need > 0 {
		f.data = append(f.data, make([]byte, need)...)
	}
	return nil
}

func (f *imageFile) Close() error    { return nil }
func (f *imageFile) Sync() error     { return f.fs.call("sync", f.Name(), 0, 0) }
func (f *imageFile) Datasync() error { return f.fs.call("sync", f.Name(), 0, 0) }
