package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// MemFS is a file system in memory for tests. It knows what a crash may lose: contents are durable after Sync, Datasync or a
// write to a DSync file, directory entries after SyncDir. CrashClone makes the file system that a machine might find after
// losing power now. Directories themselves are made, renamed and removed durably at once.
//
// Its files have no descriptor (Fd is -1); a ring serves them with its portable backend. Direct files demand aligned offsets,
// lengths and buffers as a disk does.
type MemFS struct {
	mu struct {
		sync.Mutex
		hook     Hook
		dirs     map[string]bool // cleaned absolute names
		entries  map[string]*memNode
		durable  map[string]*memNode
		pending  []change // directory changes not yet durable, oldest first
		locks    map[string]bool
		capacity int64 // 0: unlimited
	}
}

var _ FS = (*MemFS)(nil)

// Hook sees every operation before it is done: open, remove, removeall, rename, mkdirall, list, stat, syncdir, space, lock, read,
// write, sync, datasync, syncfs, allocate, truncate, size, close. An error fails the operation; to block is to
// stall it. It may be called from many goroutines.
type Hook func(op string, name string, off int64, n int) error

// change is a set of directory entries that a crash keeps or loses together: one for a creation or removal, two for a rename.
type change struct {
	names []string
	nodes []*memNode // nil: the name is gone
}

// NewMem returns an empty file system with a root directory.
func NewMem() *MemFS {
	m := &MemFS{}
	m.mu.dirs = map[string]bool{"/": true}
	m.mu.entries = make(map[string]*memNode)
	m.mu.durable = make(map[string]*memNode)
	m.mu.locks = make(map[string]bool)
	return m
}

// SetHook installs h for all later operations; nil removes it.
func (m *MemFS) SetHook(h Hook) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.hook = h
}

// SetCapacity bounds the sum of file sizes, in bytes; growth beyond it fails with ENOSPC. 0 means no bound.
func (m *MemFS) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.capacity = bytes
}

