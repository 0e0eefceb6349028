package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"weir/raftmeta"
)

var (
	createOne = raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Partitions: 1}
	createTwo = raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: [][]int32{{1, 2}}}
)

var threeInSync = map[string]string{"min.insync.replicas": "2"}

// TestReplicate: what the leader acknowledges with AcksAll is on every in-sync replica's disk, and followers learn the high watermark.
func TestReplicate(t *testing.T) {
	c := newCluster(t, 3, nil)
	defer c.close()
	c.decide(raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: [][]int32{{1, 2, 3}}, Configs: threeInSync})
	for i := range 20 {
		offset, err := c.produce("t", 0, 1, valueBatch(t, fmt.Sprint(i)))
		if err != nil || offset != int64(i) {
			t.Fatalf("record %d: offset %d, %v", i, offset, err)
		}
		for id := int32(1); id <= 3; id++ {
			if p := c.up(id).ByName("t", 0); p.Durable() <= offset {
				t.Fatalf("record %d was acknowledged and node %d has only %d durable", i, id, p.Durable())
			}
		}
	}
	if got := c.same("t", 0, 1, 2, 3); len(got) != 20 {
		t.Errorf("%d records: %q", len(got), got)
	}
	if _, err := c.produce("t", 0, 2, valueBatch(t, "x")); !errors.Is(err, ErrNotLeader) {
		t.Errorf("produce to a follower: %v, want ErrNotLeader", err)
	}
}

// begin starts an append with AcksAll on a node, whatever it leads.
func (c *cluster) begin(topic string, index, node int32, value string) <-chan error {
	c.t.Helper()
	m := c.up(node)
	b := valueBatch(c.t, value)
	if err := m.Reserve(len(b), 10*time.Second); err != nil {
		c.t.Fatal(err)
	}
	done := make(chan error, 1)
	m.ByName(topic, index).Append(&Append{Batch: b, AcksAll: true, Done: func(a *Append) { done <- a.Err }})
	return done
}

func (c *cluster) isolate(id int32, cut bool) {
	c.mu.Lock()
	c.cut[id] = cut
	c.mu.Unlock()
	if !cut {
		c.decide() // what it has missed
	}
}

// TestFollowerReturns: a follower that loses power is taken out of the ISR, comes back, catches up, and is taken in again by the leader's proposal.
func TestFollowerReturns(t *testing.T) {
	c := newCluster(t, 3, nil)
	defer c.close()
	c.decide(raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: [][]int32{{1, 2, 3}}, Configs: threeInSync})
	rng := rand.New(rand.NewPCG(1, 1))
	for round := range 3 {
		if _, err := c.produce("t", 0, 1, valueBatch(t, fmt.Sprint(round, "before"))); err != nil {
			t.Fatal(err)
		}
		c.crash(3, rng)
		c.elect("t", 0, 1, 1, 2)
		for i := range 5 {
			if _, err := c.produce("t", 0, 1, valueBatch(t, fmt.Sprint(round, "without", i))); err != nil {
				t.Fatal(err)
			}
		}
		c.nodes[3].start()
		c.until("node 3 is in sync", func() bool { return slices.Contains(c.up(1).ByName("t", 0).ISR(), 3) })
	}
	if got := c.same("t", 0, 1, 2, 3); len(got) != 18 {
		t.Errorf("%d records: %q", len(got), got)
	}
}

