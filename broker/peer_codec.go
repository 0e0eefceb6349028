package broker

import "encoding/binary"

// The messages between nodes that are not Kafka's are few and small; they are written by hand, big-endian, strings with a length of two bytes.

// textMax bounds strings in them.
const textMax = 1<<15 - 1

func appendString(b []byte, s string) []byte {
	s = s[:min(len(s), textMax)]
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func appendInt32(b []byte, v int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(v)) }

// reader takes a message apart. What is not there reads as zero, and short says so.
type reader struct {
	b     []byte
	short bool
}

// take returns the next n bytes, nil if there are fewer.
func (r *reader) take(n int) []byte {
	if r.short || len(r.b) < n {
		r.short = true
		return nil
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) string() string { return string(r.take(int(r.uint16()))) }
