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
	if err := checkLeaderEpoch(p, want.CurrentLeaderEpoch); err != nil {
		return err
	}
	switch want.Timestamp {
	case latestOffset:
		row.Offset, row.LeaderEpoch = visibleEnd(p, r), p.LeaderEpoch()
	case earliestOffset, earliestLocalOffset:
		row.Offset, row.LeaderEpoch = p.LogStart(), p.LeaderEpoch()
	case latestTieredOffset, earliestPendingOffset: // there is none: -1
	default:
		return findOffset(p, visibleEnd(p, r), want.Timestamp, row)
	}
	return nil
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
		row.Offset, row.Timestamp, row.LeaderEpoch = offset, found, p.LeaderEpoch()
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
	if p := c.b.parts.ByName(topic, index); p != nil && !p.Closed() {
		return p, nil
	}
	if t := c.b.meta.Image().Topic(topic); t != nil && index >= 0 && int(index) < len(t.Partitions) {
		return nil, fmt.Errorf("%s-%d: %w", topic, index, kerr.NotLeaderForPartition)
	}
	return nil, fmt.Errorf("%s-%d: %w", topic, index, kerr.UnknownTopicOrPartition)
}

// checkLeaderEpoch compares the epoch that a client knows (-1: none) with the partition's.
func checkLeaderEpoch(p *replica.Partition, known int32) error {
	switch epoch := p.LeaderEpoch(); {
	case known == -1 || known == epoch:
		return nil
	case known < epoch:
		return fmt.Errorf("leader epoch %d is over, it is %d: %w", known, epoch, kerr.FencedLeaderEpoch)
	default:
		return fmt.Errorf("leader epoch %d is not known here yet, it is %d: %w", known, epoch, kerr.UnknownLeaderEpoch)
	}
}
