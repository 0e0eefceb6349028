package cluster

import (
	"testing"

	"weir/test/internal/promhist"
	"weir/test/internal/weirproc"
)

const (
	lockHold     = "weir_lock_hold_seconds"
	lockHoldMost = 0.001 // of 99 in 100 holds; a bucket's bound
	// lockHoldsMin holds are needed for a 99th percentile, and lockHoldsCaught of them may be long in any case: who is taken off the processor in
	// the middle of one says nothing about disks.
	lockHoldsMin    = 100
	lockHoldsCaught = 3
)

// scrapeLocks is how long a node's locks were held so far, by lock.
func scrapeLocks(t *testing.T, b *weirproc.Broker) map[string]promhist.Histogram {
	t.Helper()
	m := b.Metrics()
	held := map[string]promhist.Histogram{}
	for _, lock := range promhist.Values(m, lockHold, "lock") {
		h, err := promhist.Of(m, lockHold, "lock="+lock)
		if err != nil {
			t.Fatal(err)
		}
		held[lock] = h
	}
	if len(held) == 0 {
		t.Fatalf("no histogram %s on node %s", lockHold, b.Addr)
	}
	return held
}

// requireShortHolds: of the holds since before, 99 in 100 of each lock took less than a millisecond. The law is that no lock is held while the disk is waited
// for, and this disk makes everybody who waits for it wait for tens of them.
func requireShortHolds(t *testing.T, b *weirproc.Broker, before map[string]promhist.Histogram) {
	t.Helper()
	judged := 0
	for lock, h := range scrapeLocks(t, b) {
		h = h.Sub(before[lock])
		long, err := h.Above(lockHoldMost)
		if err != nil {
			t.Fatal(err)
		}
		if h.Count() < lockHoldsMin {
			continue
		}
		judged++
		t.Logf("lock %s: held %.0f times, p99 %.0f us, %.0f times longer than 1 ms", lock, h.Count(), h.Quantile(0.99)*1e6, long)
		if long > max(h.Count()/100, lockHoldsCaught) {
			t.Errorf("lock %s was held longer than 1 ms %.0f times of %.0f", lock, long, h.Count())
		}
	}
	if judged == 0 {
		t.Errorf("no lock was held %d times: this shows nothing", lockHoldsMin)
	}
}
