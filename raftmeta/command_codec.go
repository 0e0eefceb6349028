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
		bd := &decoder{b: body}
		cmd := t.decode(bd)
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
}

func decodeRegisterBroker(d *decoder) Command {
	return RegisterBroker{ID: d.int32(), Host: d.string(), Port: d.int32(), Rack: d.string()}
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
}

func decodeCreateTopic(d *decoder) Command {
	return CreateTopic{Name: d.string(), ID: d.id(), Assignment: d.lists(), Configs: d.pairs(), Internal: d.bool()}
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
}

func decodeAddPartitions(d *decoder) Command {
	return AddPartitions{Topic: d.string(), Total: d.int32(), Assignment: d.lists()}
}

func (c AllocateProducerIDs) encode(e *encoder) {
	e.int(int64(c.Broker))
	e.int(int64(c.Count))
}

func decodeAllocateProducerIDs(d *decoder) Command {
	return AllocateProducerIDs{Broker: d.int32(), Count: d.int32()}
}
