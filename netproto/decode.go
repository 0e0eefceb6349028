package netproto

import (
	"encoding/binary"
	"fmt"
)

// decoder reads Kafka's primitive types from untrusted bytes. It returns views, never allocates except for an error, and
// after the first error yields zero values; err says what was wrong where.
type decoder struct {
	buf []byte
	off int
	err error
}

// left is how many bytes remain.
func (d *decoder) left() int { return len(d.buf) - d.off }

// rest returns the remaining bytes as a view.
func (d *decoder) rest() []byte { return d.buf[d.off:len(d.buf):len(d.buf)] }

func (d *decoder) fail(what string, format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s at byte %d: %s", ErrMalformed, what, d.off, fmt.Sprintf(format, args...))
	}
	d.off = len(d.buf)
}

// span returns the next n bytes, nil on error.
func (d *decoder) span(n int, what string) []byte {
	if d.err != nil {
		return nil
	}
	if n < 0 || n > d.left() {
		d.fail(what, "%d bytes needed, %d left", n, d.left())
		return nil
	}
	b := d.buf[d.off : d.off+n : d.off+n]
	d.off += n
	return b
}

func (d *decoder) int8(what string) int8 {
	if b := d.span(1, what); b != nil {
		return int8(b[0])
	}
	return 0
}

func (d *decoder) int16(what string) int16 {
	if b := d.span(2, what); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (d *decoder) int32(what string) int32 {
	if b := d.span(4, what); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (d *decoder) int64(what string) int64 {
	if b := d.span(8, what); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

func (d *decoder) uuid(what string) (id [16]byte) {
	copy(id[:], d.span(16, what))
	return id
}

// uvarint reads an unsigned varint of at most 32 bits.
func (d *decoder) uvarint(what string) uint32 {
	if d.err != nil {
		return 0
	}
	var v uint64
	for i := range 5 {
		if d.off+i >= len(d.buf) {
			d.fail(what, "varint cut short after %d bytes", i)
			return 0
		}
		c := d.buf[d.off+i]
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if v > 1<<32-1 {
				break
			}
			d.off += i + 1
			return uint32(v)
		}
	}
	d.fail(what, "varint of more than 32 bits")
	return 0
}

// nullableBytes16 reads an int16 length and that many bytes; a negative length is null.
func (d *decoder) nullableBytes16(what string) (b []byte, null bool) {
	n := d.int16(what)
	if d.err != nil || n < 0 {
		return nil, true
	}
	return d.span(int(n), what), false
}

// nullableString reads a string in the plain or compact form.
func (d *decoder) nullableString(flexible bool, what string) (b []byte, null bool) {
	if !flexible {
		return d.nullableBytes16(what)
	}
	n := d.uvarint(what)
	if d.err != nil || n == 0 {
		return nil, true
	}
	if n-1 > 1<<15-1 {
		d.fail(what, "string of %d bytes, at most %d allowed", n-1, 1<<15-1)
		return nil, true
	}
	return d.span(int(n-1), what), false
}

// string reads a string that must not be null.
func (d *decoder) string(flexible bool, what string) []byte {
	at := d.off
	b, null := d.nullableString(flexible, what)
	if null && d.err == nil {
		d.off = at
		d.fail(what, "null where a string is required")
	}
	return b
}

// nullableBytes reads a byte array in the plain (int32) or compact form; nil is null.
func (d *decoder) nullableBytes(flexible bool, what string) []byte {
	if flexible {
		n := d.uvarint(what)
		if d.err != nil || n == 0 {
			return nil
		}
		return d.span(int(int64(n)-1), what)
	}
	n := d.int32(what)
	if d.err != nil || n < 0 {
		return nil
	}
	return d.span(int(n), what)
}

// count reads an array's length, -1 for null. An array whose elements, at elementBytesMin each, cannot fit what is left is
// an error, so that a count never makes anybody allocate more than a multiple of the bytes received.
func (d *decoder) count(flexible bool, elementBytesMin int, what string) int {
	at := d.off
	var n int64
	if flexible {
		n = int64(d.uvarint(what)) - 1
	} else {
		n = int64(d.int32(what))
	}
	if d.err != nil {
		return 0
	}
	if n < -1 {
		d.off = at
		d.fail(what, "array of %d elements", n)
		return 0
	}
	if n*int64(elementBytesMin) > int64(d.left()) {
		left := d.left()
		d.off = at
		d.fail(what, "array of %d elements of at least %d bytes where %d bytes are left", n, elementBytesMin, left)
		return 0
	}
	return int(n)
}

// requiredCount is count for an array that must not be null.
func (d *decoder) requiredCount(flexible bool, elementBytesMin int, what string) int {
	n := d.count(flexible, elementBytesMin, what)
	if n < 0 {
		d.fail(what, "null where an array is required")
		return 0
	}
	return n
}

// tags reads how many tags follow.
func (d *decoder) tags(what string) int {
	n := d.uvarint(what)
	if d.err == nil && uint64(n)*2 > uint64(d.left()) {
		d.fail(what, "%d tags where %d bytes are left", n, d.left())
		return 0
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

// tag reads one tag: its key and a view of its value.
func (d *decoder) tag(what string) (key uint32, value []byte) {
	key = d.uvarint(what)
	n := d.uvarint(what)
	return key, d.span(int(n), what)
}

// skipTags skips a tag section.
func (d *decoder) skipTags(what string) {
	for n := d.tags(what); n > 0 && d.err == nil; n-- {
		d.tag(what)
	}
}

// finish returns the error, if any; bytes left over are one.
func (d *decoder) finish() error {
	if d.err == nil && d.left() > 0 {
		d.fail("end of request", "%d bytes of trailing garbage", d.left())
	}
	return d.err
}

// adopt takes over the error of a decoder of a part.
func (d *decoder) adopt(err error) {
	if d.err == nil && err != nil {
		d.err = err
		d.off = len(d.buf)
	}
}
