// Package iobuf provides pooled, reference-counted byte buffers outside the Go heap, so that the bytes
// in transit through a broker neither feed nor wake the garbage collector.
//
// A Buf has one owner per reference. Get returns one reference; Retain adds one; Release gives one up, and the
// last Release returns the memory to the pool. Under the build tag "invariants" memory is poisoned on the last Release, and a
// Release too many panics with the place of the first one.
//
// Sizes are powers of two from 1 KiB to 16 MiB; larger buffers are mapped and unmapped directly. Buffers of 4
// KiB and more are page-aligned, fit for O_DIRECT. The pool keeps at most PoolBytesMax bytes; the rest goes back to the
// operating system at once.
package iobuf

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	minShift = 10 // 1 KiB
	maxShift = 24 // 16 MiB
	// SlabBytes is how much is asked of the operating system at a time for the small classes.
	slabBytes = 256 << 10
	// PoolBytesMax bounds the idle memory kept for reuse in classes that are not carved from slabs.
	PoolBytesMax = 32 << 20
)

// Buf is a reference-counted buffer.
type Buf struct {
	b     []byte // length as asked for, capacity of the class
	refs  atomic.Int32
	class int8 // -1: mapped for itself
	inv   invariantState
}

type class struct {
	mu   sync.Mutex
	free []*Buf
}

var (
	classes   [maxShift - minShift + 1]class
	idleBytes atomic.Int64 // idle bytes of classes that are returned to the system when PoolBytesMax is reached
	usedBytes atomic.Int64
)

// Get returns a buffer of n bytes with undefined contents and one reference. It panics if n < 0 or if the
// operating system has no memory left; callers bound n first.
func Get(n int) *Buf {
	if n < 0 {
		panic(fmt.Sprintf("iobuf: Get(%d)", n))
	}
	shift := bits.Len(uint(max(n, 1) - 1))
	shift = max(shift, minShift)
	if shift > maxShift {
		size := (n + 4095) &^ 4095
		b := &Buf{b: mapMemory(size)[:n], class: -1}
		usedBytes.Add(int64(size))
		b.refs.Store(1)
		b.inv.got(b)
		return b
	}
	b := classes[shift-minShift].get(shift)
	usedBytes.Add(1 << shift)
	b.b = b.b[:n]
	b.refs.Store(1)
	b.inv.got(b)
	return b
}

func (c *class) get(shift int) *Buf {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last := len(c.free) - 1; last >= 0 {
		b := c.free[last]
		c.free[last] = nil
		c.free = c.free[:last]
		if carved := 1<<shift < slabBytes; !carved {
			idleBytes.Add(-1 << shift)
		}
		return b
	}
	size := 1 << shift
	if size >= slabBytes {
		return &Buf{b: mapMemory(size), class: int8(shift - minShift)}
	}
	slab := mapMemory(slabBytes)
	bufs := make([]Buf, slabBytes/size)
	for i := range bufs {
		bufs[i].b = slab[i*size : (i+1)*size : (i+1)*size]
		bufs[i].class = int8(shift - minShift)
		if i > 0 {
			c.free = append(c.free, &bufs[i])
		}
	}
	return &bufs[0]
}

// Bytes returns the buffer's bytes. They are valid until the caller's reference is released.
func (b *Buf) Bytes() []byte { return b.b }

// Len is the length asked for or set.
func (b *Buf) Len() int { return len(b.b) }

// Cap is how long SetLen can make the buffer.
func (b *Buf) Cap() int { return cap(b.b) }

// SetLen changes the length within the capacity. The caller must hold the only reference.
func (b *Buf) SetLen(n int) { b.b = b.b[:n] }

// Retain adds a reference and returns b.
func (b *Buf) Retain() *Buf {
	if b.refs.Add(1) <= 1 {
		panic("BUG: iobuf: Retain of a released buffer")
	}
	return b
}

// Release gives up one reference. b must not be used through it afterwards.
func (b *Buf) Release() {
	n := b.refs.Add(-1)
	if n > 0 {
		return
	}
	if n < 0 {
		panic("BUG: iobuf: released more often than retained" + b.inv.where())
	}
	b.inv.released(b)
	size := cap(b.b)
	usedBytes.Add(-int64(size))
	if b.class < 0 {
		unmapMemory(b.b[:size])
		b.b = nil
		return
	}
	b.b = b.b[:size]
	if size >= slabBytes {
		if idleBytes.Add(int64(size)) > PoolBytesMax {
			idleBytes.Add(-int64(size))
			unmapMemory(b.b)
			b.b = nil
			return
		}
	}
	c := &classes[b.class]
	c.mu.Lock()
	c.free = append(c.free, b)
	c.mu.Unlock()
}

// InUse is the number of bytes, in class sizes, that are out of the pool.
func InUse() int64 { return usedBytes.Load() }

func mapMemory(size int) []byte {
	m, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(fmt.Sprintf("FATAL: iobuf: mmap of %d bytes: %v", size, err))
	}
	return m
}

func unmapMemory(m []byte) {
	if err := unix.Munmap(m[:cap(m)]); err != nil {
		panic(fmt.Sprintf("BUG: iobuf: munmap of %d bytes: %v", cap(m), err))
	}
}
