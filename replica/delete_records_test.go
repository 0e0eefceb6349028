package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/internal/record"
	"weir/internal/vfs"
	"weir/raftmeta"
)

// seeded returns a generator whose seed is in the test's output; SEED replays it.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func valuesBatch(t testing.TB, values ...string) record.Batch {
	t.Helper()
	var records []record.Record
	for _, v := range values {
		records = append(records, record.Record{Timestamp: time.Now().UnixMilli(), Value: []byte(v)})
	}
	b, err := record.Build(record.NewSpec(), records)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// deleteRecords deletes below offset in each partition and waits for the disk.
func (n *node) deleteRecords(offset int64, parts ...*Partition) ([]Deletion, error) {
	n.t.Helper()
	var list []Deletion
	for _, p := range parts {
		list = append(list, Deletion{Partition: p, Offset: offset})
	}
	done := make(chan error, 1)
	if !n.DeleteRecords(list, func(err error) { done <- err }) {
		return list, nil
	}
	return list, <-done
}

func TestDeleteRecords(t *testing.T) {
	n := openNodeOn(t, vfs.NewMem(), "/data", map[string]string{"io.engine": "portable"})
	defer n.close()
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	p := n.ByName("t", 0)
	for i := range 5 {
		n.mustAppend(p, valuesBatch(t, fmt.Sprint(i), "second"))
	}
	for _, c := range []struct {
		offset int64
		low    int64
		err    error
	}{
		{3, 3, nil}, // in the middle of a batch
		{1, 3, nil}, // below the start: nothing to do
		{0, 3, nil},
		{11, 0, ErrOffsetOutOfRange},
		{-2, 0, ErrOffsetOutOfRange},
		{10, 10, nil},
		{ToHighWatermark, 10, nil},
	} {
		got, err := n.deleteRecords(c.offset, p)
		if err != nil || !errors.Is(got[0].Err, c.err) || c.err == nil && (got[0].LowWatermark != c.low || p.LogStart() != c.low) {
			t.Errorf("below %d: low watermark %d, log start %d, %v, %v; want %d, %v", c.offset, got[0].LowWatermark, p.LogStart(), got[0].Err, err, c.low, c.err)
		}
	}
	if got, err := n.deleteRecords(ToHighWatermark); err != nil || len(got) != 0 {
		t.Errorf("nothing: %v, %v", got, err)
	}
	if got := n.mustAppend(p, valueBatch(t, "after")); got != 10 {
		t.Errorf("the next record got offset %d, want 10", got)
	}
	n.propose(raftmeta.DeleteTopic{Name: "t"})
	if got, err := n.deleteRecords(ToHighWatermark, p); err != nil || !errors.Is(got[0].Err, ErrNotHere) {
		t.Errorf("of a deleted topic: %v, %v", got[0].Err, err)
	}
}

// TestDeleteRecordsOfReadersInBatch: a reader at the new log start gets the whole batch around it, as in Kafka; one below is out of range.
func TestDeleteRecordsOfReadersInBatch(t *testing.T) {
	n := openNodeOn(t, vfs.NewMem(), "/data", map[string]string{"io.engine": "portable"})
	defer n.close()
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	p := n.ByName("t", 0)
	n.mustAppend(p, valuesBatch(t, "a", "b", "c"))
	n.mustAppend(p, valuesBatch(t, "d", "e", "f"))
	if _, err := n.deleteRecords(4, p); err != nil {
		t.Fatal(err)
	}
	r, err := p.Read(4, p.HighWatermark(), 1<<20, true)
	if err != nil {
		t.Fatal(err)
	}
	if r.FirstOffset() != 3 || r.NextOffset() != 6 {
		t.Errorf("offsets %d to %d, want the whole batch from 3", r.FirstOffset(), r.NextOffset())
	}
	r.Release()
	if _, err := p.Read(3, p.HighWatermark(), 1<<20, true); !errors.Is(err, ErrOffsetOutOfRange) {
		t.Errorf("below the log start: %v", err)
	}
}

