package machine

import (
	"fmt"
	"slices"
	"time"

	"weir/raftmeta"
)

// electLeaders is KIP-460: elections that are asked for.
func (m *Machine) electLeaders(v *view, r Request, op *ElectLeaders) {
	from := len(v.plan.cmds)
	var results []ElectResult
	var waits []int // results that wait for a command, in the order of the commands
	elect := func(t *raftmeta.Topic, name string, index int32, all bool) {
		res := ElectResult{Topic: name, Partition: index}
		changed := false
		if t == nil {
			res.Err = fmt.Errorf("%w: %s-%d", raftmeta.ErrUnknownTopic, name, index)
		} else {
			changed, res.Err = v.elect(t, index, op.Unclean)
			if all && res.Err != nil && !v.electable(t, index, op.Unclean) {
				return
			}
		}
		if changed {
			waits = append(waits, len(results))
		}
		results = append(results, res)
	}
	if op.Partitions == nil {
		for t := range v.img.Topics() {
			for i := range t.Partitions {
				elect(t, t.Name, int32(i), true)
			}
		}
	}
	for _, p := range op.Partitions {
		t, ok := v.find(p.Topic, p.Partition)
		if !ok {
			t = nil
		}
		elect(t, p.Topic, p.Partition, false)
	}
	v.plan.await(r, from, func(rs []raftmeta.Result, _ time.Time) (any, error) {
		for i := range rs {
			results[waits[i]].Err = rs[i].Err
		}
		return results, nil
	})
}

// electable says that an election could change something, if the right broker lived.
func (v *view) electable(t *raftmeta.Topic, index int32, unclean bool) bool {
	p := v.part(t, index)
	if unclean {
		return p.Leader < 0
	}
	return p.Leader != p.Replicas[0]
}

// elect makes the preferred replica the leader, or with unclean, gives a partition that has no leader one.
func (v *view) elect(t *raftmeta.Topic, index int32, unclean bool) (changed bool, err error) {
	p := v.part(t, index)
	if !v.electable(t, index, unclean) {
		return false, fmt.Errorf("%w: %s-%d is led by %d", ErrElectionNotNeeded, t.Name, index, p.Leader)
	}
	if !unclean {
		preferred := p.Replicas[0]
		if !v.usable(preferred) || !slices.Contains(p.ISR, preferred) {
			return false, fmt.Errorf("%w: %s-%d: preferred leader %d is not there or not in sync: in sync are %v", ErrNoEligibleLeader, t.Name, index, preferred, p.ISR)
		}
		p.Leader = preferred
		v.change(t, index, p, ElectPreferred)
		return true, nil
	}
	i := slices.IndexFunc(p.Replicas, func(id int32) bool { return v.usable(id) && slices.Contains(p.ISR, id) }) // its election is on its way
	if i < 0 {
		i = slices.IndexFunc(p.Replicas, v.usable)
	}
	if i < 0 {
		return false, fmt.Errorf("%w: %s-%d: none of replicas %v is there", ErrNoEligibleLeader, t.Name, index, p.Replicas)
	}
	if p.Leader = p.Replicas[i]; !slices.Contains(p.ISR, p.Leader) {
		p.ISR = []int32{p.Leader}
	}
	v.change(t, index, p, ElectUnclean)
	return true, nil
}
