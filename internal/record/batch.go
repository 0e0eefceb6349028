// Package record reads and writes Kafka's record batch format v2, the only format that Weir stores
// (https://kafka.apache.org/documentation/#recordbatch). A Batch is a view of bytes: reading and
// stamping headers allocates nothing; records are decoded only where their content is needed.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Offsets of the header's fields, in bytes from the batch's start.
const (
	offBaseOffset      = 0
	offBatchLength     = 8
	offLeaderEpoch     = 12
	offMagic           = 16
	offCRC             = 17
	offAttributes      = 21
	offLastOffsetDelta = 23
	offBaseTimestamp   = 27
	offMaxTimestamp    = 35
	offProducerID      = 43
	offProducerEpoch   = 51
	offBaseSequence    = 53
	offCount           = 57

	// HeaderSize is the size of a batch's header, up to its first record.
	HeaderSize = 61
	// LengthSize is how many bytes precede what the length field counts: base offset and the length itself.
	LengthSize = 12
	// Magic is the format version.
	Magic = 2
)

// Attribute bits of a batch.
const (
	CodecMask         = 0x07
	TimestampTypeFlag = 0x08 // set: LogAppendTime
	TransactionalFlag = 0x10
	ControlFlag       = 0x20
	DeleteHorizonFlag = 0x40
)

// NoProducerID marks a batch of a producer that is neither idempotent nor transactional.
const NoProducerID = -1

