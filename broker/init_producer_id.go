package broker

import (
	"context"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// InitProducerId (key 22) v0-5. v3 brought the producer's current id and epoch (KIP-360), v4 PRODUCER_FENCED, v5 transactions V2
// (KIP-890). There are no transactions here yet: a transactional id is answered as by a cluster none of whose brokers
// coordinates transactions. Without one every request gets a new id, whatever it says it had, as in Kafka.

// transactionTimeoutMaxMs is the default of Kafka's transaction.max.timeout.ms.
const transactionTimeoutMaxMs = 15 * 60 * 1000

func (c *call) initProducerID(req kmsg.Request) {
	r := req.(*kmsg.InitProducerIDRequest)
	resp := kmsg.NewPtrInitProducerIDResponse()
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if err := checkInitProducerID(r); err != nil {
		resp.ErrorCode = codeOf(err)
		c.reply(resp)
		return
	}
	id, err := c.b.producerIDs.next(c.b)
	if err != nil {
		resp.ErrorCode = c.b.producerIDCode(err)
		c.b.faults.Warn("no producer id for a client, which asks again", "", "error", err, "peer", c.r.Conn.RemoteAddr())
		c.reply(resp)
		return
	}
	resp.ProducerID, resp.ProducerEpoch = id, 0
	c.reply(resp)
}

// producerIDCode is what a client hears that gets no id: as in Kafka COORDINATOR_LOAD_IN_PROGRESS, which it repeats, unless this node itself is in trouble.
func (b *Broker) producerIDCode(err error) int16 {
	if b.clustered() && b.down() == nil {
		return kerr.CoordinatorLoadInProgress.Code
	}
	return metaCode(err)
}

func checkInitProducerID(r *kmsg.InitProducerIDRequest) error {
	if (r.ProducerID == -1) != (r.ProducerEpoch == -1) {
		return fmt.Errorf("producer id %d with epoch %d: %w", r.ProducerID, r.ProducerEpoch, kerr.InvalidRequest)
	}
	switch {
	case r.TransactionalID == nil:
		return nil
	case *r.TransactionalID == "":
		return fmt.Errorf("empty transactional id: %w", kerr.InvalidRequest)
	case r.TransactionTimeoutMillis <= 0 || r.TransactionTimeoutMillis > transactionTimeoutMaxMs:
		return fmt.Errorf("transaction timeout %d ms: %w", r.TransactionTimeoutMillis, kerr.InvalidTransactionTimeout)
	}
	return kerr.CoordinatorNotAvailable
}

// producerIDs hands out producer ids from a block that the cluster gave to this broker. A block that was begun is lost with the
// process; there are enough. The zero value is ready.
type producerIDs struct {
	mu struct {
		sync.Mutex
		next, end int64         // what is left of the block
		asking    chan struct{} // not nil: a block is on its way; closed when that has come to something
		err       error         // what came of the last one, if it failed
	}
}

// next returns an id that nobody had before. Whoever finds the block used up asks for another one; the others wait for it, so that
// a thousand producers starting together need one change of the metadata.
func (p *producerIDs) next(b *Broker) (int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), b.requestTimeout())
	defer cancel()
	for {
		id, ok, asking, first := p.take()
		if ok {
			return id, nil
		}
		if first {
			if err := p.refill(b, asking); err != nil {
				return 0, err
			}
			continue
		}
		select {
		case <-asking:
			if err := p.failure(); err != nil {
				return 0, err
			}
		case <-ctx.Done():
			return 0, fmt.Errorf("waited %v for a block of producer ids: %w", b.requestTimeout(), ctx.Err())
		}
	}
}

// take takes an id, or says whom to wait for: first means that the caller is to ask.
func (p *producerIDs) take() (id int64, ok bool, asking chan struct{}, first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.next < p.mu.end {
		p.mu.next++
		return p.mu.next - 1, true, nil, false
	}
	if p.mu.asking == nil {
		p.mu.asking, first = make(chan struct{}), true
	}
	return 0, false, p.mu.asking, first
}

func (p *producerIDs) refill(b *Broker, asking chan struct{}) error {
	first, count, err := b.allocateProducerIDs()
	p.mu.Lock()
	if p.mu.err = err; err == nil {
		p.mu.next, p.mu.end = first, first+count
	}
	p.mu.asking = nil
	p.mu.Unlock()
	close(asking)
	return err
}

// allocateProducerIDs gets a block of ids from the controller. It tries again as long as a request may take: a block that was handed out to nobody is lost, and
// there are enough.
func (b *Broker) allocateProducerIDs() (first, count int64, err error) {
	if err := b.down(); err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(b.untilStalled(), b.requestTimeout())
	defer cancel()
	for {
		seen := b.controllers.count()
		first, count, err = b.askProducerIDs(ctx)
		if err == nil || !b.clustered() || !b.controllers.wait(ctx, b.clk, seen, forwardRetry) {
			return first, count, b.stalled(ctx, err)
		}
	}
}

func (b *Broker) askProducerIDs(ctx context.Context) (first, count int64, err error) {
	req := kmsg.NewPtrAllocateProducerIDsRequest()
	req.Version, req.BrokerID, req.BrokerEpoch = allocateIDsVersion, b.cfg.NodeID, -1
	if b.life != nil {
		req.BrokerEpoch = b.life.epoch.Load()
	}
	resp, err := b.askController(ctx, req)
	if err != nil {
		return 0, 0, fmt.Errorf("ask for a block of producer ids: %w", err)
	}
	r := resp.(*kmsg.AllocateProducerIDsResponse)
	if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
		return 0, 0, fmt.Errorf("ask for a block of producer ids: %w", err)
	}
	return r.ProducerIDStart, int64(r.ProducerIDLen), nil
}

func (p *producerIDs) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.err
}
