package replica

import (
	"context"
	"errors"
	"testing"
	"time"

	"weir/raftmeta"
)

// waitingControl hands each request to the test, which says when it fails.
type waitingControl struct {
	*clusterNode
	asked chan []ISRChange
	fail  chan struct{}
}

func (w *waitingControl) AlterISR(ctx context.Context, changes []ISRChange) ([]ISRResult, error) {
	select {
	case w.asked <- changes:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-w.fail:
	case <-ctx.Done():
	}
	return nil, errors.New("no controller")
}

// TestNewerProposalStays: a proposal that failed is not queued again in the place of a newer one, which came with the metadata just then.
func TestNewerProposalStays(t *testing.T) {
	c := newCluster(t, 2, nil)
	defer c.close()
	control := &waitingControl{clusterNode: c.nodes[1], asked: make(chan []ISRChange), fail: make(chan struct{})}
	c.up(1).control = control
	c.decide(raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: [][]int32{{1, 2}}})
	c.elect("t", 0, 1, 1)
	first := <-control.asked
	p, k := c.up(1).ByName("t", 0), &c.up(1).isr
	k.mu.Lock()
	control.fail <- struct{}{}
	time.Sleep(300 * time.Millisecond) // Partition.altered has let go of the partition's lock, and is about to queue the proposal again
	// The metadata: as takeRoleLocked and settle do it, who get the keeper's lock first.
	p.mu.Lock()
	o := p.mu.lead.Updated(first[0].PartitionEpoch+1, []int32{1}, []int32{1, 2}, time.Now())
	p.mu.Unlock()
	if o.Propose == nil {
		t.Fatal("nothing is proposed")
	}
	k.queueLocked(p, o.Propose)
	k.startLocked()
	k.mu.Unlock()
	select {
	case next := <-control.asked:
		if next[0].PartitionEpoch != first[0].PartitionEpoch+1 {
			t.Errorf("asked again with partition epoch %d", next[0].PartitionEpoch)
		}
	case <-time.After(5 * time.Second):
		t.Error("the newer proposal is never sent")
	}
}
