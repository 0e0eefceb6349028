package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/internal/budget"
	"weir/internal/record"
	"weir/netproto"
)

// Partitions of a produce request that another node leads. A client whose version has a place for it (v10, KIP-951) is told who leads, and goes
// there from then on; that is one round trip, once. For older clients, and for acks=0, which gets no answer, the partitions are forwarded: to each
// leader one request over the connection for that, beside the appends that go to this node's own log. The leader's answer is decoded, and every
// partition's code goes into the one answer to the client. What has been forwarded once is not forwarded again.
//
// A forwarded request keeps the order of those before it: requests of a client are handled in their order, and go to a leader on one
// connection. So the sequence numbers of an idempotent producer stay in order.

// pieceSender is netproto.Peers for forwarded produces.
type pieceSender interface {
	// StartPieces sends a request whose body is the pieces, which are the caller's again on return, and calls done once, which may be
	// within the call.
	StartPieces(ctx context.Context, node int32, class netproto.Class, key, version int16, body [][]byte, done func(*netproto.PeerResponse, error))
}

// forward is the part of a produce request that one other node leads.
type forward struct {
	p      *produce
	leader int32
	parts  []forwardedPart // in the order of the request
	cancel context.CancelFunc
	// For the request's budget.
	began, ended budget.Mark
}

// forwardedPart is one partition of it: where it is in the request and in its answer, and its topic's id.
type forwardedPart struct {
	topic, partition int
	id               [16]byte
}

// sendAway notes a partition to be forwarded. False: it is not, and the client must be told.
func (p *produce) sendAway(topic, partition int) bool {
	if p.peer != clientPeer || p.b.forwarder == nil || p.req.Version >= currentLeaderVersion && p.req.Acks != acksNone {
		return false
	}
	t := &p.req.Topics[topic]
	part := &t.Partitions[partition]
	img := p.b.meta.Image()
	meta := p.topic(img, t)
	if meta == nil || int(part.Index) >= len(meta.Partitions) {
		return false
	}
	leader := meta.Partitions[part.Index].Leader
	if node := img.Broker(leader); node == nil || node.Fenced || leader == p.b.cfg.NodeID {
		return false
	}
	if err := p.forwardable(part.Records); err != nil {
		partitionResult{&p.resp.Topics[topic].Partitions[partition]}.fail(err)
		return true
	}
	to := p.forwardTo(leader)
	to.parts = append(to.parts, forwardedPart{topic, partition, meta.ID})
	return true
}

// forwardable refuses what the leader would not know to refuse: it sees a newer version than the client's. The rest it checks.
func (p *produce) forwardable(records []byte) error {
	if p.req.Version >= zstdVersionMin {
		return nil
	}
	b, _, err := record.Next(records)
	if err == nil && b.Codec() == record.Zstd {
		err = fmt.Errorf("zstd needs produce version %d, got %d: %w", zstdVersionMin, p.req.Version, kerr.UnsupportedCompressionType)
	}
	return err
}

func (p *produce) forwardTo(leader int32) *forward {
	for _, f := range p.away {
		if f.leader == leader {
			return f
		}
	}
	f := &forward{p: p, leader: leader}
	p.away = append(p.away, f)
	return f
}

// start sends the request. The answer, or the failure, comes to done.
func (f *forward) start() {
	p := f.p
	for i := range f.parts {
		f.row(i).ErrorCode = unanswered
	}
	var ctx context.Context
	if !p.r.Trace.Known() {
		p.r.Trace = budget.NewTrace(p.b.watch.draw())
	}
	f.began = budget.At(p.b.clk.Now())
	ctx, f.cancel = context.WithTimeout(budget.WithTrace(context.Background(), p.r.Trace), p.patience())
	p.b.metrics.forwarded.Inc()
	p.b.forwarder.StartPieces(ctx, f.leader, netproto.ClassProduce, produceKey, netproto.ProduceForwardVersion, f.encode(), f.done)
}

