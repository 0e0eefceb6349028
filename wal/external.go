package wal

import "fmt"

// ExternalBytes is the size of an encoded External.
const ExternalBytes = 64

// External is the body of a KindExternal entry: it names a batch that was written straight to its segment file
// instead of into the log. The entry is durable only together with the batch; recovery checks CRC at the named place.
type External struct {
	TopicID     [16]byte
	Partition   int32
	BaseOffset  int64  // first record offset of the batches
	NextOffset  int64  // one past the last
	SegmentBase int64  // base offset of the segment file
	Position    int64  // byte position in the segment file
	Length      uint32 // bytes at Position
	CRC         uint32 // CRC32C of these bytes
}

// AppendTo appends the encoding of x, ExternalBytes bytes, to b.
func (x *External) AppendTo(b []byte) []byte {
	b = append(b, x.TopicID[:]...)
	b = le.AppendUint32(b, uint32(x.Partition))
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, uint64(x.BaseOffset))
	b = le.AppendUint64(b, uint64(x.NextOffset))
	b = le.AppendUint64(b, uint64(x.SegmentBase))
	b = le.AppendUint64(b, uint64(x.Position))
	b = le.AppendUint32(b, x.Length)
	return le.AppendUint32(b, x.CRC)
}

// ParseExternal decodes and validates the body of a KindExternal entry.
func ParseExternal(body []byte) (External, error) {
	if len(body) != ExternalBytes {
		return External{}, fmt.Errorf("%w: external body has %d bytes, want %d", ErrKind, len(body), ExternalBytes)
	}
	x := External{
		TopicID:     [16]byte(body[:16]),
		Partition:   int32(le.Uint32(body[16:])),
		BaseOffset:  int64(le.Uint64(body[24:])),
		NextOffset:  int64(le.Uint64(body[32:])),
		SegmentBase: int64(le.Uint64(body[40:])),
		Position:    int64(le.Uint64(body[48:])),
		Length:      le.Uint32(body[56:]),
		CRC:         le.Uint32(body[60:]),
	}
	if reserved := le.Uint32(body[20:]); reserved != 0 {
		return External{}, fmt.Errorf("%w: external reserved field is %d, want 0", ErrKind, reserved)
	}
	if x.Partition < 0 || x.SegmentBase < 0 || x.Position < 0 || x.Length == 0 ||
		x.BaseOffset < x.SegmentBase || x.NextOffset <= x.BaseOffset {
		return External{}, fmt.Errorf("%w: external of partition %d, offsets [%d, %d), segment %d at %d, %d bytes is impossible",
			ErrKind, x.Partition, x.BaseOffset, x.NextOffset, x.SegmentBase, x.Position, x.Length)
	}
	return x, nil
}

// checkPayload says whether body is what an entry of this kind carries.
func checkPayload(kind Kind, body []byte) error {
	switch kind {
	case KindInline:
		return nil
	case KindExternal:
		_, err := ParseExternal(body)
		return err
	}
	return fmt.Errorf("%w: %d", ErrKind, uint8(kind))
}
