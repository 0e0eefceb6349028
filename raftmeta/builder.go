package raftmeta

import (
	"maps"
	"slices"
	"strings"
)

// builder makes the next image from the current one, and remembers what it touched. However many commands go through it, a part of
// the image is copied at most once.
type builder struct {
	base, next *Image
	index      uint64 // raft index of the entry being applied

	names, ids, unified *treeTxn[*Topic]
	ownBrokers          bool // next.brokers is a copy already
	ownConfigs          bool

	touched map[[16]byte]*Topic // what base had, nil if it had none
	brokers map[int32]struct{}
	configs map[Resource]struct{}
}

func newBuilder(base *Image) *builder {
	next := *base
	return &builder{
		base: base, next: &next,
		names: base.byName.txn(), ids: base.byID.txn(), unified: base.byUnified.txn(),
		touched: make(map[[16]byte]*Topic),
		brokers: make(map[int32]struct{}),
		configs: make(map[Resource]struct{}),
	}
}

// topic and topicByID see the changes made so far.
func (b *builder) topic(name string) *Topic          { return b.names.get(name) }
func (b *builder) topicByID(id [16]byte) *Topic      { return b.ids.get(string(id[:])) }
func (b *builder) topicByUnified(name string) *Topic { return b.unified.get(unify(name)) }

// put adds t or replaces the topic of the same id. t is the image's from here on.
func (b *builder) put(t *Topic) {
	old := b.topicByID(t.ID)
	b.touch(t.ID, old)
	if old != nil {
		b.next.partitions -= len(old.Partitions)
	}
	b.next.partitions += len(t.Partitions)
	b.names.set(t.Name, t)
	b.ids.set(string(t.ID[:]), t)
	if collides(t.Name) {
		b.unified.set(unify(t.Name), t)
	}
}

func (b *builder) remove(t *Topic) {
	b.touch(t.ID, t)
	b.next.partitions -= len(t.Partitions)
	b.names.delete(t.Name)
	b.ids.delete(string(t.ID[:]))
	if collides(t.Name) {
		b.unified.delete(unify(t.Name))
	}
}

func (b *builder) touch(id [16]byte, old *Topic) {
	if _, seen := b.touched[id]; !seen {
		b.touched[id] = old
	}
}

func (b *builder) putBroker(br Broker) {
	b.copyBrokers()
	b.brokers[br.ID] = struct{}{}
	i, found := slices.BinarySearchFunc(b.next.brokers, br.ID, func(x Broker, id int32) int { return int(x.ID) - int(id) })
	if found {
		b.next.brokers[i] = br
		return
	}
	b.next.brokers = slices.Insert(b.next.brokers, i, br)
}

func (b *builder) removeBroker(id int32) {
	b.copyBrokers()
	b.brokers[id] = struct{}{}
	b.next.brokers = slices.DeleteFunc(b.next.brokers, func(x Broker) bool { return x.ID == id })
}

func (b *builder) copyBrokers() {
	if !b.ownBrokers {
		b.next.brokers = slices.Clone(b.next.brokers)
		b.ownBrokers = true
	}
}

func (b *builder) putConfigs(r Resource, values map[string]string) {
	if !b.ownConfigs {
		b.next.configs = maps.Clone(b.next.configs)
		if b.next.configs == nil {
			b.next.configs = make(map[Resource]map[string]string)
		}
		b.ownConfigs = true
	}
	b.configs[r] = struct{}{}
	if len(values) == 0 {
		delete(b.next.configs, r)
	} else {
		b.next.configs[r] = values
	}
}

// finish returns the new image and what changed. If nothing did, it returns the base and an empty delta.
func (b *builder) finish() (*Image, *Delta) {
	b.next.byName, b.next.byID, b.next.byUnified = b.names.commit(), b.ids.commit(), b.unified.commit()
	d := &Delta{From: b.base.Version, To: b.index}
	b.diffTopics(d)
	for _, id := range slices.Sorted(maps.Keys(b.brokers)) {
		switch was, is := b.base.Broker(id), b.next.Broker(id); {
		case is != nil && (was == nil || *was != *is):
			d.Brokers = append(d.Brokers, *is)
		case is == nil && was != nil:
			d.RemovedBrokers = append(d.RemovedBrokers, id)
		}
	}
	for _, r := range slices.SortedFunc(maps.Keys(b.configs), compareResources) {
		if !maps.Equal(b.base.configs[r], b.next.configs[r]) {
			d.Configs = append(d.Configs, r)
		}
	}
	d.ProducerIDs = b.base.producerID != b.next.producerID
	d.ClusterID = b.base.ClusterID != b.next.ClusterID
	if d.Empty() {
		return b.base, &Delta{From: b.base.Version, To: b.base.Version}
	}
	b.next.Version = b.index
	return b.next, d
}

func (b *builder) diffTopics(d *Delta) {
	for id, was := range b.touched {
		switch is := b.next.TopicByID(id); {
		case was == nil && is != nil:
			d.Created = append(d.Created, is)
		case was != nil && is == nil:
			d.Deleted = append(d.Deleted, was)
		case was != is: // both nil is no change
			d.Changed = append(d.Changed, is)
		}
	}
	for _, list := range [][]*Topic{d.Created, d.Deleted, d.Changed} {
		slices.SortFunc(list, func(a, b *Topic) int { return strings.Compare(a.Name, b.Name) })
	}
}

func sameTopic(a, b *Topic) bool {
	return a == b || a.Name == b.Name && a.ID == b.ID && a.Internal == b.Internal && maps.Equal(a.Configs, b.Configs) &&
		slices.EqualFunc(a.Partitions, b.Partitions, func(p, q Partition) bool {
			return p.Leader == q.Leader && p.LeaderEpoch == q.LeaderEpoch && p.PartitionEpoch == q.PartitionEpoch &&
				slices.Equal(p.Replicas, q.Replicas) && slices.Equal(p.ISR, q.ISR)
		})
}

// collides says that a name has a character that metrics of Kafka cannot tell from another.
func collides(name string) bool { return strings.ContainsAny(name, "._") }

func unify(name string) string { return strings.ReplaceAll(name, ".", "_") }
