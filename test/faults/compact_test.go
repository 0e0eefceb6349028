package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/weirproc"
)

const (
	compactKeys   = 500
	compactRound  = 6000 // records
	compactCycles = 5
)

// TestCompactedTopicSurvivesKills writes a table to a compacted topic, with every codec and with tombstones, while the broker compacts it and is
// killed at random. Whoever reads the topic from its beginning gets the table, exactly; and it takes far fewer records than were written.
func TestCompactedTopicSurvivesKills(t *testing.T) {
	seed := uint64(envInt(t, "WEIR_SEED", int(time.Now().UnixNano()&0x7fffffff)))
	t.Logf("WEIR_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 7))
	broker := weirproc.Start(t, weirproc.Options{Config: map[string]string{
		"wal.file.bytes": "4194304", "wal.max.bytes": "33554432", "log.writeback.ms": "50", "log.cleaner.backoff.ms": "50",
	}})
	admin := newAdmin(t, broker.Addr)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	str := func(s string) *string { return &s }
	if _, err := admin.CreateTopic(ctx, 1, 1, map[string]*string{
		"cleanup.policy": str("compact"), "internal.segment.bytes": str("65536"), "min.cleanable.dirty.ratio": str("0.2"),
		"delete.retention.ms": str("100"),
	}, "table"); err != nil {
		t.Fatal(err)
	}
	run := &compactRun{t: t, ctx: ctx, broker: broker, admin: admin, rng: rng, want: map[string]string{}}
	for cycle := range compactCycles {
		run.write(cycle)
		run.check(fmt.Sprintf("after kill %d", cycle+1))
	}
	for { // the last segments that are due
		m := broker.Metrics()
		if m["weir_replica_cleaner_uncleanable_partitions"] != 0 || m["weir_replica_cleaner_errors_total"] != 0 {
			t.Fatalf("the cleaner gave up: %v errors\n%s", m["weir_replica_cleaner_errors_total"], broker.Logs().Tail(20))
		}
		if m["weir_replica_cleaner_runs_total"] > 0 && run.check("at the end") < compactRound {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("the topic was not compacted: %v runs, %v records dropped", m["weir_replica_cleaner_runs_total"], m["weir_replica_cleaner_records_dropped_total"])
		}
	}
	t.Logf("%d records written, %d left", run.sent, run.check("at last"))
}

type compactRun struct {
	t      *testing.T
	ctx    context.Context
	broker *weirproc.Broker
	admin  *kadm.Client
	rng    *rand.Rand
	want   map[string]string
	sent   int
}

// write sends a round of records with an idempotent producer, kills the broker in the middle, and waits until all are acknowledged.
func (r *compactRun) write(cycle int) {
	r.t.Helper()
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	client, err := kgo.NewClient(kgo.SeedBrokers(r.broker.Addr), kgo.DefaultProduceTopic("table"), kgo.ProducerBatchCompression(codecs[cycle%len(codecs)]),
		kgo.ProducerLinger(2*time.Millisecond), kgo.MaxBufferedRecords(2*compactRound), kgo.ProducerBatchMaxBytes(16<<10))
	if err != nil {
		r.t.Fatal(err)
	}
	defer client.Close()
	var mu sync.Mutex
	var failed error
	acked := make(chan struct{}, compactRound)
	for range compactRound {
		key := fmt.Sprintf("key-%d", r.rng.IntN(compactKeys))
		rec := &kgo.Record{Key: []byte(key)}
		if r.rng.IntN(5) > 0 {
			value := fmt.Sprintf("%d-%x", r.sent, r.rng.Uint64())
			rec.Value, r.want[key] = []byte(value), value
		} else {
			delete(r.want, key)
		}
		r.sent++
		client.Produce(r.ctx, rec, func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil && failed == nil {
				failed = err
			}
			acked <- struct{}{}
		})
	}
	for range r.rng.IntN(compactRound) {
		<-acked
	}
	r.broker.Kill()
	if err := r.broker.Launch(); err != nil {
		r.t.Fatal(err)
	}
	if err := client.Flush(r.ctx); err != nil {
		r.t.Fatalf("flush: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if failed != nil {
		r.t.Fatalf("produce: %v", failed)
	}
}

// check reads the topic from its beginning and compares the table. It returns how many records it took.
func (r *compactRun) check(when string) (records int) {
	r.t.Helper()
	ends, err := r.admin.ListEndOffsets(r.ctx, "table")
	if err != nil {
		r.t.Fatal(err)
	}
	end, ok := ends.Lookup("table", 0)
	if !ok || end.Err != nil || end.Offset != int64(r.sent) {
		r.t.Fatalf("%s: the topic ends at %d, %v; %d records were acknowledged", when, end.Offset, end.Err, r.sent)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(r.broker.Addr), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"table": {0: kgo.NewOffset().AtStart()}}))
	if err != nil {
		r.t.Fatal(err)
	}
	defer client.Close()
	got := map[string]string{}
	last := int64(-1)
	// The newest record is never compacted away, since its segment takes the appends: reading ends with it.
	for last < end.Offset-1 {
		fetches := client.PollFetches(r.ctx)
		if err := fetches.Err(); err != nil {
			r.t.Fatalf("%s: poll at offset %d of %d: %v", when, last, end.Offset, err)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if rec.Offset <= last {
				r.t.Fatalf("%s: offset %d after %d", when, rec.Offset, last)
			}
			last = rec.Offset
			records++
			if rec.Value == nil {
				delete(got, string(rec.Key))
			} else {
				got[string(rec.Key)] = string(rec.Value)
			}
		})
	}
	for key, want := range r.want {
		if got[key] != want {
			r.t.Fatalf("%s: %s is %q, want %q", when, key, got[key], want)
		}
	}
	for key := range got {
		if _, ok := r.want[key]; !ok {
			r.t.Fatalf("%s: %s was deleted, and is back with %q", when, key, got[key])
		}
	}
	return records
}
