// Package iobuf provides pooled, reference-counted byte buffers outside the Go heap, so that the bytes
// in transit through a broker neither feed nor wake the garbage collector.
//
// A Buf has one owner per reference. Get returns one reference; Retain adds one; Release gives one up, and the
// last Release returns the memory to the pool. Under the build tag "invariants" memory is poisoned on the last Release, and a
// Release too many panics with the place of the first one.
//
// Sizes are powers of two from 1 KiB to 16 MiB; larger buffers are mapped and unmapped directly. Buffers of 4
// KiB and more are page-aligned, fit for O_DIRECT. The pool keeps at most PoolBytesMax bytes of the larger classes; beyond
// that, buffers of the class that has most lying idle go back to the operating system.
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

	// Pins is for a budget that counts a buffer once, however many refer to it: the number of those. That budget's lock guards it; it
	// is 0 when the buffer goes back to the pool.
	Pins int32
}

type class struct {
	mu   sync.Mutex
	free []*Buf
	idle atomic.Int64 // bytes in free, where they count against PoolBytesMax
}

var (
	classes   [maxShift - minShift + 1]class
	idleBytes atomic.Int64 // idle bytes of classes that are returned to the system when PoolBytesMax is reached
	usedBytes atomic.Int64
)

// Footprint is how much memory a buffer of n bytes takes: what its Cap will be.
func Footprint(n int) int {
	shift := max(bits.Len(uint(max(n, 1)-1)), minShift)
	if shift > maxShift {
		return (n + 4095) &^ 4095
	}
	return 1 << shift
}

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
	if b := c.take(shift); b != nil {
		return b
	}
	// The operating system is asked without the lock: it may take its time, and who gives a buffer back must not wait for that.
	size := 1 << shift
	if size >= slabBytes {
		return &Buf{b: mapMemory(size), class: int8(shift - minShift)}
	}
	slab := mapMemory(slabBytes)
	bufs := make([]Buf, slabBytes/size)
	for i := range bufs {
		bufs[i].b = slab[i*size : (i+1)*size : (i+1)*size]
		bufs[i].class = int8(shift - minShift)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range bufs[1:] {
		c.free = append(c.free, &bufs[1+i])
	}
	return &bufs[0]
}

// take returns a free buffer, nil if there is none.
func (c *class) take(shift int) *Buf {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := len(c.free) - 1
	if last < 0 {
		return nil
	}
	b := c.free[last]
	c.free[last] = nil
	c.free = c.free[:last]
	if carved := 1<<shift < slabBytes; !carved {
		idleBytes.Add(-1 << shift)
		c.idle.Add(-1 << shift)
	}
	return b
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
	if b.Pins != 0 {
		panic(fmt.Sprintf("BUG: iobuf: released with %d pins", b.Pins))
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
	c := &classes[b.class]
	c.mu.Lock()
	c.free = append(c.free, b)
	if size >= slabBytes {
		c.idle.Add(int64(size))
	}
	c.mu.Unlock()
	if size >= slabBytes && idleBytes.Add(int64(size)) > PoolBytesMax {
		shrink()
	}
}

// shrink returns buffers to the operating system until no more than PoolBytesMax is idle. It takes them from the class that has most idle
// bytes: what a class keeps is then what its present use needs, and not what others have left behind.
func shrink() {
	for idleBytes.Load() > PoolBytesMax {
		most := &classes[0]
		for i := range classes {
			if classes[i].idle.Load() > most.idle.Load() {
				most = &classes[i]
			}
		}
		b := most.takeIdle()
		if b == nil {
			return // somebody else has taken it
		}
		unmapMemory(b.b)
		b.b = nil
	}
}

// takeIdle takes a buffer that counts against PoolBytesMax out of the class, the one at the bottom of the pile; nil if there is none.
func (c *class) takeIdle() *Buf {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle.Load() == 0 {
		return nil
	}
	b := c.free[0]
	last := len(c.free) - 1
	c.free[0], c.free[last] = c.free[last], nil
	c.free = c.free[:last]
	size := int64(cap(b.b))
	c.idle.Add(-size)
	idleBytes.Add(-size)
	return b
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
