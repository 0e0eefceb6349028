package record

import (
	"math"
	"testing"
)

func TestFiller(t *testing.T) {
	for _, delta := range []int32{0, 1, 99, math.MaxInt32} {
		b := NewFiller(1000, delta)
		got, rest, err := Next(b)
		if err != nil || len(rest) > 0 {
			t.Fatalf("delta %d: %d bytes left, %v", delta, len(rest), err)
		}
		if err := got.Check(); err != nil {
			t.Fatalf("delta %d: %v", delta, err)
		}
		if got.BaseOffset() != 1000 || got.LastOffset() != 1000+int64(delta) || got.Count() != 0 || got.ProducerID() != NoProducerID || got.MaxTimestamp() != -1 {
			t.Errorf("delta %d: offsets %d to %d, %d records of producer %d at %d", delta, got.BaseOffset(), got.LastOffset(), got.Count(), got.ProducerID(), got.MaxTimestamp())
		}
		if err := got.Each(func(*Record) bool { t.Error("a record"); return true }); err != nil {
			t.Error(err)
		}
	}
}
