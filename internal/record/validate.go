package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrTimestamp: a record's timestamp is not within what the topic allows.
var ErrTimestamp = errors.New("timestamp out of range")

// Rules are what a topic demands of the records that a client writes to it.
type Rules struct {
	Where      string // topic-partition, for messages
	NeedKeys   bool   // the topic is compacted: a record without a key could never go
	Compressed bool   // look into compressed batches, even where the header says all that is needed

	// The range of allowed timestamps in ms since 1970; NewRules' range allows all.
	Earliest, Latest int64
}

// NewRules returns rules without demands.
func NewRules(where string) Rules {
	return Rules{Where: where, Earliest: math.MinInt64, Latest: math.MaxInt64}
}

// TimestampRange allows timestamps from before ms before now to after ms after it. Neither is negative.
func (r *Rules) TimestampRange(now, before, after int64) {
	r.Earliest, r.Latest = now-before, now+after
	if r.Latest < now {
		r.Latest = math.MaxInt64
	}
}

// RecordError says what is wrong with one record of a batch.
type RecordError struct {
	Index   int32 // in the batch
	Message string
}

// recordErrorsMax is how many records of one batch are named: an answer must not be larger than the request.
const recordErrorsMax = 100

// RecordsError is the error for a batch of which some records break the rules. It is ErrTimestamp if one of them does by its timestamp, else
// ErrInvalid.
type RecordsError struct {
	Timestamps bool
	Count      int           // of the records at fault
	Records    []RecordError // the first of them
}

func (e *RecordsError) Error() string {
	if e.Timestamps {
		return "One or more records have been rejected due to invalid timestamp"
	}
	return fmt.Sprintf("One or more records have been rejected due to %d record errors in total, the first: record %d: %s",
		e.Count, e.Records[0].Index, e.Records[0].Message)
}

func (e *RecordsError) Unwrap() error {
	if e.Timestamps {
		return ErrTimestamp
	}
	return ErrInvalid
}

// Validate holds a batch that passed Check, and comes from a client, against the rules. The records of an uncompressed batch are walked
// through, without allocating: each must be whole and in place, so that whoever decodes the batch later finds what its header promises.
// Compressed ones are only looked into where the header is not enough for the rules. Where the records were seen and the greatest
// timestamp is not the header's, the header is corrected. Errors: ErrInvalid, *RecordsError, ErrTooLarge.
func (b Batch) Validate(r *Rules) error {
	if b.LogAppendTime() {
		faults := &RecordsError{Timestamps: true, Count: int(b.Count())}
		for i := range min(b.Count(), recordErrorsMax) {
			faults.Records = append(faults.Records, RecordError{i, "Invalid timestamp type. Producer should not set timestamp type to LogAppendTime."})
		}
		return faults
	}
	v := validation{rules: r, batch: b, latest: noTimestamp}
	switch {
	case b.Codec() == None:
		if err := v.walk(b.Payload()); err != nil {
			return err
		}
	case r.seesHeader(b):
		return nil
	default:
		if err := v.stream(); err != nil {
			return err
		}
	}
	if v.faults != nil {
		return v.faults
	}
	b.setMaxTimestamp(v.latest)
	return nil
}

// noTimestamp is Kafka's "no timestamp".
const noTimestamp = -1

// seesHeader reports whether the header of a compressed batch is enough: no rule needs the records, and the timestamps that it
// names are in range.
func (r *Rules) seesHeader(b Batch) bool {
	if r.NeedKeys || r.Compressed || r.Earliest > 0 {
		return false
	}
	return b.BaseTimestamp() <= r.Latest && b.MaxTimestamp() <= r.Latest
}

// setMaxTimestamp stores the greatest timestamp, and the checksum if that is a change.
func (b Batch) setMaxTimestamp(ms int64) {
	if b.MaxTimestamp() != ms {
		binary.BigEndian.PutUint64(b[offMaxTimestamp:], uint64(ms))
		b.StampCRC()
	}
}

// validation goes through the records of one batch.
type validation struct {
	rules  *Rules
	batch  Batch
	latest int64 // the greatest timestamp so far
	faults *RecordsError
}

// walk goes through the records of an uncompressed batch.
func (v *validation) walk(data []byte) error {
	count, base := int64(v.batch.Count()), v.batch.BaseTimestamp()
	keys, earliest, last := v.rules.NeedKeys, v.rules.Earliest, v.rules.Latest
	latest, at := v.latest, 0
	for i := range count {
		r, ok := usualRecord(data, at)
		if !ok {
			r = anyRecord(data, at)
		}
		if r.next == nowhere || r.delta != i {
			return v.explain(data, at, i)
		}
		timestamp := base + r.timestamp
		latest = max(latest, timestamp)
		if timestamp > last || timestamp < earliest && timestamp != noTimestamp || keys && r.key < 0 {
			v.fault(int32(i), timestamp, r.key >= 0)
		}
		at = r.next
	}
	if at != len(data) {
		return fmt.Errorf("%w: %d bytes after the last of %d records", ErrInvalid, len(data)-at, count)
	}
	v.latest = latest
	return nil
}

