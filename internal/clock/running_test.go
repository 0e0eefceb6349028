package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

// stopped is a clock whose process can be stopped: then timers that are due run late, at the wake-up.
type stopped struct {
	now    time.Time
	timers []*stoppedTimer
}

type stoppedTimer struct {
	c  *stopped
	at time.Time
	on bool
	f  func()
}

func (c *stopped) Now() time.Time { return c.now }

func (c *stopped) AfterFunc(d time.Duration, f func()) Timer {
	t := &stoppedTimer{c: c, at: c.now.Add(d), on: true, f: f}
	c.timers = append(c.timers, t)
	return t
}

func (t *stoppedTimer) Stop() (was bool) { was, t.on = t.on, false; return was }

func (t *stoppedTimer) Reset(d time.Duration) bool {
	was := t.on
	t.at, t.on = t.c.now.Add(d), true
	return was
}

// run lets time pass with timers in time.
func (c *stopped) run(d time.Duration) {
	for end := c.now.Add(d); c.now.Before(end); {
		c.now = c.now.Add(time.Millisecond)
		c.fire()
	}
}

// stop lets time pass in which nothing runs.
func (c *stopped) stop(d time.Duration) {
	c.now = c.now.Add(d)
	c.fire()
}

func (c *stopped) fire() {
	for _, t := range c.timers {
		if t.on && !t.at.After(c.now) {
			t.on = false
			t.f()
		}
	}
}

// TestAfterRunning: a wait of 2 s counts the time that the process ran, up to a slice.
func TestAfterRunning(t *testing.T) {
	const ms = time.Millisecond
	type step struct{ run, stop time.Duration }
	for name, tc := range map[string]struct {
		steps    []step
		from, to time.Duration // when it ends
	}{
		"in time":                      {[]step{{run: 5000 * ms}}, 2000 * ms, 2000 * ms},
		"a busy machine":               {[]step{{400 * ms, 450 * ms}, {300 * ms, 450 * ms}, {run: 5000 * ms}}, 2000 * ms, 2000 * ms},
		"stopped for long":             {[]step{{700 * ms, time.Hour}, {run: 5000 * ms}}, time.Hour + 1950*ms, time.Hour + 2250*ms},
		"stopped for nearly as long":   {[]step{{10 * ms, 1980 * ms}, {run: 5000 * ms}}, 3700 * ms, 4250 * ms},
		"stopped just before its end":  {[]step{{1990 * ms, 10 * time.Second}, {run: 5000 * ms}}, 11990*ms + 200*ms, 11990*ms + 260*ms},
		"stopped twice before its end": {[]step{{1990 * ms, 10 * time.Second}, {100 * ms, 10 * time.Second}, {run: 5000 * ms}}, 22290 * ms, 22360 * ms},
		"stopped again and again":      {[]step{{500 * ms, 2000 * ms}, {500 * ms, 2000 * ms}, {500 * ms, 2000 * ms}, {run: 5000 * ms}}, 7500 * ms, 8500 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			c := &stopped{now: time.Unix(1000, 0)}
			var ended []time.Duration
			AfterRunning(c, 2*time.Second, func() { ended = append(ended, c.now.Sub(time.Unix(1000, 0))) })
			for _, s := range tc.steps {
				c.run(s.run)
				c.stop(s.stop)
			}
			if len(ended) != 1 || ended[0] < tc.from || ended[0] > tc.to {
				t.Errorf("ended after %v, want once, after %v to %v", ended, tc.from, tc.to)
			}
		})
	}
}

// TestAfterRunningStops: one that was stopped does not run, also not later; one that ran cannot be stopped.
func TestAfterRunningStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		r := AfterRunning(Real{}, time.Second, func() { t.Error("a wait that was stopped ended") })
		time.Sleep(900 * time.Millisecond)
		if !r.Stop() || r.Stop() {
			t.Error("stopped: not once")
		}
		ran := make(chan time.Duration, 2)
		r = AfterRunning(Real{}, 3*time.Second, func() { ran <- time.Since(begun) })
		if d := <-ran; d != 3900*time.Millisecond {
			t.Errorf("ran after %v", d)
		}
		synctest.Wait()
		if r.Stop() {
			t.Error("one that ran was stopped")
		}
		time.Sleep(time.Minute)
	})
}
