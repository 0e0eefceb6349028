package broker

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/config"
)

// bulkheadRig is a node on a disk whose parts can be held, with small bounds.
type bulkheadRig struct {
	t    *testing.T
	disk *slowDisk
	run  *Running
	reg  *prometheus.Registry
}

func startBulkheads(t *testing.T) *bulkheadRig {
	t.Helper()
	b := &bulkheadRig{t: t, disk: newSlowDisk(), reg: prometheus.NewRegistry()}
	cfg, err := config.LoadBroker(map[string]string{
		"data-dir": "/d", "kafka-addr": "127.0.0.1:0", "offsets.topic.num.partitions": "1", "io.engine": "portable",
		"wal.file.bytes": "4194304", "wal.max.bytes": "33554432", "wal.group.max.bytes": "262144", "log.writeback.bytes": "65536",
		// A disk that stands still is not to be declared stalled while the test looks.
		"log.dir.stall.ms": "120000", "request.timeout.ms": "60000",
		"queued.max.request.bytes": "4194304", "log.tail.max.bytes": "1048576", "connection.inflight.requests.max": "8", "fetch.memory.max.bytes": "1048576",
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if b.run, err = Start(ctx, Options{Config: cfg, FS: b.disk, Logger: slog.New(slog.DiscardHandler), Registry: b.reg}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNode(t, b.run) })
	t.Cleanup(func() { b.disk.release(nil) })
	w := b.dial()
	createTopic(t, w, "t", 1)
	createTopic(t, w, "quiet", 1)
	mustProduce(t, w, "quiet", "here")
	for range 10 {
		mustProduce(t, w, "t", strings.Repeat("x", 100_000)) // for hoard
	}
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.Version, find.CoordinatorKey = 2, "g"
	for code := int16(-1); code != 0; code = w.do(find).(*kmsg.FindCoordinatorResponse).ErrorCode {
	}
	// The coordinator has loaded when it knows of the member that it does not know him.
	for code := int16(-1); code != kerr.UnknownMemberID.Code; code = w.do(bulkheadBeat()).(*kmsg.HeartbeatResponse).ErrorCode {
	}
	return b
}

func (b *bulkheadRig) dial() *wire {
	w := dial(b.t, b.run)
	if err := w.conn.SetDeadline(time.Now().Add(time.Minute)); err != nil { // bounds a hang
		b.t.Fatal(err)
	}
	return w
}

// await waits until a metric, summed over its labels, is more than n.
func (b *bulkheadRig) await(name string, n float64) {
	b.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		families, err := b.reg.Gather()
		if err != nil {
			b.t.Fatal(err)
		}
		sum := 0.0
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == name {
					sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
				}
			}
		}
		if sum > n {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%s is %v, and does not become more than %v", name, sum, n)
		}
	}
}

func bulkheadBeat() *kmsg.HeartbeatRequest {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 3, "g", "nobody", 1
	return req
}

