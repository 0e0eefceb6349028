package controller

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/clock"
	"weir/raftmeta"
)

// stoppingClock is that of a process that stands still: when it goes on, time has passed, and what its timers start may run last.
type stoppingClock struct {
	clock.Real
	mu struct {
		sync.Mutex
		stood  time.Duration // all in all
		timers []stoppingTimer
	}
}

type stoppingTimer struct {
	clock.Timer
	due time.Time
	f   func()
}

func (c *stoppingClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Real.Now().Add(c.mu.stood)
}

func (c *stoppingClock) AfterFunc(d time.Duration, f func()) clock.Timer {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := stoppingTimer{Timer: c.Real.AfterFunc(d, f), due: c.Real.Now().Add(c.mu.stood + d), f: f}
	c.mu.timers = append(c.mu.timers, t)
	return t
}

// standStill lets d go by in which nothing runs. The timers that were due in that time have not fired yet.
func (c *stoppingClock) standStill(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.stood += d
}

// catchUp fires them.
func (c *stoppingClock) catchUp() {
	now := c.Now()
	c.mu.Lock()
	timers := c.mu.timers
	c.mu.timers = nil
	c.mu.Unlock()
	for _, t := range timers {
		if !t.due.After(now) && t.Stop() {
			t.f()
		}
	}
}

func (r *rig) wantFenced(what string, want bool, ids ...int32) {
	r.t.Helper()
	synctest.Wait()
	for _, id := range ids {
		if got := r.meta.Image().Broker(id).Fenced; got != want {
			r.t.Errorf("%s: broker %d fenced: %v, want %v", what, id, got, want)
		}
	}
}

// TestHeartbeatBeforeTheTimerAfterAStandstill: a controller that stood still has not listened, and fences nobody for that, whatever runs first when it
// goes on. The sessions begin anew.
func TestHeartbeatBeforeTheTimerAfterAStandstill(t *testing.T) {
	clk := &stoppingClock{}
	inBubbleWith(t, clk, func(r *rig) {
		r.join(1, 2, 3)
		r.topic("a", 3, 2, 1)
		r.pass(3*time.Second, 1, 2, 3)
		clk.standStill(4 * time.Second)
		r.beat(2)
		r.wantFenced("a heartbeat came first", false, 1, 2, 3)
		clk.catchUp()
		r.wantFenced("the timer fired at last", false, 1, 2, 3)
		r.pass(time.Second, 2)
		r.wantFenced("within the new sessions", false, 1, 2, 3)
		r.pass(time.Second, 2)
		r.wantFenced("after the new sessions", true, 1, 3)
		r.wantFenced("after the new sessions", false, 2)
	})
}

// TestStandstillDuringAChange: that a change is under way, and nothing can be decided, is no reason not to see that the process stood still.
func TestStandstillDuringAChange(t *testing.T) {
	clk := &stoppingClock{}
	inBubbleWith(t, clk, func(r *rig) {
		r.join(1, 2, 3)
		release := r.meta.hold()
		created := make(chan error, 1)
		go func() {
			_, err := r.c.CreateTopics(r.ctx(), []raftmeta.CreateTopic{{Name: "a", Assignment: [][]int32{{3, 2, 1}}}})
			created <- err
		}()
		synctest.Wait()
		r.pass(3*time.Second, 1, 2, 3) // longer than any timer that was set before the change
		clk.standStill(4 * time.Second)
		release()
		if err := <-created; err != nil {
			t.Fatal(err)
		}
		r.wantFenced("the change came first", false, 1, 2, 3)
		clk.catchUp()
		r.wantFenced("the timer fired at last", false, 1, 2, 3)
	})
}
