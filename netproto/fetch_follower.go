package netproto

import (
	"fmt"
	"math"
)

// The other half of the fetch codecs: what a follower sends and what it reads.

// fetchFollowerMin is the first version that followers use: topics by id, and the replica's state as a tag.
const fetchFollowerMin = 15

// AppendTo appends the encoded request in its version, which is 15 to FetchVersionMax. RackID and ClusterID are a client's and not written.
func (f *FetchRequest) AppendTo(b []byte) []byte {
	if f.Version < fetchFollowerMin || f.Version > FetchVersionMax {
		panic(fmt.Sprintf("BUG: netproto: follower's fetch in version %d", f.Version))
	}
	b = appendInt32(b, f.MaxWaitMs)
	b = appendInt32(b, f.MinBytes)
	b = appendInt32(b, f.MaxBytes)
	b = append(b, byte(f.IsolationLevel))
	b = appendInt32(b, f.SessionID)
	b = appendInt32(b, f.SessionEpoch)
	b = appendCount(b, true, len(f.Topics))
	for i := range f.Topics {
		t := &f.Topics[i]
		b = append(b, t.ID[:]...)
		b = appendCount(b, true, len(t.Partitions))
		for j := range t.Partitions {
			b = t.Partitions[j].append(b, f.Version)
		}
		b = append(b, 0)
	}
	b = appendCount(b, true, len(f.Forgotten))
	for i := range f.Forgotten {
		t := &f.Forgotten[i]
		b = append(b, t.ID[:]...)
		b = appendCount(b, true, len(t.Partitions))
		for _, index := range t.Partitions {
			b = appendInt32(b, index)
		}
		b = append(b, 0)
	}
	b = append(b, 1) // no rack
	if f.ReplicaID < 0 {
		return append(b, 0)
	}
	b = append(b, 1, 1, 4+8+1) // one tag: the replica's state
	b = appendInt32(b, f.ReplicaID)
	b = appendInt64(b, f.ReplicaEpoch)
	return append(b, 0)
}

func (p *FetchPartition) append(b []byte, version int16) []byte {
	b = appendInt32(b, p.Index)
	b = appendInt32(b, p.CurrentLeaderEpoch)
	b = appendInt64(b, p.FetchOffset)
	b = appendInt32(b, p.LastFetchedEpoch)
	b = appendInt64(b, p.LogStartOffset)
	b = appendInt32(b, p.MaxBytes)
	if version < 18 || p.HighWatermark == math.MaxInt64 {
		return append(b, 0)
	}
	b = append(b, 1, 1, 8)
	return appendInt64(b, p.HighWatermark)
}

// FetchAnswer is a decoded fetch response, as a follower reads it: views of the body. It may be used again for another one; its slices are kept.
type FetchAnswer struct {
	ThrottleMs int32
	ErrorCode  int16
	SessionID  int32
	Partitions []FetchAnswerPartition // of all topics, in their order
}

// FetchAnswerPartition is what a leader says of one partition.
type FetchAnswerPartition struct {
	TopicID        [16]byte
	Index          int32
	ErrorCode      int16
	HighWatermark  int64
	LogStartOffset int64
	Diverges       bool
	Diverging      EpochEndOffset // if Diverges; Epoch and EndOffset -1: the leader knows nothing in common
	CurrentLeader  LeaderAndEpoch // LeaderID -1: not told
	Records        []byte
}

// Parse decodes a body in a version that followers use.
func (a *FetchAnswer) Parse(version int16, body []byte) error {
	clear(a.Partitions)
	*a = FetchAnswer{Partitions: a.Partitions[:0]}
	if version < fetchFollowerMin || version > FetchVersionMax {
		return fmt.Errorf("%w: fetch response v%d, followers know %d to %d", ErrUnsupported, version, fetchFollowerMin, FetchVersionMax)
	}
	d := decoder{buf: body}
	a.ThrottleMs = d.int32("throttle time")
	a.ErrorCode = d.int16("error code")
	a.SessionID = d.int32("session id")
	for n := d.requiredCount(true, 16+1+1, "topics"); n > 0 && d.err == nil; n-- {
		id := d.uuid("topic id")
		for k := d.requiredCount(true, 4+2+8+8+8+1+4+1+1, "partitions"); k > 0 && d.err == nil; k-- {
			a.Partitions = append(a.Partitions, parseAnswerPartition(&d, id))
		}
		d.skipTags("topic tags")
	}
	d.skipTags("tags")
	if err := d.finish(); err != nil {
		clear(a.Partitions)
		*a = FetchAnswer{Partitions: a.Partitions[:0]}
		return fmt.Errorf("fetch response v%d: %w", version, err)
	}
	return nil
}

func parseAnswerPartition(d *decoder, id [16]byte) FetchAnswerPartition {
	p := FetchAnswerPartition{TopicID: id, Diverging: EpochEndOffset{Epoch: -1, EndOffset: -1}, CurrentLeader: LeaderAndEpoch{LeaderID: -1, LeaderEpoch: -1}}
	p.Index = d.int32("partition index")
	p.ErrorCode = d.int16("error code")
	p.HighWatermark = d.int64("high watermark")
	d.int64("last stable offset")
	p.LogStartOffset = d.int64("log start offset")
	for n := d.count(true, 8+8+1, "aborted transactions"); n > 0 && d.err == nil; n-- {
		d.int64("producer id")
		d.int64("first offset")
		d.skipTags("aborted transaction tags")
	}
	d.int32("preferred read replica")
	p.Records = d.nullableBytes(true, "records")
	for n := d.tags("partition tags"); n > 0 && d.err == nil; n-- {
		key, value := d.tag("partition tag")
		v := decoder{buf: value, err: d.err}
		switch key {
		case 0:
			p.Diverging.Epoch = v.int32("diverging epoch")
			p.Diverging.EndOffset = v.int64("end of the diverging epoch")
			v.skipTags("diverging epoch tags")
			p.Diverges = true
		case 1:
			p.CurrentLeader.LeaderID = v.int32("leader")
			p.CurrentLeader.LeaderEpoch = v.int32("leader epoch")
			v.skipTags("leader tags")
		default:
			continue
		}
		d.adopt(v.finish())
	}
	return p
}
