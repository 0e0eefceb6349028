package netproto

import (
	"fmt"
	"math"
)

const (
	// FetchVersionMin and FetchVersionMax are the versions that the fetch codecs know.
	FetchVersionMin = 4
	FetchVersionMax = 18

	fetchFlexible = 12
	fetchTopicIDs = 13
)

// FetchRequest is a decoded fetch request: views of the body. It may be used again for another one; its slices are kept.
type FetchRequest struct {
	Version        int16
	ReplicaID      int32 // -1: a consumer
	ReplicaEpoch   int64 // -1: unknown; from version 15 on
	MaxWaitMs      int32
	MinBytes       int32
	MaxBytes       int32
	IsolationLevel int8  // 0: read uncommitted, 1: read committed
	SessionID      int32 // 0: none
	SessionEpoch   int32 // -1: no session; 0: a new one
	Topics         []FetchTopic
	Forgotten      []ForgottenTopic
	RackID         []byte
	ClusterID      []byte // nil: not given

	partitions []FetchPartition
	forgotten  []int32
}

// FetchTopic is one topic of a fetch request.
type FetchTopic struct {
	Name       []byte   // up to version 12
	ID         [16]byte // from version 13 on
	Partitions []FetchPartition

	first, n int
}

// FetchPartition is what is wanted of one partition.
type FetchPartition struct {
	Index              int32
	CurrentLeaderEpoch int32 // -1: unknown
	FetchOffset        int64
	LastFetchedEpoch   int32 // -1: none
	LogStartOffset     int64 // a follower's; -1: a consumer
	MaxBytes           int32
	ReplicaDirectoryID [16]byte
	HighWatermark      int64 // a follower's (KIP-1166); math.MaxInt64: not given
}

// ForgottenTopic names partitions to be removed from a fetch session.
type ForgottenTopic struct {
	Name       []byte
	ID         [16]byte
	Partitions []int32

	first, n int
}

// ParseFetch decodes a body.
func ParseFetch(version int16, body []byte) (FetchRequest, error) {
	var f FetchRequest
	err := f.Parse(version, body)
	return f, err
}

// Reset drops the views, so that they do not outlive their buffer.
func (f *FetchRequest) Reset() {
	clear(f.Topics)
	clear(f.Forgotten)
	*f = FetchRequest{
		ReplicaID: -1, ReplicaEpoch: -1, SessionEpoch: -1,
		Topics: f.Topics[:0], Forgotten: f.Forgotten[:0], partitions: f.partitions[:0], forgotten: f.forgotten[:0],
	}
}

// Parse decodes a body into f, which it resets first.
func (f *FetchRequest) Parse(version int16, body []byte) error {
	f.Reset()
	if version < FetchVersionMin || version > FetchVersionMax {
		return fmt.Errorf("%w: Fetch v%d, known are %d to %d", ErrUnsupported, version, FetchVersionMin, FetchVersionMax)
	}
	f.Version = version
	flexible := version >= fetchFlexible
	d := decoder{buf: body}
	if version <= 14 {
		f.ReplicaID = d.int32("replica id")
	}
	f.MaxWaitMs = d.int32("max wait")
	f.MinBytes = d.int32("min bytes")
	f.MaxBytes = d.int32("max bytes")
	f.IsolationLevel = d.int8("isolation level")
	if version >= 7 {
		f.SessionID = d.int32("session id")
		f.SessionEpoch = d.int32("session epoch")
	}
	for n := d.requiredCount(flexible, f.topicBytesMin(), "topics"); n > 0 && d.err == nil; n-- {
		f.parseTopic(&d, flexible)
	}
	if version >= 7 {
		for n := d.requiredCount(flexible, f.topicBytesMin(), "forgotten topics"); n > 0 && d.err == nil; n-- {
			f.parseForgotten(&d, flexible)
		}
	}
	if version >= 11 {
		f.RackID = d.string(flexible, "rack id")
	}
	if flexible {
		f.parseTags(&d)
	}
	if err := d.finish(); err != nil {
		f.Reset()
		return fmt.Errorf("%s v%d: %w", APIName(keyFetch), version, err)
	}
	for i := range f.Topics {
		t := &f.Topics[i]
		t.Partitions = f.partitions[t.first : t.first+t.n : t.first+t.n]
	}
	for i := range f.Forgotten {
		t := &f.Forgotten[i]
		t.Partitions = f.forgotten[t.first : t.first+t.n : t.first+t.n]
	}
	return nil
}

