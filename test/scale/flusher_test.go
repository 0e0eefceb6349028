package scale

import (
	"testing"
	"time"

	"weir/test/internal/weirproc"
)

// TestFlusherBehind: producers that are faster than the flusher are slowed down and nothing else: no error, no growth of memory or of the
// write-ahead log, and afterwards everything is where it belongs. A small bound on what is not flushed makes any disk the slow one.
func TestFlusherBehind(t *testing.T) {
	const (
		topics  = 5
		tailMax = 4 << 20
		walMax  = 64 << 20
		walFile = 16 << 20
		rssMax  = 256 << 20
		rounds  = 40 // 5 topics x 100 partitions x 40 x 16 KiB = 312 MiB
	)
	broker := weirproc.Start(t, weirproc.Options{Config: map[string]string{
		"log.tail.max.bytes": "4194304", "wal.max.bytes": "67108864", "wal.file.bytes": "16777216", "request.timeout.ms": "30000",
	}})
	c := connect(t, broker)
	names := make([]string, topics)
	for i := range names {
		names[i] = topicName(i)
	}
	if err := createTopics(c, names, perTopic, nil); err != nil {
		t.Fatal(err)
	}
	f := newFleet(broker.Addr, topics)
	done := make(chan error, 1)
	go func() {
		done <- f.run(sweep{connections: 5, valueBytes: 16 << 10, perRequest: 20, rounds: rounds})
	}()
	var tail, files float64
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("produce: %v", err)
			}
			running = false
		case <-time.After(100 * time.Millisecond):
			m := broker.Metrics()
			tail, files = max(tail, m["weir_segment_tail_bytes"]), max(files, m["weir_wal_files"])
		}
	}
	m, u := broker.Metrics(), broker.Usage()
	n, p50, p99, worst := f.percentiles()
	t.Logf("%d requests p50 %v p99 %v max %v; at most %.1f MiB unflushed, %v WAL files, peak RSS %d MiB; %v waits for the flusher",
		n, p50, p99, worst, tail/(1<<20), files, u.PeakRSS>>20, m["weir_segment_reserve_blocked_total"])
	if m["weir_segment_reserve_blocked_total"] == 0 {
		t.Error("nobody waited for the flusher: the test did not do what it is for")
	}
	if tail > tailMax {
		t.Errorf("%v bytes were unflushed, at most %d are allowed", tail, tailMax)
	}
	if files > walMax/walFile {
		t.Errorf("%v WAL files, at most %d are allowed", files, walMax/walFile)
	}
	if u.PeakRSS > rssMax {
		t.Errorf("peak RSS %d bytes, want at most %d", u.PeakRSS, rssMax)
	}
	eventually(t, time.Minute, "everything is flushed", func() bool { return broker.Metrics()["weir_segment_tail_bytes"] == 0 })
	broker.Kill()
	if err := broker.Launch(); err != nil {
		t.Fatal(err)
	}
	f.requireAll(t, offsets{connect(t, broker)})
	if err := readWhole(t, broker.Addr, 2, 33, f.acked[2][33].Load()); err != nil {
		t.Error(err)
	}
}
