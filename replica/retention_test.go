package replica

import (
	"strings"
	"testing"
	"time"

	"weir/internal/vfs"
	"weir/raftmeta"
)

// until waits for something that another goroutine brings about; the test's own deadline ends it.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestRetentionByItself: segments go when they are due although nothing calls for it: no roll, no restart, no further append.
func TestRetentionByItself(t *testing.T) {
	for what, c := range map[string]struct {
		configs map[string]string
		append  int // batches of about 1000 bytes
		all     bool
	}{
		"an idle log whose only segment expires": {map[string]string{"retention.ms": "30"}, 3, true},
		"retention.ms=0":                         {map[string]string{"retention.ms": "0"}, 3, true},
		"retention.bytes=0":                      {map[string]string{"retention.ms": "-1", "retention.bytes": "0"}, 3, true},
		// A segment has three batches. After the fourth the first one is sealed; it may go when the others have 2,000 bytes.
		"size, before the active segment is full": {map[string]string{"retention.bytes": "2000", "internal.segment.bytes": "3500"}, 6, false},
	} {
		t.Run(what, func(t *testing.T) {
			n := openNodeOn(t, vfs.NewMem(), "/data", map[string]string{"io.engine": "portable", "log.retention.check.interval.ms": "5", "log.writeback.ms": "5"})
			defer n.close()
			n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1, Configs: c.configs})
			p := n.ByName("t", 0)
			for range 3 { // again for the segments that take over
				for i := range c.append {
					if !c.all && i == 4 {
						until(t, "notice of the closed segment", func() bool {
							p.mu.Lock()
							defer p.mu.Unlock()
							return p.mu.sized
						})
					}
					n.mustAppend(p, valuesBatch(t, strings.Repeat("x", 1000)))
				}
				if !c.all {
					until(t, "deletion", func() bool { return p.LogStart() == p.End()-3 })
					return
				}
				until(t, "deletion of everything", func() bool { return p.LogStart() == p.End() })
				until(t, "the room's return", func() bool { return p.Size() == 0 })
			}
		})
	}
}

// TestNoRetentionNoTimer: a log that keeps everything has no timer.
func TestNoRetentionNoTimer(t *testing.T) {
	n := openNodeOn(t, vfs.NewMem(), "/data", map[string]string{"io.engine": "portable"})
	defer n.close()
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1, Configs: map[string]string{"retention.ms": "-1"}})
	p := n.ByName("t", 0)
	n.mustAppend(p, valuesBatch(t, "x"))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.retention != nil || p.mu.sized {
		t.Error("something is armed for a log that keeps everything")
	}
}
