package replica

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// TestFailedTruncationKeepsEpochs: a truncation fails once, behind the point where the epochs were cut: the follower must still find where the logs part (KIP-279).
func TestFailedTruncationKeepsEpochs(t *testing.T) {
	c := newCluster(t, 2, nil)
	defer c.close()
	c.decide(createTwo)
	c.elect("t", 0, 1, 1, 2)
	for i := range 5 {
		if _, err := c.produce("t", 0, 1, valueBatch(t, fmt.Sprint("a", i))); err != nil {
			t.Fatal(err)
		}
	}
	c.same("t", 0, 1, 2)
	c.isolate(1, true) // node 1 does not know that it leads no more
	for i := range 5 {
		c.appendTo(1, fmt.Sprint("a", 5+i))
	}
	c.elect("t", 0, 2, 1, 2)
	for i := range 3 {
		c.appendTo(2, fmt.Sprint("b", 5+i))
	}
	c.isolate(2, true)
	c.isolate(1, false)
	c.elect("t", 0, 1, 1, 2) // a clean election: it is in sync
	c.appendTo(1, "c10")
	var failed atomic.Int32
	c.nodes[2].disk.SetHook(func(op, name string, _ int64, _ int) error {
		if op == "list" && strings.Contains(name, "t-0.") && failed.CompareAndSwap(0, 1) {
			return errors.Join(syscall.EINTR, errors.New("late"))
		}
		return nil
	})
	c.isolate(2, false)
	p1, p2 := c.up(1).ByName("t", 0), c.up(2).ByName("t", 0)
	c.until("node 2 has caught up", func() bool { return p2.End() == p1.End() && p2.Durable() == p2.End() })
	t.Logf("failed %d; node 2: %q", failed.Load(), c.contents("t", 0, 2))
	c.same("t", 0, 1, 2)
}
