package clock

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestTicks: ticks follow the monotonic clock, and the wall clock where a time has nothing else.
func TestTicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := Real{}.Now()
		time.Sleep(3 * time.Second)
		b := Real{}.Now()
		if d := Ticks(b) - Ticks(a); d != int64(3*time.Second) {
			t.Errorf("3 s are %d ticks", d)
		}
		if d := Ticks(time.Unix(70, 5)) - Ticks(time.Unix(60, 0)); d != int64(10*time.Second)+5 {
			t.Errorf("10 s and 5 ns of a test's clock are %d ticks", d)
		}
	})
}

// TestAfterFunc: a timer runs when its time has come, and not if it was stopped.
func TestAfterFunc(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := Real{}.Now()
		ran := make(chan time.Time, 2)
		Real{}.AfterFunc(time.Minute, func() { ran <- Real{}.Now() })
		stopped := Real{}.AfterFunc(time.Second, func() { ran <- time.Time{} })
		if !stopped.Stop() {
			t.Error("a timer that had not run could not be stopped")
		}
		if d := (<-ran).Sub(begun); d != time.Minute {
			t.Errorf("ran after %v, want 1 m", d)
		}
	})
}

// TestUntilWall: a wait for a time of the wall clock ends soon enough to see that the clock was set, and never later than asked for.
func TestUntilWall(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for _, c := range []struct{ in, want time.Duration }{
		{time.Second, time.Second}, {0, 0}, {-time.Hour, 0}, {WallWaitMax, WallWaitMax}, {50 * 365 * 24 * time.Hour, WallWaitMax},
	} {
		if got := UntilWall(now.Add(c.in), now); got != c.want {
			t.Errorf("%v from now: wait %v, want %v", c.in, got, c.want)
		}
	}
}
