package verify

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/records"
)

// Profile is a kind of producer.
type Profile struct {
	Name       string
	Idempotent bool
	InFlight   int // produce requests at a time, where not idempotent
	ValueMax   int // bytes; values are 0 to this
	Buffered   int // records at a time
	Codec      kgo.CompressionCodec
}

// Profiles are producers that differ in what they ask of a broker.
var Profiles = []Profile{
	{Name: "small idempotent", Idempotent: true, ValueMax: 300, Buffered: 2000, Codec: kgo.SnappyCompression()},
	{Name: "large idempotent", Idempotent: true, ValueMax: 200 << 10, Buffered: 24, Codec: kgo.NoCompression()},
	{Name: "small plain", InFlight: 1, ValueMax: 300, Buffered: 500, Codec: kgo.NoCompression()},
	{Name: "medium plain pipelined", InFlight: 4, ValueMax: 9000, Buffered: 200, Codec: kgo.Lz4Compression()},
}

// Producer sends one profile's records to every partition of a ledger's topic.
type Producer struct {
	Profile
	Ledger *Ledger
	first  int32 // its stream for partition 0; the others follow
	next   []int64
	pace   atomic.Int64 // records a second; 0: as many as are taken
	source *records.Source
	opts   []kgo.Opt

	client *kgo.Client
	cancel context.CancelFunc
	done   chan struct{}

	surprises struct { // errors that no kill explains
		sync.Mutex
		err   error // the first
		count int
	}
	Acks atomic.Int64
}

// NewProducer adds a producer's streams to the ledger. Each producer of a ledger has an index of its own.
func NewProducer(index int, p Profile, l *Ledger, partitions int32, opts []kgo.Opt) *Producer {
	pr := &Producer{Profile: p, Ledger: l, first: int32(index) * 1000, next: make([]int64, partitions), opts: opts}
	// A source's time rises with its records, faster than the clock where a broker is quick. The future is refused; a past of a day makes
	// a broker that reads its log again take the producer for one that has expired (producer.id.expiration.ms).
	begun := time.Now().Add(-12 * time.Hour).UnixMilli()
	source := func() *records.Source {
		return &records.Source{Seed: uint64(index) + 77, ValueMax: p.ValueMax, Timestamp: begun}
	}
	pr.source = source()
	for partition := range partitions {
		l.Streams[pr.first+partition] = Stream{Source: source(), Gapless: p.Idempotent}
	}
	return pr
}

// Start begins to produce until Stop or Close. An idempotent producer keeps its client from one start to the next.
func (p *Producer) Start() error {
	if p.client == nil {
		opts := append([]kgo.Opt{
			kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(p.Codec), kgo.MaxBufferedRecords(p.Buffered),
			kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0),
		}, p.opts...)
		if p.Idempotent {
			opts = append(opts, kgo.StopProducerOnDataLossDetected())
		} else {
			// One try per record: a record that was not acknowledged is never sent again, so none can be there twice.
			opts = append(opts, kgo.DisableIdempotentWrite(), kgo.RecordRetries(0), kgo.MaxProduceRequestsInflightPerBroker(p.InFlight))
		}
		cl, err := kgo.NewClient(opts...)
		if err != nil {
			return fmt.Errorf("producer %s: %w", p.Name, err)
		}
		p.client = cl
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.done = cancel, make(chan struct{})
	go p.run(ctx)
	return nil
}

// Pace has it send at most so many records a second, 0 as many as are taken.
func (p *Producer) Pace(perSecond int) { p.pace.Store(int64(perSecond)) }

// rest waits where the pace asks for it: some records at a time, so that there is something to batch.
func (p *Producer) rest(ctx context.Context, i int) {
	const atATime = 10
	pace := p.pace.Load()
	if pace == 0 || i%atATime != 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(atATime * time.Second / time.Duration(pace)):
	}
}

func (p *Producer) run(ctx context.Context) {
	defer close(p.done)
	for i := 0; ctx.Err() == nil; i++ {
		p.rest(ctx, i)
		partition := int32(i % len(p.next))
		which := ID{Stream: p.first + partition, Seq: p.next[partition]}
		p.next[partition]++
		r := ToRecord(p.Ledger.Topic, partition, p.source.At(which.Stream, which.Seq))
		// The record gets its own context: stopping must not cancel what is under way.
		p.client.Produce(context.Background(), r, func(r *kgo.Record, err error) {
			if err == nil {
				p.Acks.Add(1)
				p.Ledger.Ack(r.Partition, r.Offset, which)
				return
			}
			if p.Idempotent {
				p.surprise(fmt.Errorf("producer %s: record %+v to partition %d failed: %w", p.Name, which, r.Partition, err))
			}
		})
	}
}

func (p *Producer) surprise(err error) {
	p.surprises.Lock()
	defer p.surprises.Unlock()
	if p.surprises.count++; p.surprises.err == nil {
		p.surprises.err = err
	}
}

// Stop ends producing. A plain producer gives up what is under way; an idempotent one waits until all is acknowledged, for
// which the broker must be there.
func (p *Producer) Stop(ctx context.Context) error {
	p.cancel()
	<-p.done
	if !p.Idempotent {
		if p.client != nil { // not stopped already
			p.client.Close()
			p.client = nil
		}
		return nil
	}
	if err := p.client.Flush(ctx); err != nil {
		return fmt.Errorf("producer %s: records are still not acknowledged: %w", p.Name, err)
	}
	p.surprises.Lock()
	defer p.surprises.Unlock()
	if p.surprises.err == nil {
		return nil
	}
	return fmt.Errorf("%d records failed; the first: %w", p.surprises.count, p.surprises.err)
}

// Close ends producing and gives up what is under way.
func (p *Producer) Close() {
	if p.client != nil {
		p.cancel()
		p.client.Close()
		<-p.done
		p.client = nil
	}
}
