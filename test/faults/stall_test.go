package faults

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/test/internal/faultdisk"
	"weir/test/internal/wire"
)

// shutdownMax is shutdown.timeout.ms where a shutdown meets a stall.
const shutdownMax = 8 * time.Second

const durable = faultdisk.Write | faultdisk.Flush

// TestStallForEver: a disk that stops answering writes. Who produces is told within log.dir.stall.ms, the process answers all the time, resets
// its connections and ends with 70; a restart has everything that was acknowledged.
func TestStallForEver(t *testing.T) {
	for name, c := range map[string]struct {
		kinds  faultdisk.Kind
		config map[string]string
	}{
		"writes and flushes": {kinds: durable}, "flushes": {kinds: faultdisk.Flush}, "everything": {kinds: faultdisk.All},
		"portable": {kinds: durable, config: map[string]string{"io.engine": "portable"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newStallRig(t, c.config)
			load, eyes := r.startLoad(), r.startObserver()
			r.requireAcks(500)
			stalled := time.Now()
			r.disk.Stall(c.kinds, 0)
			exited, held := r.requireExit(70, exitWait)
			load.stop()
			eyes.report(t)
			since := func(at time.Time) time.Duration { return at.Sub(stalled).Round(time.Millisecond) }
			t.Logf("after the disk stopped: first refusal %s, connections cut %s, exit called %s, process gone %s (held by the kernel until the disk answered: %t); errors %v",
				since(load.refused), since(load.cut), since(eyes.gone), since(exited), held, load.errors)
			for what, at := range map[string]time.Time{"somebody is refused": load.refused, "connections are cut": load.cut, "the process ends": eyes.gone} {
				if at.IsZero() || at.Sub(stalled) > exitWait {
					t.Errorf("not within %s: %s", exitWait, what)
				}
			}
			r.disk.Resume()
			r.restart()
			acked, stored := r.verify()
			t.Logf("%d acknowledged, %d stored", acked, stored)
		})
	}
}

// restart launches the broker again and requires that it takes records.
func (r *stallRig) restart() {
	r.t.Helper()
	if err := r.broker.Launch(); err != nil {
		r.t.Fatalf("restart: %v", err)
	}
	createTopics(r.t, newAdmin(r.t, r.broker.Addr), 1, "after")
	r.requireProduced("after", 0)
}

// requireProduced sends a record and requires its acknowledgement.
func (r *stallRig) requireProduced(topic string, partition int32) {
	r.t.Helper()
	if code, _, err := wire.Dial(r.t, r.broker.Addr).ProduceCode(topic, partition, wire.Batch([]byte("one more"))); code != 0 || err != nil {
		r.t.Fatalf("produce to %s: code %d, %v", topic, code, err)
	}
}

// TestShortStalls: stalls below log.dir.stall.ms make produce slow; no client sees an error.
func TestShortStalls(t *testing.T) {
	r := newStallRig(t, nil)
	load, eyes := r.startLoad(), r.startObserver()
	r.requireAcks(200)
	for i := range 20 {
		// The limit is on the process's side: a stall may begin a little before and end a little after the disk's.
		r.disk.Stall(durable, time.Duration(50+i*1450/19)*time.Millisecond)
		time.Sleep(time.Duration(50+i*1450/19) * time.Millisecond)
		r.requireAcks(50)
	}
	load.stop()
	eyes.report(t)
	t.Logf("20 stalls of 50 to 1500 ms: %d records acknowledged, the slowest after %s, errors %v", load.acks.Load(), load.slowest.Round(time.Millisecond), load.errors)
	if len(load.errors) > 0 {
		t.Errorf("clients saw errors: %v", load.errors)
	}
	acked, stored := r.verify()
	if acked != stored {
		t.Errorf("%d acknowledged, %d stored", acked, stored)
	}
}

