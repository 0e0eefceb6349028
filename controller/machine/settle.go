package machine

import (
	"slices"

	"weir/raftmeta"
)

// settled is what a partition has to be, given the state of the brokers. It is the one place with the rules of elections:
//
//   - The last member never leaves the ISR. A broker that is fenced, shuts down or is unknown leaves it if one that can be in sync
//     stays; failing that, fenced ones leave if the leader stays, which is merely shutting down. Without a leader nobody leaves: nothing is added
//     that one of them would not have, and whoever of them comes back can lead.
//   - A reassignment is complete when all replicas that it leads to are in sync and one of them can lead.
//   - A leader that can lead stays. One that is shutting down stays as long as nobody in sync can take over. Else the first replica of
//     the assignment that is in sync and can lead does; else, if the topic allows it, the first that can lead at all, alone in
//     sync from then on; else nobody.
//
// settled(settled(p)) is settled(p). Lists of p are not modified, and kept where they stay as they are.
func (v *view) settled(t *raftmeta.Topic, p raftmeta.Partition) raftmeta.Partition {
	p.ISR = v.stillInSync(p.ISR, p.Leader)
	if len(p.Adding) > 0 || len(p.Removing) > 0 {
		v.completeReassignment(&p)
	}
	if p.Leader >= 0 && slices.Contains(p.ISR, p.Leader) && v.usable(p.Leader) {
		return p
	}
	for _, id := range p.Replicas {
		if v.usable(id) && slices.Contains(p.ISR, id) {
			p.Leader = id
			return p
		}
	}
	if p.Leader >= 0 && slices.Contains(p.ISR, p.Leader) && v.alive(p.Leader) {
		return p
	}
	if i := slices.IndexFunc(p.Replicas, v.usable); i >= 0 && v.unclean(t) {
		p.Leader, p.ISR = p.Replicas[i], []int32{p.Replicas[i]}
		v.completeReassignment(&p)
		return p
	}
	p.Leader = -1
	return p
}

func (v *view) stillInSync(isr []int32, leader int32) []int32 {
	usable, alive := 0, 0
	for _, id := range isr {
		if b := v.brokers[id]; b != nil && !b.Fenced {
			alive++
			if !b.ShuttingDown {
				usable++
			}
		}
	}
	switch {
	case usable == len(isr) || alive == 0:
		return isr
	case usable > 0:
		return only(isr, v.usable)
	case alive == len(isr), !slices.Contains(isr, leader) || !v.alive(leader):
		return isr // without a leader nothing is added: who was in sync stays it
	}
	return only(isr, v.alive)
}

// unclean: the topic's configuration is asked for only where nobody in sync is left, so it is not remembered.
func (v *view) unclean(t *raftmeta.Topic) bool { return v.m.c.Unclean(t.Configs) }

// settle makes every partition what it has to be. Leaders come first: they are what clients wait for.
func (v *view) settle() {
	type change struct {
		topic *raftmeta.Topic
		index int32
		cmd   raftmeta.ChangePartition
		next  raftmeta.Partition
	}
	if len(v.brokers) == 0 {
		return // a single node may have made topics before it registered: they are not offline
	}
	var leaders, others []change
	for t := range v.img.Topics() {
		for i := range t.Partitions {
			was := v.part(t, int32(i))
			if v.quiet(&was) {
				continue
			}
			cmd, next, changed := v.command(t, int32(i), &was, was, ElectFailover)
			switch {
			case !changed:
			case cmd.Leader != raftmeta.LeaderSame:
				leaders = append(leaders, change{t, int32(i), cmd, next})
			default:
				others = append(others, change{t, int32(i), cmd, next})
			}
		}
	}
	v.expect(len(leaders) + len(others))
	for _, list := range [...][]change{leaders, others} {
		for i := range list {
			v.stage(list[i].topic, list[i].index, list[i].cmd, list[i].next)
		}
	}
}

// quiet says quickly that nothing is to be done about a partition, which is so of most.
func (v *view) quiet(p *raftmeta.Partition) bool {
	if len(p.Adding) > 0 || len(p.Removing) > 0 || p.Leader < 0 {
		return false
	}
	for _, id := range p.ISR {
		if !v.usable(id) {
			return false
		}
	}
	return true
}

// only returns the members that keep holds of, in a list of its own.
func only(list []int32, keep func(int32) bool) []int32 {
	kept := make([]int32, 0, len(list))
	for _, id := range list {
		if keep(id) {
			kept = append(kept, id)
		}
	}
	return kept
}

// without returns list without those of drop.
func without(list, drop []int32) []int32 {
	if len(drop) == 0 {
		return list
	}
	return only(list, func(id int32) bool { return !slices.Contains(drop, id) })
}

// within says that all of part are in list.
func within(part, list []int32) bool {
	return !slices.ContainsFunc(part, func(id int32) bool { return !slices.Contains(list, id) })
}
