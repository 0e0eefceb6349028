package faults

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/test/internal/faultdisk"
	"weir/test/internal/wire"
)

// TestIOErrorOnWrite: what the disk says of a write or a flush is final, in both modes: who waits is told, the process ends with 70, and says why
// once. A restart on a good disk has everything that was acknowledged.
func TestIOErrorOnWrite(t *testing.T) {
	for name, kinds := range map[string]faultdisk.Kind{"write": faultdisk.Write, "flush": faultdisk.Flush} {
		for _, action := range []string{"exit", "wait"} {
			t.Run(name+" "+action, func(t *testing.T) {
				r := newStallRig(t, map[string]string{"log.dir.stall.action": action})
				load, eyes := r.startLoad(), r.startObserver()
				r.requireAcks(300)
				mark := r.broker.Logs().Mark()
				broken := time.Now()
				r.disk.Fail(kinds, syscall.EIO)
				exited, held := r.requireExit(70, exitWait)
				load.stop()
				eyes.report(t)
				t.Logf("after the first error: refused %s, exit called %s, process gone %s (held by the kernel: %t); errors %v", load.refused.Sub(broken).Round(time.Millisecond),
					eyes.gone.Sub(broken).Round(time.Millisecond), exited.Sub(broken).Round(time.Millisecond), held, load.errors)
				r.requireSaidOnce(mark)
				r.disk.Heal()
				r.disk.Remount() // the file system may have turned read-only
				r.restart()
				acked, stored := r.verify()
				t.Logf("%d acknowledged, %d stored", acked, stored)
			})
		}
	}
}

// requireSaidOnce: the operator is told that the data directory failed, in one line.
func (r *stallRig) requireSaidOnce(mark int) {
	r.t.Helper()
	var said, all []string
	for _, line := range r.broker.Logs().Since(mark) {
		if strings.Contains(line.Text, "level=ERROR") {
			all = append(all, line.Text)
		}
		if strings.Contains(line.Text, "the data directory failed") {
			said = append(said, line.Text)
		}
	}
	if len(said) != 1 || !strings.Contains(said[0], "input/output error") {
		r.t.Errorf("said %d times:\n%s", len(said), strings.Join(said, "\n"))
	}
	if len(all) > 6 {
		r.t.Errorf("%d errors in the log for one failure:\n%s", len(all), strings.Join(all, "\n"))
	}
}

// TestIOErrorOnRead: a read that fails fails its fetch and nothing else.
func TestIOErrorOnRead(t *testing.T) {
	r := newStallRig(t, map[string]string{"log.writeback.ms": "300"})
	createTopics(t, newAdmin(t, r.broker.Addr), 1, "cold")
	conn := wire.Dial(t, r.broker.Addr)
	for i := range 100 {
		if code, _, err := conn.ProduceCode("cold", 0, wire.Batch(fmt.Appendf(nil, "%d %0100000d", i, i))); code != 0 || err != nil {
			t.Fatalf("produce: code %d, %v", code, err)
		}
	}
	if err := r.broker.Stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}
	r.disk.Remount()
	if err := r.broker.Launch(); err != nil {
		t.Fatalf("restart: %v", err)
	}
	load := r.startLoad()
	r.requireAcks(2000)
	r.disk.Fail(faultdisk.Read, syscall.EIO)
	code, bytes, err := fetchSome(wire.Dial(t, r.broker.Addr), "cold", 0, 0)
	if code != kerr.KafkaStorageError.Code || err != nil {
		t.Errorf("read of a bad disk: code %d, %d bytes, %v; want code %d", code, bytes, err, kerr.KafkaStorageError.Code)
	}
	r.requireAcks(200)
	r.disk.Heal()
	eventually(t, exitWait, "the read succeeds", func() bool {
		code, bytes, err := fetchSome(wire.Dial(t, r.broker.Addr), "cold", 0, 0)
		return code == 0 && bytes > 0 && err == nil
	})
	load.stop()
	if len(load.errors) > 0 {
		t.Errorf("producers saw errors: %v", load.errors)
	}
	if err := r.broker.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// TestFullDiskIsRefusedEarly: the reserve is kept: produce is refused with room still on the disk, reads and deletions go on, and produce is taken again by itself
// when there is room.
func TestFullDiskIsRefusedEarly(t *testing.T) {
	r := newStallRig(t, nil)
	createTopics(t, newAdmin(t, r.broker.Addr), 1, "doomed")
	load := r.startLoad()
	r.requireAcks(200)
	total := r.disk.Free()
	r.disk.FillExcept(total / 50)
	eventually(t, time.Minute, "produce is refused", func() bool { return load.count("KAFKA_STORAGE_ERROR") > 10 })
	t.Logf("refused with %d MiB free of %d MiB", r.disk.Free()>>20, total>>20)
	deleteTopic(t, newAdmin(t, r.broker.Addr), "doomed")
	end := endOffsets(t, newAdmin(t, r.broker.Addr), r.topic)[0]
	if code, n, err := fetchSome(wire.Dial(t, r.broker.Addr), r.topic, 0, end-1); code != 0 || n == 0 || err != nil {
		t.Errorf("fetch on a full disk: code %d, %d bytes, %v", code, n, err)
	}
	r.disk.Drain()
	r.requireAcks(200)
	load.stop()
	if n := load.errors["connection cut"]; n > 0 {
		t.Errorf("%d connections were cut", n)
	}
	acked, stored := r.verify()
	t.Logf("%d acknowledged, %d stored; errors %v", acked, stored, load.errors)
	if err := r.broker.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func (l *stallLoad) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.errors[what]
}
