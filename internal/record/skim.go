package record

import (
	"encoding/binary"
	"fmt"
)

// Skim is what compaction needs to know of a record, as views of the batch. It leaves values and headers undecoded.
type Skim struct {
	OffsetDelta    int64
	TimestampDelta int64
	Key            []byte // nil: null
	Tombstone      bool   // the value is null
	raw            []byte // the whole record, its length included
	attributes     byte
	rest           []byte // raw behind the offset delta
}

// Skim calls fn with each record, in order, until fn returns false. The Skim is reused; its slices live as long as the batch (None)
// or are garbage-collected.
func (b Batch) Skim(fn func(*Skim) bool) error {
	data, err := b.Codec().Decompress(b.Payload(), DecompressedBytesMax)
	if err != nil {
		return fmt.Errorf("batch at offset %d: %w", b.BaseOffset(), err)
	}
	var s Skim
	for i := range b.Count() {
		rest, err := s.decode(data, b.LastOffsetDelta())
		if err != nil {
			return fmt.Errorf("batch at offset %d, record %d of %d: %w", b.BaseOffset(), i, b.Count(), err)
		}
		data = rest
		if !fn(&s) {
			return nil
		}
	}
	if len(data) > 0 {
		return fmt.Errorf("batch at offset %d: %w: %d bytes after the last record", b.BaseOffset(), ErrInvalid, len(data))
	}
	return nil
}

// decode reads the record at the start of data and returns what follows it.
func (s *Skim) decode(data []byte, lastDelta int32) (rest []byte, err error) {
	d := decoder{buf: data}
	body, err := d.bytes("record")
	if err != nil {
		return nil, err
	}
	if len(body) < 1 {
		return nil, fmt.Errorf("%w: empty record", ErrInvalid)
	}
	in := decoder{buf: body[1:]}
	s.raw, s.attributes = data[:len(data)-len(d.buf)], body[0]
	if s.TimestampDelta, err = in.varint("timestamp delta"); err != nil {
		return nil, err
	}
	if s.OffsetDelta, err = in.varint("offset delta"); err != nil {
		return nil, err
	}
	if s.OffsetDelta < 0 || s.OffsetDelta > int64(lastDelta) {
		return nil, fmt.Errorf("%w: offset delta %d outside 0 to %d", ErrInvalid, s.OffsetDelta, lastDelta)
	}
	s.rest = in.buf
	if s.Key, err = in.bytes("key"); err != nil {
		return nil, err
	}
	size, err := in.varint("value")
	if err != nil {
		return nil, err
	}
	if size < -1 || size > int64(len(in.buf)) {
		return nil, fmt.Errorf("%w: value of %d bytes where %d are left", ErrInvalid, size, len(in.buf))
	}
	s.Tombstone = size == -1
	return d.buf, nil
}

// Verdict is a Filter's decision about one record.
type Verdict uint8

const (
	// Drop leaves the record out.
	Drop Verdict = iota
	// Keep keeps it.
	Keep
	// KeepDated keeps it, and the batch must say until when (a delete horizon, KIP-534).
	KeepDated
)

// HasDeleteHorizon reports whether the batch says when its tombstones, or its marker, may go.
func (b Batch) HasDeleteHorizon() bool { return b.Attributes()&DeleteHorizonFlag != 0 }

// DeleteHorizon is that time in ms since 1970; ok is false if there is none.
func (b Batch) DeleteHorizon() (ms int64, ok bool) { return b.BaseTimestamp(), b.HasDeleteHorizon() }

// Filter rewrites batches with some of their records left out, as Kafka's log cleaner does: base offset, last offset, producer id, epoch and
// sequence stay, so do the offsets of the records, and the codec. It reuses its memory: a Filter serves one goroutine.
type Filter struct {
	body, dated, out []byte
	codecs           codecs
}

// Filtered is what became of a batch.
type Filtered struct {
	Batch         Batch // valid until the Filter's next call, or b itself if nothing changed; nil: no record is kept
	Kept, Dropped int
}

