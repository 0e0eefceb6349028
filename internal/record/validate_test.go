package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
)

// validateBatch builds a batch of records with these timestamps; nil keys where keyless says so.
func validateBatch(t testing.TB, codec Codec, keyless func(i int) bool, timestamps ...int64) Batch {
	t.Helper()
	records := make([]Record, len(timestamps))
	for i, ts := range timestamps {
		records[i] = Record{Timestamp: ts, Value: []byte("value"), Headers: []Header{{Key: "h", Value: []byte("v")}}}
		if keyless == nil || !keyless(i) {
			records[i].Key = fmt.Appendf(nil, "key-%d", i)
		}
	}
	s := NewSpec()
	s.Codec = codec
	b, err := Build(s, records)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestValidate(t *testing.T) {
	const now = 1_700_000_000_000
	second := func(i int) bool { return i == 1 }
	ranged := NewRules("t-0")
	ranged.TimestampRange(now, 1000, 500)
	future := NewRules("t-0")
	future.TimestampRange(now, math.MaxInt64, 500)
	keyed := NewRules("t-0")
	keyed.NeedKeys = true
	both := ranged
	both.NeedKeys = true
	for _, c := range []struct {
		what    string
		rules   Rules
		keyless func(int) bool
		at      []int64
		faults  string // indexes
		is      error
	}{
		{"no rules", NewRules("t-0"), second, []int64{now, now + 1e12, 0}, "", nil},
		{"in range", ranged, nil, []int64{now, now - 1000, now + 500}, "", nil},
		{"too old", ranged, nil, []int64{now, now - 1001, now, now - 5000}, "1 3", ErrTimestamp},
		{"too new", ranged, nil, []int64{now, now + 501}, "1", ErrTimestamp},
		{"too new, old ones welcome", future, nil, []int64{1, now + 501}, "1", ErrTimestamp},
		{"very old ones welcome", future, nil, []int64{0, 1, now}, "", nil},
		{"without timestamps", ranged, nil, []int64{-1, -1}, "", nil},
		{"one without", ranged, nil, []int64{now, -1, now}, "", nil},
		{"key missing", keyed, second, []int64{now, now, now}, "1", ErrInvalid},
		{"key there", keyed, nil, []int64{now, now + 1e12}, "", nil},
		{"key missing in one, time wrong in another", both, second, []int64{now, now, now + 501}, "1 2", ErrTimestamp},
		{"key missing and time wrong", both, second, []int64{now, now + 501}, "1", ErrInvalid},
	} {
		for _, codec := range allCodecs {
			t.Run(c.what+"/"+codec.String(), func(t *testing.T) {
				b := validateBatch(t, codec, c.keyless, c.at...)
				err := b.Validate(&c.rules)
				if c.is == nil {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				faults, ok := errors.AsType[*RecordsError](err)
				if !ok || !errors.Is(err, c.is) || c.is == ErrInvalid && errors.Is(err, ErrTimestamp) {
					t.Fatalf("%v, want a RecordsError that is %v", err, c.is)
				}
				var got []string
				for _, f := range faults.Records {
					got = append(got, strconv.Itoa(int(f.Index)))
					if f.Message == "" {
						t.Errorf("record %d: no message", f.Index)
					}
				}
				if strings.Join(got, " ") != c.faults || faults.Count != len(got) {
					t.Errorf("records %v (%d in all), want %s", got, faults.Count, c.faults)
				}
			})
		}
	}
}

// TestValidateCorrectsMaxTimestamp: producers that put something else than the greatest timestamp into the header exist; retention and searches by
// time go by the header.
func TestValidateCorrectsMaxTimestamp(t *testing.T) {
	for _, codec := range allCodecs {
		for _, claim := range []int64{-1, 0, 29, 31, math.MaxInt64} {
			b := validateBatch(t, codec, nil, 10, 30, 20)
			b.setMaxTimestamp(claim)
			rules := NewRules("t-0")
			rules.Compressed = true
			if err := b.Validate(&rules); err != nil {
				t.Fatalf("%s: %v", codec, err)
			}
			if b.MaxTimestamp() != 30 || b.Check() != nil {
				t.Errorf("%s, claimed %d: greatest timestamp %d, check %v", codec, claim, b.MaxTimestamp(), b.Check())
			}
		}
	}
}

// TestValidateLooksInside says which compressed batches are decompressed: those whose records the rules need.
func TestValidateLooksInside(t *testing.T) {
	broken := func() Batch {
		b := append(validateBatch(t, None, nil, 100)[:HeaderSize:HeaderSize], "this is no gzip stream"...)
		Batch(b).setAttributes(int16(Gzip))
		binary.BigEndian.PutUint32(b[offBatchLength:], uint32(len(b)-LengthSize))
		b.StampCRC()
		if err := b.Check(); err != nil {
			t.Fatal(err)
		}
		return b
	}
	for what, c := range map[string]struct {
		change func(*Rules)
		inside bool
	}{
		"no rules":               {func(*Rules) {}, false},
		"future limit kept":      {func(r *Rules) { r.TimestampRange(1000, math.MaxInt64, 10) }, false},
		"future limit broken":    {func(r *Rules) { r.TimestampRange(50, math.MaxInt64, 10) }, true},
		"a limit for the past":   {func(r *Rules) { r.TimestampRange(1000, 999, 10) }, true},
		"keys":                   {func(r *Rules) { r.NeedKeys = true }, true},
		"told to":                {func(r *Rules) { r.Compressed = true }, true},
		"limits beyond all time": {func(r *Rules) { r.TimestampRange(1000, math.MaxInt64, math.MaxInt64) }, false},
	} {
		rules := NewRules("t-0")
		c.change(&rules)
		if err := broken().Validate(&rules); (err != nil) != c.inside {
			t.Errorf("%s: %v, want an error: %v", what, err, c.inside)
		}
	}
}

func (b Batch) setAttributes(v int16) {
	binary.BigEndian.PutUint16(b[offAttributes:], uint16(v))
	b.StampCRC()
}

func TestValidateRefusesLogAppendTime(t *testing.T) {
	b := validateBatch(t, None, nil, 1)
	b.SetLogAppendTime(5)
	rules := NewRules("t-0")
	if err := b.Validate(&rules); !errors.Is(err, ErrTimestamp) {
		t.Errorf("%v, want ErrTimestamp", err)
	}
}

func TestValidateNamesFewRecords(t *testing.T) {
	b := validateBatch(t, None, func(int) bool { return true }, make([]int64, 5000)...)
	rules := NewRules("t-0")
	rules.NeedKeys = true
	faults, ok := errors.AsType[*RecordsError](b.Validate(&rules))
	if !ok || faults.Count != 5000 || len(faults.Records) != recordErrorsMax {
		t.Errorf("%d faults of which %d are named", faults.Count, len(faults.Records))
	}
}

// TestValidateBomb: what a batch expands to is bounded by what is read of it, not held.
func TestValidateBomb(t *testing.T) {
	const size = DecompressedBytesMax + 1<<20
	one := binary.AppendVarint([]byte{0, 0, 0, 1}, size) // attributes, timestamp, offset, no key
	body := binary.AppendVarint(nil, int64(len(one)+size+1))
	body = append(append(body, one...), make([]byte, size+1)...)
	for _, codec := range []Codec{LZ4, Zstd} {
		payload, err := codec.Compress(make([]byte, HeaderSize), body)
		if err != nil {
			t.Fatal(err)
		}
		b := Batch(payload)
		copy(b, validateBatch(t, None, nil, 0)[:HeaderSize])
		binary.BigEndian.PutUint32(b[offBatchLength:], uint32(len(b)-LengthSize))
		b.setAttributes(int16(codec))
		rules := NewRules("t-0")
		rules.Compressed = true
		if err := b.Validate(&rules); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v, want ErrTooLarge", codec, err)
		}
	}
}

// TestValidateAgrees damages batches and demands that Validate accepts exactly those that Each decodes and whose offsets are in
// order, compressed and not. SEED replays a run.
func TestValidateAgrees(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	good, bad := 0, 0
	for range roundsMax {
		plain := validateBatch(t, None, func(int) bool { return rng.IntN(3) == 0 }, make([]int64, 1+rng.IntN(5))...)
		body := bytes.Clone(plain.Payload())
		switch rng.IntN(4) {
		case 0:
			body[rng.IntN(len(body))] ^= 1 << rng.IntN(8)
		case 1:
			body = body[:rng.IntN(len(body))]
		case 2:
			body = append(body, byte(rng.Uint32()))
		}
		for _, codec := range []Codec{None, LZ4} {
			out, err := codec.Compress(bytes.Clone(plain[:HeaderSize]), body)
			if err != nil {
				t.Fatal(err)
			}
			b := Batch(out)
			binary.BigEndian.PutUint32(b[offBatchLength:], uint32(len(b)-LengthSize))
			b.setAttributes(int16(codec))
			next := int64(0)
			want := b.Each(func(r *Record) bool {
				ok := r.Offset == next
				next++
				return ok
			})
			if next != int64(b.Count()) && want == nil {
				want = errors.New("offsets out of order")
			}
			if want == nil {
				want = inOrder(b)
			}
			rules := NewRules("t-0")
			rules.Compressed = true
			if err := b.Validate(&rules); (err == nil) != (want == nil) {
				t.Fatalf("%s: Validate says %v, decoding says %v: % x", codec, err, want, body)
			}
			if want == nil {
				good++
			} else {
				bad++
			}
		}
	}
	if good == 0 || bad == 0 {
		t.Errorf("%d good and %d bad batches: nothing was compared", good, bad)
	}
}

func inOrder(b Batch) (err error) {
	next := int64(0)
	if e := b.Each(func(r *Record) bool {
		if r.Offset != next {
			err = fmt.Errorf("offset %d, want %d", r.Offset, next)
		}
		next++
		return true
	}); e != nil {
		return e
	}
	return err
}

// FuzzValidate: no content makes Validate panic, and what it accepts can be decoded.
func FuzzValidate(f *testing.F) {
	for _, codec := range allCodecs {
		f.Add(byte(codec), int32(2), []byte(validateBatch(f, codec, nil, 1, 2).Payload()))
	}
	f.Add(byte(0), int32(1), []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1})
	f.Add(byte(0), int32(1), []byte{20, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, codec byte, count int32, payload []byte) {
		if len(payload) > 1<<16 {
			return
		}
		b := append(Batch(validateBatch(t, None, nil, 5)[:HeaderSize:HeaderSize]), payload...)
		binary.BigEndian.PutUint32(b[offBatchLength:], uint32(len(b)-LengthSize))
		binary.BigEndian.PutUint32(b[offLastOffsetDelta:], uint32(count-1))
		binary.BigEndian.PutUint32(b[offCount:], uint32(count))
		b.setAttributes(int16(codec & CodecMask))
		if b.Check() != nil || count < 1 {
			return
		}
		rules := NewRules("t-0")
		rules.NeedKeys, rules.Compressed = true, true
		if b.Validate(&rules) != nil {
			return
		}
		if err := inOrder(b); err != nil {
			t.Errorf("accepted, but %v", err)
		}
	})
}

