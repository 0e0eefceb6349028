package replica

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"weir/internal/record"
	"weir/raftmeta"
)

// assign makes these the replicas of a partition, and isr those in sync.
func (c *cluster) assign(topic string, index int32, isr []int32, replicas ...int32) {
	c.ctl.Lock()
	defer c.ctl.Unlock()
	t, p := c.part(topic, index)
	c.decideLocked(raftmeta.ChangePartition{TopicID: t.ID, Partition: index, PartitionEpoch: p.PartitionEpoch, Leader: raftmeta.LeaderSame, ISR: isr, Replicas: replicas})
}

// TestReplicaTakenWhileDown: a replica is taken from a node while that is down, and given back to it later. What the WAL has of its former life must not come back.
func TestReplicaTakenWhileDown(t *testing.T) {
	for _, more := range []int{0, 5} { // records of the first life below the uncommitted ones; how much of them the WAL has
		t.Run(fmt.Sprint(more), func(t *testing.T) {
			c := newCluster(t, 2, nil)
			defer c.close()
			rng := rand.New(rand.NewPCG(1, 1))
			c.decide(createTwo)
			c.elect("t", 0, 2, 1, 2)
			for i := range more {
				if _, err := c.produce("t", 0, 2, valueBatch(t, fmt.Sprint("a", i))); err != nil {
					t.Fatal(err)
				}
			}
			c.same("t", 0, 1, 2)
			// Only node 2 has these: acks=1.
			c.isolate(1, true)
			for i := range 3 {
				c.appendTo(2, fmt.Sprint("x", i))
			}
			c.crash(2, rng)
			c.isolate(1, false)
			c.elect("t", 0, 1, 1)
			for i := range 3 {
				if _, err := c.produce("t", 0, 1, valueBatch(t, fmt.Sprint("y", i))); err != nil {
					t.Fatal(err)
				}
			}
			c.assign("t", 0, []int32{1}, 1) // node 2 is replaced while it is down
			c.nodes[2].start()
			c.until("the orphan is gone", func() bool { return len(c.up(2).store.Dirs()) == 0 })
			c.assign("t", 0, nil, 1, 2) // and gets it back
			c.until("node 2 is in sync", func() bool { return slices.Contains(c.up(1).ByName("t", 0).ISR(), 2) })
			if _, err := c.produce("t", 0, 1, valueBatch(t, "z")); err != nil {
				t.Fatal(err)
			}
			t.Logf("acknowledged by both: %q", c.same("t", 0, 1, 2))
			c.crash(2, rng)
			c.nodes[2].start()
			t.Logf("node 2 after a crash: %q", c.contents("t", 0, 2))
			c.same("t", 0, 1, 2)
		})
	}
}

// TestReplicaTakenWhileDownStarts: the same with batches that lie otherwise. The start was refused then.
func TestReplicaTakenWhileDownStarts(t *testing.T) {
	c := newCluster(t, 2, nil)
	defer c.close()
	rng := rand.New(rand.NewPCG(1, 1))
	c.decide(createTwo)
	c.elect("t", 0, 2, 1, 2)
	c.isolate(1, true)
	for i := range 3 {
		c.appendTo(2, fmt.Sprint("x", i))
	}
	c.crash(2, rng)
	c.isolate(1, false)
	c.elect("t", 0, 1, 1)
	for range 3 {
		b, err := record.Build(record.NewSpec(), []record.Record{{Value: []byte("y")}, {Value: []byte("z")}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.produce("t", 0, 1, b); err != nil {
			t.Fatal(err)
		}
	}
	c.assign("t", 0, []int32{1}, 1)
	c.nodes[2].start()
	c.assign("t", 0, nil, 1, 2)
	c.until("node 2 is in sync", func() bool { return slices.Contains(c.up(1).ByName("t", 0).ISR(), 2) })
	c.crash(2, rng)
	c.nodes[2].start()
	c.same("t", 0, 1, 2)
}