// TestMinISR: with too few in sync nothing is taken with AcksAll; what waits is told so; what is taken without is not shown to consumers.
func TestMinISR(t *testing.T) {
	c := newCluster(t, 3, nil)
	defer c.close()
	c.decide(raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: [][]int32{{1, 2, 3}}, Configs: threeInSync})
	if _, err := c.produce("t", 0, 1, valueBatch(t, "0")); err != nil {
		t.Fatal(err)
	}
	c.isolate(2, true)
	c.isolate(3, true)
	waiting := c.begin("t", 0, 1, "1")
	p := c.up(1).ByName("t", 0)
	c.until("it is durable on the leader", func() bool { return p.Durable() == 2 })
	c.elect("t", 0, 1, 1)
	if err := <-waiting; !errors.Is(err, ErrNotEnoughReplicasAfterAppend) {
		t.Errorf("who waited got %v, want ErrNotEnoughReplicasAfterAppend", err)
	}
	if _, err := c.produce("t", 0, 1, valueBatch(t, "refused")); !errors.Is(err, ErrNotEnoughReplicas) {
		t.Errorf("produce: %v, want ErrNotEnoughReplicas", err)
	}
	b := valueBatch(t, "2")
	if err := c.up(1).Reserve(len(b), time.Second); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	p.Append(&Append{Batch: b, Done: func(a *Append) { done <- a.Err }})
	if err := <-done; err != nil {
		t.Errorf("acks=1: %v", err)
	}
	if hw := p.HighWatermark(); hw != 1 {
		t.Errorf("high watermark %d, want 1: consumers see what one replica has", hw)
	}
	c.isolate(2, false)
	c.isolate(3, false)
	c.until("all are in sync", func() bool { return len(p.ISR()) == 3 })
	if got := c.same("t", 0, 1, 2, 3); len(got) != 3 {
		t.Errorf("%q", got)
	}
	configured := c.begin("t", 0, 1, "3")
	if err := <-configured; err != nil {
		t.Error(err)
	}
}

// TestLostLeadership: who waits for the other replicas is told when the node stops leading, and parked readers are woken.
func TestLostLeadership(t *testing.T) {
	c := newCluster(t, 2, nil)
	defer c.close()
	var roles []string
	c.decide(raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: [][]int32{{1, 2}}})
	p := c.up(1).ByName("t", 0)
	c.up(1).onRole = func(p *Partition, leader bool, epoch int32) { roles = append(roles, fmt.Sprint(leader, epoch)) }
	c.isolate(2, true)
	waiting := c.begin("t", 0, 1, "0")
	woken := make(chan struct{}, 100)
	w := Waiter{Wake: func() { woken <- struct{}{} }}
	p.Wait(&w)
	defer w.Stop()
	c.until("it is durable on the leader", func() bool { return p.Durable() == 1 })
	c.elect("t", 0, -1, 1, 2)
	if err := <-waiting; !errors.Is(err, ErrNotLeader) {
		t.Errorf("who waited got %v, want ErrNotLeader", err)
	}
	<-woken
	if a := c.begin("t", 0, 1, "1"); !errors.Is(<-a, ErrNotLeader) {
		t.Error("a node that does not lead takes records")
	}
	if err := p.CheckEpoch(0); !errors.Is(err, ErrFencedEpoch) {
		t.Errorf("old epoch: %v, want ErrFencedEpoch", err)
	}
	if err := p.CheckEpoch(9); !errors.Is(err, ErrUnknownEpoch) {
		t.Errorf("unheard-of epoch: %v, want ErrUnknownEpoch", err)
	}
	c.elect("t", 0, 1, 1, 2)
	c.isolate(2, false)
	c.same("t", 0, 1, 2)
	if fmt.Sprint(roles) != "[false 1 true 2]" {
		t.Errorf("roles told: %v", roles)
	}
}

// TestRetryWaitsForReplicas: a retry of a batch that is durable here but not on the others is not acknowledged before it is; GiveUp answers it early, once.
func TestRetryWaitsForReplicas(t *testing.T) {
	c := newCluster(t, 2, nil)
	defer c.close()
	c.decide(raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: [][]int32{{1, 2}}})
	c.isolate(2, true)
	m := c.up(1)
	p := m.ByName("t", 0)
	answers := make(chan *Append, 9)
	send := func() *Append {
		b := batchOf(t, 0, 7, 0, 0, 1)
		if err := m.Reserve(len(b), time.Second); err != nil {
			t.Fatal(err)
		}
		a := &Append{Batch: b, AcksAll: true, Done: func(a *Append) { answers <- a }}
		p.Append(a)
		return a
	}
	first := send()
	c.until("it is durable on the leader", func() bool { return p.Durable() == 1 })
	second, third := send(), send()
	late := errors.New("late")
	for _, a := range []*Append{first, third} {
		if !p.GiveUp(a, late) {
			t.Error("GiveUp found nobody waiting")
		}
		if got := <-answers; got != a || !errors.Is(got.Err, late) {
			t.Errorf("answered %v", got.Err)
		}
		if p.GiveUp(a, late) {
			t.Error("GiveUp answered twice")
		}
	}
	c.isolate(2, false)
	if got := <-answers; got != second || got.Err != nil || got.BaseOffset != 0 {
		t.Errorf("the retry got offset %d, %v", got.BaseOffset, got.Err)
	}
	if hw := p.HighWatermark(); hw != 1 || p.End() != 1 {
		t.Errorf("high watermark %d, end %d, want 1 and 1", hw, p.End())
	}
	if len(answers) != 0 {
		t.Error("somebody was answered twice")
	}
}

