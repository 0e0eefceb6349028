package record

import (
	"encoding/binary"
	"fmt"
)

// Record is one record of a batch. Key, Value and header values are nil where Kafka has null. Decoded
// slices are views of the decompressed batch.
type Record struct {
	Offset    int64 // absolute
	Timestamp int64 // ms since 1970
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Header is a record's header.
type Header struct {
	Key   string
	Value []byte
}

// DecompressedBytesMax bounds what Records accepts from one batch after decompression.
const DecompressedBytesMax = 128 << 20

// Each decodes the batch's records in order and calls fn with each until fn returns false. The Record is reused between
// calls; its slices live as long as the batch (None) or are garbage-collected.
func (b Batch) Each(fn func(*Record) bool) error {
	data, err := b.Codec().Decompress(b.Payload(), DecompressedBytesMax)
	if err != nil {
		return fmt.Errorf("batch at offset %d: %w", b.BaseOffset(), err)
	}
	var rec Record
	d := decoder{buf: data}
	for i := range b.Count() {
		if err := d.record(b, &rec); err != nil {
			return fmt.Errorf("batch at offset %d, record %d of %d: %w", b.BaseOffset(), i, b.Count(), err)
		}
		if !fn(&rec) {
			return nil
		}
	}
	if len(d.buf) > 0 {
		return fmt.Errorf("batch at offset %d: %w: %d bytes after the last record", b.BaseOffset(), ErrInvalid, len(d.buf))
	}
	return nil
}

type decoder struct{ buf []byte }

func (d *decoder) varint(what string) (int64, error) {
	v, n := binary.Varint(d.buf)
	if n <= 0 {
		return 0, fmt.Errorf("%w: bad varint for %s", ErrInvalid, what)
	}
	d.buf = d.buf[n:]
	return v, nil
}

// bytes reads a length and that many bytes; -1 gives nil.
func (d *decoder) bytes(what string) ([]byte, error) {
	n, err := d.varint(what)
	switch {
	case err != nil:
		return nil, err
	case n == -1:
		return nil, nil
	case n < 0 || n > int64(len(d.buf)):
		return nil, fmt.Errorf("%w: %s of %d bytes where %d are left", ErrInvalid, what, n, len(d.buf))
	}
	v := d.buf[:n:n]
	d.buf = d.buf[n:]
	return v, nil
}

func (d *decoder) record(b Batch, rec *Record) error {
	body, err := d.bytes("record")
	if err != nil {
		return err
	}
	if len(body) < 1 {
		return fmt.Errorf("%w: empty record", ErrInvalid)
	}
	in := decoder{buf: body[1:]} // the attributes byte is unused in v2
	ts, err := in.varint("timestamp delta")
	if err != nil {
		return err
	}
	delta, err := in.varint("offset delta")
	if err != nil {
		return err
	}
	if delta < 0 || delta > int64(b.LastOffsetDelta()) {
		return fmt.Errorf("%w: offset delta %d outside 0 to %d", ErrInvalid, delta, b.LastOffsetDelta())
	}
	rec.Offset = b.BaseOffset() + delta
	rec.Timestamp = b.BaseTimestamp() + ts
	if b.LogAppendTime() {
		rec.Timestamp = b.MaxTimestamp()
	}
	if rec.Key, err = in.bytes("key"); err != nil {
		return err
	}
	if rec.Value, err = in.bytes("value"); err != nil {
		return err
	}
	count, err := in.varint("header count")
	if err != nil {
		return err
	}
	if count < 0 || count > int64(len(in.buf))/2 {
		return fmt.Errorf("%w: %d headers in %d bytes", ErrInvalid, count, len(in.buf))
	}
	rec.Headers = rec.Headers[:0]
	for range count {
		key, err := in.bytes("header key")
		if err != nil {
			return err
		}
		if key == nil {
			return fmt.Errorf("%w: null header key", ErrInvalid)
		}
		value, err := in.bytes("header value")
		if err != nil {
			return err
		}
		rec.Headers = append(rec.Headers, Header{Key: string(key), Value: value})
	}
	if len(in.buf) > 0 {
		return fmt.Errorf("%w: %d bytes after the record's headers", ErrInvalid, len(in.buf))
	}
	return nil
}

// Spec is what Build needs besides the records. The zero value is wrong for producers: use NewSpec.
type Spec struct {
	Codec         Codec
	BaseOffset    int64
	LeaderEpoch   int32
	Attributes    int16 // flags apart from the codec
	ProducerID    int64
	ProducerEpoch int16
	BaseSequence  int32
}

// NewSpec describes an uncompressed batch of no producer at offset 0.
func NewSpec() Spec {
	return Spec{LeaderEpoch: -1, ProducerID: NoProducerID, ProducerEpoch: -1, BaseSequence: -1}
}

// Build encodes records into a batch. Offsets are consecutive from s.BaseOffset; Record.Offset is ignored.
func Build(s Spec, records []Record) (Batch, error) {
	if len(records) == 0 {
		return nil, fmt.Errorf("%w: no records", ErrInvalid)
	}
	base, latest := records[0].Timestamp, records[0].Timestamp
	var body, one []byte
	for i, r := range records {
		latest = max(latest, r.Timestamp)
		one = append(one[:0], 0)
		one = binary.AppendVarint(one, r.Timestamp-base)
		one = binary.AppendVarint(one, int64(i))
		one = appendBytes(one, r.Key)
		one = appendBytes(one, r.Value)
		one = binary.AppendVarint(one, int64(len(r.Headers)))
		for _, h := range r.Headers {
			one = binary.AppendVarint(one, int64(len(h.Key)))
			one = append(one, h.Key...)
			one = appendBytes(one, h.Value)
		}
		body = binary.AppendVarint(body, int64(len(one)))
		body = append(body, one...)
	}
	b, err := s.Codec.Compress(make([]byte, HeaderSize, HeaderSize+len(body)), body)
	if err != nil {
		return nil, err
	}
	be := binary.BigEndian
	be.PutUint64(b[offBaseOffset:], uint64(s.BaseOffset))
	be.PutUint32(b[offBatchLength:], uint32(len(b)-LengthSize))
	be.PutUint32(b[offLeaderEpoch:], uint32(s.LeaderEpoch))
	b[offMagic] = Magic
	be.PutUint16(b[offAttributes:], uint16(s.Attributes)|uint16(s.Codec))
	be.PutUint32(b[offLastOffsetDelta:], uint32(len(records)-1))
	be.PutUint64(b[offBaseTimestamp:], uint64(base))
	be.PutUint64(b[offMaxTimestamp:], uint64(latest))
	be.PutUint64(b[offProducerID:], uint64(s.ProducerID))
	be.PutUint16(b[offProducerEpoch:], uint16(s.ProducerEpoch))
	be.PutUint32(b[offBaseSequence:], uint32(s.BaseSequence))
	be.PutUint32(b[offCount:], uint32(len(records)))
	Batch(b).StampCRC()
	return Batch(b), nil
}

func appendBytes(dst, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(dst, -1)
	}
	return append(binary.AppendVarint(dst, int64(len(v))), v...)
}