// encode is the request's body: its own bytes in one buffer, and the records where they are.
func (f *forward) encode() [][]byte {
	p := f.p
	topics := 0
	for i := range f.parts {
		if i == 0 || f.parts[i].topic != f.parts[i-1].topic {
			topics++
		}
	}
	acks := p.req.Acks
	if acks == acksNone {
		acks = acksOne // the nodes talk in requests and answers
	}
	own := make([]byte, 0, netproto.ProduceOwnMax(topics, len(f.parts))) // does not move: the pieces are in it
	pieces := make([][]byte, 0, 2*len(f.parts)+1)
	own = netproto.AppendProduceHead(own, acks, p.req.TimeoutMs, topics)
	from := 0
	for i := range f.parts {
		part := &f.parts[i]
		if i == 0 || part.topic != f.parts[i-1].topic {
			n := 1
			for i+n < len(f.parts) && f.parts[i+n].topic == part.topic {
				n++
			}
			own = netproto.AppendProduceTopic(own, part.id, n)
		}
		in := &p.req.Topics[part.topic].Partitions[part.partition]
		own = netproto.AppendProducePartition(own, in.Index, len(in.Records))
		pieces = append(pieces, own[from:], in.Records)
		from = len(own)
		own = netproto.AppendProduceEnd(own)
		if i == len(f.parts)-1 || f.parts[i+1].topic != part.topic {
			own = netproto.AppendProduceEnd(own)
		}
	}
	own = netproto.AppendProduceEnd(own)
	return append(pieces, own[from:])
}

// done takes the leader's answer. It does not block.
func (f *forward) done(resp *netproto.PeerResponse, err error) {
	f.cancel()
	f.ended = budget.At(f.p.b.clk.Now())
	if err == nil {
		err = f.merge(resp.Body)
		resp.Release()
	}
	if err != nil {
		f.p.b.metrics.forwardsFailed.Inc()
		failure := fmt.Errorf("forwarded to broker %d: %w: %w", f.leader, forwardCode(err), err)
		for i := range f.parts {
			if row := f.row(i); row.ErrorCode == unanswered {
				partitionResult{row}.fail(failure)
			}
		}
	}
	f.p.finished(produceEnd{forward: f})
}

// unanswered marks the rows whose answer is awaited; no error of Kafka's has this number.
const unanswered = -0x8000

// row is where the i-th partition's result goes.
func (f *forward) row(i int) *netproto.ProducePartitionResult {
	return &f.p.resp.Topics[f.parts[i].topic].Partitions[f.parts[i].partition]
}

// merge puts the leader's results where the client finds them. An answer that lacks a partition is an error, for that one.
func (f *forward) merge(body []byte) error {
	var resp netproto.ProduceResponse
	if err := resp.Parse(body); err != nil {
		return err
	}
	at, merged := 0, 0
	for i := range resp.Topics {
		t := &resp.Topics[i]
		for j := range t.Partitions {
			from := &t.Partitions[j]
			k := f.find(at, t.ID, from.Index)
			if k < 0 || f.row(k).ErrorCode != unanswered {
				return fmt.Errorf("%w: result of partition %d of topic %x, which was not asked for", netproto.ErrMalformed, from.Index, t.ID)
			}
			at = k + 1
			row := f.row(k)
			*row = *from
			if row.ErrorCode == kerr.UnknownTopicID.Code && !f.p.byID() {
				row.ErrorCode = kerr.UnknownTopicOrPartition.Code // the client has named the topic, and may not know the other
			}
			row.CurrentLeader = nil // this node's image says it, to versions that have it
			merged++
		}
	}
	if merged < len(f.parts) {
		return fmt.Errorf("%w: results of %d partitions, %d were sent", netproto.ErrMalformed, merged, len(f.parts))
	}
	return nil
}

// find returns the place of a partition in f.parts, -1 if it is not there. Answers come in the order of the request, so the first look finds it.
func (f *forward) find(hint int, id [16]byte, index int32) int {
	for n := range f.parts {
		k := (hint + n) % len(f.parts)
		part := &f.parts[k]
		if part.id == id && f.p.req.Topics[part.topic].Partitions[part.partition].Index == index {
			return k
		}
	}
	return -1
}

// forwardCode is the error for what became of a forwarded request without a usable answer. If it was not sent, the client may look for the leader and
// try again; if it was, the records may have been written, as with a lost connection to the leader itself.
func forwardCode(err error) *kerr.Error {
	if failed, ok := errors.AsType[*netproto.PeerError](err); ok && !failed.Sent {
		return kerr.NotLeaderForPartition
	}
	if errors.Is(err, netproto.ErrPeerTimeout) || errors.Is(err, context.DeadlineExceeded) {
		return kerr.RequestTimedOut
	}
	return kerr.NetworkException
}

// addLeaders tells, where a partition is led elsewhere, by whom.
func (p *produce) addLeaders() {
	var hints leaderHints
	for i := range p.resp.Topics {
		rows := p.resp.Topics[i].Partitions
		for j := range rows {
			if !misled(rows[j].ErrorCode) {
				continue
			}
			if hints.img == nil {
				hints = p.b.newLeaderHints()
			}
			rows[j].CurrentLeader = hints.of(p.topic(hints.img, &p.req.Topics[i]), rows[j].Index, rows[j].ErrorCode)
		}
	}
	p.resp.Nodes = hints.nodes
}
