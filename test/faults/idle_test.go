package faults

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"weir/test/internal/weirproc"
	"weir/test/internal/wire"
)

const (
	idleTopics  = 100
	idleRSSMax  = 64 << 20
	readyMax    = time.Second
	idleWindow  = 10 * time.Second
	idleSettle  = 30 * time.Second // by then everything written behind must have been
	idleCPUGoal = 0.005            // of a core
	idleCPUMax  = 0.02             // asserted: shared machines charge interrupts to whoever runs
)

// TestIdle: a broker that has nothing to do does nothing.
func TestIdle(t *testing.T) {
	skipOnReference(t)
	broker := weirproc.Start(t, weirproc.Options{})
	admin := newAdmin(t, broker.Addr)
	topics := make([]string, idleTopics)
	for i := range topics {
		topics[i] = fmt.Sprintf("idle-%03d", i)
	}
	createTopics(t, admin, 1, topics...)
	conn := wire.Dial(t, broker.Addr)
	for _, topic := range topics {
		if code, _, err := conn.ProduceCode(topic, 0, wire.Batch([]byte("one record"))); code != 0 || err != nil {
			t.Fatalf("produce to %s: code %d, %v", topic, code, err)
		}
	}
	fastest := time.Hour
	for range 3 {
		if err := broker.Stop(); err != nil {
			t.Fatalf("stop: %v", err)
		}
		if err := broker.Launch(); err != nil {
			t.Fatalf("restart: %v", err)
		}
		fastest = min(fastest, broker.ReadyTime())
	}
	t.Logf("start to ready with %d topics: %v (best of 3)", idleTopics, fastest.Round(time.Millisecond))
	if fastest > readyMax {
		t.Errorf("start to ready took %v, want at most %v", fastest, readyMax)
	}
	requireQuiet(t, broker)
}

// requireQuiet measures an idle broker over a window.
func requireQuiet(t *testing.T, broker *weirproc.Broker) {
	t.Helper()
	written := broker.Usage().WriteBytes
	quietSince := time.Now()
	eventually(t, idleSettle, "the broker stops writing", func() bool {
		if now := broker.Usage().WriteBytes; now != written {
			written, quietSince = now, time.Now()
		}
		return time.Since(quietSince) > 7*time.Second // longer than the age at which a tail is flushed
	})
	metricsBefore := broker.Metrics()
	before := broker.Usage()
	time.Sleep(idleWindow)
	after := broker.Usage()
	cpu := float64(after.CPU-before.CPU) / float64(idleWindow)
	t.Logf("idle with %d topics: RSS %.1f MiB (peak %.1f), CPU %.2f %% of a core, %d bytes written, %d write calls, %d threads in %v",
		idleTopics, float64(after.RSS)/(1<<20), float64(after.PeakRSS)/(1<<20), 100*cpu,
		after.WriteBytes-before.WriteBytes, after.WriteCalls-before.WriteCalls, after.Threads, idleWindow)
	if after.RSS >= idleRSSMax {
		t.Errorf("RSS %d bytes, want below %d", after.RSS, idleRSSMax)
	}
	if after.WriteBytes != before.WriteBytes {
		t.Errorf("%d bytes written while idle", after.WriteBytes-before.WriteBytes)
	}
	if cpu > idleCPUGoal {
		t.Logf("CPU is above the goal of %.1f %%", 100*idleCPUGoal)
	}
	if cpu > idleCPUMax {
		t.Errorf("CPU %.2f %% of a core while idle, want at most %.1f %%", 100*cpu, 100*idleCPUMax)
	}
	requireUnchanged(t, metricsBefore, broker.Metrics())
}

// requireUnchanged: no durable write of any log happened, whatever way it was issued.
func requireUnchanged(t *testing.T, before, after map[string]float64) {
	t.Helper()
	counters := 0
	for name, was := range before {
		isLog := strings.HasPrefix(name, "weir_wal_") || strings.HasPrefix(name, "weir_segment_") || strings.HasPrefix(name, "weir_raftmeta_")
		if base, _, _ := strings.Cut(name, "{"); !isLog || !strings.HasSuffix(base, "_total") {
			continue
		}
		counters++
		if after[name] != was {
			t.Errorf("%s went from %v to %v while idle", name, was, after[name])
		}
	}
	if counters == 0 {
		t.Error("/metrics has no weir_wal_..._total counter")
	}
}
