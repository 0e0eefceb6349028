package machine

import (
	"fmt"
	"slices"
	"time"

	"weir/raftmeta"
)

// Reassignment is KIP-455. While it is under way, Replicas are those that it leads to, in their order, followed by Removing; Adding are those
// of them that were not there before. It ends with the change of the ISR that brings the last of them in, or at once if
// they are all in sync already (settled does it). A new reassignment takes the place of the old one.

func (m *Machine) reassign(v *view, r Request, op *Reassign) {
	from := len(v.plan.cmds)
	errs := make([]error, len(op.Partitions))
	var waits []int
	for i := range op.Partitions {
		before := len(v.plan.cmds)
		errs[i] = m.reassignOne(v, &op.Partitions[i])
		if len(v.plan.cmds) > before {
			waits = append(waits, i)
		}
	}
	v.plan.await(r, from, func(rs []raftmeta.Result, _ time.Time) (any, error) {
		for i := range rs {
			errs[waits[i]] = rs[i].Err
		}
		return errs, nil
	})
}

func (m *Machine) reassignOne(v *view, r *Reassignment) error {
	t, ok := v.find(r.Topic, r.Partition)
	if !ok {
		return fmt.Errorf("%w: %s-%d", raftmeta.ErrUnknownTopic, r.Topic, r.Partition)
	}
	p := v.part(t, r.Partition)
	target := r.Replicas
	if target == nil {
		if len(p.Adding) == 0 && len(p.Removing) == 0 {
			return fmt.Errorf("%w: %s-%d", ErrNoReassignment, r.Topic, r.Partition)
		}
		target = without(p.Replicas, p.Adding)
		if i := slices.IndexFunc(target, v.leaving); i >= 0 {
			return fmt.Errorf("%w: %s-%d: broker %d is being decommissioned: cancel that", ErrInvalidAssignment, r.Topic, r.Partition, target[i])
		}
	} else if err := v.checkReplicas(target); err != nil {
		return fmt.Errorf("%s-%d: %w", r.Topic, r.Partition, err)
	}
	return v.reassignTo(t, r.Partition, p, target)
}

// reassignTo begins to move a partition to these replicas.
func (v *view) reassignTo(t *raftmeta.Topic, index int32, p raftmeta.Partition, target []int32) error {
	original := without(p.Replicas, p.Adding)
	next := p
	next.Adding = without(target, original)
	next.Removing = without(original, target)
	next.Replicas = slices.Concat(target, next.Removing)
	// Those that an earlier reassignment was adding and this one does not want go at once.
	next.ISR = only(p.ISR, func(id int32) bool { return slices.Contains(next.Replicas, id) })
	if len(next.ISR) == 0 {
		if !v.unclean(t) {
			return fmt.Errorf("%w: %s-%d: only %v are in sync, without them records would be lost", ErrInvalidAssignment, t.Name, index, p.ISR)
		}
		i := max(0, slices.IndexFunc(next.Replicas, v.usable))
		next.ISR = []int32{next.Replicas[i]}
	}
	v.change(t, index, next, ElectFailover)
	return nil
}

// completeReassignment ends a reassignment if all replicas that it leads to are in sync and somebody of them can lead.
func (v *view) completeReassignment(p *raftmeta.Partition) {
	if len(p.Adding) == 0 && len(p.Removing) == 0 {
		return
	}
	target := without(p.Replicas, p.Removing)
	if !within(target, p.ISR) {
		return
	}
	leads := slices.Contains(target, p.Leader) && v.alive(p.Leader)
	if !leads && !slices.ContainsFunc(target, v.usable) {
		return
	}
	p.Replicas, p.ISR = target, without(p.ISR, p.Removing)
	p.Adding, p.Removing = nil, nil
}

// Reassignments lists what is under way in an image.
func Reassignments(img *raftmeta.Image) []Reassigning {
	var list []Reassigning
	for t := range img.Topics() {
		for i := range t.Partitions {
			if p := &t.Partitions[i]; len(p.Adding) > 0 || len(p.Removing) > 0 {
				list = append(list, Reassigning{
					Topic: t.Name, TopicID: t.ID, Partition: int32(i),
					Replicas: p.Replicas, Adding: p.Adding, Removing: p.Removing, ISR: p.ISR,
				})
			}
		}
	}
	return list
}
