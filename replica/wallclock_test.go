package replica

import (
	"sync"
	"testing"
	"time"

	"weir/internal/clock"
	"weir/internal/vfs"
	"weir/raftmeta"
)

// setClock is a machine's clock that is set: the wall clock is off by what the test says, timers run as ever. Those of half an hour and more are kept, to be
// fired by the test.
type setClock struct {
	mu struct {
		sync.Mutex
		off  time.Duration
		long []longTimer
	}
}

type longTimer struct {
	wait time.Duration
	f    func()
}

func (c *setClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Round(0).Add(c.mu.off)
}

func (c *setClock) AfterFunc(d time.Duration, f func()) clock.Timer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d >= 30*time.Minute {
		c.mu.long = append(c.mu.long, longTimer{d, f})
	}
	return time.AfterFunc(d, f)
}

// set sets the clock and forgets the timers so far.
func (c *setClock) set(off time.Duration) (long []longTimer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	long = c.mu.long
	c.mu.off, c.mu.long = off, nil
	return long
}

// TestRetentionSeesTheClockSet: a node that comes up in 1986 and is told the time later deletes what is old then. Its timers were set in 1986.
func TestRetentionSeesTheClockSet(t *testing.T) {
	clk := &setClock{}
	n := openNodeClocked(t, vfs.NewMem(), "/data", map[string]string{"io.engine": "portable", "log.retention.check.interval.ms": "5", "log.writeback.ms": "5"}, clk)
	defer n.close()
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1, Configs: map[string]string{"retention.ms": "7200000"}})
	p := n.ByName("t", 0)
	n.mustAppend(p, valuesBatch(t, "x"))
	clk.set(-40 * 365 * 24 * time.Hour)
	p.scheduleRetention()
	armed := clk.set(3 * time.Hour)
	if len(armed) == 0 {
		t.Fatal("no timer for the segment")
	}
	for _, timer := range armed {
		if timer.wait > clock.WallWaitMax {
			t.Errorf("a timer runs for %v: until then nobody sees that the clock was set", timer.wait)
		}
		go timer.f()
	}
	until(t, "deletion", func() bool { return p.LogStart() == p.End() })
}
