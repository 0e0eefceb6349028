package machine

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"weir/raftmeta"
)

// partitionsMax is raftmeta's bound: nothing is placed that it would refuse.
const partitionsMax = raftmeta.PartitionsMax

// topicChanges are the commands of one request about topics, and the outcomes of those that are known without any.
type topicChanges struct {
	results []raftmeta.Result
	waits   []int // results that wait for a command, in the order of the commands
}

// fail notes the outcome of a topic that there is no command for.
func (c *topicChanges) fail(i int, err error) { c.results[i].Err = err }

// add notes that a topic waits for a command. One too large for an entry is refused, so that it does not take the others along.
func (c *topicChanges) add(v *view, i int, topic string, cmd raftmeta.Command) {
	bytes := bytesOf(cmd)
	if bytes > raftmeta.EntryBytesMax {
		c.fail(i, fmt.Errorf("%w: %d bytes, want at most %d", raftmeta.ErrTooLarge, bytes, raftmeta.EntryBytesMax))
		return
	}
	if v.topics == nil {
		v.topics = map[string]struct{}{}
	}
	v.topics[topic] = struct{}{}
	c.waits = append(c.waits, i)
	v.plan.add(cmd, bytes)
}

func (c *topicChanges) finish(rs []raftmeta.Result, _ time.Time) (any, error) {
	for i := range rs {
		c.results[c.waits[i]] = rs[i]
	}
	return c.results, nil
}

// mustWait says that the plan has a command that makes, grows or deletes one of these topics, so that the request has to wait for the
// image that has it.
func (v *view) mustWait(r Request, names iter.Seq[string]) bool {
	for name := range names {
		if _, taken := v.topics[name]; taken {
			v.plan.Later = append(v.plan.Later, r)
			return true
		}
	}
	return false
}

// names are the topics of a request.
func names[T any](list []T, name func(*T) string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range list {
			if !yield(name(&list[i])) {
				return
			}
		}
	}
}

func (m *Machine) createTopics(v *view, r Request, op *CreateTopics) {
	if v.mustWait(r, names(op.Topics, func(c *raftmeta.CreateTopic) string { return c.Name })) {
		return
	}
	from := len(v.plan.cmds)
	changes := &topicChanges{results: make([]raftmeta.Result, len(op.Topics))}
	for i := range op.Topics {
		cmd, err := m.create(v, op.Topics[i])
		if err != nil {
			changes.fail(i, err)
			continue
		}
		changes.add(v, i, op.Topics[i].Name, cmd)
	}
	v.plan.await(r, from, changes.finish)
}

// create completes a command: id, replicas, who of them is in sync.
func (m *Machine) create(v *view, c raftmeta.CreateTopic) (raftmeta.CreateTopic, error) {
	if err := raftmeta.ValidateTopicName(c.Name); err != nil {
		return c, err
	}
	if v.img.Topic(c.Name) != nil {
		return c, fmt.Errorf("%w: %s", raftmeta.ErrTopicExists, c.Name)
	}
	if c.ID == [16]byte{} {
		c.ID = m.c.NewID()
	}
	if c.Assignment == nil {
		if c.Partitions < 1 || c.Partitions > partitionsMax {
			return c, fmt.Errorf("%w: topic %s: %d, want 1 to %d", raftmeta.ErrInvalidPartitions, c.Name, c.Partitions, partitionsMax)
		}
		var err error
		if c.Assignment, err = v.placer().assign(c.Name, nil, int(c.Partitions), max(int(c.ReplicationFactor), 1)); err != nil {
			return c, err
		}
		c.ISR = v.inSync(c.Assignment)
		return c, nil
	}
	var err error
	c.ISR, err = v.manual(c.Name, 0, c.Assignment)
	return c, err
}

