package machine

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func epochsOf(list ...EpochStart) *Epochs {
	var e Epochs
	for _, s := range list {
		if !e.Assign(s.Epoch, s.Start) {
			panic(fmt.Sprint("not assigned: ", s))
		}
	}
	return &e
}

func TestAssign(t *testing.T) {
	for _, c := range []struct {
		name    string
		have    []EpochStart
		epoch   int32
		start   int64
		want    []EpochStart
		changed bool
	}{
		{"the first", nil, 3, 10, []EpochStart{{3, 10}}, true},
		{"the next", []EpochStart{{1, 0}}, 2, 5, []EpochStart{{1, 0}, {2, 5}}, true},
		{"again", []EpochStart{{1, 0}}, 1, 5, []EpochStart{{1, 0}}, false},
		{"an epoch that wrote nothing gives way", []EpochStart{{1, 0}, {2, 5}}, 3, 5, []EpochStart{{1, 0}, {3, 5}}, true},
		{"what lies behind is not so any more", []EpochStart{{1, 0}, {2, 5}, {4, 9}}, 3, 7, []EpochStart{{1, 0}, {2, 5}, {3, 7}}, true},
		{"none", []EpochStart{{1, 0}}, -1, 5, []EpochStart{{1, 0}}, false},
	} {
		e := Epochs{slices.Clone(c.have)}
		if got := e.Assign(c.epoch, c.start); got != c.changed || !slices.Equal(e.All(), c.want) {
			t.Errorf("%s: %v, changed %t; want %v, %t", c.name, e.All(), got, c.want, c.changed)
		}
	}
}

// TestEndFor has the answers of KIP-101 as KIP-279 made them.
func TestEndFor(t *testing.T) {
	e := epochsOf(EpochStart{2, 10}, EpochStart{4, 20}, EpochStart{7, 30})
	for _, c := range []struct {
		epoch int32
		floor int32
		end   int64
	}{
		{-1, None, None}, // the follower knows none
		{1, 1, 10},       // older than all: the log has nothing of it
		{2, 2, 20},
		{3, 2, 20}, // one that this log never had: the one before it
		{4, 4, 30},
		{6, 4, 30},
		{7, 7, 45}, // the latest ends with the log
		{8, None, None},
	} {
		if floor, end := e.EndFor(c.epoch, 45); floor != c.floor || end != c.end {
			t.Errorf("epoch %d: %d ends at %d, want %d at %d", c.epoch, floor, end, c.floor, c.end)
		}
	}
	var none Epochs
	if floor, end := none.EndFor(3, 45); floor != None || end != None {
		t.Errorf("nothing known: %d ends at %d", floor, end)
	}
}

func TestTruncateEpochs(t *testing.T) {
	all := []EpochStart{{2, 10}, {4, 20}, {7, 30}}
	for _, c := range []struct {
		name  string
		do    func(e *Epochs) bool
		want  []EpochStart
		moved bool
	}{
		{"end beyond", func(e *Epochs) bool { return e.TruncateEnd(31) }, all, false},
		{"end at a start", func(e *Epochs) bool { return e.TruncateEnd(30) }, all[:2], true},
		{"end within", func(e *Epochs) bool { return e.TruncateEnd(25) }, all[:2], true},
		{"end before all", func(e *Epochs) bool { return e.TruncateEnd(10) }, nil, true},
		{"start before all", func(e *Epochs) bool { return e.TruncateStart(5) }, all, false},
		{"start at the first", func(e *Epochs) bool { return e.TruncateStart(10) }, all, false},
		{"start within", func(e *Epochs) bool { return e.TruncateStart(25) }, []EpochStart{{4, 25}, {7, 30}}, true},
		{"start beyond", func(e *Epochs) bool { return e.TruncateStart(50) }, []EpochStart{{7, 50}}, true},
	} {
		e := Epochs{slices.Clone(all)}
		if got := c.do(&e); got != c.moved || !slices.Equal(e.All(), c.want) {
			t.Errorf("%s: %v, moved %t; want %v, %t", c.name, e.All(), got, c.want, c.moved)
		}
	}
	e := Epochs{all}
	if got := e.Below(30); !slices.Equal(got.All(), all[:2]) || got.At(29) != 4 || got.At(9) != None || e.At(30) != 7 {
		t.Errorf("below 30: %v", got.All())
	}
}

// TestEpochsModel holds Assign and the questions against a list that has the epoch of every offset.
func TestEpochsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e Epochs
		var log []int32 // epoch of each offset
		epoch := int32(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				epoch += int32(rapid.IntRange(1, 3).Draw(t, "by"))
			case 1, 2:
				e.Assign(epoch, int64(len(log)))
				log = append(log, epoch)
			case 3:
				cut := rapid.IntRange(0, len(log)).Draw(t, "cut")
				log = log[:cut]
				e.TruncateEnd(int64(cut))
			}
			for at, want := range log {
				if got := e.At(int64(at)); got != want {
					t.Fatalf("offset %d is of epoch %d, want %d; %v", at, got, want, e.All())
				}
			}
			ask := int32(rapid.IntRange(0, int(epoch)).Draw(t, "ask"))
			floor, end := e.EndFor(ask, int64(len(log)))
			if len(log) == 0 || ask > log[len(log)-1] {
				if floor != None || end != None {
					t.Fatalf("epoch %d: %d ends at %d in %v", ask, floor, end, log)
				}
				continue
			}
			wantEnd := slices.IndexFunc(log, func(x int32) bool { return x > ask })
			if wantEnd < 0 {
				wantEnd = len(log)
			}
			wantFloor := ask
			if wantEnd > 0 {
				wantFloor = log[wantEnd-1]
			}
			if floor != wantFloor || end != int64(wantEnd) {
				t.Fatalf("epoch %d: %d ends at %d, want %d at %d in %v", ask, floor, end, wantFloor, wantEnd, log)
			}
		}
		back, err := Decode(e.Encode())
		if err != nil || !slices.Equal(back.All(), e.All()) {
			t.Fatalf("%v became %v, %v", e.All(), back.All(), err)
		}
	})
}

func FuzzDecodeEpochs(f *testing.F) {
	f.Add([]byte("0\n0\n"))
	f.Add([]byte("0\n2\n1 0\n3 17\n"))
	f.Add([]byte("0\n2\n1 0\n1 17\n"))
	f.Add([]byte("1\n0\n"))
	f.Add([]byte("0\n1\n1 0"))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Decode(data)
		if err != nil {
			if !errors.Is(err, ErrEpochs) {
				t.Fatalf("%v is not ErrEpochs", err)
			}
			return
		}
		again, err := Decode(e.Encode())
		if err != nil || !slices.Equal(again.All(), e.All()) {
			t.Fatalf("%q: %v, then %v, %v", data, e.All(), again.All(), err)
		}
		if !bytes.Equal(again.Encode(), e.Encode()) {
			t.Fatalf("%q is written in two ways", data)
		}
	})
}
