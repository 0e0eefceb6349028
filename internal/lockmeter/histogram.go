package lockmeter

import (
	"sync/atomic"
	"time"
)

// bounds are the upper bounds of the buckets, from what a lock should take to what stops a cluster. 1 ms, the house's bound for the 99th percentile,
// is one of them.
var bounds = [...]time.Duration{
	time.Microsecond, 5 * time.Microsecond, 10 * time.Microsecond, 50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	250 * time.Millisecond, time.Second, 10 * time.Second,
}

// histogram counts durations without a lock. The last bucket has what is longer than all bounds.
type histogram struct {
	buckets [len(bounds) + 1]atomic.Uint64
	nanos   atomic.Uint64
	longest atomic.Int64
}

// add counts a duration in ns as weight of them.
func (h *histogram) add(ns int64, weight uint64) {
	ns = max(ns, 0)
	i := 0
	for i < len(bounds) && ns > int64(bounds[i]) {
		i++
	}
	h.buckets[i].Add(weight)
	h.nanos.Add(uint64(ns) * weight)
	for {
		l := h.longest.Load()
		if ns <= l || h.longest.CompareAndSwap(l, ns) {
			return
		}
	}
}

// totals are the sum of histograms, as Prometheus wants them.
type totals struct {
	cumulative map[float64]uint64
	count      uint64
	seconds    float64
	longest    time.Duration
}

func sum(hs ...*histogram) totals {
	t := totals{cumulative: make(map[float64]uint64, len(bounds))}
	for i := range len(bounds) + 1 {
		for _, h := range hs {
			t.count += h.buckets[i].Load()
		}
		if i < len(bounds) {
			t.cumulative[bounds[i].Seconds()] = t.count
		}
	}
	for _, h := range hs {
		t.seconds += float64(h.nanos.Load()) / 1e9
		t.longest = max(t.longest, time.Duration(h.longest.Load()))
	}
	return t
}
