package replica

import (
	"fmt"
	"testing"
	"time"

	"weir/internal/clock"
)

// stoppable is the clock of a process that can be stopped: timers that are due meanwhile run late, at the wake-up.
type stoppable struct {
	now    time.Time
	timers []*stoppableTimer
}

type stoppableTimer struct {
	c  *stoppable
	at time.Time
	on bool
	f  func()
}

func (c *stoppable) Now() time.Time { return c.now }

func (c *stoppable) AfterFunc(d time.Duration, f func()) clock.Timer {
	t := &stoppableTimer{c: c, at: c.now.Add(d), on: true, f: f}
	c.timers = append(c.timers, t)
	return t
}

func (t *stoppableTimer) Stop() (was bool) { was, t.on = t.on, false; return was }

func (t *stoppableTimer) Reset(d time.Duration) bool {
	was := t.on
	t.at, t.on = t.c.now.Add(d), true
	return was
}

func (c *stoppable) run(d time.Duration) {
	for end := c.now.Add(d); c.now.Before(end); {
		c.stop(time.Millisecond)
	}
}

func (c *stoppable) stop(d time.Duration) {
	c.now = c.now.Add(d)
	for _, t := range c.timers {
		if t.on && !t.at.After(c.now) {
			t.on = false
			t.f()
		}
	}
}

// TestStoppedProcessIsNoStall: the disk is stalled when an operation was in flight for 2 s in which the process ran.
func TestStoppedProcessIsNoStall(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	type step struct {
		what string
		d    time.Duration
	}
	for _, tc := range []struct {
		name     string
		steps    []step
		from, to time.Duration // when the stall is declared; 0: never
	}{
		{"not stopped", []step{{"begin", 0}, {"run", 5 * s}}, 2 * s, 2 * s},
		{"answered during the stop", []step{{"begin", 0}, {"run", 10 * ms}, {"stop", 20 * s}, {"run", 5 * ms}, {"end", 0}, {"run", 10 * s}}, 0, 0},
		{"a stop shorter than the limit", []step{{"begin", 0}, {"run", 500 * ms}, {"stop", 1600 * ms}, {"run", 1000 * ms}, {"end", 0}, {"run", s}}, 0, 0},
		{"answered long after it", []step{{"begin", 0}, {"run", s}, {"stop", 20 * s}, {"run", 900 * ms}, {"end", 0}, {"run", 10 * s}}, 0, 0},
		{"stopped when nearly too old", []step{{"begin", 0}, {"run", 1998 * ms}, {"stop", 20 * s}, {"run", 100 * ms}, {"end", 0}, {"run", 10 * s}}, 0, 0},
		{"hangs before and after", []step{{"begin", 0}, {"run", s}, {"stop", 20 * s}, {"run", 10 * s}}, 22 * s, 22250 * ms},
		{"hangs since the stop", []step{{"begin", 0}, {"run", 5 * ms}, {"end", 0}, {"run", 5 * ms}, {"stop", 20 * s}, {"begin", 0}, {"run", 10 * s}}, 22010 * ms, 22010 * ms},
		{"two stops", []step{{"begin", 0}, {"run", s}, {"stop", 20 * s}, {"run", 500 * ms}, {"stop", 20 * s}, {"run", 10 * s}}, 42 * s, 42500 * ms},
		{"the next one hangs", []step{{"begin", 0}, {"stop", 20 * s}, {"end", 0}, {"begin", 0}, {"run", 10 * s}}, 22 * s, 22 * s},
		{"a slow machine", []step{{"begin", 0}, {"run", 300 * ms}, {"stop", 600 * ms}, {"run", 300 * ms}, {"stop", 400 * ms}, {"run", 5 * s}}, 2 * s, 2900 * ms},
		{"a change at the wake-up", []step{{"late", 0}, {"begin", 0}, {"run", 100 * ms}, {"sleep", 20 * s}, {"look", 0}, {"run", 100 * ms}, {"end", 0}, {"run", 10 * s}}, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &stoppable{now: time.Unix(1000, 0)}
			var began, declared time.Time
			w := &stallWatch{clk: c, limit: 2 * s, healed: func(time.Duration) {}, resume: func() {}}
			w.areas = func() []Area {
				if began.IsZero() {
					return []Area{{"disk", 0}}
				}
				return []Area{{"other", 0}, {"disk", max(c.now.Sub(began), 1)}}
			}
			w.stalled = func(a Area) {
				if declared.IsZero() {
					declared = c.now
				}
				if a.Oldest < w.limit || a.Name != "disk" {
					t.Errorf("stalled: %v", a)
				}
			}
			for _, x := range tc.steps {
				switch x.what {
				case "begin":
					began = c.now
					w.changed()
				case "end":
					began = time.Time{}
					w.changed()
				case "late":
					w.mu.late = true
				case "look":
					w.look()
				case "run":
					c.run(x.d)
				case "stop":
					c.stop(x.d)
				case "sleep": // the timer is late, too
					c.now = c.now.Add(x.d)
				}
			}
			got := "never"
			if !declared.IsZero() {
				got = fmt.Sprint(declared.Sub(time.Unix(1000, 0)))
			}
			switch at := declared.Sub(time.Unix(1000, 0)); {
			case tc.to == 0 && !declared.IsZero(), tc.to > 0 && (declared.IsZero() || at < tc.from || at > tc.to):
				t.Errorf("stalled: %s, want %s to %s (0: never)", got, tc.from, tc.to)
			}
		})
	}
}
