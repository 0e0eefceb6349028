package broker

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/vfs"
	"weir/segment"
)

// hoard takes the memory for reads until there is none for one batch of topic t any more. It spares the first batch: what others hold
// of the tail costs nothing more.
func hoard(t *testing.T, r *Running) (held []*segment.Range) {
	t.Helper()
	p := r.b.parts.ByName("t", 0)
	for i := int64(0); ; i++ {
		offset := 1 + i%(p.HighWatermark()-1)
		sh := r.b.parts.NewReader().Share()
		rng, err := p.ReadShare(&sh, offset, p.HighWatermark(), 1, true)
		sh.Close()
		if errors.Is(err, segment.ErrReadMemory) {
			return held
		}
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, rng)
	}
}

// startFull starts a node with a small memory for reads, a topic, and batches that are larger than a part of what is free.
func startFull(t *testing.T) (r *Running, w *wire) {
	t.Helper()
	r = startNode(t, t.TempDir(), map[string]string{"fetch.memory.max.bytes": "1048576"})
	w = dial(t, r)
	createTopic(t, w, "t", 1)
	for range 20 {
		mustProduce(t, w, "t", strings.Repeat("x", 100_000))
	}
	return r, w
}

// awaitStarved waits until a fetch waits for memory.
func awaitStarved(r *Running) {
	for r.b.starved.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
}

// TestFetchWaitsForMemory: a fetch without memory waits until there is some, not for data, or until its time is up.
func TestFetchWaitsForMemory(t *testing.T) {
	r, w := startFull(t)
	held := hoard(t, r)
	defer func() {
		for _, rng := range held {
			rng.Release()
		}
	}()
	req := fetchRequest("t", 0)
	req.MaxWaitMillis = 20
	if got := fetchOne(t, w, req); got.ErrorCode != 0 || len(got.RecordBatches) != 0 || got.HighWatermark != 20 {
		t.Fatalf("without memory, after the wait: code %d, %d bytes, high watermark %d", got.ErrorCode, len(got.RecordBatches), got.HighWatermark)
	}
	req.MaxWaitMillis = 0
	if got := fetchOne(t, w, req); got.ErrorCode != 0 || len(got.RecordBatches) != 0 {
		t.Fatalf("without memory and without a wait: code %d, %d bytes", got.ErrorCode, len(got.RecordBatches))
	}

	req.MaxWaitMillis = math.MaxInt32
	w.send(req)
	other := dial(t, r)
	awaitStarved(r)
	mustProduce(t, other, "t", "more", "and more") // who waits for data has been woken when it is acknowledged
	if r.b.starved.Load() != 1 {
		t.Error("data alone woke a fetch that waits for memory")
	}
	for _, rng := range held[:3] { // what was read from the tail may be in a file by now, and take a larger buffer
		rng.Release()
	}
	held = held[3:]
	got := w.receive(req, w.next).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if n := countBatches(t, got.RecordBatches, 0); got.ErrorCode != 0 || n < 1 || n > 3 {
		t.Errorf("woken by memory: code %d, %d batches with memory for three at most", got.ErrorCode, n)
	}
}

// TestFetchWithoutMemoryEndsWithItsTopic: nothing is waited for that cannot come.
func TestFetchWithoutMemoryEndsWithItsTopic(t *testing.T) {
	r, w := startFull(t)
	held := hoard(t, r)
	req := fetchRequest("t", 0)
	req.MaxWaitMillis = math.MaxInt32
	w.send(req)
	awaitStarved(r)
	del := kmsg.NewPtrDeleteTopicsRequest()
	del.Version, del.TimeoutMillis, del.TopicNames = 5, 10000, []string{"t"}
	if code := dial(t, r).do(del).(*kmsg.DeleteTopicsResponse).Topics[0].ErrorCode; code != 0 {
		t.Fatalf("delete: code %d", code)
	}
	got := w.receive(req, w.next).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if got.ErrorCode != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("topic deleted while waiting: %v", kerr.ErrorForCode(got.ErrorCode))
	}
	for _, rng := range held {
		rng.Release()
	}
}

// TestFetchGetsLess: a fetch that asks for more than its part gets less, and not nothing.
func TestFetchGetsLess(t *testing.T) {
	r, w := startFull(t)
	held := hoard(t, r)
	for _, rng := range held[:3] {
		rng.Release()
	}
	got := fetchOne(t, w, fetchRequest("t", 0))
	if n := countBatches(t, got.RecordBatches, 0); n < 1 || n > 3 {
		t.Errorf("%d batches with memory for three at most", n)
	}
	for _, rng := range held[3:] {
		rng.Release()
	}
	// The client may have had the response above before the broker has noted that it is written, and then waits a moment for that.
	req := fetchRequest("t", 0)
	req.MaxWaitMillis = math.MaxInt32
	got = fetchOne(t, w, req)
	if n := countBatches(t, got.RecordBatches, 0); n < 1 {
		t.Errorf("%d batches with all memory free", n)
	}
}

// TestFetchOfDamage: records before and behind damage are served; a fetch that begins in it is told.
func TestFetchOfDamage(t *testing.T) {
	disk := vfs.NewMem()
	portable := map[string]string{"io.engine": "portable"}
	r := startNodeOn(t, disk, "/data", portable)
	w := dial(t, r)
	createTopic(t, w, "t", 1)
	var values []string
	for _, c := range "abcdefgh" {
		values = append(values, strings.Repeat(string(c), 500))
	}
	mustProduce(t, w, "t", values...)
	stopNode(t, r)
	r = startNodeOn(t, disk, "/data", portable)
	w = dial(t, r)
	damageRecord(t, disk, []byte("ddddd"))
	if got := fetchOne(t, w, fetchRequest("t", 3)); got.ErrorCode != kerr.CorruptMessage.Code || len(got.RecordBatches) != 0 {
		t.Errorf("in the damage: %v, %d bytes", kerr.ErrorForCode(got.ErrorCode), len(got.RecordBatches))
	}
	for offset, want := range map[int64]int{0: 3, 2: 1, 4: 4, 7: 1} {
		got := fetchOne(t, w, fetchRequest("t", offset))
		if n := countBatches(t, got.RecordBatches, offset); got.ErrorCode != 0 || n != want {
			t.Errorf("from %d: %v, %d batches, want %d", offset, kerr.ErrorForCode(got.ErrorCode), n, want)
		}
	}
}

// damageRecord changes a byte of the first segment file that has the text.
func damageRecord(t *testing.T, disk *vfs.MemFS, text []byte) {
	t.Helper()
	dirs, err := disk.List("/data/topics")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		f, err := disk.OpenFile("/data/topics/"+d.Name()+"/00000000000000000000.log", 0)
		if err != nil {
			continue
		}
		size, err := f.Size()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, size)
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(b, text); at >= 0 {
			if _, err := f.WriteAt([]byte{b[at] ^ 1}, int64(at)); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no segment file has it")
}
