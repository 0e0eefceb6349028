package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"weir/test/internal/weirproc"
)

const (
	idleTopics = 50
	idleWindow = 10 * time.Second
	idleSettle = time.Minute
	idleCPUMax = 0.05 // of a core, per node; shared machines charge interrupts to whoever runs
)

// TestIdle: a cluster that has nothing to do sends heartbeats and writes nothing.
func TestIdle(t *testing.T) {
	c := start(t, weirproc.ClusterOptions{})
	admin := newAdmin(t, c)
	two := "2"
	names := make([]string, idleTopics)
	for i := range names {
		names[i] = fmt.Sprintf("idle-%02d", i)
	}
	resp, err := admin.CreateTopics(limit(t, time.Minute), 3, 3, map[string]*string{"min.insync.replicas": &two}, names...)
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		t.Fatalf("create topics: %v", err)
	}
	l := newLoad(t, c, names[0], 3, 0)
	l.start()
	l.await(500)
	l.check(admin)
	quietSince, written := time.Now(), int64(-1)
	eventually(t, idleSettle, "the nodes stop writing", func() error {
		sum := int64(0)
		for _, b := range c.Nodes {
			sum += b.Usage().WriteBytes
		}
		if sum != written {
			written, quietSince = sum, time.Now()
		}
		if quiet := time.Since(quietSince); quiet < 7*time.Second { // longer than the age at which a tail is flushed
			return fmt.Errorf("quiet for %v", quiet)
		}
		return nil
	})
	var before [3]map[string]float64
	var used [3]weirproc.Usage
	for i, b := range c.Nodes {
		before[i], used[i] = b.Metrics(), b.Usage()
	}
	time.Sleep(idleWindow)
	for i, b := range c.Nodes {
		now := b.Usage()
		cpu := float64(now.CPU-used[i].CPU) / float64(idleWindow)
		t.Logf("node %d idle for %v: CPU %.2f %% of a core, RSS %.1f MiB, %d bytes written, %d threads", i+1, idleWindow, 100*cpu,
			float64(now.RSS)/(1<<20), now.WriteBytes-used[i].WriteBytes, now.Threads)
		if cpu > idleCPUMax {
			t.Errorf("node %d: CPU %.2f %% of a core while idle, want at most %.1f %%", i+1, 100*cpu, 100*idleCPUMax)
		}
		if now.WriteBytes != used[i].WriteBytes {
			t.Errorf("node %d: %d bytes written while idle", i+1, now.WriteBytes-used[i].WriteBytes)
		}
		requireUnchanged(t, i+1, before[i], b.Metrics())
	}
}

// requireUnchanged: no durable write of any log happened, whatever way it was issued.
func requireUnchanged(t *testing.T, node int, before, after map[string]float64) {
	t.Helper()
	counters := 0
	for name, was := range before {
		base, _, _ := strings.Cut(name, "{")
		if !strings.HasSuffix(base, "_total") || !strings.HasPrefix(base, "weir_wal_") && !strings.HasPrefix(base, "weir_segment_") {
			continue
		}
		counters++
		if after[name] != was {
			t.Errorf("node %d: %s went from %v to %v while idle", node, name, was, after[name])
		}
	}
	if counters == 0 {
		t.Error("/metrics has no weir_wal_..._total counter")
	}
}