// bulkheadFull are the ways to fill something. Each returns when it is full; what it sent is answered after the release.
var bulkheadFull = []struct {
	name string
	fill func(b *bulkheadRig) (finish func())
	// not are the probes that need what is full.
	not string
}{
	{"nothing", func(*bulkheadRig) func() { return func() {} }, ""},
	{"write-ahead log that stands still, producers fill the memory for requests", func(b *bulkheadRig) func() {
		b.disk.hold("/d/wal")
		return b.produceUntil("weir_netproto_request_memory_waits_total")
	}, "produce commit"},
	{"segments that stand still, producers fill the tails and the memory for requests", func(b *bulkheadRig) func() {
		b.disk.hold("/d/topics")
		return b.produceUntil("weir_netproto_request_memory_waits_total")
	}, "produce"},
	{"metadata that stands still, and requests that want to change it", func(b *bulkheadRig) func() {
		b.disk.hold("/d/meta")
		var waits []func()
		for i := range 40 {
			w, req := b.dial(), createRequest(7, topicSpec(fmt.Sprintf("late-%d", i), 1, 1))
			w.send(req)
			waits = append(waits, func() {
				if code := w.receive(req, w.next).(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode; code != 0 {
					b.t.Errorf("a topic that was created late: code %d", code)
				}
			})
		}
		b.await("weir_netproto_requests_in_flight", 39)
		return func() {
			for _, wait := range waits {
				wait()
			}
		}
	}, "create"},
	{"fetches that wait, as many as connections may have", func(b *bulkheadRig) func() {
		req := fetchRequest("quiet", 1)
		req.MaxWaitMillis = math.MaxInt32
		for range 20 {
			w := b.dial()
			for range 10 { // two more than are read
				w.send(req)
			}
		}
		b.await("weir_netproto_reads_paused_total", 19)
		return func() {}
	}, ""},
	{"fetches that wait fill the memory for requests", func(b *bulkheadRig) func() {
		req := fetchRequest("quiet", 1)
		req.MaxWaitMillis = math.MaxInt32
		req.Rack = strings.Repeat("x", 30_000)
		for range 40 {
			w := b.dial()
			for range 8 {
				w.send(req)
			}
		}
		b.await("weir_netproto_request_memory_waits_total", 0)
		return func() {}
	}, "metadata fetch create heartbeat commit versions"},
	{"consumers that take nothing and hold the memory for reads", func(b *bulkheadRig) func() {
		held := hoard(b.t, b.run)
		return func() {
			for _, rng := range held {
				rng.Release()
			}
		}
	}, "fetch"},
}

// produceUntil sends produce requests, each on a connection of its own, until the metric rises.
func (b *bulkheadRig) produceUntil(metric string) (finish func()) {
	batch := buildBatch(b.t, strings.Repeat("v", 200_000))
	var waits []func()
	for range 40 {
		w, req := b.dial(), produceRequest("t", 0, acksAll, batch)
		req.TimeoutMillis = 60_000
		w.send(req)
		waits = append(waits, func() {
			if code := w.receive(req, w.next).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode; code != 0 {
				b.t.Errorf("a produce that waited: code %d", code)
			}
		})
	}
	b.await(metric, 0)
	return func() {
		for _, wait := range waits {
			wait()
		}
	}
}

// bulkheadProbes are what must be answered while something else is full, each on a new connection.
var bulkheadProbes = []struct {
	name string
	ask  func(b *bulkheadRig, w *wire) error
}{
	{"versions", func(_ *bulkheadRig, w *wire) error {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = 3, "test", "1"
		return kerr.ErrorForCode(w.do(req).(*kmsg.ApiVersionsResponse).ErrorCode)
	}},
	{"metadata", func(_ *bulkheadRig, w *wire) error {
		req := kmsg.NewPtrMetadataRequest()
		req.Version = 9
		topic := kmsg.NewMetadataRequestTopic()
		topic.Topic = kmsg.StringPtr("t")
		req.Topics = append(req.Topics, topic)
		return kerr.ErrorForCode(w.do(req).(*kmsg.MetadataResponse).Topics[0].ErrorCode)
	}},
	{"fetch", func(_ *bulkheadRig, w *wire) error {
		p := w.do(fetchRequest("quiet", 0)).(*kmsg.FetchResponse).Topics[0].Partitions[0]
		if p.ErrorCode == 0 && len(p.RecordBatches) == 0 {
			return fmt.Errorf("no records")
		}
		return kerr.ErrorForCode(p.ErrorCode)
	}},
	{"produce", func(b *bulkheadRig, w *wire) error {
		code, _ := w.produceCode(produceRequest("t", 0, acksAll, buildBatch(b.t, "small")))
		return kerr.ErrorForCode(code)
	}},
	{"heartbeat", func(_ *bulkheadRig, w *wire) error {
		if code := w.do(bulkheadBeat()).(*kmsg.HeartbeatResponse).ErrorCode; code != kerr.UnknownMemberID.Code {
			return fmt.Errorf("code %d", code)
		}
		return nil
	}},
	{"commit", func(_ *bulkheadRig, w *wire) error {
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Version, req.Group, req.Generation = 7, "g", -1
		part := kmsg.NewOffsetCommitRequestTopicPartition()
		part.Offset = 1
		req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "quiet", Partitions: []kmsg.OffsetCommitRequestTopicPartition{part}}}
		return kerr.ErrorForCode(w.do(req).(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode)
	}},
	{"create", func(_ *bulkheadRig, w *wire) error {
		return kerr.ErrorForCode(w.do(createRequest(7, topicSpec("new", 1, 1))).(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode)
	}},
}

// TestBulkheads: what is full or stands still holds up only what needs it. The gates are the disk's: nothing is released before every probe was answered.
func TestBulkheads(t *testing.T) {
	for _, full := range bulkheadFull {
		t.Run(full.name, func(t *testing.T) {
			b := startBulkheads(t)
			finish := full.fill(b)
			for _, probe := range bulkheadProbes {
				if strings.Contains(full.not, probe.name) {
					continue
				}
				if err := probe.ask(b, b.dial()); err != nil {
					t.Errorf("%s: %v", probe.name, err)
				}
			}
			b.disk.release(nil)
			finish()
		})
	}
}
