package replica

import (
	"context"
	"math"
	"sync"
	"time"

	"weir/internal/clock"
)

// throttle spreads bytes over time.
type throttle struct {
	clk  clock.Clock
	rate float64 // bytes in a second

	mu struct {
		sync.Mutex
		free time.Time // when all that was let through has had its time
	}
}

// throttleBurst is how much time's worth of bytes may go at once after a pause.
const throttleBurst = 20 * time.Millisecond

func newThrottle(clk clock.Clock, bytesPerSecond float64) *throttle {
	return &throttle{clk: clk, rate: bytesPerSecond}
}

// wait returns when n more bytes may go, or with why ctx has ended.
func (t *throttle) wait(ctx context.Context, n int) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	delay := t.take(n)
	if delay <= 0 {
		return nil
	}
	over := make(chan struct{})
	timer := t.clk.AfterFunc(delay, func() { close(over) })
	defer timer.Stop()
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// take books n bytes and returns how long to wait before they may go.
func (t *throttle) take(n int) time.Duration {
	cost := float64(n) / t.rate * float64(time.Second)
	if cost < 1 || math.IsInf(t.rate, 1) {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clk.Now()
	if earliest := now.Add(-throttleBurst); t.mu.free.Before(earliest) {
		t.mu.free = earliest
	}
	delay := t.mu.free.Sub(now)
	t.mu.free = t.mu.free.Add(time.Duration(min(cost, float64(time.Hour))))
	return delay
}
