package cluster

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/faultdisk"
	"weir/test/internal/weirproc"
)

const (
	slowNodeLasts  = time.Minute
	slowNodeRecord = 16 << 10
	// slowNodeBuffered records wait in the client: what a disk of 1 MB/s does in a few seconds.
	slowNodeBuffered = 128
)

// TestThrottledNode: a single node whose disk takes 1 MB/s is given more than that for a minute. It lives; what it acknowledges is what the disk can take, each byte of it
// written twice, to the log and to its segment; and no produce fails.
func TestThrottledNode(t *testing.T) {
	requireThrottle(t)
	disk := faultdisk.New(t, faultdisk.Options{})
	b := weirproc.Start(t, weirproc.Options{DataDir: filepath.Join(disk.Path(), "data"), Config: map[string]string{
		"log.dir.stall.ms": defaultStallMs, "wal.file.bytes": "8388608", "wal.max.bytes": "67108864", "log.segment.bytes": "16777216",
	}})
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr), kgo.DefaultProduceTopic("slow"), kgo.MaxBufferedRecords(slowNodeBuffered),
		kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopic(limit(t, time.Minute), 3, 1, nil, "slow"); err != nil {
		t.Fatal(err)
	}

	g := throttle(t, disk.Path(), b.Pid())
	begun := time.Now()
	var acked atomic.Int64
	var failed atomic.Pointer[error]
	ctx, cancel := context.WithTimeout(context.Background(), slowNodeLasts)
	defer cancel()
	value := make([]byte, slowNodeRecord)
	for ctx.Err() == nil && failed.Load() == nil {
		client.Produce(limit(t, 2*slowNodeLasts), &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
				return
			}
			acked.Add(1)
		})
	}
	if err := client.Flush(limit(t, slowNodeLasts)); err != nil {
		t.Errorf("flush: %v", err)
	}
	took, written := time.Since(begun), g.written()
	bytes := acked.Load() * slowNodeRecord
	t.Logf("%.2f MiB a second acknowledged for %v, the disk wrote %.2f MiB a second", float64(bytes)/(1<<20)/took.Seconds(), took.Round(time.Second),
		float64(written)/(1<<20)/took.Seconds())
	if err := failed.Load(); err != nil {
		t.Errorf("a produce failed: %v", *err)
	}
	if !b.Running() {
		t.Fatalf("the node took its slow disk for a stalled one:\n%s", b.Logs().Tail(40))
	}
	// Twice what was acknowledged, the making of the log's files, and room for what a group and an index cost beside.
	if written > 4*bytes {
		t.Errorf("%d bytes were acknowledged, the disk wrote %d for them", bytes, written)
	}
	m := b.Metrics()
	t.Logf("the background's pace: %.0f bytes a second, limit %.0f; the log's limit %.0f", m["weir_pace_background_bytes_per_second"],
		m["weir_pace_background_limit_bytes"], m["weir_wal_in_flight_limit_bytes"])
	g.lift()
	ends, err := admin.ListEndOffsets(limit(t, time.Minute), "slow")
	if err != nil {
		t.Fatal(err)
	}
	stored := int64(0)
	ends.Each(func(o kadm.ListedOffset) { stored += o.Offset })
	if stored < acked.Load() {
		t.Errorf("%d records were acknowledged, %d are there", acked.Load(), stored)
	}
}
