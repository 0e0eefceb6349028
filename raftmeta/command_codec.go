package raftmeta

import "fmt"

// entryVersion is the first byte of a raft entry. An entry is: version, number of commands, and per command its
// kind, the length of its body in bytes, and the body. See docs/format/metadata.md.
const entryVersion = 1

func encodeEntry(cmds []Command) []byte {
	e := encoder{b: make([]byte, 0, 64*len(cmds)+16)}
	e.byte(entryVersion)
	e.uint(uint64(len(cmds)))
	var body encoder
	for _, c := range cmds {
		body.b = body.b[:0]
		c.encode(&body)
		e.uint(uint64(c.kind()))
		e.uint(uint64(len(body.b)))
		e.b = append(e.b, body.b...)
	}
	return e.b
}

// decodeEntry refuses what it does not know: a node that skipped a command would silently differ from the others.
func decodeEntry(b []byte) ([]Command, error) {
	d := &decoder{b: b}
	if v := d.byte(); d.err == nil && v != entryVersion {
		return nil, fmt.Errorf("%w: log entry has version %d, want %d", ErrVersion, v, entryVersion)
	}
	n := d.count(2)
	cmds := make([]Command, 0, n)
	for range n {
		kind := d.uint()
		body := d.bytes()
		if d.err != nil {
			break
		}
		t, ok := commandTypes[commandKind(kind)]
		if !ok || kind > 0xffff {
			return nil, fmt.Errorf("%w: log entry has command type %d, which this version does not know", ErrVersion, kind)
		}
		bd := &decoder{b: body, last: d.last, topic: d.topic}
		cmd := t.decode(bd)
		d.last, d.topic = bd.last, bd.topic
		if err := bd.end(); err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		cmds = append(cmds, cmd)
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return cmds, nil
}

func (c SetClusterID) encode(e *encoder) { e.string(c.ID) }

func decodeSetClusterID(d *decoder) Command { return SetClusterID{ID: d.string()} }

func (c RegisterBroker) encode(e *encoder) {
	e.int(int64(c.ID))
	e.string(c.Host)
	e.int(int64(c.Port))
	e.string(c.Rack)
	e.string(c.PeerHost)
	e.int(int64(c.PeerPort))
	e.id(c.Incarnation)
	e.bool(c.Fenced)
}

func decodeRegisterBrokerV1(d *decoder) Command {
	return RegisterBroker{ID: d.int32(), Host: d.string(), Port: d.int32(), Rack: d.string()}
}

func decodeRegisterBroker(d *decoder) Command {
	return RegisterBroker{
		ID: d.int32(), Host: d.string(), Port: d.int32(), Rack: d.string(),
		PeerHost: d.string(), PeerPort: d.int32(), Incarnation: d.id(), Fenced: d.bool(),
	}
}

func (c UnregisterBroker) encode(e *encoder) { e.int(int64(c.ID)) }

func decodeUnregisterBroker(d *decoder) Command { return UnregisterBroker{ID: d.int32()} }

// Partitions and ReplicationFactor are not written: Propose has turned them into the assignment.
func (c CreateTopic) encode(e *encoder) {
	e.string(c.Name)
	e.id(c.ID)
	e.lists(c.Assignment)
	e.pairs(c.Configs)
	e.bool(c.Internal)
	e.lists(c.ISR)
}

func decodeCreateTopicV1(d *decoder) Command {
	return CreateTopic{Name: d.string(), ID: d.id(), Assignment: d.lists(), Configs: d.pairs(), Internal: d.bool()}
}

func decodeCreateTopic(d *decoder) Command {
	return CreateTopic{Name: d.string(), ID: d.id(), Assignment: d.lists(), Configs: d.pairs(), Internal: d.bool(), ISR: d.lists()}
}

func (c DeleteTopic) encode(e *encoder) {
	e.string(c.Name)
	e.id(c.ID)
}

func decodeDeleteTopic(d *decoder) Command { return DeleteTopic{Name: d.string(), ID: d.id()} }

func (c SetTopicConfigs) encode(e *encoder) {
	e.string(c.Topic)
	e.pairs(c.Set)
	e.strings(c.Remove)
	e.bool(c.Replace)
}

func decodeSetTopicConfigs(d *decoder) Command {
	return SetTopicConfigs{Topic: d.string(), Set: d.pairs(), Remove: d.strings(), Replace: d.bool()}
}

func (c SetConfigs) encode(e *encoder) {
	e.byte(byte(c.Resource.Type))
	e.string(c.Resource.Name)
	e.pairs(c.Set)
	e.strings(c.Remove)
	e.bool(c.Replace)
}

func decodeSetConfigs(d *decoder) Command {
	return SetConfigs{
		Resource: Resource{Type: ResourceType(d.byte()), Name: d.string()},
		Set:      d.pairs(), Remove: d.strings(), Replace: d.bool(),
	}
}

func (c AddPartitions) encode(e *encoder) {
	e.string(c.Topic)
	e.int(int64(c.Total))
	e.lists(c.Assignment)
	e.lists(c.ISR)
}

func decodeAddPartitionsV1(d *decoder) Command {
	return AddPartitions{Topic: d.string(), Total: d.int32(), Assignment: d.lists()}
}

func decodeAddPartitions(d *decoder) Command {
	return AddPartitions{Topic: d.string(), Total: d.int32(), Assignment: d.lists(), ISR: d.lists()}
}

func (c AllocateProducerIDs) encode(e *encoder) {
	e.int(int64(c.Broker))
	e.int(int64(c.Count))
}

func decodeAllocateProducerIDs(d *decoder) Command {
	return AllocateProducerIDs{Broker: d.int32(), Count: d.int32()}
}

func (c SetBroker) encode(e *encoder) {
	e.int(int64(c.ID))
	e.int(c.Epoch)
	e.bool(c.Fenced)
	e.bool(c.ShuttingDown)
}

func decodeSetBroker(d *decoder) Command {
	return SetBroker{ID: d.int32(), Epoch: d.int(), Fenced: d.bool(), ShuttingDown: d.bool()}
}

func (c SetLeaving) encode(e *encoder) {
	e.int(int64(c.ID))
	e.bool(c.Leaving)
}

func decodeSetLeaving(d *decoder) Command { return SetLeaving{ID: d.int32(), Leaving: d.bool()} }

// What a ChangePartition says, as bits. A fence of a broker is thousands of them in one entry, most of them of the topic of
// the one before: so the topic's id is written only where it changes, and a list only where it is given.
const (
	changeSameTopic = 1 << iota // the topic of the last ChangePartition of this entry
	changeNewEpoch
	changeISR
	changeReplicas
	changeAdding
	changeRemoving

	changeFlags = changeRemoving<<1 - 1
)

func (c ChangePartition) encode(e *encoder) {
	lists := [...][]int32{c.ISR, c.Replicas, c.Adding, c.Removing}
	flags := byte(0)
	if c.TopicID == e.topic && c.TopicID != ([16]byte{}) {
		flags |= changeSameTopic
	}
	if c.NewEpoch {
		flags |= changeNewEpoch
	}
	for i, l := range lists {
		if l != nil {
			flags |= changeISR << i
		}
	}
	e.byte(flags)
	if flags&changeSameTopic == 0 {
		e.id(c.TopicID)
	}
	e.topic = c.TopicID
	e.int(int64(c.Partition))
	e.int(int64(c.PartitionEpoch))
	e.int(int64(c.Leader))
	for _, l := range lists {
		if l != nil {
			e.ints(l)
		}
	}
}

func decodeChangePartition(d *decoder) Command {
	flags := d.byte()
	if flags&^changeFlags != 0 {
		d.fail("change of a partition has flags %#x", flags)
	}
	var c ChangePartition
	switch {
	case flags&changeSameTopic == 0:
		c.TopicID = d.id()
	case d.topic == [16]byte{}:
		d.fail("change of a partition of the topic before, and there is none")
	default:
		c.TopicID = d.topic
	}
	d.topic = c.TopicID
	c.NewEpoch = flags&changeNewEpoch != 0
	c.Partition, c.PartitionEpoch, c.Leader = d.int32(), d.int32(), d.int32()
	for i, l := range [...]*[]int32{&c.ISR, &c.Replicas, &c.Adding, &c.Removing} {
		if flags&(changeISR<<i) == 0 {
			continue
		}
		if *l = d.ints(); *l == nil {
			*l = []int32{}
		}
	}
	return c
}
