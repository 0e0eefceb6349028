package broker

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/internal/record"
	"weir/netproto"
	"weir/raftmeta"
	"weir/replica"
)

// Produce (key 0) v3-13. v3 brought transactional ids and record batch v2, v5 the log start offset, v7 zstd, v8 record errors
// and messages (KIP-467), v10 the current leader (KIP-951), v13 topic ids (KIP-516).
//
// The request's buffer goes through untouched: each batch is checked as a view, stamped in place, and either kept or copied by the
// log. A request is answered when the last of its batches is durable: with acks=1 here, with acks=all on every in-sync replica; acks=0 gets no
// answer but the same care as acks=1. What another node leads is forwarded to it, or the client is told where to go: produce_forward.go.

const (
	acksNone = 0
	acksOne  = 1
	acksAll  = -1
	// zstdVersionMin is the first produce version whose clients may send zstd (KIP-110).
	zstdVersionMin = 7
	// currentLeaderVersion is the first produce version whose answers tell who leads (KIP-951).
	currentLeaderVersion = 10
	// reserveWaitMax bounds how long a produce waits for room in memory, whatever timeout it brings.
	reserveWaitMax = 30 * time.Second
)

// produce is one request on its way. It goes back to the pool when it has been answered.
type produce struct {
	b       *Broker
	r       *netproto.Request
	peer    int32 // the node that forwarded the request, or clientPeer
	req     netproto.ProduceRequest
	resp    netproto.ProduceResponse
	appends []replica.Append // one per accepted batch; never grown while one is under way
	pending atomic.Int32     // appends and forwards not done, and 1 for the loop that starts them
	away    []*forward       // what other nodes lead
	results []netproto.ProducePartitionResult
	wait    produceWait // its place in Broker.produces
	end     produceEnd  // what was done last
}

var produces = sync.Pool{New: func() any { return &produce{} }}

// produce serves a request on the connection's reader.
func (c *call) produce() {
	p := produces.Get().(*produce)
	p.b, p.r, p.peer = c.b, c.r, c.peer
	if err := p.req.Parse(c.r.Version, c.r.Body); err != nil {
		c.r.Close(err)
		p.recycle()
		return
	}
	p.layOut()
	bytes := 0
	for i := range p.req.Topics {
		bytes += p.accept(i)
	}
	p.pending.Store(int32(len(p.away)) + 1)
	for _, f := range p.away {
		f.start()
	}
	if len(p.appends) > 0 {
		wait := min(time.Duration(max(p.req.TimeoutMs, 0))*time.Millisecond, reserveWaitMax)
		waited, err := p.b.parts.ReserveTimed(bytes, wait)
		if p.reserved(waited); err != nil {
			for i := range p.appends {
				p.result(&p.appends[i]).fail(err)
			}
			p.dropAppends()
		}
	}
	p.pending.Add(int32(len(p.appends)))
	for i := range p.appends {
		a := &p.appends[i]
		a.Ctx.(*target).partition.Append(a)
	}
	if len(p.appends) > 0 && p.pending.Load() > 1 {
		p.b.produces.add(p)
	}
	p.finished(produceEnd{})
}

// target is where an append goes and where its result goes.
type target struct {
	p         *produce
	partition *replica.Partition
	result    partitionResult
}

// partitionResult is a row of the response.
type partitionResult struct {
	*netproto.ProducePartitionResult
}

func (r partitionResult) fail(err error) {
	r.ErrorCode, r.BaseOffset, r.LogAppendTimeMs, r.LogStartOffset = codeOf(err), -1, -1, -1
	r.ErrorMessage = err.Error()
	if faults, ok := errors.AsType[*record.RecordsError](err); ok {
		for _, f := range faults.Records {
			r.RecordErrors = append(r.RecordErrors, netproto.RecordError{BatchIndex: f.Index, Message: f.Message})
		}
	}
}

func (p *produce) result(a *replica.Append) partitionResult { return a.Ctx.(*target).result }

