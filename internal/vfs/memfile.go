package vfs

import (
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// memBlock is the unit in which MemFS keeps contents; nil stands for zeroes. A block that is also the durable one is not
// written to but replaced.
type memBlock [BlockSize]byte

// memNode is a file's content, apart from its names.
type memNode struct {
	mu struct {
		sync.RWMutex
		size    int64
		blocks  []*memBlock
		durSize int64
		durable []*memBlock
		dirty   map[int64]struct{} // blocks that differ from the durable ones
	}
}

func (n *memNode) info(name string) fs.FileInfo { return memInfo{name: name, size: n.length()} }

func (n *memNode) length() int64 {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.mu.size
}

func (n *memNode) read(b []byte, off int64) int {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if off >= n.mu.size {
		return 0
	}
	b = b[:min(int64(len(b)), n.mu.size-off)]
	for done := 0; done < len(b); {
		at := off + int64(done)
		piece := b[done:min(len(b), done+BlockSize-int(at%BlockSize))]
		if block := n.mu.blocks[at/BlockSize]; block != nil {
			copy(piece, block[at%BlockSize:])
		} else {
			clear(piece)
		}
		done += len(piece)
	}
	return len(b)
}

func (n *memNode) write(b []byte, off int64, durable bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.growLocked(off + int64(len(b)))
	for done := 0; done < len(b); {
		at := off + int64(done)
		piece := b[done:min(len(b), done+BlockSize-int(at%BlockSize))]
		if block := n.ownLocked(at/BlockSize, piece); block != nil {
			copy(block[at%BlockSize:], piece)
		}
		done += len(piece)
	}
	if durable && len(b) > 0 {
		// As O_DSYNC does, this makes the size durable too, where the data needs it.
		for i := off / BlockSize; i <= (off+int64(len(b))-1)/BlockSize; i++ {
			n.syncBlockLocked(i, off, off+int64(len(b)))
		}
		n.mu.durSize = max(n.mu.durSize, off+int64(len(b)))
	}
}

func (n *memNode) growLocked(size int64) {
	if size <= n.mu.size {
		return
	}
	n.mu.size = size
	for int64(len(n.mu.blocks)) < (size+BlockSize-1)/BlockSize {
		n.mu.blocks = append(n.mu.blocks, nil)
	}
}

// ownLocked returns block i for writing piece to; nil if it is zeroes and stays so.
func (n *memNode) ownLocked(i int64, piece []byte) *memBlock {
	block := n.mu.blocks[i]
	if block == nil && allZero(piece) {
		n.markLocked(i)
		return nil
	}
	if block == nil || block == n.durableLocked(i) {
		own := new(memBlock)
		if block != nil {
			*own = *block
		}
		n.mu.blocks[i] = own
		block = own
	}
	n.markLocked(i)
	return block
}

func (n *memNode) markLocked(i int64) {
	if n.mu.dirty == nil {
		n.mu.dirty = make(map[int64]struct{})
	}
	n.mu.dirty[i] = struct{}{}
}

func (n *memNode) durableLocked(i int64) *memBlock {
	if i < int64(len(n.mu.durable)) {
		return n.mu.durable[i]
	}
	return nil
}

func (n *memNode) setDurableLocked(i int64, block *memBlock) {
	for int64(len(n.mu.durable)) <= i {
		n.mu.durable = append(n.mu.durable, nil)
	}
	n.mu.durable[i] = block
}

// syncBlockLocked makes of block i what lies in [from, to) durable, rounded out to sectors: those are written whole.
func (n *memNode) syncBlockLocked(i, from, to int64) {
	start := i * BlockSize
	lo := max(from-start, 0) &^ (sectorBytes - 1)
	hi := min((to-start+sectorBytes-1)&^(sectorBytes-1), BlockSize)
	now, was := n.mu.blocks[i], n.durableLocked(i)
	if lo == 0 && hi == BlockSize {
		n.setDurableLocked(i, now)
		delete(n.mu.dirty, i)
		return
	}
	if now == nil && was == nil {
		return
	}
	merged := new(memBlock)
	if was != nil {
		*merged = *was
	}
	if now != nil {
		copy(merged[lo:hi], now[lo:hi])
	} else {
		clear(merged[lo:hi])
	}
	n.setDurableLocked(i, merged)
}

func (n *memNode) sync() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.mu.dirty {
		var now *memBlock
		if i < int64(len(n.mu.blocks)) {
			now = n.mu.blocks[i]
		}
		n.setDurableLocked(i, now)
	}
	clear(n.mu.dirty)
	n.mu.durSize = n.mu.size
}

