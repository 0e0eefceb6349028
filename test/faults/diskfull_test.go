package faults

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/weirproc"
	"weir/test/internal/wire"
)

const fullValueBytes = 128 << 10

// TestDiskFull: a full disk refuses produce with KAFKA_STORAGE_ERROR and nothing else suffers: what was acknowledged is
// read, topics are deleted, produce goes on when there is room, and a restart finds everything.
func TestDiskFull(t *testing.T) {
	skipOnReference(t)
	causes := map[string]func(f *fullDisk, t *testing.T) (release func()){
		"filled by records":      (*fullDisk).fillWithRecords,
		"filled by someone else": (*fullDisk).fillFromOutside,
	}
	for name, fill := range causes {
		t.Run(name, func(t *testing.T) {
			f := newFullDisk(t)
			f.produce(t, "kept", 20)
			release := fill(f, t)
			f.requireRefused(t)
			f.requireExplained(t)
			f.requireAllThere(t)
			f.broker.Kill() // a restart on the full disk must work too
			if err := f.broker.Launch(); err != nil {
				t.Fatalf("restart on the full disk: %v", err)
			}
			f.requireAllThere(t)
			release()
			eventually(t, time.Minute, "produce resumes", func() bool { return f.tryProduce(t, "kept") == 0 })
			f.produce(t, "kept", 20)
			if err := f.broker.Stop(); err != nil {
				t.Errorf("stop: %v", err)
			}
			if err := f.broker.Launch(); err != nil {
				t.Fatalf("restart: %v", err)
			}
			f.requireAllThere(t)
		})
	}
}

type fullDisk struct {
	disk   *smallDisk
	broker *weirproc.Broker
	sent   map[string]int // records acknowledged per topic
}

func newFullDisk(t *testing.T) *fullDisk {
	t.Helper()
	disk := newSmallDisk(t, 256)
	broker := weirproc.Start(t, weirproc.Options{
		DataDir: disk.dir + "/data",
		Prefix:  disk.prefix(),
		Config: map[string]string{
			"wal.file.bytes": "4194304", "wal.max.bytes": "33554432", "log.segment.bytes": "4194304",
			"log.segment.delete.delay.ms": "100", "offsets.topic.num.partitions": "1",
			"log.dir.stall.ms": "30000", // a disk in a file on a busy disk is slow, and that is not the question here
		},
	})
	t.Logf("a disk of 256 MiB (%s)", disk.kind)
	createTopics(t, newAdmin(t, broker.Addr), 1, "kept", "doomed")
	return &fullDisk{disk: disk, broker: broker, sent: map[string]int{}}
}

// value is the n-th record's value of a topic.
func (f *fullDisk) value(topic string, n int) []byte {
	unit := fmt.Appendf(nil, "%s-%08d ", topic, n)
	return bytes.Repeat(unit, fullValueBytes/len(unit))
}

// tryProduce sends a topic's next record and returns the error code.
func (f *fullDisk) tryProduce(t *testing.T, topic string) int16 {
	t.Helper()
	conn := wire.Dial(t, f.broker.Addr)
	defer conn.Close()
	code, base, err := conn.ProduceCode(topic, 0, wire.Batch(f.value(topic, f.sent[topic])))
	if err != nil {
		t.Fatalf("produce to %s: %v", topic, err)
	}
	if code == 0 {
		if base != int64(f.sent[topic]) {
			t.Fatalf("record %d of %s got offset %d", f.sent[topic], topic, base)
		}
		f.sent[topic]++
	}
	return code
}

func (f *fullDisk) produce(t *testing.T, topic string, n int) {
	t.Helper()
	for range n {
		if code := f.tryProduce(t, topic); code != 0 {
			t.Fatalf("produce to %s after %d records with %d MiB free: %v", topic, f.sent[topic], f.disk.free(t)>>20, kerr.ErrorForCode(code))
		}
	}
}

// fillWithRecords produces until it is refused; deleting the topic makes room.
func (f *fullDisk) fillWithRecords(t *testing.T) (release func()) {
	t.Helper()
	f.untilRefused(t, "doomed", 400)
	t.Logf("refused after %d MiB with %d MiB free", f.sent["doomed"]*fullValueBytes>>20, f.disk.free(t)>>20)
	return func() {
		deleteTopic(t, newAdmin(t, f.broker.Addr), "doomed")
		delete(f.sent, "doomed")
	}
}

// fillFromOutside leaves less than a megabyte; produce goes on until the broker has used what it had set aside.
func (f *fullDisk) fillFromOutside(t *testing.T) (release func()) {
	t.Helper()
	release = f.disk.fill(t, 512<<10)
	f.untilRefused(t, "kept", 200)
	t.Logf("refused after %d MiB with %d KiB free", f.sent["kept"]*fullValueBytes>>20, f.disk.free(t)>>10)
	return release
}

// untilRefused produces until the broker has refused for a second: near the mark, what it writes behind and recycles may make room
// for a little more.
func (f *fullDisk) untilRefused(t *testing.T, topic string, mibMax int) {
	t.Helper()
	for accepted := time.Now(); time.Since(accepted) < time.Second; {
		if f.tryProduce(t, topic) == 0 {
			accepted = time.Now()
		}
		if f.sent[topic] > mibMax<<20/fullValueBytes {
			t.Fatalf("%d MiB were acknowledged on a disk of 256 MiB", mibMax)
		}
	}
}

// requireExplained: the operator is told, and not once per request.
func (f *fullDisk) requireExplained(t *testing.T) {
	t.Helper()
	var told []string
	for _, line := range f.broker.Logs().Since(0) {
		text := strings.ToLower(line.Text)
		if (strings.Contains(text, "level=warn") || strings.Contains(text, "level=error")) && (strings.Contains(text, "full") || strings.Contains(text, "space")) {
			told = append(told, line.Text)
		}
	}
	if len(told) == 0 || len(told) > 50 {
		t.Errorf("%d warnings say that the disk is full, want a few:\n%s", len(told), strings.Join(told[:min(len(told), 5)], "\n"))
	}
}

func (f *fullDisk) requireRefused(t *testing.T) {
	t.Helper()
	for range 5 {
		if code := f.tryProduce(t, "kept"); code != kerr.KafkaStorageError.Code {
			t.Fatalf("produce on the full disk: code %d (%v), want KAFKA_STORAGE_ERROR", code, kerr.ErrorForCode(code))
		}
	}
}

func (f *fullDisk) requireAllThere(t *testing.T) {
	t.Helper()
	admin := newAdmin(t, f.broker.Addr)
	for topic, n := range f.sent {
		if end := endOffsets(t, admin, topic)[0]; end != int64(n) {
			t.Fatalf("%s ends at offset %d, %d records were acknowledged", topic, end, n)
		}
		each(t, f.broker.Addr, topic, 0, 0, int64(n), func(r *kgo.Record) error {
			if !bytes.Equal(r.Value, f.value(topic, int(r.Offset))) {
				return fmt.Errorf("value differs: %.40q", r.Value)
			}
			return nil
		})
	}
}
