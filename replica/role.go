package replica

import (
	"fmt"
	"slices"

	"weir/raftmeta"
	"weir/replica/machine"
)

// role is what the metadata makes of this node for one partition. It never changes; a new one takes its place.
type role struct {
	leader, epoch, partitionEpoch int32
	replicas, isr                 []int32

	former     bool // the metadata names this node leader, as of its former life
	leads      bool // appends are taken
	follows    bool // the leader's log is fetched
	replicated bool // there are other replicas
}

// newRole reads the metadata. With former, the metadata is of this node's former life: an epoch that it led then is not led again, because a crash may have taken
// from its log what a follower has, and the same epoch would write something else there. The controller gives it a new epoch. A partition without other
// replicas has nobody who could have more.
func newRole(node int32, meta *raftmeta.Partition, former bool) *role {
	r := &role{leader: meta.Leader, epoch: meta.LeaderEpoch, partitionEpoch: meta.PartitionEpoch, replicas: meta.Replicas, isr: meta.ISR}
	r.replicated = len(meta.Replicas) > 1
	r.former = former && r.replicated && meta.Leader == node
	r.leads = meta.Leader == node && !r.former
	r.follows = meta.Leader != node && meta.Leader >= 0
	return r
}

// is reports whether the role is as the metadata says: a change of either raises the partition epoch.
func (r *role) is(meta *raftmeta.Partition) bool {
	return r.leader == meta.Leader && r.epoch == meta.LeaderEpoch && r.partitionEpoch == meta.PartitionEpoch
}

// Leader is the partition's leader as this node knows it, -1 if there is none, and its epoch.
func (p *Partition) Leader() (id, epoch int32) {
	r := p.role.Load()
	return r.leader, r.epoch
}

// IsLeader reports whether this node leads the partition.
func (p *Partition) IsLeader() bool { return p.role.Load().leads }

// ISR is the in-sync replicas as this node knows them. The slice is shared: read only.
func (p *Partition) ISR() []int32 { return p.role.Load().isr }

// Replicas is the nodes that hold the partition. The slice is shared: read only.
func (p *Partition) Replicas() []int32 { return p.role.Load().replicas }

// EpochStart is the log's end when this node took the leadership, -1 if it does not lead.
func (p *Partition) EpochStart() int64 { return p.epochStart.Load() }

func (p *Partition) notLeader(r *role) error {
	return fmt.Errorf("%w: %s: node %d leads it in epoch %d", ErrNotLeader, p.name, r.leader, r.epoch)
}

func (p *Partition) notEnough(kind error) error {
	r := p.role.Load()
	return fmt.Errorf("%w: %s: in sync are %v of %v, min.insync.replicas is %d", kind, p.name, r.isr, r.replicas, p.settings.Load().Topic.MinInsyncReplicas)
}

// setRole takes what the metadata says. It touches memory only. While the log is being truncated the role waits for the end of that.
func (p *Partition) setRole(meta *raftmeta.Partition, former bool) {
	p.m.roles.Lock() // so that OnRole hears of one after another
	defer p.m.roles.Unlock()
	p.mu.Lock()
	if p.mu.closed {
		p.mu.Unlock()
		return
	}
	if p.mu.cutting || p.mu.roleNext != nil { // also before its begin
		p.mu.roleNext = meta
		p.mu.Unlock()
		return
	}
	p.takeRoleLocked(meta, former)
}

// change is what a new role, or an input to the leader's machine, leaves to be done without the partition's lock.
type change struct {
	ready   appends // acknowledged
	failed  appends // not
	err     error   // for failed
	rose    bool    // the high watermark
	low     bool    // the low watermark moved
	propose *machine.ISRChange
	last    int32 // whose progress it was
}

