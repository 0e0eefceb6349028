package machine

import (
	"fmt"
	"slices"
	"time"

	"weir/raftmeta"
)

// A broker that is being decommissioned is marked in the metadata (raftmeta.Broker.Leaving), so that every controller goes on with it, however
// often it changes and the broker restarts. From then on nothing is placed on it, by us or by hand, and every replica that it has is reassigned:
// at once, or, if too few brokers are alive, when there are more (view.empty). It ends when the broker is unregistered, or with Cancel.

// stuckNamesMax is how many partitions with nowhere to go are named.
const stuckNamesMax = 10

func (m *Machine) decommission(v *view, r Request, op *Decommission) {
	b := v.brokers[op.Broker]
	switch {
	case b == nil:
		v.plan.answer(r, nil, fmt.Errorf("%w: %d", ErrUnknownBroker, op.Broker))
	case op.Cancel && !b.Leaving:
		v.plan.answer(r, nil, fmt.Errorf("%w: %d", ErrNotLeaving, op.Broker))
	case op.Try:
		m.tryDecommission(v, r, op)
	case op.Cancel:
		m.cancelDecommission(v, r, b)
	default:
		m.startDecommission(v, r, b)
	}
}

func (m *Machine) startDecommission(v *view, r Request, b *member) {
	if err := v.mayLeave(b.ID); err != nil {
		v.plan.answer(r, nil, err)
		return
	}
	from := len(v.plan.cmds)
	v.setLeaving(b, true)
	progress := v.moveOff(b.ID)
	v.plan.await(r, from, func(rs []raftmeta.Result, _ time.Time) (any, error) { return progress, firstError(rs) })
}

// tryDecommission decides as startDecommission would, on a view of its own, and forgets it.
func (m *Machine) tryDecommission(v *view, r Request, op *Decommission) {
	if len(v.plan.cmds) > 0 { // it has to be decided on an image that has what this plan does
		v.plan.Later = append(v.plan.Later, r)
		return
	}
	scratch := newView(m)
	b := scratch.brokers[op.Broker]
	if op.Cancel {
		progress := scratch.stay(b)
		v.plan.answer(r, progress, nil)
		return
	}
	if err := scratch.mayLeave(b.ID); err != nil {
		v.plan.answer(r, nil, err)
		return
	}
	leaving := b.Leaving
	scratch.setLeaving(b, true)
	progress := scratch.moveOff(b.ID)
	progress.Leaving = leaving
	v.plan.answer(r, progress, nil)
}

func (m *Machine) cancelDecommission(v *view, r Request, b *member) {
	from := len(v.plan.cmds)
	progress := v.stay(b)
	v.plan.await(r, from, func(rs []raftmeta.Result, _ time.Time) (any, error) { return progress, firstError(rs) })
}

func firstError(rs []raftmeta.Result) error {
	for i := range rs {
		if rs[i].Err != nil {
			return rs[i].Err
		}
	}
	return nil
}

func (v *view) setLeaving(b *member, leaving bool) {
	if b.Leaving == leaving {
		return
	}
	b.Leaving = leaving
	v.place = nil // it was made without that in mind
	c := raftmeta.SetLeaving{ID: b.ID, Leaving: leaving}
	v.plan.add(c, bytesOf(c))
}

// mayLeave refuses what could never end: partitions that need more brokers than stay, whether those are alive or not.
func (v *view) mayLeave(broker int32) error {
	stay := 0
	for id, b := range v.brokers {
		if id != broker && !b.Leaving {
			stay++
		}
	}
	if stay == 0 {
		return fmt.Errorf("%w: %d is the only broker that stays; add another one first", ErrCannotLeave, broker)
	}
	for t := range v.img.Topics() {
		for i := range t.Partitions {
			p := v.part(t, int32(i))
			if !slices.Contains(p.Replicas, broker) || slices.Contains(p.Removing, broker) {
				continue
			}
			if need := len(p.Replicas) - len(p.Removing); need > stay {
				return fmt.Errorf("%w: %s-%d has %d replicas, and %d broker(s) stay without %d; add a broker, or give the topic fewer replicas, first",
					ErrCannotLeave, t.Name, i, need, stay, broker)
			}
		}
	}
	return nil
}