// before runs the hook, outside of any lock.
func (m *MemFS) before(op, name string, off int64, n int) error {
	m.mu.Lock()
	hook := m.mu.hook
	m.mu.Unlock()
	if hook == nil {
		return nil
	}
	if err := hook(op, name, off, n); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

func clean(name string) string { return path.Clean("/" + name) }

func pathErr(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

// OpenFile opens name.
func (m *MemFS) OpenFile(name string, flag Flag) (File, error) {
	if err := m.before("open", name, 0, 0); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	full := clean(name)
	if m.mu.dirs[full] {
		return nil, pathErr("open", name, syscall.EISDIR)
	}
	node := m.mu.entries[full]
	switch {
	case node == nil && flag&Create == 0, !m.mu.dirs[path.Dir(full)]:
		return nil, pathErr("open", name, syscall.ENOENT)
	case node != nil && flag&(Create|Exclusive) == Create|Exclusive:
		return nil, pathErr("open", name, syscall.EEXIST)
	case node == nil:
		node = &memNode{}
		m.applyLocked(change{[]string{full}, []*memNode{node}})
	case flag&Truncate != 0:
		node.truncate(0)
	}
	return &memFile{fs: m, node: node, name: name, flag: flag}, nil
}

// applyLocked makes a directory change that a crash may lose.
func (m *MemFS) applyLocked(c change) {
	c.apply(m.mu.entries)
	m.mu.pending = append(m.mu.pending, c)
}

func (c *change) apply(entries map[string]*memNode) {
	for i, name := range c.names {
		if c.nodes[i] == nil {
			delete(entries, name)
		} else {
			entries[name] = c.nodes[i]
		}
	}
}

// Remove deletes one file or empty directory.
func (m *MemFS) Remove(name string) error {
	if err := m.before("remove", name, 0, 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	full := clean(name)
	if m.mu.dirs[full] {
		if len(m.listLocked(full)) > 0 || full == "/" {
			return pathErr("remove", name, syscall.ENOTEMPTY)
		}
		delete(m.mu.dirs, full)
		return nil
	}
	if m.mu.entries[full] == nil {
		return pathErr("remove", name, syscall.ENOENT)
	}
	m.applyLocked(change{[]string{full}, []*memNode{nil}})
	return nil
}

func below(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

// RemoveAll deletes name and what is below it.
func (m *MemFS) RemoveAll(name string) error {
	if err := m.before("removeall", name, 0, 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	full := clean(name)
	for _, file := range sortedKeys(m.mu.entries) {
		if below(file, full) {
			m.applyLocked(change{[]string{file}, []*memNode{nil}})
		}
	}
	for dir := range m.mu.dirs {
		if below(dir, full) && dir != "/" {
			delete(m.mu.dirs, dir)
		}
	}
	return nil
}

// Rename atomically replaces newName. A directory can be renamed to a name that is free.
func (m *MemFS) Rename(oldName, newName string) error {
	if err := m.before("rename", oldName, 0, 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	from, to := clean(oldName), clean(newName)
	if !m.mu.dirs[path.Dir(to)] {
		return pathErr("rename", newName, syscall.ENOENT)
	}
	if m.mu.dirs[from] {
		return m.renameDirLocked(from, to)
	}
	node := m.mu.entries[from]
	switch {
	case node == nil:
		return pathErr("rename", oldName, syscall.ENOENT)
	case m.mu.dirs[to]:
		return pathErr("rename", newName, syscall.EISDIR)
	case from == to:
		return nil
	}
	m.applyLocked(change{[]string{from, to}, []*memNode{nil, node}})
	return nil
}

// renameDirLocked moves a directory and what is below it, durably.
func (m *MemFS) renameDirLocked(from, to string) error {
	switch {
	case m.mu.dirs[to] && len(m.listLocked(to)) > 0:
		return pathErr("rename", to, syscall.ENOTEMPTY)
	case m.mu.entries[to] != nil:
		return pathErr("rename", to, syscall.ENOTDIR)
	case below(to, from):
		return pathErr("rename", to, syscall.EINVAL)
	}
	for _, dir := range sortedKeys(m.mu.dirs) {
		if below(dir, from) {
			m.mu.dirs[to+strings.TrimPrefix(dir, from)] = true
			delete(m.mu.dirs, dir)
		}
	}
	for _, entries := range []map[string]*memNode{m.mu.entries, m.mu.durable} {
		for _, file := range sortedKeys(entries) {
			if below(file, from) {
				entries[to+strings.TrimPrefix(file, from)] = entries[file]
				delete(entries, file)
			}
		}
	}
	for _, p := range m.mu.pending {
		for i, file := range p.names {
			if below(file, from) {
				p.names[i] = to + strings.TrimPrefix(file, from)
			}
		}
	}
	return nil
}

// MkdirAll makes a directory and its parents.
func (m *MemFS) MkdirAll(name string) error {
	if err := m.before("mkdirall", name, 0, 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for dir := clean(name); dir != "/"; dir = path.Dir(dir) {
		if m.mu.entries[dir] != nil {
			return pathErr("mkdir", name, syscall.ENOTDIR)
		}
		m.mu.dirs[dir] = true
	}
	return nil
}

// List returns the entries of a directory, sorted by name.
func (m *MemFS) List(dir string) ([]fs.DirEntry, error) {
	if err := m.before("list", dir, 0, 0); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	full := clean(dir)
	if !m.mu.dirs[full] {
		return nil, pathErr("list", dir, syscall.ENOENT)
	}
	return m.listLocked(full), nil
}

func (m *MemFS) listLocked(full string) []fs.DirEntry {
	var list []fs.DirEntry
	for name, node := range m.mu.entries {
		if path.Dir(name) == full {
			list = append(list, fs.FileInfoToDirEntry(node.info(path.Base(name))))
		}
	}
	for name := range m.mu.dirs {
		if name != "/" && path.Dir(name) == full {
			list = append(list, fs.FileInfoToDirEntry(memInfo{name: path.Base(name), dir: true}))
		}
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list
}

// Stat describes a file or directory.
func (m *MemFS) Stat(name string) (fs.FileInfo, error) {
	if err := m.before("stat", name, 0, 0); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	full := clean(name)
	if m.mu.dirs[full] {
		return memInfo{name: path.Base(full), dir: true}, nil
	}
	node := m.mu.entries[full]
	if node == nil {
		return nil, pathErr("stat", name, syscall.ENOENT)
	}
	return node.info(path.Base(full)), nil
}

// SyncDir makes creations, renames and removals in dir durable. A rename into or out of dir becomes so as a whole.
func (m *MemFS) SyncDir(dir string) error {
	if err := m.before("syncdir", dir, 0, 0); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	full := clean(dir)
	if !m.mu.dirs[full] {
		return pathErr("syncdir", dir, syscall.ENOENT)
	}
	m.mu.pending = slices.DeleteFunc(m.mu.pending, func(c change) bool {
		touches := slices.ContainsFunc(c.names, func(name string) bool { return path.Dir(name) == full })
		if touches {
			c.apply(m.mu.durable)
		}
		return touches
	})
	return nil
}

// Space reports the capacity set, 1 TiB if none is.
func (m *MemFS) Space(dir string) (Space, error) {
	if err := m.before("space", dir, 0, 0); err != nil {
		return Space{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	total := m.mu.capacity
	if total == 0 {
		total = 1 << 40
	}
	return Space{Total: uint64(total), Available: uint64(max(total-m.usedLocked(), 0))}, nil
}

func (m *MemFS) usedLocked() int64 {
	var used int64
	for _, node := range m.mu.entries {
		used += node.length()
	}
	return used
}

// reserve tells whether a file may grow by so many bytes.
func (m *MemFS) reserve(grow int64) error {
	if grow <= 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.capacity > 0 && grow > m.mu.capacity-m.usedLocked() {
		return fmt.Errorf("%w: %d bytes of %d used, %d more wanted", syscall.ENOSPC, m.usedLocked(), m.mu.capacity, grow)
	}
	return nil
}

// Lock takes name; ErrLocked if this MemFS holds it already. It leaves an empty file.
func (m *MemFS) Lock(name string) (io.Closer, error) {
	if err := m.before("lock", name, 0, 0); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	full := clean(name)
	if !m.mu.dirs[path.Dir(full)] {
		return nil, pathErr("lock", name, syscall.ENOENT)
	}
	if m.mu.locks[full] {
		return nil, pathErr("lock", name, ErrLocked)
	}
	m.mu.locks[full] = true
	if m.mu.entries[full] == nil {
		m.applyLocked(change{[]string{full}, []*memNode{{}}})
	}
	return &memLock{fs: m, name: full}, nil
}

type memLock struct {
	fs   *MemFS
	name string
	once sync.Once
}

func (l *memLock) Close() error {
	err := pathErr("unlock", l.name, fs.ErrClosed)
	l.once.Do(func() {
		l.fs.mu.Lock()
		defer l.fs.mu.Unlock()
		delete(l.fs.mu.locks, l.name)
		err = nil
	})
	return err
}

// memInfo is both kinds of description.
type memInfo struct {
	name string
	size int64
	dir  bool
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return i.dir }
func (i memInfo) Sys() any           { return nil }
func (i memInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | dirPerm
	}
	return filePerm
}
