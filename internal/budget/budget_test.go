package budget

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Whatever is lapped, in whatever order: the stages are the total, and the laps follow each other without gaps.
func TestStagesAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b Budget
		start := Mark(rapid.Int64Range(-1000, 1000).Draw(t, "start"))
		b.Begin(start)
		end := start
		for range rapid.IntRange(0, 3*lapsMax).Draw(t, "laps") {
			until := Mark(rapid.Int64Range(int64(end)-50, int64(end)+100).Draw(t, "until"))
			b.Lap(Stage(rapid.IntRange(0, StageCount-1).Draw(t, "stage")), until)
			end = max(end, until)
		}
		if b.End() != end || b.Total() != time.Duration(end-start) {
			t.Fatalf("end %d, total %v, want %d and %v", b.End(), b.Total(), end, time.Duration(end-start))
		}
		spent, seen := b.Spent()
		var sum time.Duration
		for s, d := range spent {
			sum += d
			if d < 0 || d > 0 != (seen&(1<<s) != 0) {
				t.Fatalf("stage %v has %v, seen %b", Stage(s), d, seen)
			}
		}
		if sum != b.Total() || spent[Wait] != b.Waited() {
			t.Fatalf("the stages have %v, the total is %v; waited %v and %v", sum, b.Total(), spent[Wait], b.Waited())
		}
		last := b.Start()
		for i := range b.Laps() {
			s, from, to := b.Lapped(i)
			if from != last || to <= from {
				t.Fatalf("lap %d (%v) is from %d to %d, the one before ended at %d", i, s, from, to, last)
			}
			last = to
		}
	})
}

func TestLapsOverflowIntoOther(t *testing.T) {
	var b Budget
	b.Begin(1)
	for i := range Mark(lapsMax) + 3 {
		b.Lap(Stage(i%2), 2+i)
	}
	spent, _ := b.Spent()
	if b.Laps() != lapsMax || spent[Other] != 4 || b.Total() != lapsMax+3 {
		t.Fatalf("%d laps, %v", b.Laps(), spent)
	}
}

func TestEveryStageHasAName(t *testing.T) {
	seen := map[string]bool{}
	for s := range Stage(StageCount) {
		if s.String() == "" || seen[s.String()] {
			t.Errorf("stage %d is named %q", s, s)
		}
		seen[s.String()] = true
	}
}

func TestMarksAreTimes(t *testing.T) {
	now := time.Now()
	if got := At(now).Time(now.Add(time.Hour)); !got.Equal(now) {
		t.Errorf("%v became %v", now, got)
	}
	if d := At(now.Add(time.Second)) - At(now); d != Mark(time.Second) {
		t.Errorf("a second is %d", d)
	}
}

func TestTraceCrossesNodes(t *testing.T) {
	for _, sampled := range []bool{false, true} {
		here := NewTrace(sampled)
		there, ok := ParseTrace(here.Append(nil))
		if !ok || there.ID != here.ID || there.Parent != here.Span || there.Sampled != sampled {
			t.Errorf("%+v became %+v, %t", here, there, ok)
		}
		if there.Span == here.Span || there.Span == [8]byte{} {
			t.Errorf("span %x of %x", there.Span, here.Span)
		}
		got, ok := FromContext(WithTrace(context.Background(), here))
		if !ok || got != here {
			t.Errorf("%+v became %+v in a context", here, got)
		}
	}
	if _, ok := FromContext(context.Background()); ok {
		t.Error("a trace out of nothing")
	}
}

func FuzzParseTrace(f *testing.F) {
	seed := NewTrace(true)
	f.Add(seed.Append(nil))
	f.Add([]byte{})
	f.Add(make([]byte, TraceBytes))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := ParseTrace(b)
		if !ok {
			if got != (Trace{}) {
				t.Fatalf("refused and %+v", got)
			}
			return
		}
		if !got.Known() || string(b[:16]) != string(got.ID[:]) || string(b[16:24]) != string(got.Parent[:]) {
			t.Fatalf("%x became %+v", b, got)
		}
	})
}

// The whole of what a produce with acks=all pays for its laps, without the readings of the clock.
func BenchmarkProduceLaps(b *testing.B) {
	b.ReportAllocs()
	at := Mark(rand.Int64N(1000))
	var sum time.Duration
	for b.Loop() {
		var g Budget
		g.Begin(at)
		for i, s := range [...]Stage{Queue, Handle, Lock, WALQueue, WALWrite, Replicate, Handle, RespondQueue, RespondWrite} {
			g.Lap(s, at+Mark(i)+1)
		}
		spent, _ := g.Spent()
		sum += spent[Lock]
	}
	sink = sum
}

var sink time.Duration
