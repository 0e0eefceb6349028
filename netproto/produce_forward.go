package netproto

import "fmt"

// The other half of the produce codecs: what a broker sends that forwards a produce request, and what it reads.

// ProduceForwardVersion is the version in which produce requests are forwarded: topics by id, which a topic that was made anew does not share.
const ProduceForwardVersion = ProduceVersionMax

// AppendProduceHead appends what is in front of the topics of a request without transactional id.
func AppendProduceHead(b []byte, acks int16, timeoutMs int32, topics int) []byte {
	b = append(b, 0) // no transactional id
	b = appendInt16(b, acks)
	b = appendInt32(b, timeoutMs)
	return appendCount(b, true, topics)
}

// AppendProduceTopic appends what is in front of a topic's partitions. AppendProduceEnd follows the last of them.
func AppendProduceTopic(b []byte, id [16]byte, partitions int) []byte {
	return appendCount(append(b, id[:]...), true, partitions)
}

// AppendProducePartition appends what is in front of a partition's records, of which there are size bytes. The records and AppendProduceEnd follow.
func AppendProducePartition(b []byte, index int32, size int) []byte {
	return appendUvarint(appendInt32(b, index), size+1)
}

// AppendProduceEnd ends a partition, a topic, or the request.
func AppendProduceEnd(b []byte) []byte { return append(b, 0) }

// ProduceOwnMax bounds what a request with this many topics and partitions takes besides the records.
func ProduceOwnMax(topics, partitions int) int {
	const varintMax = 5
	return 1 + 2 + 4 + varintMax + 1 + topics*(16+varintMax+1) + partitions*(4+varintMax+1)
}

// Parse decodes the response to a request in ProduceForwardVersion. Nothing in it refers to body.
func (resp *ProduceResponse) Parse(body []byte) error {
	*resp = ProduceResponse{}
	d := decoder{buf: body}
	for n := d.requiredCount(true, 16+1+1, "topics"); n > 0 && d.err == nil; n-- {
		t := ProduceTopicResult{ID: d.uuid("topic id")}
		for k := d.requiredCount(true, 4+2+8+8+8+1+1+1, "partitions"); k > 0 && d.err == nil; k-- {
			t.Partitions = append(t.Partitions, parseProduceResult(&d))
		}
		d.skipTags("topic tags")
		resp.Topics = append(resp.Topics, t)
	}
	resp.ThrottleMs = d.int32("throttle time")
	for n := d.tags("tags"); n > 0 && d.err == nil; n-- {
		key, value := d.tag("tag")
		if key == 0 {
			resp.parseNodes(&d, value)
		}
	}
	if err := d.finish(); err != nil {
		*resp = ProduceResponse{}
		return fmt.Errorf("produce response v%d: %w", ProduceForwardVersion, err)
	}
	return nil
}

func parseProduceResult(d *decoder) ProducePartitionResult {
	p := ProducePartitionResult{
		Index: d.int32("partition index"), ErrorCode: d.int16("error code"), BaseOffset: d.int64("base offset"),
		LogAppendTimeMs: d.int64("log append time"), LogStartOffset: d.int64("log start offset"),
	}
	for n := d.requiredCount(true, 4+1+1, "record errors"); n > 0 && d.err == nil; n-- {
		e := RecordError{BatchIndex: d.int32("batch index")}
		message, _ := d.nullableString(true, "record error message")
		e.Message = string(message)
		d.skipTags("record error tags")
		p.RecordErrors = append(p.RecordErrors, e)
	}
	message, _ := d.nullableString(true, "error message")
	p.ErrorMessage = string(message)
	for n := d.tags("partition tags"); n > 0 && d.err == nil; n-- {
		key, value := d.tag("partition tag")
		if key != 0 {
			continue
		}
		v := decoder{buf: value, err: d.err}
		p.CurrentLeader = &LeaderAndEpoch{LeaderID: v.int32("leader"), LeaderEpoch: v.int32("leader epoch")}
		v.skipTags("leader tags")
		d.adopt(v.finish())
	}
	return p
}

func (resp *ProduceResponse) parseNodes(d *decoder, value []byte) {
	v := decoder{buf: value, err: d.err}
	for n := v.requiredCount(true, 4+1+4+1+1, "nodes"); n > 0 && v.err == nil; n-- {
		node := NodeEndpoint{ID: v.int32("node"), Host: string(v.string(true, "host")), Port: v.int32("port")}
		rack, _ := v.nullableString(true, "rack")
		node.Rack = string(rack)
		v.skipTags("node tags")
		resp.Nodes = append(resp.Nodes, node)
	}
	d.adopt(v.finish())
}
