package clients

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/records"
)

// franz is franz-go, in this process.
type franz struct{}

func (franz) name() string         { return "franz-go" }
func (franz) setsTimestamps() bool { return true }

var franzCodecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

func (franz) produce(ctx context.Context, addr, topic, codec string, source *records.Source, perPartition int64) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(franzCodecs[codec]), kgo.MaxBufferedRecords(50_000), kgo.ProducerLinger(5*time.Millisecond))
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	defer cl.Close()
	var failed struct {
		sync.Mutex
		err error
	}
	done := func(_ *kgo.Record, err error) {
		if err != nil {
			failed.Lock()
			failed.err = err
			failed.Unlock()
		}
	}
	for i := range perPartition {
		for p := range int32(partitions) {
			cl.Produce(ctx, toFranz(source.At(p, i)), done)
		}
	}
	if err := cl.Flush(ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	failed.Lock()
	defer failed.Unlock()
	return failed.err
}

// toFranz copies a record out of its source's buffers.
func toFranz(r *records.Record) *kgo.Record {
	size := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += len(h.Value)
	}
	buf := make([]byte, 0, size)
	cut := func(b []byte) []byte {
		if b == nil {
			return nil
		}
		from := len(buf)
		buf = append(buf, b...)
		return buf[from:len(buf):len(buf)]
	}
	out := &kgo.Record{Partition: r.Partition, Timestamp: time.UnixMilli(r.Timestamp), Key: cut(r.Key), Value: cut(r.Value)}
	for _, h := range r.Headers {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.Key, Value: cut(h.Value)})
	}
	return out
}

func (franz) consume(ctx context.Context, addr, topic, group string, count int64, sink func(*records.Record) error) error {
	opts := []kgo.Opt{kgo.SeedBrokers(addr), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
	if group == "" {
		from := map[int32]kgo.Offset{}
		for p := range int32(partitions) {
			from[p] = kgo.NewOffset().AtStart()
		}
		opts = append(opts, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))
	} else {
		opts = append(opts, kgo.ConsumeTopics(topic), kgo.ConsumerGroup(group), kgo.DisableAutoCommit())
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	defer cl.Close()
	var record records.Record
	for got := int64(0); got < count; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("poll after %d of %d records: %w", got, count, err)
		}
		for iter := fetches.RecordIter(); !iter.Done(); got++ {
			fromFranz(iter.Next(), &record)
			if err := sink(&record); err != nil {
				return err
			}
		}
	}
	if group != "" {
		if err := cl.CommitUncommittedOffsets(ctx); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
	}
	return nil
}

func fromFranz(r *kgo.Record, out *records.Record) {
	out.Partition, out.Offset, out.Timestamp = r.Partition, r.Offset, r.Timestamp.UnixMilli()
	out.Key, out.Value, out.Headers = r.Key, r.Value, out.Headers[:0]
	for _, h := range r.Headers {
		out.Headers = append(out.Headers, records.Header{Key: h.Key, Value: h.Value})
	}
}
