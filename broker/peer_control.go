package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/netproto"
	"weir/raftmeta"
	"weir/replica"
)

// raftSender carries raft's messages (raftmeta.Sender). The kind of message is the version of the request, so that the body goes as it is.
type raftSender struct{ b *Broker }

// Answers of KeyRaft: a status and the answer, or the text of the error.
const (
	raftOK     = 0
	raftFailed = 1
)

var errRaft = errors.New("the node did not take the message")

func (s raftSender) Send(ctx context.Context, node int32, addr string, rpc raftmeta.RPC, body []byte) ([]byte, error) {
	if s.b.metaRef.Load() == nil {
		return nil, errNotReady // Hello could not say yet which cluster this is
	}
	class := netproto.ClassRaft
	if rpc == raftmeta.RPCHeartbeat {
		class = netproto.ClassHeartbeat
	}
	r, err := s.b.peers.CallAddr(ctx, node, addr, class, netproto.KeyRaft, int16(rpc), body)
	if err != nil {
		return nil, err
	}
	defer r.Release()
	if len(r.Body) == 0 || r.Body[0] != raftOK {
		return nil, fmt.Errorf("%w: node %d: %v: %s", errRaft, node, rpc, r.Body[min(1, len(r.Body)):])
	}
	return append([]byte(nil), r.Body[1:]...), nil
}

// serveRaft answers another node's raft.
func (b *Broker) serveRaft(ctx context.Context, rpc raftmeta.RPC, body []byte) []byte {
	out, err := b.meta.HandleRPC(ctx, rpc, body)
	if err != nil {
		return append([]byte{raftFailed}, err.Error()...)
	}
	return append([]byte{raftOK}, out...)
}

// isrControl proposes ISR changes to the controller (replica.Control).
type isrControl struct{ b *Broker }

// isrErrors is what the controller's codes mean to a leader.
var isrErrors = map[int16]error{
	kerr.FencedLeaderEpoch.Code:     replica.ErrFencedEpoch,
	kerr.InvalidUpdateVersion.Code:  replica.ErrStalePartition,
	kerr.NotLeaderForPartition.Code: replica.ErrNotLeader,
	kerr.IneligibleReplica.Code:     replica.ErrNotReplica,
}

// AlterISR sends the changes to the controller, all in one request.
func (c isrControl) AlterISR(ctx context.Context, changes []replica.ISRChange) ([]replica.ISRResult, error) {
	resp, err := c.b.askController(ctx, c.request(changes))
	if err != nil {
		return nil, fmt.Errorf("alter %d in-sync replica sets: %w", len(changes), err)
	}
	r := resp.(*kmsg.AlterPartitionResponse)
	if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
		if c.b.life != nil && errors.Is(err, kerr.StaleBrokerEpoch) {
			c.b.life.kick() // a heartbeat finds out
		}
		return nil, fmt.Errorf("alter %d in-sync replica sets: %w", len(changes), err)
	}
	return isrResults(changes, r)
}

func (c isrControl) request(changes []replica.ISRChange) *kmsg.AlterPartitionRequest {
	req := kmsg.NewPtrAlterPartitionRequest()
	req.Version = alterPartitionVer
	req.BrokerID, req.BrokerEpoch = c.b.cfg.NodeID, c.b.life.epoch.Load()
	for i := range changes {
		change := &changes[i]
		p := kmsg.NewAlterPartitionRequestTopicPartition()
		p.Partition, p.LeaderEpoch, p.PartitionEpoch = change.Partition, change.LeaderEpoch, change.PartitionEpoch
		for _, m := range change.ISR {
			p.NewEpochISR = append(p.NewEpochISR, kmsg.AlterPartitionRequestTopicPartitionNewEpochISR{BrokerID: m.ID, BrokerEpoch: m.BrokerEpoch})
		}
		// One row for each change, also of the same topic: the answer has the same order.
		req.Topics = append(req.Topics, kmsg.AlterPartitionRequestTopic{TopicID: change.TopicID, Partitions: []kmsg.AlterPartitionRequestTopicPartition{p}})
	}
	return req
}

// isrResults holds the answer against what was asked: a row that is not the one due makes all of it worthless.
func isrResults(changes []replica.ISRChange, r *kmsg.AlterPartitionResponse) ([]replica.ISRResult, error) {
	if len(r.Topics) != len(changes) {
		return nil, fmt.Errorf("alter in-sync replica sets: %w: %d rows, want %d", netproto.ErrMalformed, len(r.Topics), len(changes))
	}
	results := make([]replica.ISRResult, len(changes))
	for i := range r.Topics {
		t := &r.Topics[i]
		if len(t.Partitions) != 1 || t.TopidID != changes[i].TopicID || t.Partitions[0].Partition != changes[i].Partition {
			return nil, fmt.Errorf("alter in-sync replica sets: %w: row %d is not the one asked for", netproto.ErrMalformed, i)
		}
		p := &t.Partitions[0]
		results[i] = replica.ISRResult{ISR: p.ISR, Leader: p.LeaderID, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
		if p.ErrorCode != 0 {
			err := isrErrors[p.ErrorCode]
			if err == nil {
				err = kerr.ErrorForCode(p.ErrorCode)
			}
			results[i].Err = err
		}
	}
	return results, nil
}

// BrokerEpoch is the epoch of a node's registration as this node knows it.
func (c isrControl) BrokerEpoch(node int32) int64 {
	if reg := c.b.meta.Image().Broker(node); reg != nil {
		return reg.Epoch
	}
	return -1
}
