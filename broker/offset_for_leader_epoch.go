package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

// OffsetForLeaderEpoch (key 23) v2-4. v2 brought the client's own idea of the leader epoch (KIP-320), v3 the replica id, v4 is flexible. A consumer that
// goes to a new leader asks where the epoch of its position ends there: if that is before its position, the log was truncated and it
// knows where to go on. A follower that has no common epoch with its leader asks the same. Only the leader answers. The end is that of the log, not
// the high watermark, as in Kafka: what is beyond it may be committed yet.

func (c *call) offsetForLeaderEpoch(req kmsg.Request) {
	r := req.(*kmsg.OffsetForLeaderEpochRequest)
	resp := kmsg.NewPtrOffsetForLeaderEpochResponse()
	for i := range r.Topics {
		t := &r.Topics[i]
		topic := kmsg.NewOffsetForLeaderEpochResponseTopic()
		topic.Topic = t.Topic
		for j := range t.Partitions {
			want := &t.Partitions[j]
			row := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			row.Partition, row.LeaderEpoch, row.EndOffset = want.Partition, -1, -1
			if err := c.epochEnd(t.Topic, want, &row); err != nil {
				row.ErrorCode = codeOf(err)
			}
			topic.Partitions = append(topic.Partitions, row)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	c.reply(resp)
}

func (c *call) epochEnd(topic string, want *kmsg.OffsetForLeaderEpochRequestTopicPartition, row *kmsg.OffsetForLeaderEpochResponseTopicPartition) error {
	p, err := c.leaderOf(topic, want.Partition)
	if err != nil {
		return err
	}
	end, err := p.EndOffsetForEpoch(want.CurrentLeaderEpoch, want.LeaderEpoch)
	if err != nil {
		return err
	}
	row.LeaderEpoch, row.EndOffset = end.Epoch, end.End
	return nil
}
