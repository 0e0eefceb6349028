package broker

import (
	"math"
	"testing"
	"time"
)

// TestFetchWaitIsBounded: a fetch waits as long as it asks to, but not for days.
func TestFetchWaitIsBounded(t *testing.T) {
	for ms, want := range map[int32]time.Duration{
		math.MinInt32: 0, -1: 0, 0: 0, 1: time.Millisecond, 500: 500 * time.Millisecond,
		599_999: 10*time.Minute - time.Millisecond, 600_000: 10 * time.Minute, 600_001: 10 * time.Minute, math.MaxInt32: 10 * time.Minute,
	} {
		if got := fetchWait(ms); got != want {
			t.Errorf("max_wait_ms %d: waits %v, want %v", ms, got, want)
		}
	}
}
