// Package faults does to a broker what machines and networks do: kills it, fills its disk, sends it nonsense, cuts its
// connections, restarts it and leaves it alone. After each, what was acknowledged must be there.
package faults

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/weirproc"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if !weirproc.Reference() {
		weirproc.RemoveBuilt()
	}
	os.Exit(code)
}

// quick are options for clients that meet brokers which go away and come back within a second.
func quick(addr string, more ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{
		kgo.SeedBrokers(addr),
		kgo.MetadataMinAge(20 * time.Millisecond),
		kgo.DialTimeout(5 * time.Second),
		kgo.AlwaysRetryEOF(), // a broker that ends in the middle of its first answer does not mean that TLS or SASL is missing
		kgo.RetryBackoffFn(func(tries int) time.Duration {
			return min(time.Duration(tries)*20*time.Millisecond, 200*time.Millisecond)
		}),
	}, more...)
}

func newClient(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(quick(addr, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func newAdmin(t *testing.T, addr string) *kadm.Client {
	t.Helper()
	return kadm.NewClient(newClient(t, addr))
}

// limit is a context that bounds a hang; no test expects it to end.
func limit(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func createTopics(t *testing.T, admin *kadm.Client, partitions int32, topics ...string) {
	t.Helper()
	resp, err := admin.CreateTopics(limit(t, time.Minute), partitions, 1, nil, topics...)
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		t.Fatalf("create topics %v: %v", topics, err)
	}
}

func deleteTopic(t *testing.T, admin *kadm.Client, topic string) {
	t.Helper()
	if _, err := admin.DeleteTopic(limit(t, time.Minute), topic); err != nil {
		t.Fatalf("delete topic %s: %v", topic, err)
	}
}

// endOffsets returns a topic's end offset per partition.
func endOffsets(t *testing.T, admin *kadm.Client, topic string) map[int32]int64 {
	t.Helper()
	listed, err := admin.ListEndOffsets(limit(t, time.Minute), topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		t.Fatalf("end offsets of %s: %v", topic, err)
	}
	out := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { out[o.Partition] = o.Offset })
	return out
}

// each reads a partition from one offset up to another and calls fn with every record in order.
func each(t *testing.T, addr, topic string, partition int32, from, to int64, fn func(*kgo.Record) error) {
	t.Helper()
	if from >= to {
		return
	}
	cl, err := kgo.NewClient(quick(addr, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		topic: {partition: kgo.NewOffset().At(from)},
	}), kgo.FetchMaxWait(500*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx := limit(t, time.Minute)
	for next := from; next < to; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("read %s-%d at offset %d of %d: %v", topic, partition, next, to, err)
		}
		for iter := fetches.RecordIter(); !iter.Done() && next < to; next++ {
			r := iter.Next()
			if r.Offset != next {
				t.Fatalf("read %s-%d: offset %d where %d is next", topic, partition, r.Offset, next)
			}
			if err := fn(r); err != nil {
				t.Fatalf("read %s-%d at offset %d: %v", topic, partition, r.Offset, err)
			}
		}
	}
}

// envInt reads a number from the environment.
func envInt(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s=%q is no number", name, text)
	}
	return n
}

// skipOnReference skips what only Weir promises.
func skipOnReference(t *testing.T) {
	t.Helper()
	if weirproc.Reference() {
		t.Skip("not asked of the reference")
	}
}

// eventually waits for a condition that the broker brings about in the background.
func eventually(t *testing.T, within time.Duration, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !met(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}
