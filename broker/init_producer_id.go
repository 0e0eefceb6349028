package broker

import (
	"context"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
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
		resp.ErrorCode = metaCode(err)
		c.b.log.Warn("no producer id", "error", err, "peer", c.r.Conn.RemoteAddr())
		c.reply(resp)
		return
	}
	resp.ProducerID, resp.ProducerEpoch = id, 0
	c.reply(resp)
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
	results, err := b.propose(0, raftmeta.AllocateProducerIDs{Broker: b.cfg.NodeID})
	if err == nil {
		err = results[0].Err
	}
	p.mu.Lock()
	if p.mu.err = err; err == nil {
		p.mu.next = results[0].FirstProducerID
		p.mu.end = p.mu.next + results[0].ProducerIDs
	}
	p.mu.asking = nil
	p.mu.Unlock()
	close(asking)
	return err
}

func (p *producerIDs) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.err
}