// BenchmarkValidate shows what the walk costs next to the checksum that every batch pays anyway.
func BenchmarkValidate(b *testing.B) {
	for _, size := range []int{100, 1000} {
		records := make([]Record, 16<<10/size)
		for i := range records {
			records[i] = Record{Timestamp: int64(i), Key: []byte("key-12345"), Value: make([]byte, size)}
		}
		for _, codec := range []Codec{None, LZ4, Zstd} {
			s := NewSpec()
			s.Codec = codec
			batch, err := Build(s, records)
			if err != nil {
				b.Fatal(err)
			}
			rules := NewRules("t-0")
			rules.Compressed = true
			rules.TimestampRange(1e6, 1e6, 1e6)
			for name, fn := range map[string]func() error{"crc": batch.Check, "validate": func() error { return batch.Validate(&rules) }} {
				b.Run(fmt.Sprintf("%s/%dx%d/%s", codec, len(records), size, name), func(b *testing.B) {
					b.ReportAllocs()
					b.SetBytes(int64(len(batch)))
					for b.Loop() {
						if err := fn(); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// TestValidateHoldsRecordsToTheirSize: a record ends where its size says, not where its fields happen to end.
func TestValidateHoldsRecordsToTheirSize(t *testing.T) {
	for _, keyless := range []func(int) bool{nil, func(int) bool { return true }} {
		b := validateBatch(t, None, keyless, 1, 1)
		for _, headers := range []bool{true, false} {
			if !headers {
				bare, err := Build(NewSpec(), []Record{{Timestamp: 1, Value: []byte("v")}, {Timestamp: 1, Value: []byte("v")}})
				if err != nil {
					t.Fatal(err)
				}
				b = bare
			}
			for _, change := range []byte{2, 4, 256 - 2} { // zigzag: one or two bytes more, one less
				out := bytes.Clone(b)
				out[HeaderSize] += change
				Batch(out).StampCRC()
				rules := NewRules("t-0")
				if err := Batch(out).Validate(&rules); !errors.Is(err, ErrInvalid) {
					t.Errorf("headers %v, size changed by %d: %v", headers, int8(change)/2, err)
				}
			}
		}
	}
}
