package replica

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/raftmeta"
)

// TestReplicationCrashes: nodes lose power, are cut off while they lead, and come back, one at a time and anew before the last one has caught up, while
// producers write with AcksAll. In the end every replica has the same, and every acknowledged record is in it, once, in order.
func TestReplicationCrashes(t *testing.T) {
	seed := uint64(envNumber(t, "WEIR_SEED", int(time.Now().UnixNano()&0x7fffffff)))
	rounds := envNumber(t, "WEIR_TEST_REPLICATION_ROUNDS", 3)
	t.Logf("WEIR_SEED=%d WEIR_TEST_REPLICATION_ROUNDS=%d", seed, rounds)
	for round := range rounds {
		runReplicationRound(t, rand.New(rand.NewPCG(seed, uint64(round))))
	}
}

const chaosPartitions = 3

func runReplicationRound(t *testing.T, rng *rand.Rand) {
	c := newCluster(t, 3, nil)
	defer c.close()
	assignment := [][]int32{{1, 2, 3}, {2, 3, 1}, {3, 1, 2}}
	c.decide(raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: assignment, Configs: map[string]string{
		"min.insync.replicas": "2", "internal.segment.bytes": "4000"}})
	var producers sync.WaitGroup
	var stop atomic.Bool
	acked := make([][]int, chaosPartitions)
	for index := range int32(chaosPartitions) {
		producers.Go(func() {
			for n := 0; !stop.Load(); n++ {
				_, p := func() (*raftmeta.Topic, *raftmeta.Partition) {
					c.ctl.Lock()
					defer c.ctl.Unlock()
					return c.part("t", index)
				}()
				if p.Leader < 0 {
					time.Sleep(time.Millisecond)
					continue
				}
				if _, err := c.produceWithin(index, p.Leader, n); err == nil {
					acked[index] = append(acked[index], n)
				}
			}
		})
	}
	for range 6 {
		time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
		c.disturb(rng)
	}
	c.until("all are in sync", func() bool {
		for index := range int32(chaosPartitions) {
			c.ctl.Lock()
			_, p := c.part("t", index)
			c.ctl.Unlock()
			if p.Leader < 0 || len(p.ISR) < 3 {
				return false
			}
		}
		return true
	})
	stop.Store(true)
	producers.Wait()
	for index := range int32(chaosPartitions) {
		checkAcked(t, index, c.same("t", index, 1, 2, 3), acked[index])
	}
}

// produceWithin gives up on what hangs at a node that is cut off.
func (c *cluster) produceWithin(index, leader int32, n int) (int64, error) {
	m := c.up(leader)
	if m == nil {
		return -1, ErrNotHere
	}
	p := m.ByName("t", index)
	b := valueBatch(c.t, fmt.Sprintf("%d-%0100d", n, n))
	if err := m.Reserve(len(b), time.Second); err != nil || p == nil {
		return -1, ErrNotHere
	}
	done := make(chan *Append, 1)
	a := &Append{Batch: b, AcksAll: true, Done: func(a *Append) { done <- a }}
	p.Append(a)
	select {
	case a = <-done:
	case <-time.After(100 * time.Millisecond):
		p.GiveUp(a, ErrOverloaded)
		a = <-done // by one or the other, exactly once
	}
	return a.BaseOffset, a.Err
}

// disturb takes one node out of the cluster, elects others in its place, and lets it return.
func (c *cluster) disturb(rng *rand.Rand) {
	id := int32(rng.IntN(len(c.nodes))) + 1
	cutOff := rng.IntN(3) == 0
	if cutOff {
		c.isolate(id, true)
	} else if rng.IntN(2) == 0 {
		c.crash(id, rng)
	} else {
		c.nodes[id].stop()
	}
	for index := range int32(chaosPartitions) {
		c.leave(index, id, rng)
	}
	time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
	if cutOff {
		c.isolate(id, false)
	} else {
		c.nodes[id].start()
	}
	c.ctl.Lock()
	defer c.ctl.Unlock()
	for index := range int32(chaosPartitions) {
		if t, p := c.part("t", index); p.Leader < 0 { // it is the last that was in sync: it leads again, in a new epoch
			c.decideLocked(raftmeta.ChangePartition{TopicID: t.ID, Partition: index, PartitionEpoch: p.PartitionEpoch, Leader: p.ISR[0], NewEpoch: true})
		}
	}
}

// leave is what a controller does when a broker is fenced.
func (c *cluster) leave(index, gone int32, rng *rand.Rand) {
	c.ctl.Lock()
	defer c.ctl.Unlock()
	t, p := c.part("t", index)
	isr := slices.DeleteFunc(slices.Clone(p.ISR), func(id int32) bool { return id == gone })
	change := raftmeta.ChangePartition{TopicID: t.ID, Partition: index, PartitionEpoch: p.PartitionEpoch, Leader: raftmeta.LeaderSame, ISR: isr}
	switch {
	case len(isr) == 0:
		change.ISR, change.Leader = nil, -1
	case p.Leader == gone:
		change.Leader = isr[rng.IntN(len(isr))]
	case rng.IntN(3) == 0: // and a leader that stays has lost its epoch for another reason
		change.NewEpoch = true
	}
	c.decideLocked(change)
}

// checkAcked holds what the replicas have against what was acknowledged.
func checkAcked(t *testing.T, index int32, have []string, acked []int) {
	t.Helper()
	at := map[int]int{}
	for i, line := range have {
		var offset, epoch, n int
		if _, err := fmt.Sscanf(line, "%d/%d:%d-", &offset, &epoch, &n); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if _, twice := at[n]; twice {
			t.Errorf("partition %d: record %d is there twice", index, n)
		}
		at[n] = i
	}
	last := -1
	for _, n := range acked {
		i, ok := at[n]
		if !ok {
			t.Errorf("partition %d: record %d was acknowledged and is lost", index, n)
			continue
		}
		if i <= last {
			t.Errorf("partition %d: record %d is out of order", index, n)
		}
		last = i
	}
	if len(acked) == 0 {
		t.Errorf("partition %d: nothing was acknowledged", index)
	}
}
