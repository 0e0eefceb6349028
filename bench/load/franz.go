package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const finishWait = 30 * time.Second

// Batched produces with franz-go as fast as the broker acknowledges: acks=all, idempotent, no compression, linger 1 ms,
// batches of up to 1 MiB. The latency is from handing a record to the client to its acknowledgement, so at full load it is mostly
// the wait in the client's bounded buffer.
type Batched struct {
	RecordBytes   int
	Clients       int
	BufferedBytes int // per client; more makes larger batches and longer waits
	// Either > 0: a fixed rate over all clients instead of the maximum, in messages per second or as a share of Target.MaxRate.
	Rate, RateShare float64
}

func producerOpts(t Target, more ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{
		kgo.SeedBrokers(t.Addrs...), kgo.DefaultProduceTopic(t.Topic), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
	}, more...)
}

// Run implements Load.
func (b Batched) Run(ctx context.Context, t Target, m *Meter) (err error) {
	vals := newValues(b.RecordBytes)
	g := newGroup(ctx)
	for n := range b.Clients {
		buffered := max(b.BufferedBytes/b.RecordBytes, 1)
		cl, err := kgo.NewClient(producerOpts(t, kgo.MaxBufferedRecords(buffered), kgo.ProducerLinger(time.Millisecond))...)
		if err != nil {
			return fmt.Errorf("client: %w", err)
		}
		defer func() { err = errors.Join(err, finish(cl)) }()
		shard := m.Shard()
		g.run(func(ctx context.Context) error {
			if b.Rate > 0 || b.RateShare > 0 {
				return b.paced(ctx, cl, shard, vals, (b.Rate+b.RateShare*t.MaxRate)/float64(b.Clients), g.cancel)
			}
			return b.saturate(ctx, cl, shard, vals, n, g.cancel)
		})
	}
	return g.wait()
}

// finish closes a client and waits until all its records were told how they ended, which goes on after Close: what they count is the load's.
func finish(cl *kgo.Client) error {
	cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), finishWait)
	defer cancel()
	if err := cl.Flush(ctx); err != nil {
		return fmt.Errorf("a closed client has records that did not end in %v: %w", finishWait, err)
	}
	return nil
}

func (b Batched) saturate(ctx context.Context, cl *kgo.Client, shard *Shard, vals values, first int, fail func(error)) error {
	for n := first; ctx.Err() == nil; n++ {
		sent := time.Now()
		cl.Produce(ctx, &kgo.Record{Value: vals.at(n)}, acked(ctx, shard, sent, int64(b.RecordBytes), fail))
	}
	return nil
}

// paced sends at fixed times, whatever the broker does: a stall delays no later record's clock, so it shows in the
// latencies of all records that were due meanwhile (no coordinated omission). The time a record was due leads its value.
func (b Batched) paced(ctx context.Context, cl *kgo.Client, shard *Shard, vals values, rate float64, fail func(error)) error {
	if rate <= 0 {
		return fmt.Errorf("a paced load needs a rate, got %v messages/s", rate)
	}
	start, sent := time.Now(), int64(0)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for due := int64(time.Since(start).Seconds() * rate); sent < due && ctx.Err() == nil; sent++ {
			at := start.Add(time.Duration(float64(sent) / rate * float64(time.Second)))
			value := append(make([]byte, 0, b.RecordBytes), vals.at(int(sent))...)
			binary.BigEndian.PutUint64(value, uint64(at.UnixNano()))
			cl.Produce(ctx, &kgo.Record{Value: value}, acked(ctx, shard, at, int64(b.RecordBytes), fail))
		}
	}
}

func acked(ctx context.Context, shard *Shard, sent time.Time, size int64, fail func(error)) func(*kgo.Record, error) {
	return func(r *kgo.Record, err error) {
		switch {
		case err == nil:
			shard.Acked(time.Since(sent), r.Partition, r.Offset, 1, size)
		case ctx.Err() == nil:
			fail(fmt.Errorf("produce: %w", err))
		}
	}
}

// Sync produces one record per request with franz-go: each client has one record under way and its own connection.
type Sync struct {
	RecordBytes int
	Clients     int
}

// Run implements Load.
func (s Sync) Run(ctx context.Context, t Target, m *Meter) error {
	vals := newValues(s.RecordBytes)
	g := newGroup(ctx)
	for n := range s.Clients {
		cl, err := kgo.NewClient(producerOpts(t, kgo.MaxBufferedRecords(1), kgo.ProducerLinger(0),
			kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
		if err != nil {
			return fmt.Errorf("client: %w", err)
		}
		defer cl.Close()
		shard := m.Shard()
		g.run(func(ctx context.Context) error {
			for i := n; ctx.Err() == nil; i++ {
				sent := time.Now()
				record := &kgo.Record{Value: vals.at(i), Partition: int32(n) % t.Partitions}
				if err := cl.ProduceSync(ctx, record).FirstErr(); err != nil {
					if ctx.Err() != nil {
						return nil
					}
					return fmt.Errorf("produce: %w", err)
				}
				shard.Acked(time.Since(sent), record.Partition, record.Offset, 1, int64(s.RecordBytes))
			}
			return nil
		})
	}
	return g.wait()
}

// EndToEnd measures from the time a record was due to be sent until a consumer has it. Consumers read the tail, each all of it;
// the messages counted are those received.
type EndToEnd struct {
	Produce   Batched // paced
	Consumers int
}

// Run implements Load.
func (e EndToEnd) Run(ctx context.Context, t Target, m *Meter) error {
	g := newGroup(ctx)
	ready := make(chan struct{}, e.Consumers)
	for range e.Consumers {
		from := map[int32]kgo.Offset{}
		for p := range t.Partitions {
			from[p] = kgo.NewOffset().AtEnd()
		}
		cl, err := kgo.NewClient(kgo.SeedBrokers(t.Addrs...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{t.Topic: from}),
			kgo.FetchMaxWait(500*time.Millisecond), kgo.FetchMinBytes(1))
		if err != nil {
			return fmt.Errorf("client: %w", err)
		}
		defer cl.Close()
		shard := m.Shard()
		g.run(func(ctx context.Context) error {
			ready <- struct{}{}
			return receive(ctx, cl, shard)
		})
	}
	for range e.Consumers {
		<-ready
	}
	// What the producers complete is counted apart: this load's numbers are the consumers'.
	g.run(func(ctx context.Context) error { return e.Produce.Run(ctx, t, m.Producers()) })
	return g.wait()
}

func receive(ctx context.Context, cl *kgo.Client, shard *Shard) error {
	for ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("consume: %w", err)
		}
		now := time.Now()
		for iter := fetches.RecordIter(); !iter.Done(); {
			value := iter.Next().Value
			due := time.Unix(0, int64(binary.BigEndian.Uint64(value)))
			shard.Record(now.Sub(due), 1, int64(len(value)))
		}
	}
	return nil
}
