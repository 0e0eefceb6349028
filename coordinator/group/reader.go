package group

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrCorrupt: bytes that should be one of Kafka's group records, or a consumer's metadata, are not.
var ErrCorrupt = errors.New("corrupt group record")

// reader reads big-endian values from untrusted bytes; after the first error it yields zero values.
type reader struct {
	buf []byte
	err error
}

func (d *reader) fail(what, format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s: %s", ErrCorrupt, what, fmt.Sprintf(format, args...))
	}
}

func (d *reader) span(n int, what string) []byte {
	if d.err == nil && (n < 0 || n > len(d.buf)) {
		d.fail(what, "%d bytes wanted, %d left", n, len(d.buf))
	}
	if d.err != nil {
		return nil
	}
	b := d.buf[:n]
	d.buf = d.buf[n:]
	return b
}

func (d *reader) int16(what string) int16 {
	if b := d.span(2, what); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (d *reader) int32(what string) int32 {
	if b := d.span(4, what); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (d *reader) string(what string) string {
	return string(d.span(int(d.int16(what+" length")), what))
}