// TestStallIsWaitedOut: with log.dir.stall.action=wait a stall refuses produce, at once and with KAFKA_STORAGE_ERROR; everything that is in memory is
// served meanwhile; and when the disk answers the broker goes on by itself.
func TestStallIsWaitedOut(t *testing.T) {
	r := newStallRig(t, map[string]string{"log.dir.stall.action": "wait"})
	load, eyes := r.startLoad(), r.startObserver()
	r.requireAcks(300)
	stalled := time.Now()
	r.disk.Stall(durable, 0)
	eventually(t, exitWait, "the disk is declared stalled", func() bool { return !eyes.saw("stalled").IsZero() })
	time.Sleep(2 * time.Second) // it stays so
	r.requireRefusedWhileStalled()
	resumed := time.Now()
	before := load.acks.Load()
	r.disk.Resume()
	r.requireAcks(100)
	t.Logf("declared stalled after %s, refusals take %s at best, records are taken %s after the disk answers",
		eyes.saw("stalled").Sub(stalled).Round(time.Millisecond), load.fastest.Round(time.Microsecond), time.Since(resumed).Round(time.Millisecond))
	load.stop()
	eyes.report(t)
	if n := load.errors["connection cut"]; n > 0 {
		t.Errorf("%d connections were cut", n)
	}
	acked, stored := r.verify()
	t.Logf("%d acknowledged (%d after the stall), %d stored; errors %v", acked, load.acks.Load()-before, stored, load.errors)
	if err := r.broker.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	r.restart()
	r.verify()
}

func (o *observer) saw(state string) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.disk[state]
}