// takeRoleLocked lets go of the lock, and then tells whoever has to know.
func (p *Partition) takeRoleLocked(meta *raftmeta.Partition, former bool) {
	old, next := p.role.Load(), newRole(p.m.cfg.NodeID, meta, former)
	if next.epoch < old.epoch {
		p.mu.Unlock()
		return // metadata never goes back; a late caller may
	}
	if old.former && next.epoch == old.epoch && next.leads {
		next.leads, next.former = false, true
	}
	var c change
	began := next.leads && (!old.leads || old.epoch != next.epoch)
	ended := old.leads && !next.leads
	p.role.Store(next)
	p.log.SetEpoch(next.epoch)
	switch {
	case next.leads:
		p.leadLocked(next, began, &c)
	case ended:
		p.epochStart.Store(-1)
		p.mu.lead = nil
		c.failed, c.err = p.waitersLocked(), p.notLeader(next)
	}
	if !next.leads {
		p.mu.epochs.TruncateEnd(p.log.End()) // an epoch in which nothing was written: the next leader may bring batches of older ones
	}
	p.m.fetchers.set(p, next)
	p.mu.Unlock()

	p.settle(&c)
	if ended || began || old.epoch != next.epoch {
		p.waiters.wake() // whoever waits asks the wrong node, or with an old epoch
		p.followers.wake()
	}
	if p.m.onRole != nil && (began || ended) {
		p.m.onRole(p, next.leads, next.epoch)
	}
}

// leadLocked begins a leadership, or goes on with one whose replicas changed.
func (p *Partition) leadLocked(r *role, began bool, c *change) {
	now, end := p.m.clk.Now(), p.log.End()
	if p.mu.acks.head != nil {
		c.last = p.lastLocked() // of those in sync until now: if one is not any more, the others waited for it
	}
	if began {
		p.epochStart.Store(end)
		if p.mu.epochs.Assign(r.epoch, end); r.replicated {
			p.mu.unsaved = true
		}
	}
	switch {
	case !r.replicated:
		p.mu.lead = nil
		c.rose = p.raiseLocked(p.durable.Load())
	case began || p.mu.lead == nil:
		p.mu.lead = machine.NewLeader(machine.LeaderConfig{
			Self: p.m.cfg.NodeID, Epoch: r.epoch, PartitionEpoch: r.partitionEpoch, Replicas: r.replicas, ISR: r.isr,
			MinISR: p.settings.Load().Topic.MinInsyncReplicas, Start: p.epochStart.Load(), HW: p.highWatermark.Load(),
			Durable: p.durable.Load(), LagMax: p.m.lagMax(),
		}, now)
		c.rose = p.raiseLocked(p.mu.lead.HW())
		p.m.isr.watch()
	default:
		o := p.mu.lead.Updated(r.partitionEpoch, r.isr, r.replicas, now)
		c.rose, c.propose = p.raiseLocked(o.HW), o.Propose
		p.m.isr.watch() // somebody may have come into the ISR whom nobody looks after yet
	}
	p.takeAckedLocked(c.last, &c.ready)
	p.notEnoughLocked(c)
}

// notEnoughLocked fails those who wait for the other replicas if there are too few in sync: the high watermark stands still then.
func (p *Partition) notEnoughLocked(c *change) {
	if p.mu.lead != nil && !p.mu.lead.Enough() {
		c.failed, c.err = p.takeAcksAllLocked(), p.notEnough(ErrNotEnoughReplicasAfterAppend)
	}
}

// outcomeLocked takes over what the leader's machine has decided.
func (p *Partition) outcomeLocked(o machine.Outcome, c *change) {
	if c.last == 0 && p.mu.acks.head != nil {
		c.last = p.lastLocked()
	}
	c.rose, c.propose = p.raiseLocked(o.HW), o.Propose
	p.takeAckedLocked(c.last, &c.ready)
}

// settle does what is left of a change, without the lock.
func (p *Partition) settle(c *change) {
	c.ready.done(nil)
	if c.failed.head != nil {
		c.failed.done(c.err)
	}
	if c.rose {
		p.waiters.wake()
	}
	if c.rose || c.low {
		p.followers.wake()
	}
	if c.propose != nil {
		p.m.isr.propose(p, c.propose)
	}
}

// raiseLocked raises the high watermark, which never falls here, and reports whether it did.
func (p *Partition) raiseLocked(hw int64) bool {
	if hw <= p.highWatermark.Load() {
		return false
	}
	p.highWatermark.Store(hw)
	p.committedBytes.Add(p.mu.unseen.take(hw))
	return true
}

// watermarkLocked is the high watermark now that the log is durable up to offset.
func (p *Partition) watermarkLocked(offset int64) int64 {
	switch r := p.role.Load(); {
	case !r.leads:
		return p.highWatermark.Load() // the leader tells it
	case p.mu.lead == nil:
		return offset
	}
	hw, _ := p.mu.lead.Durable(offset)
	return hw
}

// holds reports whether the node is one of the partition's replicas.
func holds(meta *raftmeta.Partition, node int32) bool {
	return slices.Contains(meta.Replicas, node) || meta.Leader == node
}
