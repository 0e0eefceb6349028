package replica

import (
	"slices"
	"testing"
	"time"

	"weir/raftmeta"
)

// TestLaggardLeavesThatCameLater: a follower that came into the ISR during the leadership, when nobody had been in it but the leader, is taken out
// again when it lags.
func TestLaggardLeavesThatCameLater(t *testing.T) {
	c := newCluster(t, 2, map[string]string{"replica.lag.time.max.ms": "100", "replica.fetch.wait.max.ms": "50"})
	defer c.close()
	c.decide(raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: [][]int32{{1, 2}}})
	c.isolate(2, true)
	c.elect("t", 0, 1, 1)
	p := c.up(1).ByName("t", 0)
	k := &c.up(1).isr
	c.until("there is nobody to look after", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return !k.mu.armed
	})
	c.isolate(2, false)
	c.until("node 2 is in sync", func() bool { return slices.Contains(p.ISR(), 2) })
	if _, err := c.produce("t", 0, 1, valueBatch(t, "0")); err != nil {
		t.Fatal(err)
	}
	c.isolate(2, true)
	done := c.begin("t", 0, 1, "1")
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(5 * time.Second): // fifty times replica.lag.time.max.ms
		t.Errorf("node 2 does not fetch, and is in sync all the same: %v", p.ISR())
		c.elect("t", 0, 1, 1)
		<-done
	}
}
