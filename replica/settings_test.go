package replica

import (
	"testing"
	"time"

	"weir/internal/vfs"
	"weir/raftmeta"
)

// TestSettingsArrive: each of a topic's keys about its log is what the log goes by.
func TestSettingsArrive(t *testing.T) {
	n := openNodeOn(t, vfs.NewMem(), "/data", map[string]string{"io.engine": "portable", "log.retention.check.interval.ms": "17", "log.roll.jitter.hours": "2"})
	defer n.close()
	n.propose(
		raftmeta.CreateTopic{Name: "set", Partitions: 1, Configs: map[string]string{
			"segment.bytes": "1048577", "segment.ms": "5000", "segment.jitter.ms": "300", "segment.index.bytes": "4096",
			"index.interval.bytes": "777", "retention.ms": "9000", "retention.bytes": "123456",
		}},
		raftmeta.CreateTopic{Name: "default", Partitions: 1},
		raftmeta.CreateTopic{Name: "forever", Partitions: 1, Configs: map[string]string{"retention.ms": "-1", "segment.ms": "9223372036854775807"}},
		raftmeta.CreateTopic{Name: "compacted", Partitions: 1, Configs: map[string]string{"cleanup.policy": "compact"}},
	)
	set := n.ByName("set", 0).settings.Load().Segment
	if set.SegmentBytes != 1048577 || set.SegmentAge != 5*time.Second || set.SegmentJitter != 300*time.Millisecond || set.IndexBytes != 4096 ||
		set.IndexIntervalBytes != 777 || set.RetentionAge != 9*time.Second || set.RetentionBytes != 123456 || set.RetentionCheck != 17*time.Millisecond || !set.Delete {
		t.Errorf("set: %+v", set)
	}
	def := n.ByName("default", 0).settings.Load().Segment
	if def.SegmentBytes != 1<<30 || def.SegmentAge != 168*time.Hour || def.SegmentJitter != 2*time.Hour || def.IndexBytes != 10<<20 ||
		def.IndexIntervalBytes != 4096 || def.RetentionAge != 168*time.Hour || def.RetentionBytes != -1 || !def.Delete {
		t.Errorf("defaults: %+v", def)
	}
	forever := n.ByName("forever", 0).settings.Load()
	if forever.Segment.RetentionAge >= 0 || forever.expires() || forever.Segment.SegmentAge <= 0 {
		t.Errorf("forever: %+v", forever.Segment)
	}
	if c := n.ByName("compacted", 0).settings.Load(); c.Segment.Delete || c.expires() {
		t.Errorf("compacted: %+v", c.Segment)
	}
}