var (
	// ErrShort: the bytes end before the batch does.
	ErrShort = errors.New("record batch is cut short")
	// ErrMagic: not format v2.
	ErrMagic = errors.New("unsupported record format")
	// ErrCRC: the checksum does not match.
	ErrCRC = errors.New("record batch checksum mismatch")
	// ErrInvalid: a field contradicts another.
	ErrInvalid = errors.New("invalid record batch")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Batch is a view of one whole record batch. Next makes one from untrusted bytes; accessors panic on fewer
// than HeaderSize bytes.
type Batch []byte

func (b Batch) i16(o int) int16 { return int16(binary.BigEndian.Uint16(b[o:])) }
func (b Batch) i32(o int) int32 { return int32(binary.BigEndian.Uint32(b[o:])) }
func (b Batch) i64(o int) int64 { return int64(binary.BigEndian.Uint64(b[o:])) }

// BaseOffset is the offset of the first record.
func (b Batch) BaseOffset() int64 { return b.i64(offBaseOffset) }

// SetBaseOffset stamps the first record's offset; the checksum does not cover it.
func (b Batch) SetBaseOffset(v int64) { binary.BigEndian.PutUint64(b[offBaseOffset:], uint64(v)) }

// Size is the whole size in bytes that the header claims. It may be wrong where the batch was not checked.
func (b Batch) Size() int { return int(b.i32(offBatchLength)) + LengthSize }

// LeaderEpoch is the partition leader epoch the leader stamped.
func (b Batch) LeaderEpoch() int32 { return b.i32(offLeaderEpoch) }

// SetLeaderEpoch stamps the leader epoch; the checksum does not cover it.
func (b Batch) SetLeaderEpoch(v int32) { binary.BigEndian.PutUint32(b[offLeaderEpoch:], uint32(v)) }

// Magic is the format version field.
func (b Batch) Magic() int8 { return int8(b[offMagic]) }

// CRC is the stored checksum (CRC-32C of everything from the attributes on).
func (b Batch) CRC() uint32 { return binary.BigEndian.Uint32(b[offCRC:]) }

// ComputeCRC calculates the checksum.
func (b Batch) ComputeCRC() uint32 { return crc32.Checksum(b[offAttributes:], castagnoli) }

// StampCRC stores the calculated checksum, after a field it covers was changed.
func (b Batch) StampCRC() { binary.BigEndian.PutUint32(b[offCRC:], b.ComputeCRC()) }

// Attributes are the flag bits.
func (b Batch) Attributes() int16 { return b.i16(offAttributes) }

// Codec is the compression of the records.
func (b Batch) Codec() Codec { return Codec(b.Attributes() & CodecMask) }

// LogAppendTime reports whether timestamps are the broker's.
func (b Batch) LogAppendTime() bool { return b.Attributes()&TimestampTypeFlag != 0 }

// IsTransactional reports whether the batch belongs to a transaction.
func (b Batch) IsTransactional() bool { return b.Attributes()&TransactionalFlag != 0 }

// IsControl reports whether the batch holds a control record instead of data.
func (b Batch) IsControl() bool { return b.Attributes()&ControlFlag != 0 }

// LastOffsetDelta is the last record's offset relative to the first.
func (b Batch) LastOffsetDelta() int32 { return b.i32(offLastOffsetDelta) }

// LastOffset is the offset of the last record.
func (b Batch) LastOffset() int64 { return b.BaseOffset() + int64(b.LastOffsetDelta()) }

// NextOffset is the offset after the last record.
func (b Batch) NextOffset() int64 { return b.LastOffset() + 1 }

// BaseTimestamp is the first record's timestamp in ms since 1970 (or the delete horizon).
func (b Batch) BaseTimestamp() int64 { return b.i64(offBaseTimestamp) }

// MaxTimestamp is the greatest timestamp in the batch, in ms since 1970; -1: none.
func (b Batch) MaxTimestamp() int64 { return b.i64(offMaxTimestamp) }

// ProducerID is the idempotent producer's id, NoProducerID for none.
func (b Batch) ProducerID() int64 { return b.i64(offProducerID) }

// ProducerEpoch is the epoch of the producer id.
func (b Batch) ProducerEpoch() int16 { return b.i16(offProducerEpoch) }

// BaseSequence is the first record's sequence number.
func (b Batch) BaseSequence() int32 { return b.i32(offBaseSequence) }

// LastSequence is the last record's sequence number; sequences wrap from 2^31-1 to 0.
func (b Batch) LastSequence() int32 { return AddSequence(b.BaseSequence(), b.LastOffsetDelta()) }

// Count is the number of records.
func (b Batch) Count() int32 { return b.i32(offCount) }

// Payload is the records, compressed where the codec says so.
func (b Batch) Payload() []byte { return b[HeaderSize:] }

// SetLogAppendTime turns the batch into one stamped by the broker: the flag, the greatest timestamp, and the checksum.
func (b Batch) SetLogAppendTime(ms int64) {
	binary.BigEndian.PutUint16(b[offAttributes:], uint16(b.Attributes())|TimestampTypeFlag)
	binary.BigEndian.PutUint64(b[offMaxTimestamp:], uint64(ms))
	b.StampCRC()
}

// AddSequence adds n >= 0 to a sequence number, wrapping as Kafka does.
func AddSequence(seq, n int32) int32 {
	if sum := int64(seq) + int64(n); sum > 1<<31-1 {
		return int32(sum - 1<<31)
	}
	return seq + n
}

// PeekSize reads the size of the batch that starts at buf, without requiring the whole of it. It needs
// LengthSize bytes and fails on a length that no batch can have.
func PeekSize(buf []byte) (int, error) {
	if len(buf) < LengthSize {
		return 0, fmt.Errorf("%w: %d bytes where the length field needs %d", ErrShort, len(buf), LengthSize)
	}
	n := Batch(buf).i32(offBatchLength)
	if n < HeaderSize-LengthSize {
		return 0, fmt.Errorf("%w: batch length %d, at least %d expected", ErrInvalid, n, HeaderSize-LengthSize)
	}
	return int(n) + LengthSize, nil
}

// Next splits the first batch off buf, checking only its structure: length within buf and magic. It
// returns io-free, allocation-free views. The checksum is Check's job.
func Next(buf []byte) (b Batch, rest []byte, err error) {
	if len(buf) > offMagic && buf[offMagic] != Magic {
		return nil, buf, fmt.Errorf("%w: magic %d, only %d is supported", ErrMagic, int8(buf[offMagic]), Magic)
	}
	size, err := PeekSize(buf)
	if err != nil {
		return nil, buf, err
	}
	if size > len(buf) {
		return nil, buf, fmt.Errorf("%w: %d bytes where the header says %d", ErrShort, len(buf), size)
	}
	return Batch(buf[:size:size]), buf[size:], nil
}

// Check verifies a batch that Next returned: its checksum and that its fields agree with each other. It does not
// decompress.
func (b Batch) Check() error {
	if got := b.ComputeCRC(); got != b.CRC() {
		return fmt.Errorf("%w: stored %08x, calculated %08x over %d bytes", ErrCRC, b.CRC(), got, len(b)-offAttributes)
	}
	switch count, delta := b.Count(), b.LastOffsetDelta(); {
	case count < 0 || delta < 0:
		return fmt.Errorf("%w: %d records, last offset delta %d", ErrInvalid, count, delta)
	case int64(count) > int64(delta)+1:
		return fmt.Errorf("%w: %d records do not fit offsets 0 to %d", ErrInvalid, count, delta)
	case b.Codec() > Zstd:
		return fmt.Errorf("%w: unknown compression codec %d", ErrInvalid, b.Codec())
	case b.Codec() == None && int64(count)*7 > int64(len(b.Payload())):
		return fmt.Errorf("%w: %d records cannot fit %d bytes", ErrInvalid, count, len(b.Payload()))
	}
	return nil
}
