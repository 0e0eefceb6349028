package broker

import (
	"context"
	"errors"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/controller"
	"weir/netproto"
	"weir/raftmeta"
)

// Brokers speak to the controller with Kafka's own requests: BrokerRegistration (62), BrokerHeartbeat (63), AlterPartition (56) and
// AllocateProducerIds (67). The node that is the controller sends them to itself without a connection. Clients cannot send them: they
// are served on the peer listener only.

// errPeerRequest: a request that only nodes may send, in a form that they do not send.
var errPeerRequest = errors.New("not a request that a node sends")

// askController sends a request to the controller, wherever it is. There is one attempt.
func (b *Broker) askController(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	controller := b.controllerNow()
	switch {
	case controller < 0:
		return nil, errNoController
	case controller == b.cfg.NodeID:
		return b.serveBroker(ctx, req)
	}
	if _, beat := req.(*kmsg.BrokerHeartbeatRequest); beat { // it has little time, and there are many
		return b.peers.CallKmsg(ctx, controller, netproto.ClassHeartbeat, req)
	}
	ctx, cancel := b.whileController(ctx, controller)
	defer cancel()
	return b.peers.CallKmsg(ctx, controller, netproto.ClassControl, req)
}

// serveBroker serves a request of a broker to the controller. It may wait.
func (b *Broker) serveBroker(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	switch r := req.(type) {
	case *kmsg.BrokerRegistrationRequest:
		return b.serveRegistration(ctx, r), nil
	case *kmsg.BrokerHeartbeatRequest:
		return b.serveHeartbeat(ctx, r), nil
	case *kmsg.AlterPartitionRequest:
		return b.serveAlterPartition(ctx, r), nil
	case *kmsg.AllocateProducerIDsRequest:
		return b.serveAllocateIDs(ctx, r), nil
	}
	return nil, errPeerRequest
}

func (b *Broker) serveRegistration(ctx context.Context, r *kmsg.BrokerRegistrationRequest) *kmsg.BrokerRegistrationResponse {
	resp := kmsg.NewPtrBrokerRegistrationResponse()
	resp.BrokerEpoch = -1
	// As replicated: the registering node may have written it into its directory before this one has.
	if id := b.meta.Image().ClusterID; r.ClusterID != "" && id != "" && r.ClusterID != id {
		resp.ErrorCode = kerr.InconsistentClusterID.Code
		return resp
	}
	reg := controller.Registration{ID: r.BrokerID, Incarnation: r.IncarnationID}
	if r.Rack != nil {
		reg.Rack = *r.Rack
	}
	for i := range r.Listeners {
		switch l := &r.Listeners[i]; l.Name {
		case listenerClients:
			reg.Host, reg.Port = l.Host, int32(l.Port)
		case listenerPeers:
			reg.PeerHost, reg.PeerPort = l.Host, int32(l.Port)
		}
	}
	if reg.Host == "" || reg.PeerHost == "" {
		resp.ErrorCode = kerr.InvalidRegistration.Code
		return resp
	}
	epoch, err := b.ctl.Register(ctx, reg)
	if err != nil {
		b.log.Info("a broker was not registered", "broker", r.BrokerID, "error", err)
		resp.ErrorCode = metaCode(err)
		return resp
	}
	resp.BrokerEpoch = epoch
	return resp
}

func (b *Broker) serveHeartbeat(ctx context.Context, r *kmsg.BrokerHeartbeatRequest) *kmsg.BrokerHeartbeatResponse {
	resp := kmsg.NewPtrBrokerHeartbeatResponse()
	answer, err := b.ctl.Heartbeat(ctx, controller.Heartbeat{
		Broker: r.BrokerID, Epoch: r.BrokerEpoch, Applied: uint64(max(r.CurrentMetadataOffset, 0)), WantFence: r.WantFence, WantShutdown: r.WantShutdown,
	})
	resp.ErrorCode = metaCode(err)
	resp.IsCaughtUp, resp.IsFenced, resp.ShouldShutdown = answer.CaughtUp, answer.Fenced || err != nil, answer.ShouldShutDown
	return resp
}

