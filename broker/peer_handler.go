package broker

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/budget"
	"weir/netproto"
	"weir/raftmeta"
)

// peerHandler serves the peer listener: what other nodes ask of this one. Only nodes of this cluster get here (netproto.NewPeerHandler).
//
// The metadata's raft is answered from the start; data requests only once the partitions are open. What may wait for the cluster runs on a goroutine
// of its own, so that the requests behind it on the connection are taken up; the connection sends the answers as they come
// (netproto.Options.AnyOrder), and bounds how many there are.
type peerHandler struct {
	b       *Broker
	ctx     context.Context // ends when the node does
	serving atomic.Bool     // the partitions are open
	// waits are the goroutines. mu keeps new ones from beginning once they are waited for.
	waits sync.WaitGroup
	mu    struct {
		sync.Mutex
		closed bool
	}
}

// Handle serves one request (netproto.Handler).
func (h *peerHandler) Handle(r *netproto.Request) {
	h.b.onBusy()
	node, _, ok := r.Conn.Peer()
	if !ok {
		r.Close(errPeerRequest)
		return
	}
	switch r.APIKey {
	case netproto.KeyRaft:
		// On the reader: raft's messages of one kind must not overtake each other. Their connection carries nothing else.
		r.RespondRaw(h.b.serveRaft(h.ctx, raftmeta.RPC(r.Version), r.Body))
	case netproto.KeyForward:
		h.private(r, forwardVersion, func() []byte { return h.b.serveForwarded(withLaps(h.ctx, r), r.Body) })
	case netproto.KeyAwaitMetadata:
		h.private(r, awaitMetadataVersion, func() []byte {
			answer := h.b.serveAwait(h.ctx, r.Body)
			r.Lap(budget.Wait, h.b.clk.Now()) // that is what was asked for
			return answer
		})
	case keyJoin:
		h.private(r, joinVersion, func() []byte { return h.b.serveJoin(h.ctx, r.Body) })
	default:
		h.kafka(r, node)
	}
}

// Closed ends what a connection was waiting for (netproto.Handler).
func (h *peerHandler) Closed(conn *netproto.Conn) { h.b.Closed(conn) }

// kafka serves those of Kafka's requests that nodes send each other.
func (h *peerHandler) kafka(r *netproto.Request, node int32) {
	switch version, ok := peerAPIs[r.APIKey]; {
	case !ok:
		r.Close(fmt.Errorf("%w: %s", errPeerRequest, r))
	case version != anyVersion && r.Version != version:
		r.Close(fmt.Errorf("%w: %s, served is %d", netproto.ErrUnsupported, r, version))
	case version != anyVersion:
		h.broker(r)
	case h.serving.Load():
		h.b.serve(r, node)
	default:
		h.notServing(r)
	}
}

const anyVersion = -1

// peerAPIs are those of Kafka's requests that nodes send each other, and the version of those that are not in the dispatch table: they go to the controller.
var peerAPIs = map[int16]int16{
	produceKey: anyVersion, fetchKey: anyVersion, offsetForLeaderEpochKey: anyVersion,
	62: registrationVersion, 63: heartbeatVersion, 56: alterPartitionVer, 67: allocateIDsVersion,
}

// broker serves a broker's request to the controller.
func (h *peerHandler) broker(r *netproto.Request) {
	req, err := netproto.DecodeKmsg(r)
	if err != nil {
		r.Close(err)
		return
	}
	h.start(r, func() {
		resp, err := h.b.serveBroker(h.ctx, req)
		if err != nil {
			r.Close(err)
			return
		}
		r.RespondKmsg(resp)
	})
}

// notServing answers a data request before the partitions are open: this node leads nothing yet.
func (h *peerHandler) notServing(r *netproto.Request) {
	switch r.APIKey {
	case fetchKey:
		r.RespondFetch(&netproto.FetchResponse{ErrorCode: kerr.BrokerNotAvailable.Code})
	case produceKey:
		h.b.refuseProduce(r, kerr.NotLeaderForPartition)
	default:
		h.refuseEpochs(r)
	}
}

// refuseProduce answers every partition of a produce request with one error.
func (b *Broker) refuseProduce(r *netproto.Request, code *kerr.Error) {
	req, err := netproto.ParseProduce(r.Version, r.Body)
	if err != nil {
		r.Close(err)
		return
	}
	if req.Acks == acksNone {
		r.RespondNone()
		return
	}
	resp := netproto.ProduceResponse{}
	for i := range req.Topics {
		t := &req.Topics[i]
		rows := make([]netproto.ProducePartitionResult, len(t.Partitions))
		for j := range rows {
			rows[j] = netproto.ProducePartitionResult{
				Index: t.Partitions[j].Index, ErrorCode: code.Code, BaseOffset: -1, LogAppendTimeMs: -1, LogStartOffset: -1, ErrorMessage: "the node starts",
			}
		}
		resp.Topics = append(resp.Topics, netproto.ProduceTopicResult{Name: t.Name, ID: t.ID, Partitions: rows})
	}
	r.RespondProduce(&resp)
}

func (h *peerHandler) refuseEpochs(r *netproto.Request) {
	req, err := netproto.DecodeKmsg(r)
	if err != nil {
		r.Close(err)
		return
	}
	resp := kmsg.NewPtrOffsetForLeaderEpochResponse()
	for _, t := range req.(*kmsg.OffsetForLeaderEpochRequest).Topics {
		topic := kmsg.NewOffsetForLeaderEpochResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			row := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			row.Partition, row.ErrorCode, row.EndOffset = p.Partition, kerr.NotLeaderForPartition.Code, -1
			topic.Partitions = append(topic.Partitions, row)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	r.RespondKmsg(resp)
}

// private serves a private API in the one version there is.
func (h *peerHandler) private(r *netproto.Request, version int16, serve func() []byte) {
	if r.Version != version {
		r.Close(fmt.Errorf("%w: %s, served is %d", netproto.ErrUnsupported, r, version))
		return
	}
	h.raw(r, serve)
}

func (h *peerHandler) raw(r *netproto.Request, serve func() []byte) {
	h.start(r, func() { r.RespondRaw(serve()) })
}

// start runs serve, which answers r, on a goroutine of its own.
func (h *peerHandler) start(r *netproto.Request, serve func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.closed {
		r.Close(errNotReady)
		return
	}
	h.waits.Go(serve)
}

// close waits for what is being served. The context that it runs with has ended.
func (h *peerHandler) close() {
	h.mu.Lock()
	h.mu.closed = true
	h.mu.Unlock()
	h.waits.Wait()
}
