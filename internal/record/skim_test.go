package record

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

func skimBatch(t testing.TB, codec Codec, flags int16, n int) (Batch, []Record) {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(n), uint64(codec)))
	recs := make([]Record, n)
	for i := range recs {
		recs[i] = Record{Timestamp: 1000 + rng.Int64N(100), Key: fmt.Appendf(nil, "key-%d", i)}
		switch i % 4 {
		case 0:
			recs[i].Key = nil
		case 1: // a tombstone
		default:
			recs[i].Value = bytes.Repeat([]byte{byte(i)}, i)
			recs[i].Headers = []Header{{Key: "h", Value: []byte("v")}}
		}
	}
	s := NewSpec()
	s.BaseOffset, s.Codec, s.Attributes, s.ProducerID, s.ProducerEpoch, s.BaseSequence = 50, codec, flags, 9, 1, 7
	b, err := Build(s, recs)
	if err != nil {
		t.Fatal(err)
	}
	return b, recs
}

func TestSkimSeesWhatEachSees(t *testing.T) {
	b, _ := skimBatch(t, Zstd, 0, 20)
	var want, got []string
	if err := b.Each(func(r *Record) bool {
		want = append(want, fmt.Sprintf("%d %d %q %v", r.Offset, r.Timestamp, r.Key, r.Value == nil))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if err := b.Skim(func(s *Skim) bool {
		got = append(got, fmt.Sprintf("%d %d %q %v", b.BaseOffset()+s.OffsetDelta, b.BaseTimestamp()+s.TimestampDelta, s.Key, s.Tombstone))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A filtered batch has the kept records with offsets, times, keys, values and headers as they were, whatever the codec, with and without a
// delete horizon.
func TestFilter(t *testing.T) {
	var f Filter
	for codec := None; codec <= Zstd; codec++ {
		for _, flags := range []int16{0, TransactionalFlag, TimestampTypeFlag} {
			for _, dated := range []bool{false, true} {
				b, _ := skimBatch(t, codec, flags, 30)
				kept := func(offset int64) bool { return offset%3 != 0 }
				r, err := f.Apply(b, 5_000_000, func(s *Skim) Verdict {
					switch {
					case !kept(b.BaseOffset() + s.OffsetDelta):
						return Drop
					case dated && s.Tombstone:
						return KeepDated
					}
					return Keep
				})
				if err != nil {
					t.Fatal(err)
				}
				out := r.Batch
				if err := out.Check(); err != nil || out.Size() != len(out) {
					t.Fatalf("%v: %v, %d bytes, size %d", codec, err, len(out), out.Size())
				}
				var want, got []string
				show := func(to *[]string) func(*Record) bool {
					return func(r *Record) bool {
						if kept(r.Offset) {
							*to = append(*to, fmt.Sprintf("%d %d %q %q %v %q", r.Offset, r.Timestamp, r.Key, r.Value, r.Value == nil, r.Headers))
						}
						return true
					}
				}
				if err := b.Each(show(&want)); err != nil {
					t.Fatal(err)
				}
				if err := out.Each(show(&got)); err != nil {
					t.Fatal(err)
				}
				if fmt.Sprint(got) != fmt.Sprint(want) || r.Kept != len(want) || r.Dropped != 30-len(want) {
					t.Errorf("%v: got %q, want %q", codec, got, want)
				}
				if at, ok := out.DeleteHorizon(); ok != dated || dated && at != 5_000_000 {
					t.Errorf("%v: horizon %d, %v", codec, at, ok)
				}
				if out.BaseOffset() != 50 || out.LastOffset() != b.LastOffset() || out.LastSequence() != b.LastSequence() || out.ProducerID() != 9 ||
					out.Codec() != codec || out.Attributes()&^DeleteHorizonFlag != b.Attributes() {
					t.Errorf("%v: header differs", codec)
				}
				again, err := f.Apply(append(Batch(nil), out...), 6_000_000, func(s *Skim) Verdict { return KeepDated })
				if err != nil {
					t.Fatal(err)
				}
				if at, _ := again.Batch.DeleteHorizon(); dated && (at != 5_000_000 || again.Dropped != 0) {
					t.Errorf("%v: a horizon that was set moved to %d", codec, at)
				}
			}
		}
	}
}

func TestEmptyBatch(t *testing.T) {
	b, _ := skimBatch(t, Gzip, TransactionalFlag, 8)
	e := b.Empty()
	if err := e.Check(); err != nil {
		t.Fatal(err)
	}
	if len(e) != HeaderSize || e.Count() != 0 || e.BaseOffset() != b.BaseOffset() || e.LastOffset() != b.LastOffset() ||
		e.LastSequence() != b.LastSequence() || e.ProducerEpoch() != b.ProducerEpoch() || !e.IsTransactional() || e.Codec() != None ||
		e.MaxTimestamp() != b.MaxTimestamp() || e.BaseTimestamp() != -1 {
		t.Errorf("got %v", e)
	}
	if err := e.Each(func(*Record) bool { t.Error("a record"); return true }); err != nil {
		t.Error(err)
	}
}

// FuzzFilter: whatever the bytes, no panic, and what is made of a batch is a batch that reads back.
func FuzzFilter(f *testing.F) {
	for codec := None; codec <= Zstd; codec++ {
		b, _ := skimBatch(f, codec, 0, 6)
		f.Add([]byte(b), uint64(0b101101), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, keep uint64, dated bool) {
		b, _, err := Next(data)
		if err != nil || b.Codec() > Zstd || b.Count() < 0 || b.Count() > 1000 || b.LastOffsetDelta() < 0 || len(b) > 1<<16 {
			return
		}
		var filter Filter
		n := 0
		r, err := filter.Apply(b, 12345, func(*Skim) Verdict {
			n++
			switch {
			case keep>>(n%64)&1 == 0:
				return Drop
			case dated:
				return KeepDated
			}
			return Keep
		})
		if err != nil || r.Batch == nil {
			return
		}
		seen := 0
		if err := r.Batch.Skim(func(*Skim) bool { seen++; return true }); err != nil || seen != r.Kept {
			t.Errorf("kept %d, read back %d, %v", r.Kept, seen, err)
		}
	})
}