// TestDeleteRecordsEndsAtTheHighWatermark: what is not durable yet cannot be deleted, by its offset or by -1.
func TestDeleteRecordsEndsAtTheHighWatermark(t *testing.T) {
	disk := vfs.NewMem()
	n := openNodeOn(t, disk, "/data", map[string]string{"io.engine": "portable"})
	defer n.close()
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	p := n.ByName("t", 0)
	n.mustAppend(p, valuesBatch(t, "a"))
	held, release := make(chan struct{}, 64), make(chan struct{})
	disk.SetHook(func(op, name string, _ int64, _ int) error {
		if op == "write" && strings.HasPrefix(name, "/data/wal/") {
			held <- struct{}{}
			<-release
		}
		return nil
	})
	acked := make(chan struct{})
	go func() {
		n.mustAppend(p, valuesBatch(t, "b"))
		close(acked)
	}()
	<-held
	if got, err := n.deleteRecords(2, p); err != nil || !errors.Is(got[0].Err, ErrOffsetOutOfRange) {
		t.Errorf("beyond the high watermark: %+v, %v", got, err)
	}
	if got, err := n.deleteRecords(ToHighWatermark, p); err != nil || got[0].Err != nil || got[0].LowWatermark != 1 {
		t.Errorf("up to it: %+v, %v", got, err)
	}
	disk.SetHook(nil)
	close(release)
	<-acked
	if got, err := n.deleteRecords(2, p); err != nil || got[0].LowWatermark != 2 {
		t.Errorf("once it is durable: %+v, %v", got, err)
	}
}

// TestDeleteRecordsSurvives: what was deleted stays deleted when power is lost right after the answer, wherever the records were.
func TestDeleteRecordsSurvives(t *testing.T) {
	rng := seeded(t)
	extra := map[string]string{"io.engine": "portable", "wal.max.bytes": "4194304"}
	disk := vfs.NewMem()
	start, end := int64(0), int64(0)
	for life := range 12 {
		n := openNodeOn(t, disk, "/data", extra)
		if life == 0 {
			n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 2, Configs: map[string]string{"internal.segment.bytes": "1024"}})
		}
		a, b := n.ByName("t", 0), n.ByName("t", 1)
		for _, p := range []*Partition{a, b} {
			if p.LogStart() != start || p.End() != end {
				t.Fatalf("life %d: %s has %d to %d, want %d to %d", life, p.name, p.LogStart(), p.End(), start, end)
			}
		}
		for range rng.IntN(6) {
			for _, p := range []*Partition{a, b} {
				n.mustAppend(p, valuesBatch(t, string(make([]byte, rng.IntN(400))), "x"))
			}
			end += 2
		}
		if rng.IntN(2) == 0 {
			if err := n.store.FlushAll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		start += rng.Int64N(end - start + 1)
		if got, err := n.deleteRecords(start, a, b); err != nil || got[0].Err != nil || got[1].Err != nil {
			t.Fatalf("life %d: %v, %v", life, got, err)
		}
		next := disk.CrashClone(rng, rng.Float64())
		n.close()
		disk = next
	}
}

// TestDeleteRecordsSaysWhenItIsNotDurable: the disk refuses the new log start.
func TestDeleteRecordsSaysWhenItIsNotDurable(t *testing.T) {
	disk := vfs.NewMem()
	n := openNodeOn(t, disk, "/data", map[string]string{"io.engine": "portable"})
	defer n.close()
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	p := n.ByName("t", 0)
	n.mustAppend(p, valueBatch(t, "a"))
	disk.SetHook(func(op, name string, _ int64, _ int) error {
		if op == "rename" {
			return syscall.ENOSPC
		}
		return nil
	})
	got, err := n.deleteRecords(1, p)
	disk.SetHook(nil)
	if !errors.Is(err, ErrStorage) || got[0].Err != nil {
		t.Errorf("%v, %v; want ErrStorage", got[0].Err, err)
	}
	if got, err := n.deleteRecords(1, p); err != nil || got[0].LowWatermark != 1 {
		t.Errorf("again: %v, %v", got, err)
	}
}
