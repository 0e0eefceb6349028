package replica

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"weir/raftmeta"
)

// TestReplicaComesBackWhileItsFormerNodeStarts: a replica is taken from a node that is down, and given back while that recovers.
func TestReplicaComesBackWhileItsFormerNodeStarts(t *testing.T) {
	c := newCluster(t, 3, nil)
	defer c.close()
	c.decide(raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: [][]int32{{1, 2, 3}}},
		raftmeta.CreateTopic{Name: "other", ID: [16]byte{2}, Assignment: [][]int32{{2}}})
	for i := range 20 {
		if _, err := c.produce("t", 0, 1, valueBatch(t, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	c.same("t", 0, 1, 2, 3)
	if err := c.up(2).store.FlushAll(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i := range 5 { // these are in the WAL only
		if _, err := c.produce("t", 0, 1, valueBatch(t, fmt.Sprint("later", i))); err != nil {
			t.Fatal(err)
		}
	}
	c.same("t", 0, 1, 2, 3)
	rng := rand.New(rand.NewPCG(1, 1))
	c.crash(2, rng)
	change := func(replicas, isr []int32) {
		t.Helper()
		tp, p := c.part("t", 0)
		c.decideLocked(raftmeta.ChangePartition{TopicID: tp.ID, Partition: 0, PartitionEpoch: p.PartitionEpoch, Leader: 1, NewEpoch: true, ISR: isr, Replicas: replicas})
	}
	c.ctl.Lock()
	change([]int32{1, 3}, []int32{1, 3})
	c.ctl.Unlock()
	n := c.nodes[2]
	given := false
	n.disk.SetHook(func(op, name string, _ int64, _ int) error {
		if !given && strings.Contains(name, highWatermarksFile) { // in restoreAll: the WAL was replayed
			given = true
			change([]int32{1, 2, 3}, []int32{1, 3})
			n.catchUp()
		}
		return nil
	})
	n.start()
	n.disk.SetHook(nil)
	if !given {
		t.Fatal("the hook was not called")
	}
	p := c.up(2).ByName("t", 0)
	t.Log("after the start: end", p.End(), "hw", p.HighWatermark())
	if _, err := c.produce("t", 0, 1, valueBatch(t, "new")); err != nil {
		t.Fatal(err)
	}
	c.same("t", 0, 1, 2, 3)
	c.crash(2, rng)
	n.start() // Fatal if it is refused
	c.same("t", 0, 1, 2, 3)
}
