package raftmeta

import (
	"fmt"
	"maps"
	"slices"
)

// Limits of what a command may hold. They are part of the state machine: all nodes must agree on them.
const (
	topicNameBytesMax   = 249     // Kafka's
	PartitionsMax       = 100_000 // of a topic
	partitionsMax       = PartitionsMax
	replicasMax         = 32
	configNameBytesMax  = 256
	configValueBytesMax = 64 << 10
	producerIDsMax      = 1 << 20
	clusterIDBytesMax   = 64
	hostBytesMax        = 255
	portMax             = 65535
)

func (c SetClusterID) apply(b *builder) Result {
	switch {
	case c.ID == "" || len(c.ID) > clusterIDBytesMax:
		return failed("%w: cluster id of %d bytes, want 1 to %d", ErrInvalidCommand, len(c.ID), clusterIDBytesMax)
	case b.next.ClusterID != "" && b.next.ClusterID != c.ID:
		return failed("%w: cluster id is %s already, got %s", ErrInvalidCommand, b.next.ClusterID, c.ID)
	}
	b.next.ClusterID, b.changed = c.ID, b.index
	return Result{}
}

func (c CreateTopic) apply(b *builder) Result {
	if err := ValidateTopicName(c.Name); err != nil {
		return Result{Err: err}
	}
	if b.topic(c.Name) != nil {
		return failed("%w: %s", ErrTopicExists, c.Name)
	}
	if collides(c.Name) {
		if other := b.topicByUnified(c.Name); other != nil {
			return failed("%w: %s collides with %s, as . and _ are the same in metrics", ErrInvalidTopic, c.Name, other.Name)
		}
	}
	if c.ID == ([16]byte{}) {
		return failed("%w: topic %s has no id", ErrInvalidCommand, c.Name)
	}
	if other := b.topicByID(c.ID); other != nil {
		return failed("%w: id of topic %s is taken by %s", ErrInvalidCommand, c.Name, other.Name)
	}
	if err := validateConfigs(c.Configs); err != nil {
		return failed("topic %s: %w", c.Name, err)
	}
	parts, err := newPartitions(b.next, c.Assignment, c.ISR, 0)
	if err != nil {
		return failed("topic %s: %w", c.Name, err)
	}
	t := &Topic{Name: c.Name, ID: c.ID, Partitions: parts, Configs: c.Configs, Internal: c.Internal}
	b.put(t)
	return Result{Topic: t}
}

func (c DeleteTopic) apply(b *builder) Result {
	t := b.topicByID(c.ID)
	if c.Name != "" {
		t = b.topic(c.Name)
	}
	switch {
	case t == nil && c.Name != "":
		return failed("%w: %s", ErrUnknownTopic, c.Name)
	case t == nil:
		return failed("%w: id %s", ErrUnknownTopic, FormatID(c.ID))
	case c.ID != ([16]byte{}) && c.ID != t.ID:
		return failed("%w: %s has id %s, not %s", ErrUnknownTopic, c.Name, FormatID(t.ID), FormatID(c.ID))
	}
	b.remove(t)
	return Result{Topic: t}
}

func (c SetTopicConfigs) apply(b *builder) Result {
	t := b.topic(c.Topic)
	if t == nil {
		return failed("%w: %s", ErrUnknownTopic, c.Topic)
	}
	if err := validateConfigs(c.Set); err != nil {
		return failed("topic %s: %w", c.Topic, err)
	}
	configs := mergeConfigs(t.Configs, c.Set, c.Remove, c.Replace)
	if maps.Equal(configs, t.Configs) {
		return Result{Topic: t}
	}
	next := *t
	next.Configs = configs
	b.put(&next)
	return Result{Topic: &next}
}

func (c SetConfigs) apply(b *builder) Result {
	switch {
	case c.Resource.Type == ResourceTopic:
		return failed("%w: SetConfigs of topic %s, want SetTopicConfigs", ErrInvalidCommand, c.Resource.Name)
	case c.Resource.Type != ResourceBroker && c.Resource.Type != ResourceGroup:
		return failed("%w: resource type %d", ErrInvalidCommand, c.Resource.Type)
	case len(c.Resource.Name) > configNameBytesMax:
		return failed("%w: resource name of %d bytes, want at most %d", ErrInvalidCommand, len(c.Resource.Name), configNameBytesMax)
	}
	if err := validateConfigs(c.Set); err != nil {
		return Result{Err: err}
	}
	b.putConfigs(c.Resource, mergeConfigs(b.next.configs[c.Resource], c.Set, c.Remove, c.Replace))
	return Result{}
}

func (c AddPartitions) apply(b *builder) Result {
	t := b.topic(c.Topic)
	if t == nil {
		return failed("%w: %s", ErrUnknownTopic, c.Topic)
	}
	have := len(t.Partitions)
	if int(c.Total) <= have || int(c.Total)-have != len(c.Assignment) {
		return failed("%w: topic %s has %d, asked for %d with replicas for %d more", ErrInvalidPartitions, c.Topic, have, c.Total, len(c.Assignment))
	}
	added, err := newPartitions(b.next, c.Assignment, c.ISR, have)
	if err != nil {
		return failed("topic %s: %w", c.Topic, err)
	}
	next := *t
	next.Partitions = slices.Concat(t.Partitions, added)
	b.put(&next)
	return Result{Topic: &next}
}

func (c AllocateProducerIDs) apply(b *builder) Result {
	count := int64(c.Count)
	if count == 0 {
		count = ProducerIDBlock
	}
	if count < 0 || count > producerIDsMax {
		return failed("%w: %d producer ids, want 1 to %d", ErrInvalidCommand, count, producerIDsMax)
	}
	first := b.next.producerID
	if first+count < first {
		return failed("%w: producer ids are used up", ErrInvalidCommand)
	}
	b.next.producerID, b.changed = first+count, b.index
	return Result{FirstProducerID: first, ProducerIDs: count}
}

func failed(format string, args ...any) Result { return Result{Err: fmt.Errorf(format, args...)} }

// ValidateTopicName checks a name as Kafka does: 1 to 249 of [a-zA-Z0-9._-], not "." or "..".
func ValidateTopicName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidTopic)
	case name == "." || name == "..":
		return fmt.Errorf("%w: it cannot be %q", ErrInvalidTopic, name)
	case len(name) > topicNameBytesMax:
		return fmt.Errorf("%w: %d characters, want at most %d", ErrInvalidTopic, len(name), topicNameBytesMax)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return fmt.Errorf("%w: %q has character %q, want letters, digits, '.', '_' and '-'", ErrInvalidTopic, name, c)
		}
	}
	return nil
}

func validateConfigs(m map[string]string) error {
	for k, v := range m {
		if k == "" || len(k) > configNameBytesMax {
			return fmt.Errorf("%w: name of %d bytes, want 1 to %d", ErrInvalidConfig, len(k), configNameBytesMax)
		}
		if len(v) > configValueBytesMax {
			return fmt.Errorf("%w: value of %s has %d bytes, want at most %d", ErrInvalidConfig, k, len(v), configValueBytesMax)
		}
	}
	return nil
}

func mergeConfigs(old, set map[string]string, remove []string, replace bool) map[string]string {
	next := make(map[string]string, len(old)+len(set))
	if !replace {
		maps.Copy(next, old)
		for _, k := range remove {
			delete(next, k)
		}
	}
	maps.Copy(next, set)
	if len(next) == 0 {
		return nil
	}
	return next
}