// Apply asks judge about each record of b. horizonMs becomes the delete horizon of a batch that has none yet and in which a record
// is KeepDated.
func (f *Filter) Apply(b Batch, horizonMs int64, judge func(*Skim) Verdict) (Filtered, error) {
	var r Filtered
	dated := false
	latest := int64(-1)
	f.body = f.body[:0]
	err := b.Skim(func(s *Skim) bool {
		v := judge(s)
		if v == Drop {
			r.Dropped++
			return true
		}
		r.Kept++
		dated = dated || v == KeepDated
		latest = max(latest, b.BaseTimestamp()+s.TimestampDelta)
		f.body = append(f.body, s.raw...)
		return true
	})
	dated = dated && !b.HasDeleteHorizon()
	switch {
	case err != nil || r.Kept == 0:
		return r, err
	case r.Dropped == 0 && !dated:
		r.Batch = b
		return r, nil
	}
	if b.LogAppendTime() {
		latest = b.MaxTimestamp()
	}
	body, base, attributes := f.body, b.BaseTimestamp(), b.Attributes()
	if dated {
		if body, err = f.rebase(b, horizonMs); err != nil {
			return r, err
		}
		base, attributes = horizonMs, attributes|DeleteHorizonFlag
	}
	out := append(f.out[:0], b[:HeaderSize]...)
	if out, err = f.codecs.compress(b.Codec(), out, body); err != nil {
		return r, fmt.Errorf("batch at offset %d: %w", b.BaseOffset(), err)
	}
	f.out = out
	r.Batch = finish(out, attributes, base, latest, r.Kept)
	return r, nil
}

// rebase encodes the kept records' timestamps anew, as differences to base.
func (f *Filter) rebase(b Batch, base int64) ([]byte, error) {
	out := f.dated[:0]
	var s Skim
	var head [1 + 2*binary.MaxVarintLen64]byte
	for data := f.body; len(data) > 0; {
		rest, err := s.decode(data, b.LastOffsetDelta())
		if err != nil {
			return nil, err
		}
		data = rest
		at := b.BaseTimestamp() + s.TimestampDelta
		if b.LogAppendTime() {
			at = b.MaxTimestamp()
		}
		h := append(head[:0], s.attributes)
		h = binary.AppendVarint(h, at-base)
		h = binary.AppendVarint(h, s.OffsetDelta)
		out = binary.AppendVarint(out, int64(len(h)+len(s.rest)))
		out = append(out, h...)
		out = append(out, s.rest...)
	}
	f.dated = out
	return out, nil
}

// Empty returns b without its records, in memory of its own: what is kept of a batch for its offsets and its producer's sequence.
func (b Batch) Empty() Batch {
	out := append([]byte(nil), b[:HeaderSize]...)
	return finish(out, b.Attributes()&^(CodecMask|DeleteHorizonFlag), -1, b.MaxTimestamp(), 0)
}

// finish puts the fields that depend on the records into a copied header.
func finish(out []byte, attributes int16, base, latest int64, count int) Batch {
	be := binary.BigEndian
	be.PutUint32(out[offBatchLength:], uint32(len(out)-LengthSize))
	be.PutUint16(out[offAttributes:], uint16(attributes))
	be.PutUint64(out[offBaseTimestamp:], uint64(base))
	be.PutUint64(out[offMaxTimestamp:], uint64(latest))
	be.PutUint32(out[offCount:], uint32(count))
	b := Batch(out)
	b.StampCRC()
	return b
}

// ControlType is what a control record says.
type ControlType int16

// Kafka's control records.
const (
	ControlAbort  ControlType = 0
	ControlCommit ControlType = 1
	ControlOther  ControlType = -1
)

// Control returns the type of a control batch's record; ok is false if the batch is empty.
func (b Batch) Control() (t ControlType, ok bool, err error) {
	t = ControlOther
	err = b.Skim(func(s *Skim) bool {
		ok = true
		if len(s.Key) >= 4 { // version, type
			t = ControlType(binary.BigEndian.Uint16(s.Key[2:]))
		}
		return false
	})
	return t, ok, err
}
