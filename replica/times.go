package replica

import (
	"time"

	"weir/internal/budget"
)

// Times are the marks of an append's way, for the budget of the request that it is of. A mark that it never got to is 0. What lies between two of them
// is a stage: the partition's lock, the WAL's queue, its write, the other replicas.
type Times struct {
	Asked   budget.Mark // the partition's lock was asked for
	Locked  budget.Mark // it was there; the entry is in the WAL's queue a moment later
	Began   budget.Mark // the WAL made up the write that carries it
	Durable budget.Mark // it, and all before it, are on this node's disk
	// Last is the in-sync replica that the acknowledgement waited for in the end, this node where it was its own disk; machine.None before Durable. Of
	// an append that was given up, or whose last replica was taken out of those in sync, it is the one that was furthest behind.
	Last int32
}

// durableLocked notes that a batch is durable for whoever waits for it.
func (b *pending) durableLocked(now time.Time) {
	if a := b.a; a != nil {
		a.Times.Began, a.Times.Durable, a.Times.Last = b.entry.Began(), budget.At(now), b.p.m.cfg.NodeID
	}
}

// lastLocked is the in-sync replica that is furthest behind, this node if there is no other.
func (p *Partition) lastLocked() int32 {
	last := p.m.cfg.NodeID
	if p.mu.lead == nil {
		return last
	}
	least := int64(-1)
	for _, f := range p.mu.lead.Followers() {
		if f.InSync && (last == p.m.cfg.NodeID || f.End < least) {
			last, least = f.ID, f.End
		}
	}
	return last
}
