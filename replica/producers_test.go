package replica

import (
	"errors"
	"math"
	"reflect"
	"testing"
	"time"

	"weir/internal/record"
)

// batchOf builds a batch of n records of a producer.
func batchOf(t testing.TB, offset, id int64, epoch int16, seq int32, n int) record.Batch {
	t.Helper()
	s := record.NewSpec()
	s.BaseOffset, s.ProducerID, s.ProducerEpoch, s.BaseSequence = offset, id, epoch, seq
	records := make([]record.Record, n)
	for i := range records {
		records[i] = record.Record{Timestamp: time.Now().UnixMilli(), Value: []byte("v")}
	}
	b, err := record.Build(s, records)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestProducersCheck walks one producer through its life; each step is checked and, if it passes as new, added.
func TestProducersCheck(t *testing.T) {
	var s producers
	offset := int64(0)
	steps := []struct {
		what  string
		epoch int16
		seq   int32
		n     int
		dup   int64 // offset of the original, -1: none
		err   error
	}{
		{"first batch of an unknown producer may have any sequence", 3, 7, 2, -1, nil},
		{"next in sequence", 3, 9, 1, -1, nil},
		{"retry of the first", 3, 7, 2, 0, nil},
		{"retry of the second", 3, 9, 1, 2, nil},
		{"same first sequence, another length: no retry", 3, 9, 2, -1, ErrOutOfOrder},
		{"gap", 3, 11, 1, -1, ErrOutOfOrder},
		{"older epoch", 2, 10, 1, -1, ErrStaleEpoch},
		{"newer epoch must begin at 0", 4, 10, 1, -1, ErrOutOfOrder},
		{"newer epoch", 4, 0, 1, -1, nil},
		{"the former epoch is fenced now", 3, 10, 1, -1, ErrStaleEpoch},
		{"in sequence 1", 4, 1, 1, -1, nil},
		{"in sequence 2", 4, 2, 1, -1, nil},
		{"in sequence 3", 4, 3, 1, -1, nil},
		{"in sequence 4", 4, 4, 1, -1, nil},
		{"in sequence 5", 4, 5, 1, -1, nil},
		{"five back is remembered", 4, 1, 1, 4, nil},
		{"six back is not", 4, 0, 1, -1, ErrOutOfOrder},
	}
	for _, step := range steps {
		b := batchOf(t, offset, 42, step.epoch, step.seq, step.n)
		dup, err := s.check(b)
		if !errors.Is(err, step.err) || (err == nil) != (step.err == nil) {
			t.Fatalf("%s: err = %v, want %v", step.what, err, step.err)
		}
		if step.dup >= 0 {
			if dup == nil || dup.baseOffset != step.dup {
				t.Fatalf("%s: duplicate = %+v, want the batch at %d", step.what, dup, step.dup)
			}
			continue
		}
		if dup != nil {
			t.Fatalf("%s: taken for a retry of %+v", step.what, dup)
		}
		if err == nil {
			s.add(b, 1)
			offset += int64(step.n)
		}
	}
}

func TestProducersSequenceWraps(t *testing.T) {
	var s producers
	s.add(batchOf(t, 0, 1, 0, math.MaxInt32-1, 2), 1)
	if _, err := s.check(batchOf(t, 2, 1, 0, 0, 1)); err != nil {
		t.Errorf("sequence 0 after 2^31-1: %v", err)
	}
	if _, err := s.check(batchOf(t, 2, 1, 0, 1, 1)); !errors.Is(err, ErrOutOfOrder) {
		t.Errorf("sequence 1 after 2^31-1: %v, want ErrOutOfOrder", err)
	}
}

func TestProducersIgnorePlainBatches(t *testing.T) {
	var s producers
	b := batchOf(t, 0, record.NoProducerID, -1, -1, 1)
	s.add(b, 1)
	if dup, err := s.check(b); dup != nil || err != nil || len(s.byID) != 0 {
		t.Errorf("dup %v, err %v, %d producers", dup, err, len(s.byID))
	}
}

func TestProducersExpire(t *testing.T) {
	var s producers
	s.add(batchOf(t, 0, 1, 0, 0, 1), 100)
	s.add(batchOf(t, 1, 2, 0, 0, 1), 200)
	s.expire(150)
	if s.byID[1] != nil || s.byID[2] == nil {
		t.Errorf("left: %v, want producer 2 alone", s.byID)
	}
}

func TestSnapshotRoundTrip(t *testing.T) {
	var s producers
	for i := range 7 {
		s.add(batchOf(t, int64(i), 9, 2, int32(i), 1), int64(1000+i))
	}
	s.add(batchOf(t, 7, 1<<40, 0, 5, 3), 5)
	got, offset, err := decodeProducers(s.encode(10))
	if err != nil || offset != 10 {
		t.Fatalf("offset %d, err %v", offset, err)
	}
	if !reflect.DeepEqual(got, s) {
		t.Errorf("got %+v, want %+v", got, s)
	}
}

// TestSnapshotDamage flips every bit and cuts at every length: nothing damaged may be taken for a snapshot.
func TestSnapshotDamage(t *testing.T) {
	var s producers
	s.add(batchOf(t, 0, 9, 2, 0, 1), 1)
	data := s.encode(1)
	for i := range data {
		if _, _, err := decodeProducers(data[:i]); err == nil {
			t.Fatalf("cut to %d bytes: accepted", i)
		}
		for bit := range 8 {
			data[i] ^= 1 << bit
			if _, _, err := decodeProducers(data); err == nil {
				t.Fatalf("byte %d bit %d flipped: accepted", i, bit)
			}
			data[i] ^= 1 << bit
		}
	}
}

func FuzzDecodeProducers(f *testing.F) {
	var s producers
	f.Add(s.encode(0))
	s.add(batchOf(f, 0, 9, 2, 0, 1), 1)
	f.Add(s.encode(1))
	f.Fuzz(func(t *testing.T, data []byte) {
		state, offset, err := decodeProducers(data)
		if err != nil {
			return
		}
		again, offset2, err := decodeProducers(state.encode(offset))
		if err != nil || offset2 != offset || !reflect.DeepEqual(again, state) {
			t.Fatalf("accepted snapshot does not survive a round trip: %v", err)
		}
	})
}
