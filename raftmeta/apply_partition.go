package raftmeta

import (
	"fmt"
	"slices"
)

// newPartitions makes the partitions of an assignment; have partitions exist already. Equal neighbours share their lists.
func newPartitions(img *Image, assignment, isr [][]int32, have int) ([]Partition, error) {
	if n := len(assignment); n < 1 || have+n > partitionsMax {
		return nil, fmt.Errorf("%w: %d, want 1 to %d", ErrInvalidPartitions, have+n, partitionsMax)
	}
	if isr != nil && len(isr) != len(assignment) {
		return nil, fmt.Errorf("%w: in-sync replicas of %d partitions, want %d", ErrInvalidReplication, len(isr), len(assignment))
	}
	parts := make([]Partition, len(assignment))
	for i, replicas := range assignment {
		inSync := replicas
		if isr != nil {
			inSync = isr[i]
		}
		if i > 0 && slices.Equal(replicas, parts[i-1].Replicas) && slices.Equal(inSync, parts[i-1].ISR) {
			parts[i] = parts[i-1]
			continue
		}
		p := Partition{Leader: -1, Replicas: replicas, ISR: inSync}
		if len(inSync) > 0 {
			p.Leader = inSync[0]
		}
		if err := p.validate(img); err != nil {
			return nil, fmt.Errorf("partition %d: %w", have+i, err)
		}
		parts[i] = p
	}
	return parts, nil
}

func (c ChangePartition) apply(b *builder) Result {
	t := b.topicByID(c.TopicID)
	switch {
	case t == nil:
		return failed("%w: id %s", ErrUnknownTopic, FormatID(c.TopicID))
	case c.Partition < 0 || int(c.Partition) >= len(t.Partitions):
		return failed("%w: topic %s has %d partitions, none is %d", ErrInvalidPartitions, t.Name, len(t.Partitions), c.Partition)
	}
	was := &t.Partitions[c.Partition]
	if was.PartitionEpoch != c.PartitionEpoch {
		return failed("%w: %s-%d has epoch %d, not %d", ErrStalePartition, t.Name, c.Partition, was.PartitionEpoch, c.PartitionEpoch)
	}
	next := c.change(was)
	if next.equal(was) {
		return Result{}
	}
	if err := next.validate(b.next); err != nil {
		return failed("%s-%d: %w", t.Name, c.Partition, err)
	}
	next.PartitionEpoch++
	b.own(t).Partitions[c.Partition] = next
	return Result{}
}

// change is what the partition becomes, but for its partition epoch.
func (c *ChangePartition) change(was *Partition) Partition {
	next := *was
	for _, l := range [...]struct {
		to   *[]int32
		from []int32
	}{{&next.ISR, c.ISR}, {&next.Replicas, c.Replicas}, {&next.Adding, c.Adding}, {&next.Removing, c.Removing}} {
		if l.from != nil && !slices.Equal(*l.to, l.from) {
			*l.to = l.from
		}
	}
	if c.Leader != LeaderSame {
		next.Leader = c.Leader
	}
	if c.NewEpoch || next.Leader != was.Leader {
		next.LeaderEpoch++
	}
	return next
}

// validate checks what holds of every partition. Brokers that are not registered are accepted where none is: a log of a
// single node may have made topics first.
func (p *Partition) validate(img *Image) error {
	if n := len(p.Replicas); n < 1 || n > replicasMax {
		return fmt.Errorf("%w: %d replicas, want 1 to %d", ErrInvalidReplication, n, replicasMax)
	}
	for i, id := range p.Replicas {
		if id < 0 || slices.Contains(p.Replicas[:i], id) {
			return fmt.Errorf("%w: replicas %v", ErrInvalidReplication, p.Replicas)
		}
		if len(img.brokers) > 0 && img.Broker(id) == nil {
			return fmt.Errorf("%w: replicas %v, broker %d is not registered", ErrInvalidReplication, p.Replicas, id)
		}
	}
	if len(p.ISR) == 0 {
		return fmt.Errorf("%w: no in-sync replica", ErrInvalidReplication)
	}
	for _, l := range [...]struct {
		name string
		list []int32
	}{{"in-sync", p.ISR}, {"adding", p.Adding}, {"removing", p.Removing}} {
		for i, id := range l.list {
			if !slices.Contains(p.Replicas, id) || slices.Contains(l.list[:i], id) {
				return fmt.Errorf("%w: %s %v, of replicas %v", ErrInvalidReplication, l.name, l.list, p.Replicas)
			}
		}
	}
	if p.Leader != -1 && !slices.Contains(p.ISR, p.Leader) {
		return fmt.Errorf("%w: leader %d is not in sync: %v", ErrInvalidReplication, p.Leader, p.ISR)
	}
	return nil
}

func (p *Partition) equal(q *Partition) bool {
	return p.Leader == q.Leader && p.LeaderEpoch == q.LeaderEpoch && p.PartitionEpoch == q.PartitionEpoch &&
		slices.Equal(p.Replicas, q.Replicas) && slices.Equal(p.ISR, q.ISR) &&
		slices.Equal(p.Adding, q.Adding) && slices.Equal(p.Removing, q.Removing)
}
