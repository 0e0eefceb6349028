package broker

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/replica"
)

// ListOffsets (key 2) v1-11. v2 has the isolation level, v4 leader epochs (KIP-320), v7 the offset of the greatest timestamp
// (KIP-734), v8 the earliest local one (KIP-405), v9 the latest tiered one (KIP-1005), v10 a timeout for tiered storage (KIP-1075), v11
// the earliest one whose upload is pending (KIP-1023). Nothing is tiered here, so the log is all local and the timeout moot.
//
// Only the leader answers. One that was just elected may not know yet how far consumers have seen: until the high watermark has reached where its epoch
// begins, the end of the log is not available (KIP-207), as the answer could be less than another leader has given.

// What a timestamp below 0 asks for.
const (
	latestOffset          = -1
	earliestOffset        = -2
	maxTimestampOffset    = -3
	earliestLocalOffset   = -4
	latestTieredOffset    = -5
	earliestPendingOffset = -6
)

// specialTimestamps are the versions from which they are understood.
var specialTimestamps = map[int64]int16{
	latestOffset: 1, earliestOffset: 1, maxTimestampOffset: 7, earliestLocalOffset: 8, latestTieredOffset: 9, earliestPendingOffset: 11,
}

const (
	readCommitted   = 1
	consumerReplica = -1
	noEpoch         = -1
	// offsetNotAvailableVersion is the first version whose clients know that error (KIP-207).
	offsetNotAvailableVersion = 5
)

type topicPartition struct {
	topic     string
	partition int32
}

func (c *call) listOffsets(req kmsg.Request) {
	r := req.(*kmsg.ListOffsetsRequest)
	resp := kmsg.NewPtrListOffsetsResponse()
	count := map[topicPartition]int{}
	for i := range r.Topics {
		for j := range r.Topics[i].Partitions {
			count[topicPartition{r.Topics[i].Topic, r.Topics[i].Partitions[j].Partition}]++
		}
	}
	for i := range r.Topics {
		t := &r.Topics[i]
		topic := kmsg.NewListOffsetsResponseTopic()
		topic.Topic = t.Topic
		for j := range t.Partitions {
			want := &t.Partitions[j]
			row := kmsg.NewListOffsetsResponseTopicPartition()
			row.Partition = want.Partition
			if count[topicPartition{t.Topic, want.Partition}] > 1 {
				row.ErrorCode = kerr.InvalidRequest.Code
			} else if err := c.listOffset(r, t.Topic, want, &row); err != nil {
				row.ErrorCode, row.Offset, row.Timestamp, row.LeaderEpoch = codeOf(err), -1, -1, -1
			}
			topic.Partitions = append(topic.Partitions, row)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	c.reply(resp)
}

// listOffset finds one partition's offset. A row that it leaves as it was says that there is none.
func (c *call) listOffset(r *kmsg.ListOffsetsRequest, topic string, want *kmsg.ListOffsetsRequestTopicPartition, row *kmsg.ListOffsetsResponseTopicPartition) error {
	if since, special := specialTimestamps[want.Timestamp]; want.Timestamp < 0 && (!special || r.Version < since) {
		return kerr.UnsupportedVersion
	}
	p, err := c.leaderOf(topic, want.Partition)
	if err != nil {
		return err
	}
	if want.CurrentLeaderEpoch < noEpoch {
		return fmt.Errorf("leader epoch %d: %w", want.CurrentLeaderEpoch, kerr.FencedLeaderEpoch)
	}
	if err := p.CheckEpoch(want.CurrentLeaderEpoch); err != nil {
		return err
	}
	switch want.Timestamp {
	case latestOffset:
		epoch := p.LeaderEpoch()
		if err := settled(p, r); err != nil {
			return err
		}
		row.Offset, row.LeaderEpoch = visibleEnd(p, r), epoch
	case earliestOffset, earliestLocalOffset:
		row.Offset = p.LogStart()
		row.LeaderEpoch = p.EpochAt(row.Offset)
	case latestTieredOffset, earliestPendingOffset: // there is none: -1
	default:
		if err := findOffset(p, visibleEnd(p, r), want.Timestamp, row); err != nil || row.Offset >= 0 {
			return err
		}
		return settled(p, r) // what was not found may be beyond what this leader knows to be visible
	}
	return nil
}

// settled is nil if the leader knows how far consumers may have seen.
func settled(p *replica.Partition, r *kmsg.ListOffsetsRequest) error {
	start, hw := p.EpochStart(), p.HighWatermark()
	if r.ReplicaID != consumerReplica || hw >= start {
		return nil
	}
	code := kerr.OffsetNotAvailable
	if r.Version < offsetNotAvailableVersion {
		code = kerr.LeaderNotAvailable
	}
	return fmt.Errorf("%s-%d: the high watermark is %d, the leader's epoch begins at %d: %w", p.Topic(), p.Index(), hw, start, code)
}

// findOffset looks for the record of a timestamp, or of the greatest one.
func findOffset(p *replica.Partition, end, timestamp int64, row *kmsg.ListOffsetsResponseTopicPartition) error {
	var offset, found int64
	var ok bool
	var err error
	if timestamp == maxTimestampOffset {
		offset, found, ok, err = p.MaxTimestamp()
	} else {
		offset, found, ok, err = p.FindByTimestamp(timestamp)
	}
	if err != nil {
		return err
	}
	if ok && offset < end { // what the client cannot fetch yet is not there
		row.Offset, row.Timestamp, row.LeaderEpoch = offset, found, p.EpochAt(offset)
	}
	return nil
}

// visibleEnd is where the log ends for the one who asks.
func visibleEnd(p *replica.Partition, r *kmsg.ListOffsetsRequest) int64 {
	switch {
	case r.ReplicaID != consumerReplica:
		return p.End()
	case r.IsolationLevel == readCommitted:
		return p.LastStable()
	}
	return p.HighWatermark()
}

// leaderOf returns the partition if this node leads it.
func (c *call) leaderOf(topic string, index int32) (*replica.Partition, error) {
	if p := c.b.parts.ByName(topic, index); p != nil && p.IsLeader() && !p.Closed() {
		return p, nil
	}
	if t := c.b.meta.Image().Topic(topic); t != nil && index >= 0 && int(index) < len(t.Partitions) {
		return nil, fmt.Errorf("%s-%d: %w", topic, index, kerr.NotLeaderForPartition)
	}
	return nil, fmt.Errorf("%s-%d: %w", topic, index, kerr.UnknownTopicOrPartition)
}