func (b *Broker) serveAlterPartition(ctx context.Context, r *kmsg.AlterPartitionRequest) *kmsg.AlterPartitionResponse {
	resp := kmsg.NewPtrAlterPartitionResponse()
	var changes []controller.ISRChange
	for i := range r.Topics {
		t := &r.Topics[i]
		for j := range t.Partitions {
			changes = append(changes, isrChange(t.TopicID, &t.Partitions[j]))
		}
	}
	results, err := b.ctl.AlterISR(ctx, r.BrokerID, r.BrokerEpoch, changes)
	if err != nil {
		resp.ErrorCode = metaCode(err)
		return resp
	}
	next := 0
	for i := range r.Topics {
		topic := kmsg.NewAlterPartitionResponseTopic()
		topic.TopidID = r.Topics[i].TopicID
		for j := range r.Topics[i].Partitions {
			topic.Partitions = append(topic.Partitions, isrRow(r.Topics[i].Partitions[j].Partition, &results[next]))
			next++
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}

func isrChange(topic [16]byte, p *kmsg.AlterPartitionRequestTopicPartition) controller.ISRChange {
	c := controller.ISRChange{
		TopicID: topic, Partition: p.Partition, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch,
		ISR: make([]controller.ISRMember, len(p.NewEpochISR)),
	}
	for i := range p.NewEpochISR {
		c.ISR[i] = controller.ISRMember{ID: p.NewEpochISR[i].BrokerID, BrokerEpoch: p.NewEpochISR[i].BrokerEpoch}
	}
	return c
}

func isrRow(partition int32, r *controller.ISRResult) kmsg.AlterPartitionResponseTopicPartition {
	row := kmsg.NewAlterPartitionResponseTopicPartition()
	row.Partition, row.ErrorCode = partition, metaCode(r.Err)
	row.LeaderID, row.LeaderEpoch, row.ISR, row.PartitionEpoch = r.Leader, r.LeaderEpoch, r.ISR, r.PartitionEpoch
	return row
}

func (b *Broker) serveAllocateIDs(ctx context.Context, r *kmsg.AllocateProducerIDsRequest) *kmsg.AllocateProducerIDsResponse {
	resp := kmsg.NewPtrAllocateProducerIDsResponse()
	resp.ProducerIDStart, resp.ProducerIDLen = -1, 0
	if reg := b.meta.Image().Broker(r.BrokerID); b.clustered() && (reg == nil || reg.Epoch != r.BrokerEpoch) {
		resp.ErrorCode = kerr.StaleBrokerEpoch.Code
		return resp
	}
	results, err := b.meta.Propose(ctx, raftmeta.AllocateProducerIDs{Broker: r.BrokerID})
	if err == nil {
		err = results[0].Err
	}
	if err = b.stalled(ctx, err); err != nil {
		resp.ErrorCode = metaCode(err)
		return resp
	}
	resp.ProducerIDStart, resp.ProducerIDLen = results[0].FirstProducerID, int32(results[0].ProducerIDs)
	return resp
}

// officeRelay hands the changes of this node's office to the controller, in order. Raft can win an election before the controller exists, which
// needs the metadata to be open: the last change is kept for it.
type officeRelay struct {
	mu struct {
		sync.Mutex // held while to is called, which does not block
		to         func(term uint64, leading bool)
		kept       bool
		term       uint64
		leading    bool
	}
}

// changed is raftmeta's Options.OnOffice.
func (o *officeRelay) changed(term uint64, leading bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mu.to == nil {
		o.mu.kept, o.mu.term, o.mu.leading = true, term, leading
		return
	}
	o.mu.to(term, leading)
}

// connect names who is told from now on.
func (o *officeRelay) connect(to func(term uint64, leading bool)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.to = to
	if o.mu.kept {
		to(o.mu.term, o.mu.leading)
	}
}
