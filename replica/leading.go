package replica

import (
	"fmt"
	"slices"

	"weir/replica/machine"
	"weir/segment"
)

// FollowerFetched notes a follower's progress, of which its fetch tells. div is not nil if the follower's log diverges from this one's: then
// the follower has to truncate, gets no records, and made no progress. It touches memory only, but for the first time after a start, when it may wait for the
// log's epochs to be read. Errors: ErrFencedEpoch, ErrUnknownEpoch, ErrNotLeader, ErrNotReplica, ErrNotHere, ErrStorage, ErrOffsetOutOfRange.
func (p *Partition) FollowerFetched(f FollowerFetch) (div *EpochEnd, err error) {
	if r := p.role.Load(); !r.leads {
		return nil, p.askedWrong(f.CurrentEpoch, r)
	}
	if err := p.loadEpochs(); err != nil {
		return nil, err
	}
	var c change
	p.mu.Lock()
	div, err = p.followerLocked(f, &c)
	p.mu.Unlock()
	p.settle(&c)
	return div, err
}

func (p *Partition) followerLocked(f FollowerFetch, c *change) (div *EpochEnd, err error) {
	r := p.role.Load()
	switch {
	case p.mu.closed:
		return nil, fmt.Errorf("%w: %s", ErrNotHere, p.name)
	case !r.leads:
		return nil, p.askedWrong(f.CurrentEpoch, r)
	}
	if err := p.checkEpoch(f.CurrentEpoch, r); err != nil {
		return nil, err
	}
	if p.mu.lead == nil || f.Replica == p.m.cfg.NodeID || !slices.Contains(r.replicas, f.Replica) {
		return nil, fmt.Errorf("%w: %s: node %d, the replicas are %v", ErrNotReplica, p.name, f.Replica, r.replicas)
	}
	end := p.log.End()
	if f.LastEpoch >= 0 {
		if epoch, at := p.mu.epochs.EndFor(f.LastEpoch, end); epoch < f.LastEpoch || at < f.Offset {
			return &EpochEnd{Epoch: epoch, End: at}, nil
		}
	}
	if start := p.log.LogStart(); f.Offset < start || f.Offset > end {
		return nil, fmt.Errorf("%w: %s: node %d asks for %d, the log has %d to %d", ErrOffsetOutOfRange, p.name, f.Replica, f.Offset, start, end)
	}
	low := p.mu.lead.LowWatermark(p.log.LogStart())
	c.last = f.Replica
	p.outcomeLocked(p.mu.lead.Fetched(machine.Fetched{
		Replica: f.Replica, BrokerEpoch: f.BrokerEpoch, Offset: f.Offset, LogStart: f.LogStart, LogEnd: end,
	}, p.m.clk.Now()), c)
	c.low = p.mu.lead.LowWatermark(p.log.LogStart()) != low
	return nil, nil
}

// askedWrong is the error for who asks a node that does not lead: who knows a newer epoch than this node shall wait for it to learn of that.
func (p *Partition) askedWrong(current int32, r *role) error {
	if err := p.checkEpoch(current, r); err != nil {
		return err
	}
	return p.notLeader(r)
}

func (p *Partition) checkEpoch(current int32, r *role) error {
	switch {
	case current < 0 || current == r.epoch:
		return nil
	case current < r.epoch:
		return fmt.Errorf("%w: %s: asked with %d, it is %d", ErrFencedEpoch, p.name, current, r.epoch)
	}
	return fmt.Errorf("%w: %s: asked with %d, it is %d here", ErrUnknownEpoch, p.name, current, r.epoch)
}

// CheckEpoch holds the leader epoch that a client knows against the present one; -1 passes. Errors: ErrFencedEpoch, ErrUnknownEpoch.
func (p *Partition) CheckEpoch(current int32) error { return p.checkEpoch(current, p.role.Load()) }

// EndOffsetForEpoch tells where the newest epoch at or below epoch ends in this leader's log (KIP-101, KIP-279). An epoch that is not known
// gives {-1, -1}. It may do I/O the first time. Errors: ErrFencedEpoch, ErrUnknownEpoch, ErrNotLeader, ErrStorage, ErrNotHere.
func (p *Partition) EndOffsetForEpoch(current, epoch int32) (EpochEnd, error) {
	if r := p.role.Load(); !r.leads {
		return EpochEnd{}, p.askedWrong(current, r)
	}
	if err := p.loadEpochs(); err != nil {
		return EpochEnd{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.role.Load()
	if !r.leads {
		return EpochEnd{}, p.askedWrong(current, r)
	}
	if err := p.checkEpoch(current, r); err != nil {
		return EpochEnd{}, err
	}
	floor, end := p.mu.epochs.EndFor(epoch, p.log.End())
	return EpochEnd{Epoch: floor, End: end}, nil
}

// EpochAt is the leader epoch that wrote the record at offset, -1 if that is not known.
func (p *Partition) EpochAt(offset int64) int32 {
	if p.loadEpochs() != nil {
		return machine.None
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.epochs.At(offset)
}

// FollowerState is what a leader knows of a follower.
type FollowerState struct {
	ID            int32
	End, LogStart int64 // -1: it has not fetched in this epoch
	InSync        bool
}

// Followers is what this node, if it leads, knows of its followers.
func (p *Partition) Followers() []FollowerState {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.lead == nil {
		return nil
	}
	all := p.mu.lead.Followers()
	out := make([]FollowerState, len(all))
	for i, f := range all {
		out[i] = FollowerState{ID: f.ID, End: f.End, LogStart: f.LogStart, InSync: f.InSync}
	}
	return out
}

// LowWatermark is, on the leader, the lowest log start of the in-sync replicas: records below it are gone everywhere. Who waits for it registers with WaitAppend.
func (p *Partition) LowWatermark() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	start := p.log.LogStart()
	if p.mu.lead == nil {
		return start
	}
	return p.mu.lead.LowWatermark(start)
}

// WaitAppend registers w like Wait, and to be notified also when the log's end, its durable end or its low watermark moves.
func (p *Partition) WaitAppend(w *Waiter) { p.followers.add(w) }

// ReadReplica is ReadShare up to the log's end, for a follower.
func (p *Partition) ReadReplica(sh *segment.Share, offset int64, maxBytes int, minOneBatch bool) (*segment.Range, error) {
	return p.ReadShare(sh, offset, p.log.End(), maxBytes, minOneBatch)
}
