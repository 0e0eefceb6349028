package broker

import (
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/coordinator/group"
	"weir/raftmeta"
)

// OffsetFetch v1-10.
//
//	v2: null topics ask for all, and errors of the group are at the top; v5: leader epoch; v7: RequireStable; v8: several groups; v9:
//	member id and epoch, which only mean something in groups of the new protocol; v10: topics by id.

func (c *call) offsetFetch(r kmsg.Request) {
	req := r.(*kmsg.OffsetFetchRequest)
	if req.Version < 8 {
		c.offsetFetchOne(req)
		return
	}
	resp := kmsg.NewPtrOffsetFetchResponse()
	resp.Groups = make([]kmsg.OffsetFetchResponseGroup, len(req.Groups))
	if len(req.Groups) == 0 {
		c.reply(resp)
		return
	}
	img := c.b.meta.Image()
	var left atomic.Int32
	left.Store(int32(len(req.Groups)))
	for i := range req.Groups {
		g, out := &req.Groups[i], &resp.Groups[i]
		out.Group = g.Group
		in, unknown := fetchByGroup(img, req, g)
		c.b.groups.FetchOffsets(in, func(res group.OffsetsResult) {
			if out.ErrorCode = groupCode(res.Code); res.Code == group.OK {
				out.Topics = append(groupTopics(img, req.Version, res.Topics), unknown...)
			}
			if left.Add(-1) == 0 {
				c.reply(resp)
			}
		})
	}
}

// fetchByGroup makes the coordinator's request of one group, and the answer for topics whose id is not known.
func fetchByGroup(img *raftmeta.Image, req *kmsg.OffsetFetchRequest, g *kmsg.OffsetFetchRequestGroup) (*group.OffsetsRequest,
	[]kmsg.OffsetFetchResponseGroupTopic,
) {
	in := &group.OffsetsRequest{Group: g.Group, RequireStable: req.RequireStable}
	if g.Topics == nil {
		return in, nil
	}
	in.Topics = make([]group.OffsetsTopic, 0, len(g.Topics))
	var unknown []kmsg.OffsetFetchResponseGroupTopic
	for i := range g.Topics {
		t := &g.Topics[i]
		name := t.Topic
		if req.Version >= 10 {
			topic := img.TopicByID(t.TopicID)
			if topic == nil {
				unknown = append(unknown, unknownFetchTopic(t))
				continue
			}
			name = topic.Name
		}
		in.Topics = append(in.Topics, offsetsTopicOf(img, name, t.Partitions))
	}
	return in, unknown
}

// offsetsTopicOf names the topic and, so that offsets of an older topic of that name do not count, its id.
func offsetsTopicOf(img *raftmeta.Image, name string, partitions []int32) group.OffsetsTopic {
	ot := group.OffsetsTopic{Name: name, Partitions: make([]group.OffsetsPartition, len(partitions))}
	if topic := img.Topic(name); topic != nil {
		ot.ID = topic.ID
	}
	for i, p := range partitions {
		ot.Partitions[i].Partition = p
	}
	return ot
}

func unknownFetchTopic(t *kmsg.OffsetFetchRequestGroupTopic) kmsg.OffsetFetchResponseGroupTopic {
	out := kmsg.NewOffsetFetchResponseGroupTopic()
	out.TopicID = t.TopicID
	for _, p := range t.Partitions {
		op := kmsg.NewOffsetFetchResponseGroupTopicPartition()
		op.Partition, op.Offset, op.LeaderEpoch, op.Metadata = p, -1, -1, kmsg.StringPtr("")
		op.ErrorCode = kerr.UnknownTopicID.Code
		out.Partitions = append(out.Partitions, op)
	}
	return out
}

func groupTopics(img *raftmeta.Image, version int16, topics []group.OffsetsTopic) []kmsg.OffsetFetchResponseGroupTopic {
	all := make([]kmsg.OffsetFetchResponseGroupTopic, 0, len(topics))
	for i := range topics {
		t := &topics[i]
		out := kmsg.NewOffsetFetchResponseGroupTopic()
		out.Topic = t.Name
		if version >= 10 {
			topic := img.Topic(t.Name)
			if topic == nil {
				continue // deleted: it has no id to be named by
			}
			out.TopicID = topic.ID
		}
		out.Partitions = make([]kmsg.OffsetFetchResponseGroupTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			p := &t.Partitions[j]
			out.Partitions[j] = kmsg.OffsetFetchResponseGroupTopicPartition{
				Partition: p.Partition, Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: &p.Metadata,
			}
		}
		all = append(all, out)
	}
	return all
}

// offsetFetchOne serves the versions that ask for one group.
func (c *call) offsetFetchOne(req *kmsg.OffsetFetchRequest) {
	img := c.b.meta.Image()
	in := &group.OffsetsRequest{Group: req.Group, RequireStable: req.RequireStable}
	if req.Topics != nil {
		in.Topics = make([]group.OffsetsTopic, 0, len(req.Topics))
		for i := range req.Topics {
			in.Topics = append(in.Topics, offsetsTopicOf(img, req.Topics[i].Topic, req.Topics[i].Partitions))
		}
	}
	c.b.groups.FetchOffsets(in, func(res group.OffsetsResult) {
		resp := kmsg.NewPtrOffsetFetchResponse()
		resp.ErrorCode = groupCode(res.Code)
		topics, failed := res.Topics, int16(0)
		if res.Code != group.OK && req.Version < 2 {
			// There is no error at the top yet: it goes to the partitions. The coordinator did not fill them in.
			topics, failed = in.Topics, resp.ErrorCode
		}
		for i := range topics {
			resp.Topics = append(resp.Topics, singleTopic(&topics[i], failed))
		}
		c.reply(resp)
	})
}

func singleTopic(t *group.OffsetsTopic, failed int16) kmsg.OffsetFetchResponseTopic {
	out := kmsg.NewOffsetFetchResponseTopic()
	out.Topic = t.Name
	out.Partitions = make([]kmsg.OffsetFetchResponseTopicPartition, len(t.Partitions))
	for j := range t.Partitions {
		p := &t.Partitions[j]
		op := kmsg.OffsetFetchResponseTopicPartition{
			Partition: p.Partition, Offset: p.Offset, LeaderEpoch: p.LeaderEpoch, Metadata: &p.Metadata,
		}
		if failed != 0 {
			op.Offset, op.LeaderEpoch, op.ErrorCode = -1, -1, failed
		}
		out.Partitions[j] = op
	}
	return out
}
