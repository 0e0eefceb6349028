package replica

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"weir/raftmeta"
)

// TestTopicDeletedWhileItsNodeStarts: a topic is deleted while a node that has it recovers.
func TestTopicDeletedWhileItsNodeStarts(t *testing.T) {
	c := newCluster(t, 2, nil)
	defer c.close()
	c.decide(raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: [][]int32{{2}}},
		raftmeta.CreateTopic{Name: "r", ID: [16]byte{2}, Assignment: [][]int32{{1, 2}}})
	for i := range 5 {
		if _, err := c.produce("t", 0, 2, valueBatch(t, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	c.crash(2, rand.New(rand.NewPCG(1, 1)))
	n := c.nodes[2]
	given := false
	n.disk.SetHook(func(op, name string, _ int64, _ int) error {
		if !given && strings.Contains(name, highWatermarksFile) { // in restoreAll: the WAL was replayed
			given = true
			c.decideLocked(raftmeta.DeleteTopic{ID: [16]byte{1}})
			n.catchUp()
		}
		return nil
	})
	n.start()
	n.disk.SetHook(nil)
	if !given {
		t.Fatal("the hook was not called")
	}
	if n.meta.Image().Topic("t") != nil {
		t.Fatal("the topic is there")
	}
	if p := c.up(2).ByName("t", 0); p != nil {
		t.Errorf("the node still has the deleted topic; leads it: %v", p.IsLeader())
		_, err := c.produce("t", 0, 2, valueBatch(t, "ghost"))
		t.Errorf("produce to it: %v", err)
	}
}
