package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var allCodecs = []Codec{None, Gzip, Snappy, LZ4, Zstd}

func sample(n int) []Record {
	out := make([]Record, n)
	for i := range out {
		out[i] = Record{Timestamp: 1_700_000_000_000 + int64(i*7%5), Key: fmt.Appendf(nil, "key-%d", i), Value: bytes.Repeat([]byte{byte(i)}, i*13)}
		switch i % 4 {
		case 1:
			out[i].Key = nil
		case 2:
			out[i].Value = nil
		case 3:
			out[i].Headers = []Header{{Key: "h", Value: []byte("v")}, {Key: "", Value: nil}, {Key: "e", Value: []byte{}}}
		}
	}
	return out
}

// collect decodes a batch into copies.
func collect(b Batch) ([]Record, error) {
	var out []Record
	err := b.Each(func(r *Record) bool {
		c := *r
		c.Headers = append([]Header(nil), r.Headers...)
		out = append(out, c)
		return true
	})
	return out, err
}

func sameRecords(t *testing.T, got, want []Record, base int64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i := range want {
		w := want[i]
		w.Offset = base + int64(i)
		if !reflect.DeepEqual(got[i], w) {
			t.Fatalf("record %d is %+v, want %+v", i, got[i], w)
		}
	}
}

func TestBuildAndDecode(t *testing.T) {
	for _, c := range allCodecs {
		for _, n := range []int{1, 2, 100} {
			spec := NewSpec()
			spec.Codec, spec.BaseOffset, spec.LeaderEpoch = c, 1<<40, 9
			spec.ProducerID, spec.ProducerEpoch, spec.BaseSequence = 77, 3, math.MaxInt32
			spec.Attributes = TransactionalFlag
			in := sample(n)
			b, err := Build(spec, in)
			if err != nil {
				t.Fatal(err)
			}
			next, rest, err := Next(append(b[:len(b):len(b)], "more"...))
			if err != nil || string(rest) != "more" || !bytes.Equal(next, b) {
				t.Fatalf("%s: Next: %v, rest %q", c, err, rest)
			}
			if err := b.Check(); err != nil {
				t.Fatal(err)
			}
			if b.Codec() != c || b.Count() != int32(n) || b.LastOffset() != 1<<40+int64(n)-1 || b.LeaderEpoch() != 9 || b.ProducerID() != 77 ||
				b.ProducerEpoch() != 3 || b.BaseSequence() != math.MaxInt32 || !b.IsTransactional() || b.IsControl() || b.LogAppendTime() {
				t.Fatalf("%s: header fields are wrong", c)
			}
			if n > 1 && b.LastSequence() != int32(n)-2 {
				t.Errorf("last sequence %d, want %d", b.LastSequence(), n-2)
			}
			got, err := collect(b)
			if err != nil {
				t.Fatal(err)
			}
			sameRecords(t, got, in, 1<<40)
		}
	}
}

// kmsgBatch encodes records with franz-go alone.
func kmsgBatch(t *testing.T, c Codec, in []Record) []byte {
	t.Helper()
	var body []byte
	latest := in[0].Timestamp
	for i, r := range in {
		k := kmsg.Record{TimestampDelta64: r.Timestamp - in[0].Timestamp, OffsetDelta: int32(i), Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			k.Headers = append(k.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		}
		k.Length = int32(len(k.AppendTo(nil)) - 1) // less the varint of a zero length
		body = k.AppendTo(body)
		latest = max(latest, r.Timestamp)
	}
	codec := map[Codec]kgo.CompressionCodec{None: kgo.NoCompression(), Gzip: kgo.GzipCompression(), Snappy: kgo.SnappyCompression(), LZ4: kgo.Lz4Compression(), Zstd: kgo.ZstdCompression()}[c]
	attributes := int16(c)
	if c != None {
		comp, err := kgo.DefaultCompressor(codec)
		if err != nil {
			t.Fatal(err)
		}
		var typ kgo.CompressionCodecType
		body, typ = comp.Compress(new(bytes.Buffer), body)
		body = bytes.Clone(body)
		attributes = int16(typ)
	}
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, Attributes: attributes, LastOffsetDelta: int32(len(in) - 1), FirstTimestamp: in[0].Timestamp,
		MaxTimestamp: latest, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(len(in)), Records: body,
	}
	raw := b.AppendTo(nil)
	b.Length = int32(len(raw) - 12)
	b.CRC = int32(crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b.AppendTo(nil)
}

func TestAgainstFranz(t *testing.T) {
	for _, c := range allCodecs {
		t.Run(c.String(), func(t *testing.T) {
			in := sample(50)
			theirs := kmsgBatch(t, c, in)
			b, rest, err := Next(theirs)
			if err != nil || len(rest) != 0 {
				t.Fatalf("Next: %v, %d bytes left", err, len(rest))
			}
			if err := b.Check(); err != nil {
				t.Fatal(err)
			}
			got, err := collect(b)
			if err != nil {
				t.Fatal(err)
			}
			sameRecords(t, got, in, 0)

			spec := NewSpec()
			spec.Codec = c
			ours, err := Build(spec, in)
			if err != nil {
				t.Fatal(err)
			}
			if c == None && !bytes.Equal(ours, theirs) {
				t.Error("uncompressed batches differ from franz-go's")
			}
			part := kmsg.NewFetchResponseTopicPartition()
			part.RecordBatches = ours
			part.HighWatermark = 50
			fp, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{}, &part, kgo.DefaultDecompressor(), nil)
			if fp.Err != nil || len(fp.Records) != len(in) {
				t.Fatalf("franz-go reads %d records: %v", len(fp.Records), fp.Err)
			}
			for i, r := range fp.Records {
				if r.Offset != int64(i) || !bytes.Equal(r.Key, in[i].Key) || !bytes.Equal(r.Value, in[i].Value) ||
					(r.Key == nil) != (in[i].Key == nil) || (r.Value == nil) != (in[i].Value == nil) || r.Timestamp.UnixMilli() != in[i].Timestamp || len(r.Headers) != len(in[i].Headers) {
					t.Fatalf("franz-go reads record %d as %+v", i, r)
				}
			}
		})
	}
}