// layOut makes the response's skeleton and room for the appends.
func (p *produce) layOut() {
	n := 0
	for i := range p.req.Topics {
		n += len(p.req.Topics[i].Partitions)
	}
	if cap(p.results) < n {
		p.results = make([]netproto.ProducePartitionResult, n)
	}
	if cap(p.appends) < n {
		p.appends = make([]replica.Append, 0, n)
	}
	results := p.results[:n]
	for i := range p.req.Topics {
		t := &p.req.Topics[i]
		rows := results[:len(t.Partitions):len(t.Partitions)]
		results = results[len(t.Partitions):]
		for j := range rows {
			rows[j] = netproto.ProducePartitionResult{Index: t.Partitions[j].Index, BaseOffset: -1, LogAppendTimeMs: -1, LogStartOffset: -1}
		}
		p.resp.Topics = append(p.resp.Topics, netproto.ProduceTopicResult{Name: t.Name, ID: t.ID, Partitions: rows})
	}
}

// accept checks a topic's batches and prepares the appends of those that are fine. It returns their size.
func (p *produce) accept(topic int) (bytes int) {
	t := &p.req.Topics[topic]
	for j := range t.Partitions {
		result := partitionResult{&p.resp.Topics[topic].Partitions[j]}
		part, err := p.find(t, t.Partitions[j].Index)
		if errors.Is(err, replica.ErrNotLeader) && p.sendAway(topic, j) {
			continue
		}
		if err != nil {
			result.fail(err)
			continue
		}
		batch, err := p.check(t.Partitions[j].Records)
		if err == nil {
			err = part.Validate(batch)
		}
		if err != nil {
			result.fail(err)
			continue
		}
		p.appends = p.appends[:len(p.appends)+1]
		a := &p.appends[len(p.appends)-1]
		to, ok := a.Ctx.(*target)
		if !ok {
			to = &target{}
		}
		*to = target{p: p, partition: part, result: result}
		*a = replica.Append{Batch: batch, AcksAll: p.req.Acks == acksAll, Src: p.r.Buf, Done: appendDone, Ctx: to}
		bytes += len(batch)
	}
	return bytes
}

// find looks up a partition that this node leads, by id where the request has ids. replica.ErrNotLeader: another one does, or none.
func (p *produce) find(t *netproto.ProduceTopic, index int32) (part *replica.Partition, err error) {
	switch {
	case p.req.Acks != acksNone && p.req.Acks != acksOne && p.req.Acks != acksAll:
		return nil, fmt.Errorf("acks is %d, must be 0, 1 or -1: %w", p.req.Acks, kerr.InvalidRequiredAcks)
	case p.req.TransactionalID != nil:
		return nil, fmt.Errorf("transactions are not supported: %w", kerr.InvalidTxnState)
	}
	if p.byID() {
		part = p.b.parts.Partition(t.ID, index)
	} else {
		part = p.b.parts.ByNameBytes(t.Name, index)
	}
	switch {
	case part == nil:
		return nil, p.missing(t, index)
	case part.Internal():
		return nil, fmt.Errorf("cannot append to internal topic %s: %w", part.Topic(), kerr.InvalidTopicException)
	case !part.IsLeader():
		leader, epoch := part.Leader()
		return nil, fmt.Errorf("%w: %s-%d is led by broker %d in epoch %d", replica.ErrNotLeader, part.Topic(), index, leader, epoch)
	}
	return part, nil
}

// missing is why a partition is not here.
func (p *produce) missing(t *netproto.ProduceTopic, index int32) error {
	topic, unknown := p.topic(p.b.meta.Image(), t), kerr.UnknownTopicOrPartition
	if topic == nil && p.byID() {
		unknown = kerr.UnknownTopicID
	}
	switch {
	case topic == nil || index < 0 || int(index) >= len(topic.Partitions):
		return fmt.Errorf("no such topic or partition: %w", unknown)
	case topic.Internal:
		return fmt.Errorf("cannot append to internal topic %s: %w", topic.Name, kerr.InvalidTopicException)
	}
	return fmt.Errorf("%w: %s-%d is led by broker %d", replica.ErrNotLeader, topic.Name, index, topic.Partitions[index].Leader)
}

// byID reports whether the request names topics by id.
func (p *produce) byID() bool { return p.req.Version >= 13 }

func (p *produce) topic(img *raftmeta.Image, t *netproto.ProduceTopic) *raftmeta.Topic {
	if p.byID() {
		return img.TopicByID(t.ID)
	}
	return img.Topic(string(t.Name))
}

