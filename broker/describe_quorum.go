package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

// DescribeQuorum (key 55) v0-2. v1 brought the times of the last fetch (KIP-836), v2 messages, directory ids and the voters' addresses (KIP-853). Only the
// leader knows how far the others are, so it answers. An offset is the index of an entry of the metadata's log. Nodes have
// one data directory and no directory ids: they are zero.

const metadataTopic = "__cluster_metadata"

func (a *adminCall) describeQuorum(req kmsg.Request) kmsg.Response {
	q := a.b.meta.Quorum()
	if q.Leader != a.b.cfg.NodeID {
		a.moved = true
		return nil
	}
	return quorumResponse(req.(*kmsg.DescribeQuorumRequest), &q, a.b.clk.Now())
}

func quorumResponse(r *kmsg.DescribeQuorumRequest, q *raftmeta.Quorum, now time.Time) *kmsg.DescribeQuorumResponse {
	resp := kmsg.NewPtrDescribeQuorumResponse()
	for _, t := range r.Topics {
		topic := kmsg.DescribeQuorumResponseTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			row := kmsg.NewDescribeQuorumResponseTopicPartition()
			row.Partition = p.Partition
			if t.Topic != metadataTopic || p.Partition != 0 {
				err := refuse(kerr.UnknownTopicOrPartition, "%s", kerr.UnknownTopicOrPartition.Description)
				row.ErrorCode, row.ErrorMessage, row.LeaderID = metaCode(err), message(err), -1
			} else {
				row.LeaderID, row.LeaderEpoch, row.HighWatermark = q.Leader, int32(q.Term), int64(q.Commit)
				row.CurrentVoters = quorumReplicas(q.Voters, q, now)
				row.Observers = quorumReplicas(q.Observers, q, now)
			}
			topic.Partitions = append(topic.Partitions, row)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	for _, m := range q.Voters {
		host, port, err := splitHostPort(m.Addr)
		if err != nil {
			continue // a name of another kind: not to be shown as an address
		}
		resp.Nodes = append(resp.Nodes, kmsg.DescribeQuorumResponseNode{
			NodeID: m.ID, Listeners: []kmsg.DescribeQuorumResponseNodeListener{{Name: listenerPeers, Host: host, Port: uint16(port)}},
		})
	}
	return resp
}

// quorumReplicas describes members: when they were last heard of, and when they last had everything that is committed, -1 if that is not known.
func quorumReplicas(members []raftmeta.Member, q *raftmeta.Quorum, now time.Time) []kmsg.DescribeQuorumResponseTopicPartitionReplicaState {
	rows := make([]kmsg.DescribeQuorumResponseTopicPartitionReplicaState, 0, len(members))
	for _, m := range members {
		row := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
		row.ReplicaID, row.LogEndOffset, row.LastFetchTimestamp, row.LastCaughtUpTimestamp = m.ID, int64(m.LastIndex), -1, -1
		if m.ID == q.Leader {
			m.LastContact = now
		}
		if !m.LastContact.IsZero() {
			row.LastFetchTimestamp = m.LastContact.UnixMilli()
			if m.LastIndex >= q.Commit {
				row.LastCaughtUpTimestamp = row.LastFetchTimestamp
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func describeQuorumFailed(_ kmsg.Request, code int16, message *string) kmsg.Response {
	resp := kmsg.NewPtrDescribeQuorumResponse()
	resp.ErrorCode, resp.ErrorMessage = code, message
	return resp
}

// memberOf finds a node among members, nil if it is none of them.
func memberOf(members []raftmeta.Member, node int32) *raftmeta.Member {
	for i := range members {
		if members[i].ID == node {
			return &members[i]
		}
	}
	return nil
}