// manual checks replicas that were chosen by hand and says who of them is in sync.
func (v *view) manual(topic string, first int, assignment [][]int32) ([][]int32, error) {
	for i, replicas := range assignment {
		if err := v.checkReplicas(replicas); err != nil {
			return nil, fmt.Errorf("%s-%d: %w", topic, first+i, err)
		}
		if !slices.ContainsFunc(replicas, v.usable) {
			return nil, fmt.Errorf("%w: %s-%d: all of brokers %v are fenced or shutting down", ErrInvalidAssignment, topic, first+i, replicas)
		}
	}
	return v.inSync(assignment), nil
}

// checkReplicas checks a list of replicas.
func (v *view) checkReplicas(replicas []int32) error {
	if len(replicas) == 0 {
		return fmt.Errorf("%w: no replicas", ErrInvalidAssignment)
	}
	for i, id := range replicas {
		if slices.Contains(replicas[:i], id) {
			return fmt.Errorf("%w: %v has broker %d twice", ErrInvalidAssignment, replicas, id)
		}
		if b := v.brokers[id]; b == nil {
			return fmt.Errorf("%w: %v has broker %d, which is not registered", ErrInvalidAssignment, replicas, id)
		} else if b.Leaving {
			return fmt.Errorf("%w: %v has broker %d, which is being decommissioned", ErrInvalidAssignment, replicas, id)
		}
	}
	return nil
}

// inSync is who of new replicas is in sync: those that are there. nil: all.
func (v *view) inSync(assignment [][]int32) [][]int32 {
	all := func(replicas []int32) bool {
		return !slices.ContainsFunc(replicas, func(id int32) bool { return !v.usable(id) })
	}
	if !slices.ContainsFunc(assignment, func(replicas []int32) bool { return !all(replicas) }) {
		return nil
	}
	out := make([][]int32, len(assignment))
	for i, replicas := range assignment {
		if out[i] = replicas; !all(replicas) {
			out[i] = only(replicas, v.usable)
		}
	}
	return out
}

func (m *Machine) addPartitions(v *view, r Request, op *AddPartitions) {
	if v.mustWait(r, names(op.Topics, func(c *raftmeta.AddPartitions) string { return c.Topic })) {
		return
	}
	from := len(v.plan.cmds)
	changes := &topicChanges{results: make([]raftmeta.Result, len(op.Topics))}
	for i := range op.Topics {
		cmd, err := m.grow(v, op.Topics[i])
		if err != nil {
			changes.fail(i, err)
			continue
		}
		changes.add(v, i, op.Topics[i].Topic, cmd)
	}
	v.plan.await(r, from, changes.finish)
}

func (m *Machine) grow(v *view, c raftmeta.AddPartitions) (raftmeta.AddPartitions, error) {
	t := v.img.Topic(c.Topic)
	if t == nil {
		return c, fmt.Errorf("%w: %s", raftmeta.ErrUnknownTopic, c.Topic)
	}
	have := len(t.Partitions)
	if int(c.Total) <= have || c.Total > partitionsMax {
		return c, fmt.Errorf("%w: topic %s has %d, asked for %d, want at most %d", raftmeta.ErrInvalidPartitions, c.Topic, have, c.Total, partitionsMax)
	}
	var err error
	if c.Assignment != nil {
		c.ISR, err = v.manual(c.Topic, have, c.Assignment)
		return c, err
	}
	factor := len(t.Partitions[0].Replicas) - len(t.Partitions[0].Adding)
	if c.Assignment, err = v.placer().assign(c.Topic, t.Partitions, int(c.Total)-have, factor); err != nil {
		return c, err
	}
	c.ISR = v.inSync(c.Assignment)
	return c, nil
}

func (m *Machine) deleteTopics(v *view, r Request, op *DeleteTopics) {
	name := func(c *raftmeta.DeleteTopic) string {
		if t := v.img.TopicByID(c.ID); c.Name == "" && t != nil {
			return t.Name
		}
		return c.Name
	}
	if v.mustWait(r, names(op.Topics, name)) {
		return
	}
	from := len(v.plan.cmds)
	changes := &topicChanges{results: make([]raftmeta.Result, len(op.Topics))}
	for i := range op.Topics {
		changes.add(v, i, name(&op.Topics[i]), op.Topics[i])
	}
	v.plan.await(r, from, changes.finish)
}
