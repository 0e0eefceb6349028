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
	changed    uint64 // of the last one that changed anything

	names, ids, unified *treeTxn[*Topic]
	ownBrokers          bool // next.brokers is a copy already
	ownConfigs          bool

	touched map[[16]byte]*Topic // what base had, nil if it had none
	owned   map[*Topic]struct{} // copies of which the partitions are nobody else's: changed in place
	brokers map[int32]struct{}
	configs map[Resource]struct{}
}

func newBuilder(base *Image) *builder {
	next := *base
	return &builder{
		base: base, next: &next,
		names: base.byName.txn(), ids: base.byID.txn(), unified: base.byUnified.txn(),
		touched: make(map[[16]byte]*Topic),
		owned:   make(map[*Topic]struct{}),
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
	b.changed = b.index
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

// own returns t with partitions that may be changed in place: itself, or a copy that replaces it. However many partitions of a
// topic change, their list is copied once.
func (b *builder) own(t *Topic) *Topic {
	b.changed = b.index
	if _, ours := b.owned[t]; ours {
		return t
	}
	next := *t
	next.Partitions = slices.Clone(t.Partitions)
	b.put(&next)
	b.owned[&next] = struct{}{}
	return &next
}

func (b *builder) remove(t *Topic) {
	b.changed = b.index
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
	b.changed = b.index
	if !b.ownBrokers {
		b.next.brokers = slices.Clone(b.next.brokers)
		b.ownBrokers = true
	}
}

func (b *builder) putConfigs(r Resource, values map[string]string) {
	b.changed = b.index
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

// finish returns the new image and what changed. If nothing was touched, it returns the base and an empty delta. The version depends on
// the entries alone, not on how many came at once, so that nodes agree on it: it moves also where the changes of several entries add up
// to none.
func (b *builder) finish() (*Image, *Delta) {
	b.next.byName, b.next.byID, b.next.byUnified = b.names.commit(), b.ids.commit(), b.unified.commit()
	d := &Delta{From: b.base.Version}
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
	if b.changed == 0 {
		return b.base, &Delta{From: b.base.Version, To: b.base.Version}
	}
	b.next.Version, d.To = b.changed, b.changed
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
		slices.EqualFunc(a.Partitions, b.Partitions, func(p, q Partition) bool { return p.equal(&q) })
}

// collides says that a name has a character that metrics of Kafka cannot tell from another.
func collides(name string) bool { return strings.ContainsAny(name, "._") }

func unify(name string) string { return strings.ReplaceAll(name, ".", "_") }
