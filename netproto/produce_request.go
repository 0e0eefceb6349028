package netproto

import "fmt"

const (
	// ProduceVersionMin and ProduceVersionMax are the versions that the produce codecs know. ApiVersions advertises 0 as the least none
	// the less, because librdkafka needs it (KAFKA-18659).
	ProduceVersionMin = 3
	ProduceVersionMax = 13

	produceFlexible = 9
	produceTopicIDs = 13
)

// ProduceRequest is a decoded produce request: views of the body. It may be used again for another one; its slices are kept.
type ProduceRequest struct {
	Version         int16
	TransactionalID []byte // nil: null
	Acks            int16
	TimeoutMs       int32
	Topics          []ProduceTopic

	partitions []ProducePartition
}

// ProduceTopic is one topic of a produce request.
type ProduceTopic struct {
	Name       []byte   // up to version 12
	ID         [16]byte // from version 13 on
	Partitions []ProducePartition

	first, n int // into ProduceRequest.partitions, which moves while it grows
}

// ProducePartition is what goes to one partition.
type ProducePartition struct {
	Index   int32
	Records []byte // nil: null
}

// ParseProduce decodes a body.
func ParseProduce(version int16, body []byte) (ProduceRequest, error) {
	var p ProduceRequest
	err := p.Parse(version, body)
	return p, err
}

// Reset drops the views, so that they do not outlive their buffer.
func (p *ProduceRequest) Reset() {
	clear(p.Topics)
	clear(p.partitions)
	*p = ProduceRequest{Topics: p.Topics[:0], partitions: p.partitions[:0]}
}

// Parse decodes a body into p, which it resets first.
func (p *ProduceRequest) Parse(version int16, body []byte) error {
	p.Reset()
	if version < ProduceVersionMin || version > ProduceVersionMax {
		return fmt.Errorf("%w: Produce v%d, known are %d to %d", ErrUnsupported, version, ProduceVersionMin, ProduceVersionMax)
	}
	p.Version = version
	flexible := version >= produceFlexible
	d := decoder{buf: body}
	p.TransactionalID, _ = d.nullableString(flexible, "transactional id")
	p.Acks = d.int16("acks")
	p.TimeoutMs = d.int32("timeout")
	for n := d.requiredCount(flexible, p.topicBytesMin(), "topics"); n > 0 && d.err == nil; n-- {
		p.parseTopic(&d, flexible)
	}
	if flexible {
		d.skipTags("tags")
	}
	if err := d.finish(); err != nil {
		p.Reset()
		return fmt.Errorf("%s v%d: %w", APIName(keyProduce), version, err)
	}
	for i := range p.Topics {
		t := &p.Topics[i]
		t.Partitions = p.partitions[t.first : t.first+t.n : t.first+t.n]
	}
	return nil
}

// topicBytesMin is the size of a topic with an empty name and no partitions.
func (p *ProduceRequest) topicBytesMin() int {
	switch {
	case p.Version >= produceTopicIDs:
		return 16 + 1 + 1
	case p.Version >= produceFlexible:
		return 1 + 1 + 1
	}
	return 2 + 4
}

func (p *ProduceRequest) parseTopic(d *decoder, flexible bool) {
	t := ProduceTopic{first: len(p.partitions)}
	if p.Version >= produceTopicIDs {
		t.ID = d.uuid("topic id")
	} else {
		t.Name = d.string(flexible, "topic name")
	}
	bytesMin := 4 + 4
	if flexible {
		bytesMin = 4 + 1 + 1
	}
	for n := d.requiredCount(flexible, bytesMin, "partitions"); n > 0 && d.err == nil; n-- {
		part := ProducePartition{Index: d.int32("partition index")}
		part.Records = d.nullableBytes(flexible, "records")
		if flexible {
			d.skipTags("partition tags")
		}
		p.partitions = append(p.partitions, part)
	}
	if flexible {
		d.skipTags("topic tags")
	}
	t.n = len(p.partitions) - t.first
	p.Topics = append(p.Topics, t)
}
