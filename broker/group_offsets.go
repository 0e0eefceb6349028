package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/coordinator/group"
	"weir/raftmeta"
)

// OffsetCommit v2-10 and OffsetDelete v0.
//
//	OffsetCommit v2-4: the client says how long to keep the offset; v6: leader epoch; v7: group.instance.id; v9: a group that does
//	not exist is GROUP_ID_NOT_FOUND instead of ILLEGAL_GENERATION; v10: topics by id.

func (c *call) offsetCommit(r kmsg.Request) {
	req := r.(*kmsg.OffsetCommitRequest)
	in := &group.CommitRequest{
		Group: req.Group, Generation: req.Generation, MemberID: req.MemberID, InstanceID: req.InstanceID,
		UnknownGroup: group.IllegalGeneration, Retention: -1,
	}
	if req.Version >= 9 {
		in.UnknownGroup = group.GroupIDNotFound
	}
	if req.Version <= 4 && req.RetentionTimeMillis >= 0 {
		in.Retention = time.Duration(min(req.RetentionTimeMillis, retentionMillisMax)) * time.Millisecond
	}
	resp := kmsg.NewPtrOffsetCommitResponse()
	resp.Topics = make([]kmsg.OffsetCommitResponseTopic, len(req.Topics))
	// Where in the response the partitions are that go to the coordinator, in the order of in.Topics.
	var sent []*kmsg.OffsetCommitResponseTopicPartition
	img := c.b.meta.Image()
	for i := range req.Topics {
		t := &req.Topics[i]
		out := &resp.Topics[i]
		out.Topic, out.TopicID = t.Topic, t.TopicID
		out.Partitions = make([]kmsg.OffsetCommitResponseTopicPartition, len(t.Partitions))
		topic, missing := commitTopic(img, req.Version, t)
		ct := group.CommitTopic{}
		if topic != nil {
			ct.Name, ct.ID = topic.Name, topic.ID
		}
		for j, p := range t.Partitions {
			op := &out.Partitions[j]
			op.Partition = p.Partition
			if topic == nil || p.Partition < 0 || int(p.Partition) >= len(topic.Partitions) {
				op.ErrorCode = missing
				continue
			}
			cp := group.CommitPartition{Partition: p.Partition, Offset: p.Offset, LeaderEpoch: -1}
			if req.Version >= 6 {
				cp.LeaderEpoch = p.LeaderEpoch
			}
			if p.Metadata != nil {
				cp.Metadata = *p.Metadata
			}
			ct.Partitions = append(ct.Partitions, cp)
			sent = append(sent, op)
		}
		if len(ct.Partitions) > 0 {
			in.Topics = append(in.Topics, ct)
		}
	}
	if len(sent) == 0 {
		c.reply(resp)
		return
	}
	c.b.groups.CommitOffsets(in, func(code group.Code) {
		n := 0
		for i := range in.Topics {
			for _, p := range in.Topics[i].Partitions {
				if code != group.OK {
					p.Code = code
				}
				sent[n].ErrorCode = groupCode(p.Code)
				n++
			}
		}
		c.reply(resp)
	})
}

// retentionMillisMax keeps what an old client asks for within what a Duration holds.
const retentionMillisMax = int64(1<<63-1) / int64(time.Millisecond)

// commitTopic finds the topic; missing is the error for partitions that do not exist.
func commitTopic(img *raftmeta.Image, version int16, t *kmsg.OffsetCommitRequestTopic) (topic *raftmeta.Topic, missing int16) {
	if version < 10 {
		return img.Topic(t.Topic), kerr.UnknownTopicOrPartition.Code
	}
	if topic = img.TopicByID(t.TopicID); topic == nil {
		return nil, kerr.UnknownTopicID.Code
	}
	return topic, kerr.UnknownTopicOrPartition.Code
}

func (c *call) offsetDelete(r kmsg.Request) {
	req := r.(*kmsg.OffsetDeleteRequest)
	in := &group.DeleteOffsetsRequest{Group: req.Group}
	resp := kmsg.NewPtrOffsetDeleteResponse()
	resp.Topics = make([]kmsg.OffsetDeleteResponseTopic, len(req.Topics))
	var sent []*kmsg.OffsetDeleteResponseTopicPartition
	img := c.b.meta.Image()
	for i := range req.Topics {
		t := &req.Topics[i]
		out := &resp.Topics[i]
		out.Topic = t.Topic
		out.Partitions = make([]kmsg.OffsetDeleteResponseTopicPartition, len(t.Partitions))
		topic := img.Topic(t.Topic)
		dt := group.DeleteOffsetsTopic{Name: t.Topic}
		for j, p := range t.Partitions {
			op := &out.Partitions[j]
			op.Partition = p.Partition
			if topic == nil || p.Partition < 0 || int(p.Partition) >= len(topic.Partitions) {
				op.ErrorCode = kerr.UnknownTopicOrPartition.Code
				continue
			}
			dt.Partitions = append(dt.Partitions, group.DeleteOffsetsPartition{Partition: p.Partition})
			sent = append(sent, op)
		}
		in.Topics = append(in.Topics, dt)
	}
	c.b.groups.DeleteOffsets(in, func(code group.Code) {
		if code != group.OK {
			resp.ErrorCode, resp.Topics = groupCode(code), nil
			c.reply(resp)
			return
		}
		n := 0
		for i := range in.Topics {
			for _, p := range in.Topics[i].Partitions {
				sent[n].ErrorCode = groupCode(p.Code)
				n++
			}
		}
		c.reply(resp)
	})
}