func TestStamping(t *testing.T) {
	b, err := Build(NewSpec(), sample(3))
	if err != nil {
		t.Fatal(err)
	}
	b.SetBaseOffset(500)
	b.SetLeaderEpoch(6)
	if err := b.Check(); err != nil {
		t.Errorf("stamping offset and epoch broke the checksum: %v", err)
	}
	b.SetLogAppendTime(42)
	if err := b.Check(); err != nil || !b.LogAppendTime() {
		t.Errorf("after SetLogAppendTime: %v, %v", err, b.LogAppendTime())
	}
	got, err := collect(b)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range got {
		if r.Offset != 500+int64(i) || r.Timestamp != 42 {
			t.Errorf("record %d has offset %d, timestamp %d", i, r.Offset, r.Timestamp)
		}
	}
}

func TestNextRefuses(t *testing.T) {
	good, err := Build(NewSpec(), sample(2))
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(good) {
		if _, _, err := Next(good[:n]); !errors.Is(err, ErrShort) {
			t.Fatalf("%d of %d bytes: %v", n, len(good), err)
		}
	}
	edit := func(f func(Batch)) Batch {
		b := Batch(bytes.Clone(good))
		f(b)
		return b
	}
	for name, tc := range map[string]struct {
		b    Batch
		want error
	}{
		"magic 1":         {edit(func(b Batch) { b[offMagic] = 1 }), ErrMagic},
		"negative length": {edit(func(b Batch) { binary.BigEndian.PutUint32(b[offBatchLength:], 1<<31) }), ErrInvalid},
		"length 48":       {edit(func(b Batch) { binary.BigEndian.PutUint32(b[offBatchLength:], 48) }), ErrInvalid},
		"huge length":     {edit(func(b Batch) { binary.BigEndian.PutUint32(b[offBatchLength:], math.MaxInt32) }), ErrShort},
	} {
		if _, _, err := Next(tc.b); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	good, err := Build(NewSpec(), sample(2))
	if err != nil {
		t.Fatal(err)
	}
	for i := offCRC; i < len(good); i++ {
		b := Batch(bytes.Clone(good))
		b[i] ^= 0x10
		if err := b.Check(); !errors.Is(err, ErrCRC) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
	for name, f := range map[string]func(Batch){
		"negative count": func(b Batch) { binary.BigEndian.PutUint32(b[offCount:], 1<<31) },
		"count > delta":  func(b Batch) { binary.BigEndian.PutUint32(b[offCount:], 3) },
		"negative delta": func(b Batch) { binary.BigEndian.PutUint32(b[offLastOffsetDelta:], 1<<31) },
		"codec 5":        func(b Batch) { b[offAttributes+1] |= 5 },
		"count > bytes": func(b Batch) {
			binary.BigEndian.PutUint32(b[offCount:], 1000)
			binary.BigEndian.PutUint32(b[offLastOffsetDelta:], 999)
		},
	} {
		b := Batch(bytes.Clone(good))
		f(b)
		b.StampCRC()
		if err := b.Check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAddSequence(t *testing.T) {
	for _, tc := range [][3]int32{{0, 0, 0}, {5, 3, 8}, {math.MaxInt32, 0, math.MaxInt32}, {math.MaxInt32, 1, 0}, {math.MaxInt32 - 1, 3, 1}, {math.MaxInt32, math.MaxInt32, math.MaxInt32 - 1}} {
		if got := AddSequence(tc[0], tc[1]); got != tc[2] {
			t.Errorf("AddSequence(%d, %d) = %d, want %d", tc[0], tc[1], got, tc[2])
		}
	}
}

func TestDecompressBound(t *testing.T) {
	big := bytes.Repeat([]byte("a"), 100_000)
	for _, c := range allCodecs {
		p, err := c.Compress(nil, big)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Decompress(p, len(big)); err != nil || !bytes.Equal(got, big) {
			t.Errorf("%s at the limit: %v", c, err)
		}
		if _, err := c.Decompress(p, len(big)-1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s beyond the limit: %v", c, err)
		}
		if c != None {
			if _, err := c.Decompress(p[:len(p)/2], len(big)); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s cut short: %v", c, err)
			}
		}
	}
	if _, err := Codec(7).Decompress(nil, 1); !errors.Is(err, ErrInvalid) {
		t.Errorf("codec 7: %v", err)
	}
	// A zstd frame of a few bytes that asks for a window of gigabytes.
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa0, 0x01, 0x00, 0x00}
	if _, err := Zstd.Decompress(frame, 1<<20); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "window") {
		t.Errorf("huge window: %v", err)
	}
}

// TestXerial reads the framing of Java's snappy.
func TestXerial(t *testing.T) {
	first, second := []byte("hello hello hello "), []byte("world world world")
	framed := append(bytes.Clone(xerial), 0, 0, 0, 1, 0, 0, 0, 1)
	for _, part := range [][]byte{first, second} {
		block, err := Snappy.Compress(nil, part)
		if err != nil {
			t.Fatal(err)
		}
		framed = binary.BigEndian.AppendUint32(framed, uint32(len(block)))
		framed = append(framed, block...)
	}
	want := append(bytes.Clone(first), second...)
	if got, err := Snappy.Decompress(framed, 100); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := Snappy.Decompress(framed, len(want)-1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("beyond the limit: %v", err)
	}
	for n := 8; n < len(framed); n++ {
		if got, err := Snappy.Decompress(framed[:n], 100); err == nil && !bytes.HasPrefix(want, got) {
			t.Errorf("cut at %d: %q", n, got)
		}
	}
}

func FuzzBatch(f *testing.F) {
	for _, c := range allCodecs {
		spec := NewSpec()
		spec.Codec = c
		b, err := Build(spec, sample(5))
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, rest, err := Next(data)
		if err != nil {
			if !errors.Is(err, ErrShort) && !errors.Is(err, ErrMagic) && !errors.Is(err, ErrInvalid) {
				t.Fatalf("untyped: %v", err)
			}
			return
		}
		if len(b)+len(rest) != len(data) || b.Size() != len(b) {
			t.Fatalf("%d + %d of %d bytes", len(b), len(rest), len(data))
		}
		b = bytes.Clone(b)
		b.StampCRC()
		if b.Check() != nil {
			return
		}
		n := int32(0)
		err = b.Each(func(r *Record) bool {
			n++
			if r.Offset < b.BaseOffset() || (r.Offset > b.LastOffset() && b.LastOffset() >= b.BaseOffset()) {
				t.Fatalf("record offset %d outside %d to %d", r.Offset, b.BaseOffset(), b.LastOffset())
			}
			return true
		})
		if err == nil && n != b.Count() {
			t.Fatalf("%d records of %d without an error", n, b.Count())
		}
		if err != nil && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrTooLarge) {
			t.Fatalf("untyped: %v", err)
		}
	})
}

func FuzzDecompress(f *testing.F) {
	for _, c := range allCodecs {
		p, err := c.Compress(nil, []byte("some text, some text, some text"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(c), p)
	}
	f.Fuzz(func(t *testing.T, codec uint8, p []byte) {
		const limit = 1 << 20
		out, err := Codec(codec%5).Decompress(p, limit)
		if err == nil && len(out) > limit {
			t.Fatalf("%d bytes, limit %d", len(out), limit)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	batch, err := Build(NewSpec(), sample(100))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(batch)))
	b.ReportAllocs()
	for b.Loop() {
		if err := batch.Check(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEach(b *testing.B) {
	batch, err := Build(NewSpec(), sample(100))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(batch)))
	b.ReportAllocs()
	for b.Loop() {
		if err := batch.Each(func(*Record) bool { return true }); err != nil {
			b.Fatal(err)
		}
	}
}
