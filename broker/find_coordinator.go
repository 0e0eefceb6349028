package broker

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

// FindCoordinator v0-6. v1: key type and error message; v4: several keys; v6: share groups, which are not served.

// Key types of FindCoordinator.
const (
	coordinatorGroup       = 0
	coordinatorTransaction = 1
)

// ensureOffsetsTopicTimeout bounds how long a FindCoordinator waits for __consumer_offsets to be created.
const ensureOffsetsTopicTimeout = 5 * time.Second

func (c *call) findCoordinator(r kmsg.Request) {
	req := r.(*kmsg.FindCoordinatorRequest)
	keys := req.CoordinatorKeys
	if req.Version < 4 {
		keys = []string{req.CoordinatorKey}
	}
	if req.CoordinatorType == coordinatorGroup && len(keys) > 0 {
		ctx, cancel := context.WithTimeout(c.b.untilStalled(), ensureOffsetsTopicTimeout)
		if err := c.b.ensureOffsetsTopic(ctx); err != nil {
			c.b.faults.Warn("groups cannot be served", "", "error", err)
		}
		cancel()
	}
	resp := kmsg.NewPtrFindCoordinatorResponse()
	img := c.b.meta.Image()
	for _, key := range keys {
		out := kmsg.NewFindCoordinatorResponseCoordinator()
		out.Key, out.NodeID, out.Port, out.ErrorMessage = key, -1, -1, kmsg.StringPtr("")
		node, err := c.b.coordinatorOf(img, req.CoordinatorType, key)
		if err != nil {
			out.ErrorCode = err.Code
		} else {
			out.NodeID, out.Host, out.Port = node.ID, node.Host, node.Port
		}
		if req.Version < 4 {
			resp.ErrorCode, resp.NodeID, resp.Host, resp.Port = out.ErrorCode, out.NodeID, out.Host, out.Port
			resp.ErrorMessage = kmsg.StringPtr("NONE") // what Kafka says
			if err != nil {
				resp.ErrorMessage = kmsg.StringPtr(err.Description)
			}
			break
		}
		resp.Coordinators = append(resp.Coordinators, out)
	}
	c.reply(resp)
}

// coordinatorOf finds the broker that leads the partition in which a group's state is.
func (b *Broker) coordinatorOf(img *raftmeta.Image, keyType int8, key string) (*raftmeta.Broker, *kerr.Error) {
	switch keyType {
	case coordinatorGroup:
	case coordinatorTransaction:
		// Clients retry this until their own timeout, as they do while a coordinator is on its way.
		return nil, kerr.CoordinatorNotAvailable
	default:
		return nil, kerr.InvalidRequest
	}
	topic := img.Topic(offsetsTopic)
	if topic == nil {
		return nil, kerr.CoordinatorNotAvailable
	}
	p := b.groups.PartitionFor(key)
	if int(p) >= len(topic.Partitions) {
		return nil, kerr.CoordinatorNotAvailable
	}
	leader := topic.Partitions[p].Leader
	if !alive(img, leader) {
		return nil, kerr.CoordinatorNotAvailable
	}
	return img.Broker(leader), nil
}