// moveOff reassigns what a leaving broker holds and is not on its way yet.
func (v *view) moveOff(broker int32) DecommissionProgress {
	progress := DecommissionProgress{Broker: broker, Leaving: true, Heirs: map[int32]int{}}
	for t := range v.img.Topics() {
		for i := range t.Partitions {
			p := v.part(t, int32(i))
			if !slices.Contains(p.Replicas, broker) {
				continue
			}
			if !slices.Contains(p.Removing, broker) {
				if heir := v.moveAway(t, int32(i), p, broker); heir >= 0 {
					progress.Started++
					progress.Heirs[heir]++
				}
			}
			progress.count(t.Name, int32(i), v.part(t, int32(i)))
		}
	}
	return progress
}

// count adds a partition of which the broker holds, or held until now, a replica.
func (p *DecommissionProgress) count(topic string, index int32, part raftmeta.Partition) {
	switch {
	case !slices.Contains(part.Replicas, p.Broker):
		return
	case slices.Contains(part.Removing, p.Broker):
		p.Moving++
	default:
		if p.Stuck++; len(p.StuckAt) < stuckNamesMax {
			p.StuckAt = append(p.StuckAt, TopicPartition{topic, index})
		}
	}
	p.Left++
}

// moveAway has another broker take a replica over, and returns it, -1 if there is none now.
func (v *view) moveAway(t *raftmeta.Topic, index int32, p raftmeta.Partition, broker int32) (heir int32) {
	target := slices.Clone(without(p.Replicas, p.Removing))
	at := slices.Index(target, broker)
	if heir = v.placer().substitute(without(target, []int32{broker})); heir < 0 {
		return -1
	}
	target[at] = heir
	if err := v.reassignTo(t, index, p, target); err != nil {
		return -1
	}
	return heir
}

// empty goes on with the brokers that leave: what could not move may have somewhere to go now.
func (v *view) empty() {
	for _, b := range v.img.Brokers() {
		if v.leaving(b.ID) {
			v.moveOff(b.ID)
		}
	}
}

// stay takes a decommission back: what is on its way off the broker stays, unless only the new replicas have what was acknowledged.
func (v *view) stay(b *member) DecommissionProgress {
	v.setLeaving(b, false)
	progress := DecommissionProgress{Broker: b.ID}
	for t := range v.img.Topics() {
		for i := range t.Partitions {
			p := v.part(t, int32(i))
			if slices.Contains(p.Removing, b.ID) && v.reassignTo(t, int32(i), p, takenBack(&p)) == nil {
				progress.Started++
			}
			if p = v.part(t, int32(i)); slices.Contains(p.Replicas, b.ID) {
				progress.Left++
				if slices.Contains(p.Removing, b.ID) {
					progress.Moving++
				}
			}
		}
	}
	return progress
}

// takenBack are the replicas that a partition had before it began to move: in their order, where that can be told.
func takenBack(p *raftmeta.Partition) []int32 {
	if len(p.Adding) != 1 || len(p.Removing) != 1 {
		return without(p.Replicas, p.Adding)
	}
	was := slices.Clone(without(p.Replicas, p.Removing))
	was[slices.Index(was, p.Adding[0])] = p.Removing[0]
	return was
}

// Decommissions is how far the brokers are that leave, by id.
func Decommissions(img *raftmeta.Image) []DecommissionProgress {
	var list []DecommissionProgress
	for _, b := range img.Brokers() {
		if b.Leaving {
			list = append(list, DecommissionProgress{Broker: b.ID, Leaving: true})
		}
	}
	if list == nil {
		return nil
	}
	for t := range img.Topics() {
		for i := range t.Partitions {
			for k := range list {
				list[k].count(t.Name, int32(i), t.Partitions[i])
			}
		}
	}
	return list
}

// unregister forgets a broker; raftmeta refuses that of one that holds replicas. It has a plan for itself.
func (m *Machine) unregister(v *view, r Request, op *Unregister) {
	b := v.brokers[op.Broker]
	if b == nil || b.renewed {
		v.plan.answer(r, nil, fmt.Errorf("%w: %d", ErrUnknownBroker, op.Broker))
		return
	}
	v.full = true // nothing else may count on this broker, nor on its being gone
	if len(v.plan.cmds) > 0 {
		v.plan.Later = append(v.plan.Later, r)
		return
	}
	c := raftmeta.UnregisterBroker{ID: op.Broker}
	v.plan.add(c, bytesOf(c))
	v.plan.await(r, 0, func(rs []raftmeta.Result, _ time.Time) (any, error) { return nil, rs[0].Err })
}
