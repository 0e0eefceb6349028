package verify

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/test/internal/wire"
)

const readLimit = time.Minute // bounds a hang; it asserts nothing

// Quick are options for clients that meet brokers which go away and come back within a second.
func Quick(addrs []string, more ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{
		kgo.SeedBrokers(addrs...),
		kgo.MetadataMinAge(20 * time.Millisecond),
		kgo.DialTimeout(5 * time.Second),
		kgo.AlwaysRetryEOF(), // a broker that ends in the middle of its first answer does not mean that TLS or SASL is missing
		kgo.RetryBackoffFn(func(tries int) time.Duration {
			return min(time.Duration(tries)*20*time.Millisecond, 200*time.Millisecond)
		}),
	}, more...)
}

// ListEnds returns a topic's end offset per partition.
func ListEnds(admin *kadm.Client, topic string) (map[int32]int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), readLimit)
	defer cancel()
	listed, err := admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("end offsets of %s: %w", topic, err)
	}
	out := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { out[o.Partition] = o.Offset })
	return out, nil
}

// Describe asks one node, and no other, about a topic: for when others hang.
func Describe(addr, topic string) ([]kmsg.MetadataResponseTopicPartition, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &topic
	req.Topics = append(req.Topics, rt)
	resp, err := cl.SeedBrokers()[0].Request(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("metadata of %s from %s: %w", topic, addr, err)
	}
	topics := resp.(*kmsg.MetadataResponse).Topics
	if len(topics) != 1 || topics[0].ErrorCode != 0 {
		return nil, fmt.Errorf("metadata of %s from %s: %+v", topic, addr, topics)
	}
	return topics[0].Partitions, nil
}

// MetadataOn asks for a topic on a connection that is there, within a time of the caller's.
func MetadataOn(nc net.Conn, topic string, wait time.Duration) (*kmsg.MetadataResponse, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.SetVersion(9)
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &topic
	req.Topics = append(req.Topics, rt)
	resp, err := wire.On(nc).Try(req, wait)
	if err != nil {
		return nil, fmt.Errorf("metadata of %s: %w", topic, err)
	}
	return resp.(*kmsg.MetadataResponse), nil
}

// NotLedBy is nil if one node says that every partition of a topic has a leader other than id.
func NotLedBy(id int32, addr, topic string) error {
	partitions, err := Describe(addr, topic)
	for _, p := range partitions {
		if err == nil && (p.Leader == id || p.Leader < 0) {
			err = fmt.Errorf("partition %d: leader %d", p.Partition, p.Leader)
		}
	}
	return err
}

// Each reads a partition from one offset up to another and calls fn with every record in order.
func Each(tb testing.TB, opts []kgo.Opt, topic string, partition int32, from, to int64, fn func(*kgo.Record) error) {
	tb.Helper()
	if from >= to {
		return
	}
	cl, err := kgo.NewClient(append(append([]kgo.Opt{}, opts...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		topic: {partition: kgo.NewOffset().At(from)},
	}), kgo.FetchMaxWait(500*time.Millisecond))...)
	if err != nil {
		tb.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), readLimit)
	defer cancel()
	for next := from; next < to; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			tb.Fatalf("read %s-%d at offset %d of %d: %v", topic, partition, next, to, err)
		}
		for iter := fetches.RecordIter(); !iter.Done() && next < to; next++ {
			r := iter.Next()
			if r.Offset != next {
				tb.Fatalf("read %s-%d: offset %d where %d is next", topic, partition, r.Offset, next)
			}
			if err := fn(r); err != nil {
				tb.Fatalf("read %s-%d at offset %d: %v", topic, partition, r.Offset, err)
			}
		}
	}
}

// TopicsOf asks the one node that a client knows for its topics with a prefix.
func TopicsOf(ctx context.Context, cl *kgo.Client, prefix string) ([]string, error) {
	resp, err := cl.SeedBrokers()[0].Request(ctx, kmsg.NewPtrMetadataRequest()) // of all topics
	if err != nil {
		return nil, fmt.Errorf("topics: %w", err)
	}
	var names []string
	for _, t := range resp.(*kmsg.MetadataResponse).Topics {
		if t.Topic != nil && strings.HasPrefix(*t.Topic, prefix) {
			names = append(names, *t.Topic)
		}
	}
	return names, nil
}