// passed is what walk needs of a record that it passes.
type passed struct {
	timestamp, delta int64 // relative to the batch's
	key              int64 // length, -1: null
	next             int   // place behind the record
}

// usualRecord passes a record without headers whose numbers have one or two bytes each, as most have: a third of the time of anyRecord. Of
// any other it only says that it is another.
func usualRecord(data []byte, at int) (r passed, ok bool) {
	size, at := shortVarint(data, at)
	end := at + int(size)
	timestamp, at := shortVarint(data, at+1) // behind the attributes, which are unused
	delta, at := shortVarint(data, at)
	key, at := shortVarint(data, at)
	value, at := shortVarint(data, at+int(max(key, 0)))
	headers, at := shortVarint(data, at+int(max(value, 0)))
	ok = at == end && at < nowhere && headers == 0 && key >= -1 && value >= -1
	return passed{int64(timestamp), int64(delta), int64(key), at}, ok
}

// nowhere is the place of whatever stands behind something that could not be read. Further lengths may be added to it.
const nowhere = 1 << 62

// shortVarint reads a zigzag number of one or two bytes that is not the last in data. It is small enough to be inlined.
func shortVarint(data []byte, at int) (v int32, next int) {
	if at >= len(data)-1 {
		return 0, nowhere
	}
	u, next := uint32(data[at]), at+1
	if u >= 0x80 {
		u, next = u&0x7f|uint32(data[next])<<7, at+2
		if u >= 1<<14 {
			return 0, nowhere
		}
	}
	return int32(u>>1) ^ -int32(u&1), next
}

// anyRecord passes any record; next is nowhere for one that is not whole.
func anyRecord(data []byte, at int) passed {
	bad := passed{next: nowhere}
	size, at := varint(data, at)
	if at == nowhere || size < 1 || size > int64(len(data)-at) {
		return bad
	}
	data = data[:at+int(size)]
	var r passed
	r.timestamp, at = varint(data, at+1)
	r.delta, at = varint(data, at)
	r.key, at = skipBytes(data, at)
	_, at = skipBytes(data, at)
	headers, at := varint(data, at)
	if headers < 0 {
		return bad
	}
	// Each takes two bytes at least, so a count that lies ends with the data.
	for ; headers > 0 && at < nowhere; headers-- {
		var key int64
		if key, at = skipBytes(data, at); key < 0 {
			return bad
		}
		_, at = skipBytes(data, at)
	}
	if at != len(data) {
		return bad
	}
	r.next = at
	return r
}

// varint reads a zigzag number.
func varint(data []byte, at int) (v int64, next int) {
	if at >= len(data) {
		return 0, nowhere
	}
	v, n := binary.Varint(data[at:])
	if n <= 0 {
		return 0, nowhere
	}
	return v, at + n
}

// skipBytes passes over a length and that many bytes; the length is -1 for null.
func skipBytes(data []byte, at int) (size int64, next int) {
	size, next = varint(data, at)
	if size < -1 || size > int64(len(data)) {
		return size, nowhere
	}
	return size, next + int(max(size, 0))
}

// explain decodes the record at a place that walk did not like, for the error.
func (v *validation) explain(data []byte, at int, index int64) error {
	var rec Record
	d := decoder{buf: data[at:]}
	if err := d.record(v.batch, &rec); err != nil {
		return fmt.Errorf("record %d of %d: %w", index, v.batch.Count(), err)
	}
	return fmt.Errorf("record %d of %d: %w: offset delta %d", index, v.batch.Count(), ErrInvalid, rec.Offset-v.batch.BaseOffset())
}

// fault notes a record that breaks a rule; that of keys first, as in Kafka.
func (v *validation) fault(index int32, timestamp int64, hasKey bool) {
	if v.faults == nil {
		v.faults = &RecordsError{}
	}
	f, r := v.faults, v.rules
	f.Count++
	var message string
	if r.NeedKeys && !hasKey {
		message = fmt.Sprintf("Compacted topic cannot accept message without key in topic partition %s.", r.Where)
	} else {
		f.Timestamps = true
		message = fmt.Sprintf("Timestamp %d of message with offset %d is out of range. The timestamp should be within [%d, %d]",
			timestamp, index, r.Earliest, r.Latest)
	}
	if len(f.Records) < recordErrorsMax {
		f.Records = append(f.Records, RecordError{Index: index, Message: message})
	}
}
