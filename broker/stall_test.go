package broker

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/config"
	"weir/internal/vfs"
	"weir/replica"
)

// slowDisk is an in-memory disk whose writes can be held.
type slowDisk struct {
	*vfs.MemFS
	mu   sync.Mutex
	held chan struct{} // nil: nothing is held
	area string
	err  error // of what was held
}

func newSlowDisk() *slowDisk {
	d := &slowDisk{MemFS: vfs.NewMem()}
	d.SetHook(func(op, name string, _ int64, _ int) error {
		d.mu.Lock()
		held, area := d.held, d.area
		d.mu.Unlock()
		if held == nil || op != "write" || !strings.HasPrefix(name, area) {
			return nil
		}
		<-held
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.err
	})
	return d
}

// hold stops the writes below a directory, until release.
func (d *slowDisk) hold(area string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held, d.area = make(chan struct{}), area
}

func (d *slowDisk) release(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held != nil && d.held != open {
		d.err = err
		close(d.held)
	}
	d.held = nil
}

// fail fails the writes below a directory.
func (d *slowDisk) fail(area string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held, d.area, d.err = open, area, err
}

// open holds nothing.
var open = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// startSlow starts a node on a disk of the test. It is not shut down with the test.
func startSlow(t *testing.T, disk *slowDisk, extra map[string]string) *Running {
	t.Helper()
	values := map[string]string{
		"data-dir": "/d", "kafka-addr": "127.0.0.1:0", "log.dir.stall.ms": "2000", "offsets.topic.num.partitions": "1", "io.engine": "portable",
		"wal.file.bytes": "4194304", "wal.max.bytes": "33554432", "wal.group.max.bytes": "262144",
	}
	for k, v := range extra {
		values[k] = v
	}
	cfg, err := config.LoadBroker(values)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := Start(ctx, Options{Config: cfg, FS: disk, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { disk.release(nil) })
	return r
}

func (w *wire) produceCode(req *kmsg.ProduceRequest) (code int16, offset int64) {
	w.t.Helper()
	p := w.do(req).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	return p.ErrorCode, p.BaseOffset
}

// TestProduceTimeout: a request is answered at its own deadline if the disk is slower; what it appended stays.
func TestProduceTimeout(t *testing.T) {
	disk := newSlowDisk()
	r := startSlow(t, disk, map[string]string{"log.dir.stall.ms": "60000"})
	defer stopNode(t, r)
	createTopic(t, dial(t, r), "t", 1)
	disk.hold("/d/wal")
	impatient, patient, careless := dial(t, r), dial(t, r), dial(t, r)
	long := produceRequest("t", 0, acksAll, buildBatch(t, "one"))
	patient.send(long)
	forever := produceRequest("t", 0, acksOne, buildBatch(t, "two"))
	forever.TimeoutMillis = 0
	careless.send(forever)
	for _, acks := range []int16{acksAll, acksOne} {
		req := produceRequest("t", 0, acks, buildBatch(t, "short"))
		req.TimeoutMillis = 20
		if code, offset := impatient.produceCode(req); code != kerr.RequestTimedOut.Code || offset != -1 {
			t.Errorf("acks %d: code %d, offset %d, want code %d", acks, code, offset, kerr.RequestTimedOut.Code)
		}
	}
	disk.release(nil)
	offsets := map[int64]bool{}
	for _, c := range []struct {
		w   *wire
		req *kmsg.ProduceRequest
	}{{patient, long}, {careless, forever}} {
		p := c.w.receive(c.req, c.w.next).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		if p.ErrorCode != 0 {
			t.Errorf("who had time: code %d", p.ErrorCode)
		}
		offsets[p.BaseOffset] = true
	}
	code, offset := impatient.produceCode(produceRequest("t", 0, acksAll, buildBatch(t, "last")))
	if code != 0 || offset != 4 || len(offsets) != 2 {
		t.Errorf("after that: code %d, offset %d, want 4: what timed out was appended; the others are at %v", code, offset, offsets)
	}
}

// Requests that expire while they are answered: each is answered exactly once, or the next answer on its connection is not its own.
func TestProduceTimeoutsRace(t *testing.T) {
	disk := newSlowDisk()
	r := startSlow(t, disk, map[string]string{"log.dir.stall.ms": "60000"})
	defer stopNode(t, r)
	createTopic(t, dial(t, r), "t", 2)
	ended := make(chan struct{})
	var churn, clients sync.WaitGroup
	churn.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(2 * time.Millisecond):
			}
			disk.hold("/d/wal")
			time.Sleep(2 * time.Millisecond)
			disk.release(nil)
		}
	})
	conns := make([]*wire, 8)
	for i := range conns {
		conns[i] = dial(t, r)
	}
	var mu sync.Mutex
	codes := map[int16]int{}
	for i, w := range conns {
		batch := buildBatch(t, "x")
		clients.Go(func() {
			for range 100 {
				req := produceRequest("t", int32(i%2), acksAll, batch)
				req.Topics[0].Partitions = append(req.Topics[0].Partitions, kmsg.ProduceRequestTopicPartition{Partition: int32(1 - i%2), Records: batch})
				req.TimeoutMillis = 3
				resp := w.do(req).(*kmsg.ProduceResponse)
				mu.Lock()
				for _, p := range resp.Topics[0].Partitions {
					codes[p.ErrorCode]++
				}
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	close(ended)
	churn.Wait()
	if codes[0]+codes[kerr.RequestTimedOut.Code] != 1600 || len(codes) > 2 {
		t.Errorf("codes %v, want 1600 of 0 and %d", codes, kerr.RequestTimedOut.Code)
	}
}

// TestStalledNodeWaits: produce and changes of the metadata are refused at once, the rest is served, and when the disk answers all is well.
func TestStalledNodeWaits(t *testing.T) {
	for _, area := range []string{"/d/wal", "/d/meta"} {
		t.Run(area, func(t *testing.T) {
			disk := newSlowDisk()
			r := startSlow(t, disk, map[string]string{"log.dir.stall.action": "wait"})
			defer stopNode(t, r)
			w := dial(t, r)
			createTopic(t, w, "t", 1)
			if code, _ := w.produceCode(produceRequest("t", 0, acksAll, buildBatch(t, "one"))); code != 0 {
				t.Fatalf("code %d", code)
			}
			disk.hold(area)
			storage := kerr.KafkaStorageError.Code
			create := kmsg.NewPtrCreateTopicsRequest()
			create.Version, create.TimeoutMillis = 7, 30000
			topic := kmsg.NewCreateTopicsRequestTopic()
			topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "late", 1, 1
			create.Topics = append(create.Topics, topic)
			produce := produceRequest("t", 0, acksAll, buildBatch(t, "two"))
			produce.TimeoutMillis = 30000
			if area == "/d/wal" {
				if code, _ := w.produceCode(produce); code != storage {
					t.Errorf("the produce that met the stall: code %d, want %d", code, storage)
				}
			} else if code := w.do(create).(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode; code != storage {
				t.Errorf("the topic creation that met the stall: code %d, want %d", code, storage)
			}
			if h := r.Health(); h.Ready || h.Stalled == "" || h.DiskError != "" || h.OldestIO < 2*time.Second {
				t.Errorf("health %+v, want stalled", h)
			}
			began := time.Now()
			if code, _ := w.produceCode(produce); code != storage {
				t.Errorf("produce on the stalled disk: code %d, want %d", code, storage)
			}
			create.Topics[0].Topic = "never"
			if code := w.do(create).(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode; code != storage {
				t.Errorf("topic creation on the stalled disk: code %d, want %d", code, storage)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("refused after %s", took)
			}
			fetch := kmsg.NewPtrFetchRequest()
			fetch.Version, fetch.MaxBytes, fetch.SessionEpoch = 11, 1<<20, -1
			fetch.Topics = []kmsg.FetchRequestTopic{{Topic: "t", Partitions: []kmsg.FetchRequestTopicPartition{{CurrentLeaderEpoch: -1, PartitionMaxBytes: 1 << 20}}}}
			if p := w.do(fetch).(*kmsg.FetchResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 || p.HighWatermark != 1 || len(p.RecordBatches) == 0 {
				t.Errorf("fetch on the stalled disk: code %d, high watermark %d, %d bytes", p.ErrorCode, p.HighWatermark, len(p.RecordBatches))
			}
			disk.release(nil)
			for deadline := time.Now().Add(20 * time.Second); !r.Health().Ready; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("not ready again: %+v", r.Health())
				}
			}
			want := int64(1)
			if area == "/d/wal" {
				want = 2 // what was refused late is there
			}
			if code, offset := w.produceCode(produce); code != 0 || offset != want {
				t.Errorf("produce after the stall: code %d, offset %d, want %d", code, offset, want)
			}
		})
	}
}

// TestFailedStorageEndsTheNode: whatever fails first, the node reports failed storage, not what follows from it.
func TestFailedStorageEndsTheNode(t *testing.T) {
	for _, area := range []string{"/d/wal", "/d/meta", "/d/topics"} {
		for _, action := range []string{"exit", "wait"} {
			t.Run(area+" "+action, func(t *testing.T) {
				disk := newSlowDisk()
				r := startSlow(t, disk, map[string]string{"log.dir.stall.action": action, "log.writeback.ms": "1"})
				w := dial(t, r)
				createTopic(t, w, "t", 1)
				disk.fail(area, syscall.EIO)
				if area == "/d/meta" {
					create := kmsg.NewPtrCreateTopicsRequest()
					create.Version, create.TimeoutMillis = 7, 1000
					topic := kmsg.NewCreateTopicsRequestTopic()
					topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "late", 1, 1
					create.Topics = append(create.Topics, topic)
					w.send(create)
				} else {
					w.send(produceRequest("t", 0, acksAll, buildBatch(t, "x")))
				}
				select {
				case err := <-r.Done():
					if !StorageFailed(err) || !errors.Is(err, syscall.EIO) {
						t.Errorf("ended with %v, want failed storage and EIO", err)
					}
				case <-time.After(20 * time.Second):
					t.Error("the node goes on")
				}
				if h := r.Health(); h.Ready || h.DiskError == "" {
					t.Errorf("health %+v", h)
				}
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				if err := r.Shutdown(ctx); !errors.Is(err, replica.ErrStorage) {
					t.Errorf("shutdown: %v, want %v", err, replica.ErrStorage)
				}
			})
		}
	}
}