// topicBytesMin is the size of a topic with an empty name and no partitions.
func (f *FetchRequest) topicBytesMin() int {
	switch {
	case f.Version >= fetchTopicIDs:
		return 16 + 1 + 1
	case f.Version >= fetchFlexible:
		return 1 + 1 + 1
	}
	return 2 + 4
}

// partitionBytesMin is the size of a partition without tags.
func (f *FetchRequest) partitionBytesMin() int {
	n := 4 + 8 + 4
	if f.Version >= 5 {
		n += 8
	}
	if f.Version >= 9 {
		n += 4
	}
	if f.Version >= fetchFlexible {
		n += 4 + 1
	}
	return n
}

func (f *FetchRequest) topicName(d *decoder, flexible bool) (name []byte, id [16]byte) {
	if f.Version >= fetchTopicIDs {
		return nil, d.uuid("topic id")
	}
	return d.string(flexible, "topic name"), id
}

func (f *FetchRequest) parseTopic(d *decoder, flexible bool) {
	t := FetchTopic{first: len(f.partitions)}
	t.Name, t.ID = f.topicName(d, flexible)
	for n := d.requiredCount(flexible, f.partitionBytesMin(), "partitions"); n > 0 && d.err == nil; n-- {
		f.partitions = append(f.partitions, f.parsePartition(d, flexible))
	}
	if flexible {
		d.skipTags("topic tags")
	}
	t.n = len(f.partitions) - t.first
	f.Topics = append(f.Topics, t)
}

func (f *FetchRequest) parsePartition(d *decoder, flexible bool) FetchPartition {
	p := FetchPartition{CurrentLeaderEpoch: -1, LastFetchedEpoch: -1, LogStartOffset: -1, HighWatermark: math.MaxInt64}
	p.Index = d.int32("partition index")
	if f.Version >= 9 {
		p.CurrentLeaderEpoch = d.int32("current leader epoch")
	}
	p.FetchOffset = d.int64("fetch offset")
	if f.Version >= 12 {
		p.LastFetchedEpoch = d.int32("last fetched epoch")
	}
	if f.Version >= 5 {
		p.LogStartOffset = d.int64("log start offset")
	}
	p.MaxBytes = d.int32("partition max bytes")
	if !flexible {
		return p
	}
	for n := d.tags("partition tags"); n > 0 && d.err == nil; n-- {
		key, value := d.tag("partition tag")
		v := decoder{buf: value, err: d.err}
		switch {
		case key == 0 && f.Version >= 17:
			p.ReplicaDirectoryID = v.uuid("replica directory id")
		case key == 1 && f.Version >= 18:
			p.HighWatermark = v.int64("high watermark")
		default:
			continue
		}
		d.adopt(v.finish())
	}
	return p
}

func (f *FetchRequest) parseForgotten(d *decoder, flexible bool) {
	t := ForgottenTopic{first: len(f.forgotten)}
	t.Name, t.ID = f.topicName(d, flexible)
	for n := d.requiredCount(flexible, 4, "forgotten partitions"); n > 0 && d.err == nil; n-- {
		f.forgotten = append(f.forgotten, d.int32("forgotten partition"))
	}
	if flexible {
		d.skipTags("forgotten topic tags")
	}
	t.n = len(f.forgotten) - t.first
	f.Forgotten = append(f.Forgotten, t)
}

func (f *FetchRequest) parseTags(d *decoder) {
	for n := d.tags("tags"); n > 0 && d.err == nil; n-- {
		key, value := d.tag("tag")
		v := decoder{buf: value, err: d.err}
		switch {
		case key == 0:
			f.ClusterID, _ = v.nullableString(true, "cluster id")
		case key == 1 && f.Version >= 15:
			f.ReplicaID = v.int32("replica id")
			f.ReplicaEpoch = v.int64("replica epoch")
			v.skipTags("replica state tags")
		default:
			continue
		}
		d.adopt(v.finish())
	}
}