// TestHighWatermarkRestart: after a clean restart of all nodes what was committed is visible before the replicas have found each other, and what was not is not.
func TestHighWatermarkRestart(t *testing.T) {
	c := newCluster(t, 2, nil)
	defer c.close()
	c.decide(raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: [][]int32{{1, 2}}})
	for i := range 3 {
		if _, err := c.produce("t", 0, 1, valueBatch(t, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	c.isolate(2, true)
	waiting := c.begin("t", 0, 1, "not committed")
	p := c.up(1).ByName("t", 0)
	c.until("it is durable on the leader", func() bool { return p.Durable() == 4 })
	c.nodes[1].stop()
	<-waiting
	c.nodes[1].start()
	p = c.up(1).ByName("t", 0)
	if p.IsLeader() {
		t.Error("the epoch of the former life is led again")
	}
	if hw, end := p.HighWatermark(), p.End(); hw != 3 || end != 4 {
		t.Errorf("high watermark %d, end %d, want 3 and 4", hw, end)
	}
	c.elect("t", 0, 1, 1, 2)
	if hw := p.HighWatermark(); hw != 3 {
		t.Errorf("high watermark %d before the follower was heard of, want 3", hw)
	}
	c.isolate(2, false)
	if got := c.same("t", 0, 1, 2); len(got) != 4 {
		t.Errorf("%q", got)
	}
}

// TestHighWatermarkUnknown: without what was remembered nothing is shown that could be on this disk alone, until the others were heard of.
func TestHighWatermarkUnknown(t *testing.T) {
	c := newCluster(t, 2, nil)
	defer c.close()
	c.decide(createTwo)
	if _, err := c.produce("t", 0, 1, valueBatch(t, "0")); err != nil {
		t.Fatal(err)
	}
	c.same("t", 0, 1, 2)
	c.isolate(2, true)
	c.nodes[1].stop()
	if err := c.nodes[1].disk.Remove("/d/topics/" + highWatermarksFile); err != nil {
		t.Fatal(err)
	}
	c.nodes[1].start()
	c.elect("t", 0, 1, 1, 2)
	if p := c.up(1).ByName("t", 0); p.HighWatermark() != 0 || p.End() != 1 {
		t.Errorf("high watermark %d, end %d, want 0 and 1", p.HighWatermark(), p.End())
	}
	c.isolate(2, false)
	c.same("t", 0, 1, 2)
}

// TestReassign: a replica that is added fetches all, and one that is removed deletes its log.
func TestReassign(t *testing.T) {
	c := newCluster(t, 3, nil)
	defer c.close()
	c.decide(raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: [][]int32{{1}}})
	for i := range 5 {
		if _, err := c.produce("t", 0, 1, valueBatch(t, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	change := func(leader int32, isr, replicas []int32) {
		c.ctl.Lock()
		defer c.ctl.Unlock()
		topic, p := c.part("t", 0)
		c.decideLocked(raftmeta.ChangePartition{TopicID: topic.ID, PartitionEpoch: p.PartitionEpoch, Leader: leader, ISR: isr, Replicas: replicas})
	}
	change(raftmeta.LeaderSame, nil, []int32{1, 2, 3})
	c.until("all are in sync", func() bool { return len(c.up(1).ByName("t", 0).ISR()) == 3 })
	c.same("t", 0, 1, 2, 3)
	change(3, []int32{2, 3}, []int32{2, 3})
	if c.up(1).ByName("t", 0) != nil {
		t.Error("node 1 still has the partition")
	}
	if _, err := c.produce("t", 0, 3, valueBatch(t, "5")); err != nil {
		t.Fatal(err)
	}
	if got := c.same("t", 0, 2, 3); len(got) != 6 || got[5] != "5/1:5" {
		t.Errorf("%q", got)
	}
	change(2, []int32{2}, []int32{2})
	if _, err := c.produce("t", 0, 2, valueBatch(t, "6")); err != nil {
		t.Fatal(err)
	}
}
