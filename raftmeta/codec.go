package raftmeta

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// encoder appends to a byte slice. Maps are written sorted: equal values are equal bytes.
type encoder struct {
	b     []byte
	topic [16]byte // of the last ChangePartition, zero: none yet
}

func (e *encoder) byte(v byte)     { e.b = append(e.b, v) }
func (e *encoder) uint(v uint64)   { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)     { e.b = binary.AppendVarint(e.b, v) }
func (e *encoder) id(v [16]byte)   { e.b = append(e.b, v[:]...) }
func (e *encoder) string(v string) { e.uint(uint64(len(v))); e.b = append(e.b, v...) }
func (e *encoder) ints(v []int32) {
	e.uint(uint64(len(v)))
	for _, n := range v {
		e.int(int64(n))
	}
}

func (e *encoder) bool(v bool) {
	if v {
		e.byte(1)
	} else {
		e.byte(0)
	}
}

func (e *encoder) strings(v []string) {
	e.uint(uint64(len(v)))
	for _, s := range v {
		e.string(s)
	}
}

func (e *encoder) pairs(m map[string]string) {
	e.uint(uint64(len(m)))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		e.string(k)
		e.string(m[k])
	}
}

func (e *encoder) lists(v [][]int32) {
	e.uint(uint64(len(v)))
	for _, l := range v {
		e.ints(l)
	}
}

// decoder reads what encoder wrote. The first error sticks; after it every read gives a zero value, so callers check err once.
// Nothing is allocated for a length that the remaining bytes cannot hold.
type decoder struct {
	b   []byte
	off int
	err error
	// lists seen so far: equal neighbours share one slice, as most partitions of a topic have the same replicas
	last  []int32
	topic [16]byte // of the last ChangePartition, zero: none yet
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: at byte %d of %d: %s", ErrCorrupt, d.off, len(d.b), fmt.Sprintf(format, args...))
	}
}

func (d *decoder) remaining() int { return len(d.b) - d.off }

func (d *decoder) byte() byte {
	if d.err != nil {
		return 0
	}
	if d.remaining() < 1 {
		d.fail("truncated")
		return 0
	}
	v := d.b[d.off]
	d.off++
	return v
}

func (d *decoder) bool() bool {
	v := d.byte()
	if v > 1 {
		d.fail("boolean is %d, want 0 or 1", v)
	}
	return v == 1
}

func (d *decoder) uint() uint64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.b[d.off:])
	if n <= 0 {
		d.fail("bad unsigned varint")
		return 0
	}
	d.off += n
	return v
}

func (d *decoder) int() int64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Varint(d.b[d.off:])
	if n <= 0 {
		d.fail("bad signed varint")
		return 0
	}
	d.off += n
	return v
}

func (d *decoder) int32() int32 {
	v := d.int()
	if v != int64(int32(v)) {
		d.fail("%d does not fit 32 bits", v)
		return 0
	}
	return int32(v)
}

// count reads the length of a list whose elements take at least size bytes each.
func (d *decoder) count(size int) int {
	n := d.uint()
	if d.err == nil && n > uint64(d.remaining()/size) {
		d.fail("length %d, but only %d bytes follow", n, d.remaining())
		return 0
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

func (d *decoder) bytes() []byte {
	n := d.count(1)
	v := d.b[d.off : d.off+n : d.off+n]
	d.off += n
	return v
}

func (d *decoder) string() string { return string(d.bytes()) }

func (d *decoder) id() (id [16]byte) {
	if d.err != nil {
		return id
	}
	if d.remaining() < len(id) {
		d.fail("truncated id")
		return id
	}
	d.off += copy(id[:], d.b[d.off:])
	return id
}

func (d *decoder) ints() []int32 {
	n := d.count(1)
	if n == 0 {
		return nil
	}
	v := make([]int32, n)
	for i := range v {
		v[i] = d.int32()
	}
	if slices.Equal(v, d.last) {
		return d.last
	}
	d.last = v
	return v
}

func (d *decoder) lists() [][]int32 {
	n := d.count(1)
	if n == 0 {
		return nil
	}
	v := make([][]int32, n)
	for i := range v {
		v[i] = d.ints()
	}
	return v
}

func (d *decoder) strings() []string {
	n := d.count(1)
	if n == 0 {
		return nil
	}
	v := make([]string, n)
	for i := range v {
		v[i] = d.string()
	}
	return v
}

func (d *decoder) pairs() map[string]string {
	n := d.count(2)
	if n == 0 {
		return nil
	}
	m := make(map[string]string, n)
	for range n {
		k := d.string()
		if _, twice := m[k]; twice {
			d.fail("key %q twice", k)
		}
		m[k] = d.string()
	}
	return m
}

// end fails if bytes are left over.
func (d *decoder) end() error {
	if d.err == nil && d.remaining() > 0 {
		d.fail("%d bytes too many", d.remaining())
	}
	return d.err
}
