package faults

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/records"
)

// profile is a kind of producer.
type profile struct {
	name       string
	idempotent bool
	inFlight   int // produce requests at a time, where not idempotent
	valueMax   int // bytes; values are 0 to this
	buffered   int // records at a time
	codec      kgo.CompressionCodec
}

var profiles = []profile{
	{name: "small idempotent", idempotent: true, valueMax: 300, buffered: 2000, codec: kgo.SnappyCompression()},
	{name: "large idempotent", idempotent: true, valueMax: 200 << 10, buffered: 24, codec: kgo.NoCompression()},
	{name: "small plain", inFlight: 1, valueMax: 300, buffered: 500, codec: kgo.NoCompression()},
	{name: "medium plain pipelined", inFlight: 4, valueMax: 9000, buffered: 200, codec: kgo.Lz4Compression()},
}

// producer sends one profile's records to every partition of a ledger's topic.
type producer struct {
	profile
	ledger *ledger
	first  int32 // its stream for partition 0; the others follow
	next   []int64
	source *records.Source
	opts   []kgo.Opt

	client *kgo.Client
	cancel context.CancelFunc
	done   chan struct{}

	surprises struct { // errors that no kill explains
		sync.Mutex
		err error
	}
	acks atomic.Int64
}

func newProducer(index int, p profile, l *ledger, partitions int32, opts []kgo.Opt) *producer {
	pr := &producer{profile: p, ledger: l, first: int32(index) * 1000, next: make([]int64, partitions), opts: opts}
	begun := time.Now().UnixMilli()
	source := func() *records.Source {
		return &records.Source{Seed: uint64(index) + 77, ValueMax: p.valueMax, Timestamp: begun}
	}
	pr.source = source()
	for partition := range partitions {
		l.streams[pr.first+partition] = stream{source: source(), gapless: p.idempotent}
	}
	return pr
}

// start begins to produce until stop or abandon. An idempotent producer keeps its client from one start to the next.
func (p *producer) start() error {
	if p.client == nil {
		opts := append([]kgo.Opt{
			kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(p.codec), kgo.MaxBufferedRecords(p.buffered),
			kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0),
		}, p.opts...)
		if p.idempotent {
			opts = append(opts, kgo.StopProducerOnDataLossDetected())
		} else {
			// One try per record: a record that was not acknowledged is never sent again, so none can be there twice.
			opts = append(opts, kgo.DisableIdempotentWrite(), kgo.RecordRetries(0), kgo.MaxProduceRequestsInflightPerBroker(p.inFlight))
		}
		cl, err := kgo.NewClient(opts...)
		if err != nil {
			return fmt.Errorf("producer %s: %w", p.name, err)
		}
		p.client = cl
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.done = cancel, make(chan struct{})
	go p.run(ctx)
	return nil
}

func (p *producer) run(ctx context.Context) {
	defer close(p.done)
	for i := 0; ctx.Err() == nil; i++ {
		partition := int32(i % len(p.next))
		which := id{p.first + partition, p.next[partition]}
		p.next[partition]++
		r := toRecord(p.ledger.topic, partition, p.source.At(which.stream, which.seq))
		// The record gets its own context: stopping must not cancel what is under way.
		p.client.Produce(context.Background(), r, func(r *kgo.Record, err error) {
			if err == nil {
				p.acks.Add(1)
				p.ledger.ack(r.Partition, r.Offset, which)
				return
			}
			if p.idempotent {
				p.surprise(fmt.Errorf("producer %s: record %+v to partition %d failed: %w", p.name, which, r.Partition, err))
			}
		})
	}
}

func (p *producer) surprise(err error) {
	p.surprises.Lock()
	defer p.surprises.Unlock()
	p.surprises.err = errors.Join(p.surprises.err, err)
}

// stop ends producing. A plain producer gives up what is under way; an idempotent one waits until all is acknowledged, for
// which the broker must be there.
func (p *producer) stop(ctx context.Context) error {
	p.cancel()
	<-p.done
	if !p.idempotent {
		p.client.Close()
		p.client = nil
		return nil
	}
	if err := p.client.Flush(ctx); err != nil {
		return fmt.Errorf("producer %s: records are still not acknowledged: %w", p.name, err)
	}
	p.surprises.Lock()
	defer p.surprises.Unlock()
	return p.surprises.err
}

func (p *producer) close() {
	if p.client != nil {
		p.cancel()
		p.client.Close()
		<-p.done
		p.client = nil
	}
}
