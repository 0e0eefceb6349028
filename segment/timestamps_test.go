package segment

import (
	"math/rand/v2"
	"testing"

	"weir/internal/record"
	"weir/internal/vfs"
)

// TestTimestamps compares lookups with a search through all records, for each codec, with timestamps out of order.
func TestTimestamps(t *testing.T) {
	for codec := record.None; codec <= record.Zstd; codec++ {
		t.Run(codec.String(), func(t *testing.T) {
			fs := vfs.NewMem()
			o, _ := testOptions(fs)
			c := defaultConfig()
			c.SegmentBytes, c.IndexIntervalBytes = 4000, 512
			s := openStore(t, o)
			w := newWriter(t, openLog(t, s, "t-0", c))
			rng := rand.New(rand.NewPCG(4, uint64(codec)))
			var times []int64
			for i := range 60 {
				n := 1 + rng.IntN(4)
				ts := int64(1000 + i*10 + rng.IntN(100))
				w.append(makeCodecBatch(t, codec, w.l.End(), n, 150, ts))
				for j := range n {
					times = append(times, ts+int64(j))
				}
			}
			check := func(l *Log, start int64) {
				t.Helper()
				for ts := int64(990); ts < 1720; ts += 3 {
					want := int64(-1)
					for o := start; o < int64(len(times)); o++ {
						if times[o] >= ts {
							want = o
							break
						}
					}
					off, got, ok, err := l.FindByTimestamp(ts)
					if err != nil {
						t.Fatal(err)
					}
					if ok != (want >= 0) || (ok && (off != want || got != times[want])) {
						t.Fatalf("FindByTimestamp(%d) = %d, %d, %v; want offset %d", ts, off, got, ok, want)
					}
				}
				best := start
				for o := start; o < int64(len(times)); o++ {
					if times[o] > times[best] {
						best = o
					}
				}
				off, got, ok, err := l.MaxTimestamp()
				if err != nil || !ok || off != best || got != times[best] {
					t.Fatalf("MaxTimestamp = %d, %d, %v, %v; want %d, %d", off, got, ok, err, best, times[best])
				}
			}
			check(w.l, 0)
			flushAll(t, s)
			check(w.l, 0)
			closeStore(t, s)
			s = openStore(t, o)
			l := openLog(t, s, "t-0", c)
			check(l, 0)
			for _, start := range []int64{1, 50, int64(len(times)) - 2} {
				if err := l.AdvanceLogStart(start); err != nil {
					t.Fatal(err)
				}
				check(l, start)
			}
		})
	}
}

func TestTimestampsOfEmptyLog(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	l := openLog(t, s, "t-0", defaultConfig())
	if _, _, ok, err := l.FindByTimestamp(0); ok || err != nil {
		t.Errorf("FindByTimestamp: %v %v", ok, err)
	}
	if _, _, ok, err := l.MaxTimestamp(); ok || err != nil {
		t.Errorf("MaxTimestamp: %v %v", ok, err)
	}
}