// check takes the one batch out of a partition's records and holds its header against the format's rules.
func (p *produce) check(records []byte) (record.Batch, error) {
	if len(records) == 0 {
		return nil, fmt.Errorf("%w: no record batch", record.ErrInvalid)
	}
	b, rest, err := record.Next(records)
	if err != nil {
		return nil, err
	}
	if err := b.Check(); err != nil {
		return nil, err
	}
	switch count, delta := b.Count(), b.LastOffsetDelta(); {
	case b.BaseOffset() != 0:
		return nil, fmt.Errorf("%w: base offset %d, a producer's is 0", record.ErrInvalid, b.BaseOffset())
	case len(rest) > 0:
		return nil, fmt.Errorf("%w: %d bytes behind the one record batch that a partition may have", record.ErrInvalid, len(rest))
	case count < 1 || count != delta+1:
		return nil, fmt.Errorf("%w: %d records with last offset delta %d", record.ErrInvalid, count, delta)
	case b.IsControl():
		return nil, fmt.Errorf("%w: clients cannot write control records", record.ErrInvalid)
	case b.IsTransactional():
		return nil, fmt.Errorf("transactions are not supported: %w", kerr.InvalidTxnState)
	case b.ProducerID() != record.NoProducerID && (b.ProducerID() < 0 || b.ProducerEpoch() < 0 || b.BaseSequence() < 0):
		return nil, fmt.Errorf("%w: producer %d, epoch %d, sequence %d", record.ErrInvalid, b.ProducerID(), b.ProducerEpoch(), b.BaseSequence())
	case b.Codec() == record.Zstd && p.req.Version < zstdVersionMin:
		return nil, fmt.Errorf("zstd needs produce version %d, got %d: %w", zstdVersionMin, p.req.Version, kerr.UnsupportedCompressionType)
	}
	return b, nil
}

// appendDone notes an append's result; usually on the WAL's thread.
func appendDone(a *replica.Append) {
	to := a.Ctx.(*target)
	if a.Err != nil {
		to.result.fail(a.Err)
	} else {
		to.result.BaseOffset, to.result.LogAppendTimeMs, to.result.LogStartOffset = a.BaseOffset, a.LogAppendTime, a.LogStart
	}
	to.p.finished(produceEnd{append: a})
}

// finished is called once for each append and each forward, and once for the loop; the last call answers.
func (p *produce) finished(end produceEnd) {
	if p.pending.Add(-1) > 0 {
		return
	}
	if p.end = end; p.b.produces.remove(p) {
		p.answer()
	}
}

// answer is called once everything has ended.
func (p *produce) answer() {
	p.account()
	m := p.b.metrics
	for i := range p.appends {
		if a := &p.appends[i]; a.Err == nil {
			m.batchesIn.Inc()
			m.recordsIn.Add(float64(a.Batch.Count()))
			m.bytesIn.Add(float64(len(a.Batch)))
		}
	}
	if p.req.Version >= currentLeaderVersion {
		p.addLeaders()
	}
	switch err := p.firstError(); {
	case p.req.Acks != acksNone:
		p.r.RespondProduce(&p.resp)
	case err != nil:
		// The client does not wait for answers: only a closed connection makes it look again.
		p.r.Close(fmt.Errorf("produce with acks=0: %w", err))
	default:
		p.r.RespondNone()
	}
	p.recycle()
}

func (p *produce) firstError() error {
	for i := range p.resp.Topics {
		for j := range p.resp.Topics[i].Partitions {
			if r := &p.resp.Topics[i].Partitions[j]; r.ErrorCode != 0 {
				return errors.New(r.ErrorMessage)
			}
		}
	}
	return nil
}

// recycle drops every view of the request and gives p back.
func (p *produce) recycle() {
	p.dropAppends()
	clear(p.results[:cap(p.results)])
	clear(p.resp.Topics)
	p.req.Reset()
	clear(p.away)
	p.resp.Topics, p.resp.Nodes, p.away = p.resp.Topics[:0], nil, p.away[:0]
	p.b, p.r, p.wait, p.end = nil, nil, produceWait{}, produceEnd{}
	produces.Put(p)
}

// dropAppends empties the appends; their targets stay, to be used again.
func (p *produce) dropAppends() {
	for i := range p.appends {
		to := p.appends[i].Ctx.(*target)
		*to = target{}
		p.appends[i] = replica.Append{Ctx: to}
	}
	p.appends = p.appends[:0]
}