// requireRefusedWhileStalled: what needs the disk fails with KAFKA_STORAGE_ERROR, what does not is answered.
func (r *stallRig) requireRefusedWhileStalled() {
	r.t.Helper()
	storage := kerr.KafkaStorageError.Code
	conn := wire.Dial(r.t, r.broker.Addr)
	began := time.Now()
	if code, _, err := conn.ProduceCode(r.topic, 0, wire.Batch([]byte("refused"))); code != storage || err != nil {
		r.t.Errorf("produce: code %d, %v, want %d", code, err, storage)
	}
	create := kmsg.NewPtrCreateTopicsRequest()
	create.SetVersion(7)
	create.TimeoutMillis = 10_000
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "never", 1, 1
	create.Topics = append(create.Topics, topic)
	if resp, err := conn.Do(create); err != nil || resp.(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode != storage {
		r.t.Errorf("create topic: %+v, %v, want code %d", resp, err, storage)
	}
	if resp, err := conn.Do(kmsg.NewPtrMetadataRequest()); err != nil || len(resp.(*kmsg.MetadataResponse).Brokers) != 1 {
		r.t.Errorf("metadata: %+v, %v", resp, err)
	}
	for p := range int32(loadPartitions) {
		end := endOffsets(r.t, newAdmin(r.t, r.broker.Addr), r.topic)[p]
		if code, n, err := fetchSome(conn, r.topic, p, end-1); code != 0 || n == 0 || err != nil {
			r.t.Errorf("fetch of the newest record of partition %d: code %d, %d bytes, %v", p, code, n, err)
		}
	}
	r.t.Logf("a refused produce, a refused topic creation, metadata and reads of the tail took %s together", time.Since(began).Round(time.Millisecond))
}

// fetchSome reads a partition from an offset on without waiting for more.
func fetchSome(conn *wire.Conn, topic string, partition int32, offset int64) (code int16, bytes int, err error) {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(11)
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 0, 0, 1<<20, -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic = topic
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = partition, offset, 1<<20, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := conn.Do(req)
	if err != nil {
		return 0, 0, err
	}
	f := resp.(*kmsg.FetchResponse)
	if f.ErrorCode != 0 || len(f.Topics) != 1 || len(f.Topics[0].Partitions) != 1 {
		return 0, 0, fmt.Errorf("fetch response %+v", f)
	}
	got := f.Topics[0].Partitions[0]
	return got.ErrorCode, len(got.RecordBatches), nil
}

// TestStallDuringShutdown: a broker that is told to stop and finds its disk stalled ends within shutdown.timeout.ms, with 70.
func TestStallDuringShutdown(t *testing.T) {
	for _, action := range []string{"exit", "wait"} {
		t.Run(action, func(t *testing.T) {
			r := newStallRig(t, map[string]string{
				"log.dir.stall.action": action, "log.writeback.ms": "60000", "shutdown.timeout.ms": fmt.Sprint(shutdownMax.Milliseconds()),
			})
			load, eyes := r.startLoad(), r.startObserver()
			r.requireAcks(300)
			load.stop() // the disk is idle, and memory is full of what has to be written
			r.disk.Stall(durable, 0)
			began := time.Now()
			r.broker.Terminate()
			exited, held := r.requireExit(70, shutdownMax+5*time.Second)
			eyes.stop()
			if eyes.gone.IsZero() || eyes.gone.Sub(began) > shutdownMax+5*time.Second {
				t.Errorf("exit was not called within shutdown.timeout.ms, %s", shutdownMax)
			}
			t.Logf("exit called %s after SIGTERM, process gone %s (held by the kernel until the disk answered: %t)",
				eyes.gone.Sub(began).Round(time.Millisecond), exited.Sub(began).Round(time.Millisecond), held)
			r.disk.Resume()
			r.restart()
			r.verify()
		})
	}
}

// TestStallDuringStart: a broker that meets a stalled disk when it starts gives up in time, with 70.
func TestStallDuringStart(t *testing.T) {
	for name, kinds := range map[string]faultdisk.Kind{"reads": faultdisk.Read, "writes": durable} {
		t.Run(name, func(t *testing.T) {
			r := newStallRig(t, nil)
			load := r.startLoad()
			r.requireAcks(300)
			load.stop()
			r.broker.Kill()
			r.disk.Remount() // nothing of it is in memory
			r.disk.Stall(kinds, 0)
			began := time.Now()
			if err := r.broker.LaunchAsync(); err != nil {
				t.Fatal(err)
			}
			eyes := r.startObserver()
			exited, held := r.requireExit(70, time.Minute)
			eyes.stop()
			t.Logf("process gone %s after its start (held by the kernel until the disk answered: %t); longest answer of /health/live %s",
				exited.Sub(began).Round(time.Millisecond), held, eyes.worst["/health/live"].Round(time.Millisecond))
			r.disk.Resume()
			r.restart()
			r.verify()
		})
	}
}

// TestColdReadStalls: a read that the disk does not answer fails alone, with KAFKA_STORAGE_ERROR. What is in memory is served meanwhile and records are taken;
// a stalled read is no reason to give up the node.
func TestColdReadStalls(t *testing.T) {
	r := newStallRig(t, map[string]string{"log.writeback.ms": "300"})
	createTopics(t, newAdmin(t, r.broker.Addr), 1, "cold")
	conn := wire.Dial(t, r.broker.Addr)
	for i := range 200 {
		if code, _, err := conn.ProduceCode("cold", 0, wire.Batch(fmt.Appendf(nil, "%d %0100000d", i, i))); code != 0 || err != nil {
			t.Fatalf("produce: code %d, %v", code, err)
		}
	}
	if err := r.broker.Stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}
	r.disk.Remount() // nothing of the files is in memory
	if err := r.broker.Launch(); err != nil {
		t.Fatalf("restart: %v", err)
	}
	load, eyes := r.startLoad(), r.startObserver()
	r.requireAcks(2000) // the file system has read what it needs for writing

	r.disk.Stall(faultdisk.Read, 0)
	cold := wire.Dial(t, r.broker.Addr)
	before := load.acks.Load()
	began := time.Now()
	code, bytes, err := fetchSome(cold, "cold", 0, 0)
	took := time.Since(began)
	if code != kerr.KafkaStorageError.Code || err != nil {
		t.Errorf("cold read: code %d, %d bytes, %v; want code %d", code, bytes, err, kerr.KafkaStorageError.Code)
	}
	meanwhile := load.acks.Load() - before
	t.Logf("the cold read failed with code %d after %s; %d records were acknowledged meanwhile, the slowest ever after %s", code, took.Round(time.Millisecond), meanwhile, load.slowest)
	if meanwhile == 0 {
		t.Error("nothing was acknowledged while a read hung")
	}
	for p := range int32(loadPartitions) {
		end := endOffsets(t, newAdmin(t, r.broker.Addr), r.topic)[p]
		if code, n, err := fetchSome(wire.Dial(t, r.broker.Addr), r.topic, p, end-1); code != 0 || n == 0 || err != nil {
			t.Errorf("read of the tail of partition %d: code %d, %d bytes, %v", p, code, n, err)
		}
	}
	r.disk.Resume()
	eventually(t, exitWait, "the cold read succeeds", func() bool {
		code, bytes, err := fetchSome(wire.Dial(t, r.broker.Addr), "cold", 0, 0)
		return code == 0 && bytes > 0 && err == nil
	})
	load.stop()
	eyes.report(t)
	if len(load.errors) > 0 {
		t.Errorf("producers saw errors: %v", load.errors)
	}
	r.verify()
}
