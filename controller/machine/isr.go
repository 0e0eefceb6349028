package machine

import (
	"fmt"
	"slices"
	"time"

	"weir/raftmeta"
)

// alterISR is KIP-497 with the eligibility of KIP-841 and the broker epochs of KIP-903: a leader says who is in sync.
func (m *Machine) alterISR(v *view, r Request, op *AlterISR) {
	b := v.brokers[op.Broker]
	if _, err := m.sender(op.Broker, op.BrokerEpoch); err != nil || b.renewed {
		if err == nil {
			err = fmt.Errorf("%w: broker %d registers anew", ErrStaleBrokerEpoch, op.Broker)
		}
		v.plan.answer(r, nil, err)
		return
	}
	from := len(v.plan.cmds)
	results := make([]ISRResult, len(op.Changes))
	var waits []int
	for i := range op.Changes {
		before := len(v.plan.cmds)
		results[i] = m.alterOne(v, op.Broker, &op.Changes[i])
		if len(v.plan.cmds) > before {
			waits = append(waits, i)
		}
	}
	v.plan.await(r, from, func(rs []raftmeta.Result, _ time.Time) (any, error) {
		for i := range rs {
			if err := rs[i].Err; err != nil {
				results[waits[i]] = m.refused(&op.Changes[waits[i]], err)
			}
		}
		return results, nil
	})
}

// refused is the state of a partition whose change came too late.
func (m *Machine) refused(c *ISRChange, err error) ISRResult {
	if isStale(err) {
		err = fmt.Errorf("%w: %w", ErrInvalidUpdate, err)
	}
	if t := m.img.TopicByID(c.TopicID); t != nil && c.Partition >= 0 && int(c.Partition) < len(t.Partitions) {
		return resultOf(t.Partitions[c.Partition], err)
	}
	return ISRResult{Err: err, Leader: -1}
}

func resultOf(p raftmeta.Partition, err error) ISRResult {
	return ISRResult{Err: err, ISR: p.ISR, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
}

func (m *Machine) alterOne(v *view, broker int32, c *ISRChange) ISRResult {
	t := v.img.TopicByID(c.TopicID)
	if t == nil || c.Partition < 0 || int(c.Partition) >= len(t.Partitions) {
		err := fmt.Errorf("%w: partition %d of topic id %s", raftmeta.ErrUnknownTopic, c.Partition, raftmeta.FormatID(c.TopicID))
		return ISRResult{Err: err, Leader: -1}
	}
	p := v.part(t, c.Partition)
	isr, repeated, err := v.checkISR(t, &p, broker, c)
	if err != nil {
		return resultOf(p, fmt.Errorf("%s-%d: %w", t.Name, c.Partition, err))
	}
	if repeated {
		return resultOf(p, nil)
	}
	next := p
	next.ISR = isr
	return resultOf(v.change(t, c.Partition, next, ElectFailover), nil)
}

// checkISR checks a change as Kafka does: first whether the leader knows the present state, then whether what it wants can be.
// repeated: it is so already, as when the answer to the first request was lost.
func (v *view) checkISR(t *raftmeta.Topic, p *raftmeta.Partition, broker int32, c *ISRChange) (isr []int32, repeated bool, err error) {
	switch {
	case c.LeaderEpoch < p.LeaderEpoch:
		return nil, false, fmt.Errorf("%w: %d, it is %d and the leader %d", ErrFencedLeaderEpoch, c.LeaderEpoch, p.LeaderEpoch, p.Leader)
	case c.LeaderEpoch > p.LeaderEpoch || c.PartitionEpoch > p.PartitionEpoch:
		return nil, false, fmt.Errorf("%w: broker %d knows epochs %d and %d, here they are %d and %d", ErrNotController, broker,
			c.LeaderEpoch, c.PartitionEpoch, p.LeaderEpoch, p.PartitionEpoch)
	case broker != p.Leader:
		return nil, false, fmt.Errorf("%w: broker %d asks, the leader is %d", ErrInvalidRequest, broker, p.Leader)
	}
	isr = make([]int32, len(c.ISR))
	for i, member := range c.ISR {
		isr[i] = member.ID
	}
	if len(isr) == len(p.ISR) && within(p.ISR, isr) {
		return nil, true, nil
	}
	if c.PartitionEpoch != p.PartitionEpoch {
		return nil, false, fmt.Errorf("%w: partition epoch %d, it is %d", ErrInvalidUpdate, c.PartitionEpoch, p.PartitionEpoch)
	}
	if !slices.Contains(isr, broker) {
		return nil, false, fmt.Errorf("%w: leader %d is not in its own ISR %v", ErrInvalidRequest, broker, isr)
	}
	for i, member := range c.ISR {
		if !slices.Contains(p.Replicas, member.ID) || slices.Contains(isr[:i], member.ID) {
			return nil, false, fmt.Errorf("%w: ISR %v of replicas %v", ErrInvalidRequest, isr, p.Replicas)
		}
	}
	for _, member := range c.ISR {
		if err := v.eligible(member, broker); err != nil {
			return nil, false, err
		}
	}
	return isr, false, nil
}

// eligible says why a broker cannot be in sync. The leader itself may be shutting down: until it is gone it can do without the others.
func (v *view) eligible(member ISRMember, leader int32) error {
	b := v.brokers[member.ID]
	switch {
	case b == nil:
		return fmt.Errorf("%w: broker %d is not registered", ErrIneligibleReplica, member.ID)
	case b.Fenced:
		return fmt.Errorf("%w: broker %d is fenced", ErrIneligibleReplica, member.ID)
	case b.ShuttingDown && member.ID != leader:
		return fmt.Errorf("%w: broker %d shuts down", ErrIneligibleReplica, member.ID)
	case b.renewed || member.BrokerEpoch != -1 && member.BrokerEpoch != b.Epoch:
		return fmt.Errorf("%w: broker %d is registered with %d, the leader knows %d", ErrIneligibleReplica, member.ID, b.Epoch, member.BrokerEpoch)
	}
	return nil
}