func (n *memNode) truncate(size int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if size >= n.mu.size {
		n.growLocked(size)
		return
	}
	for i := (size + BlockSize - 1) / BlockSize; i < int64(len(n.mu.blocks)); i++ {
		n.markLocked(i)
	}
	n.mu.blocks = n.mu.blocks[:(size+BlockSize-1)/BlockSize]
	n.mu.size = size
	if rest := size % BlockSize; rest != 0 && n.mu.blocks[size/BlockSize] != nil {
		clear(n.ownLocked(size/BlockSize, nil)[rest:])
	}
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// memFile is an open file.
type memFile struct {
	fs     *MemFS
	node   *memNode
	name   string
	flag   Flag
	closed atomic.Bool
}

func (f *memFile) Name() string { return f.name }
func (f *memFile) Fd() int      { return -1 }

// before runs the hook and checks that the file is open.
func (f *memFile) before(op string, off int64, n int) error {
	if f.closed.Load() {
		return pathErr(op, f.name, fs.ErrClosed)
	}
	return f.fs.before(op, f.name, off, n)
}

// aligned checks what O_DIRECT demands.
func (f *memFile) aligned(b []byte, off int64) bool {
	return f.flag&Direct == 0 || len(b) == 0 ||
		off%BlockSize == 0 && len(b)%BlockSize == 0 && uintptr(unsafe.Pointer(&b[0]))%BlockSize == 0
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	if err := f.before("read", off, len(b)); err != nil {
		return 0, err
	}
	if off < 0 || !f.aligned(b, off) {
		return 0, pathErr("read", f.name, syscall.EINVAL)
	}
	n := f.node.read(b, off)
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	if err := f.before("write", off, len(b)); err != nil {
		return 0, err
	}
	switch {
	case f.flag&ReadOnly != 0:
		return 0, pathErr("write", f.name, syscall.EBADF)
	case off < 0 || !f.aligned(b, off):
		return 0, pathErr("write", f.name, syscall.EINVAL)
	}
	if err := f.fs.reserve(off + int64(len(b)) - f.node.length()); err != nil {
		return 0, pathErr("write", f.name, err)
	}
	f.node.write(b, off, f.flag&DSync != 0)
	return len(b), nil
}

func (f *memFile) Size() (int64, error) {
	if err := f.before("size", 0, 0); err != nil {
		return 0, err
	}
	return f.node.length(), nil
}

func (f *memFile) Truncate(size int64) error {
	if err := f.before("truncate", size, 0); err != nil {
		return err
	}
	if size < 0 || f.flag&ReadOnly != 0 {
		return pathErr("truncate", f.name, syscall.EINVAL)
	}
	if err := f.fs.reserve(size - f.node.length()); err != nil {
		return pathErr("truncate", f.name, err)
	}
	f.node.truncate(size)
	return nil
}

func (f *memFile) Allocate(off, length int64) error {
	if err := f.before("allocate", off, int(length)); err != nil {
		return err
	}
	switch {
	case f.flag&ReadOnly != 0:
		return pathErr("allocate", f.name, syscall.EBADF)
	case off < 0 || length <= 0:
		return pathErr("allocate", f.name, syscall.EINVAL)
	}
	if err := f.fs.reserve(off + length - f.node.length()); err != nil {
		return pathErr("allocate", f.name, err)
	}
	f.node.mu.Lock()
	defer f.node.mu.Unlock()
	f.node.growLocked(off + length)
	return nil
}

func (f *memFile) Sync() error     { return f.sync("sync") }
func (f *memFile) Datasync() error { return f.sync("datasync") }

func (f *memFile) sync(op string) error {
	if err := f.before(op, 0, 0); err != nil {
		return err
	}
	f.node.sync()
	return nil
}

func (f *memFile) Close() error {
	if err := f.before("close", 0, 0); err != nil {
		return err
	}
	if f.closed.Swap(true) {
		return pathErr("close", f.name, fs.ErrClosed)
	}
	return nil
}
