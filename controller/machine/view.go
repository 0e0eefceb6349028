package machine

import (
	"slices"

	"weir/raftmeta"
)

// view is the image as it will be when the plan's commands so far are done: every decision of a plan sees those before it.
type view struct {
	m    *Machine
	img  *raftmeta.Image
	plan *Plan

	brokers        map[int32]*member
	brokersChanged bool // who may lead or be in sync has changed: settle
	parts          map[partKey]raftmeta.Partition
	topics         map[string]struct{} // named by commands that make, grow or delete topics
	place          *placer             // nil until something is placed
	beats          []Request           // heartbeats to answer once all brokers' state is known
	full           bool                // the plan takes no more requests
}

// member is a broker and what the plan does to it.
type member struct {
	raftmeta.Broker
	renewed bool // registers anew: its epoch is not known yet
}

type partKey struct {
	topic [16]byte
	index int32
}

func newView(m *Machine) *view {
	v := &view{m: m, img: m.img, plan: &Plan{}, brokers: make(map[int32]*member, len(m.img.Brokers()))}
	for _, b := range m.img.Brokers() {
		v.brokers[b.ID] = &member{Broker: b}
	}
	return v
}

// alive: the broker is there; it may be on its way out.
func (v *view) alive(id int32) bool {
	b := v.brokers[id]
	return b != nil && !b.Fenced
}

// usable: the broker can lead and be in sync.
func (v *view) usable(id int32) bool {
	b := v.brokers[id]
	return b != nil && !b.Fenced && !b.ShuttingDown
}

// leaving: the broker is being decommissioned.
func (v *view) leaving(id int32) bool {
	b := v.brokers[id]
	return b != nil && b.Leaving
}

// part is the state of a partition as of now.
func (v *view) part(t *raftmeta.Topic, index int32) raftmeta.Partition {
	if p, ok := v.parts[partKey{t.ID, index}]; ok {
		return p
	}
	return t.Partitions[index]
}

// find returns a topic and whether it has the partition.
func (v *view) find(topic string, index int32) (*raftmeta.Topic, bool) {
	t := v.img.Topic(topic)
	return t, t != nil && index >= 0 && int(index) < len(t.Partitions)
}

// setBroker changes a broker's state.
func (v *view) setBroker(b *member, fenced, shuttingDown bool) {
	if b.Fenced != fenced {
		if fenced {
			v.plan.Fenced = append(v.plan.Fenced, b.ID)
		} else {
			v.plan.Unfenced = append(v.plan.Unfenced, b.ID)
		}
	}
	b.Fenced, b.ShuttingDown = fenced, shuttingDown
	v.brokersChanged = true
	c := raftmeta.SetBroker{ID: b.ID, Epoch: b.Epoch, Fenced: fenced, ShuttingDown: shuttingDown}
	v.plan.add(c, bytesOf(c))
}

// change makes a partition next, or what follows from next by the rules of settled, and returns the outcome. kind is that of the
// election if it gets another leader.
func (v *view) change(t *raftmeta.Topic, index int32, next raftmeta.Partition, kind int) raftmeta.Partition {
	was := v.part(t, index)
	c, next, changed := v.command(t, index, &was, next, kind)
	if changed {
		v.stage(t, index, c, next)
	}
	return next
}

// expect makes room for so many changes: to grow step by step costs as much as to decide them.
func (v *view) expect(n int) {
	if v.parts == nil {
		v.parts = make(map[partKey]raftmeta.Partition, n)
	}
	v.plan.cmds = slices.Grow(v.plan.cmds, n)
}

func (v *view) stage(t *raftmeta.Topic, index int32, c raftmeta.ChangePartition, next raftmeta.Partition) {
	v.expect(1)
	v.parts[partKey{t.ID, index}] = next
	v.plan.add(c, bytesOfChange(&c))
}

// command is the one change that makes was what follows from next.
func (v *view) command(t *raftmeta.Topic, index int32, was *raftmeta.Partition, next raftmeta.Partition, kind int) (raftmeta.ChangePartition, raftmeta.Partition, bool) {
	inSync := next.ISR
	next = v.settled(t, next)
	c := raftmeta.ChangePartition{TopicID: t.ID, Partition: index, PartitionEpoch: was.PartitionEpoch, Leader: raftmeta.LeaderSame}
	c.ISR = ifChanged(was.ISR, next.ISR)
	c.Replicas = ifChanged(was.Replicas, next.Replicas)
	c.Adding = ifChanged(was.Adding, next.Adding)
	c.Removing = ifChanged(was.Removing, next.Removing)
	if next.Leader != was.Leader {
		c.Leader = next.Leader
		next.LeaderEpoch = was.LeaderEpoch + 1
		v.countElection(was, &next, inSync, kind)
	} else if !within(was.Replicas, next.Replicas) {
		// A fetch of a replica that goes may be on its way still. If the replica came back within the epoch, with an empty log, that fetch would speak for
		// it, and the leader take it for in sync.
		c.NewEpoch = true
		next.LeaderEpoch = was.LeaderEpoch + 1
	}
	if c.Leader == raftmeta.LeaderSame && c.ISR == nil && c.Replicas == nil && c.Adding == nil && c.Removing == nil {
		return c, *was, false
	}
	next.PartitionEpoch = was.PartitionEpoch + 1
	return c, next, true
}

func (v *view) countElection(was, next *raftmeta.Partition, inSync []int32, kind int) {
	switch {
	case next.Leader == -1:
		return
	case !slices.Contains(was.ISR, next.Leader) && !slices.Contains(inSync, next.Leader):
		kind = ElectUnclean
	case kind == ElectFailover && !slices.Contains(next.Replicas, was.Leader) && v.usable(was.Leader):
		kind = ElectReassigned
	}
	v.plan.Elections[kind]++
}

// ifChanged is a list as ChangePartition wants it: nil if it stays, never nil if it becomes empty.
func ifChanged(was, is []int32) []int32 {
	switch {
	case slices.Equal(was, is):
		return nil
	case is == nil:
		return []int32{}
	}
	return is
}
