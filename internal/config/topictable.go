package config

// topicKey is a row of the topic table: the definition, the field it fills, and the broker's field that it falls back to.
type topicKey struct {
	Def
	field  func(*Topic) any  // nil: accepted with its default only, or handled apart
	broker func(*Broker) any // nil: Default
}

// inherit makes a row whose value, type, doc and limits come from the broker key.
func inherit(name, broker string, field func(*Topic) any) topicKey {
	for _, k := range brokerTable {
		if k.Name != broker {
			continue
		}
		d := k.Def
		inherited := d.Validate
		d.Name, d.ReadOnly, d.Synonyms = name, false, append([]string{broker}, d.Synonyms...)
		if d.Null {
			d.Null, d.Default = false, resolvedDefaults[broker]
		}
		d.Validate = func(s string) error { return renamed(inherited(s), name) }
		return topicKey{Def: d, field: field, broker: k.field}
	}
	panic("BUG: config: topic key " + name + " inherits from unknown broker key " + broker)
}

// resolvedDefaults are what the broker keys without a default resolve to through their synonyms.
var resolvedDefaults = map[string]string{
	"log.roll.ms":        i64(168 * msPerHour),
	"log.roll.jitter.ms": "0",
	"log.retention.ms":   i64(168 * msPerHour),
}

// renamed gives an error about the broker key the name of the topic key.
func renamed(err error, name string) error {
	if v, ok := err.(*ValueError); ok {
		r := *v
		r.Key = name
		return &r
	}
	return err
}

// fixed makes a row that exists in Kafka, cannot be honoured here, and so takes its default only.
func fixed(name string, t Type, def, doc, why string) topicKey {
	k := topicKey{Def: Def{Name: name, Type: t, Default: def, Doc: doc}}
	k.limits([]rule{only(why, def)})
	return k
}

const (
	noTiers    = "there is no remote storage"
	noThrottle = "replica.catchup.bytes.per.sec throttles the replicas that are not in sync"
)

var topicTable = []topicKey{
	inherit("cleanup.policy", "log.cleanup.policy", func(t *Topic) any { return &t.CleanupPolicy }),
	inherit("compression.type", "compression.type", func(t *Topic) any { return &t.CompressionType }),
	inherit("compression.gzip.level", "compression.gzip.level", func(t *Topic) any { return &t.CompressionGzipLevel }),
	inherit("compression.lz4.level", "compression.lz4.level", func(t *Topic) any { return &t.CompressionLz4Level }),
	inherit("compression.zstd.level", "compression.zstd.level", func(t *Topic) any { return &t.CompressionZstdLevel }),
	inherit("delete.retention.ms", "log.cleaner.delete.retention.ms", func(t *Topic) any { return &t.DeleteRetentionMs }),
	inherit("file.delete.delay.ms", "log.segment.delete.delay.ms", func(t *Topic) any { return &t.FileDeleteDelayMs }),
	inherit("flush.messages", "log.flush.interval.messages", func(t *Topic) any { return &t.FlushMessages }),
	inherit("flush.ms", "log.flush.interval.ms", func(t *Topic) any { return &t.FlushMs }),
	inherit("index.interval.bytes", "log.index.interval.bytes", func(t *Topic) any { return &t.IndexIntervalBytes }),
	inherit("max.compaction.lag.ms", "log.cleaner.max.compaction.lag.ms", func(t *Topic) any { return &t.MaxCompactionLagMs }),
	inherit("max.message.bytes", "message.max.bytes", func(t *Topic) any { return &t.MaxMessageBytes }),
	inherit("message.timestamp.after.max.ms", "log.message.timestamp.after.max.ms", func(t *Topic) any { return &t.MessageTimestampAfterMaxMs }),
	inherit("message.timestamp.before.max.ms", "log.message.timestamp.before.max.ms", func(t *Topic) any { return &t.MessageTimestampBeforeMaxMs }),
	inherit("message.timestamp.type", "log.message.timestamp.type", func(t *Topic) any { return &t.MessageTimestampType }),
	inherit("min.cleanable.dirty.ratio", "log.cleaner.min.cleanable.ratio", func(t *Topic) any { return &t.MinCleanableDirtyRatio }),
	inherit("min.compaction.lag.ms", "log.cleaner.min.compaction.lag.ms", func(t *Topic) any { return &t.MinCompactionLagMs }),
	inherit("min.insync.replicas", "min.insync.replicas", func(t *Topic) any { return &t.MinInsyncReplicas }),
	inherit("preallocate", "log.preallocate", func(t *Topic) any { return &t.Preallocate }),
	inherit("retention.bytes", "log.retention.bytes", func(t *Topic) any { return &t.RetentionBytes }),
	retentionMs(),
	inherit("segment.bytes", "log.segment.bytes", func(t *Topic) any { return &t.SegmentBytes }),
	inherit("segment.index.bytes", "log.index.size.max.bytes", func(t *Topic) any { return &t.SegmentIndexBytes }),
	inherit("segment.jitter.ms", "log.roll.jitter.ms", func(t *Topic) any { return &t.SegmentJitterMs }),
	inherit("segment.ms", "log.roll.ms", func(t *Topic) any { return &t.SegmentMs }),
	inherit("unclean.leader.election.enable", "unclean.leader.election.enable", func(t *Topic) any { return &t.UncleanLeaderElection }),
	fixed("follower.replication.throttled.replicas", List, "", "The replicas whose fetching is throttled.", noThrottle),
	fixed("leader.replication.throttled.replicas", List, "", "The replicas whose serving of followers is throttled.", noThrottle),
	fixed("local.retention.bytes", Long, "-2", "With remote storage: the size of what is kept locally.", noTiers),
	fixed("local.retention.ms", Long, "-2", "With remote storage: the age of what is kept locally.", noTiers),
	fixed("remote.log.copy.disable", Boolean, "false", "With remote storage: stop copying to it.", noTiers),
	fixed("remote.log.delete.on.disable", Boolean, "false", "With remote storage: delete from it when it is turned off.", noTiers),
	fixed("remote.storage.enable", Boolean, "false", "Keep old segments in remote storage.", noTiers),
	internalSegmentBytes(),
}

// retentionMs differs from its broker key: a topic's may be 0, which deletes all that is not in the active segment.
func retentionMs() topicKey {
	k := inherit("retention.ms", "log.retention.ms", func(t *Topic) any { return &t.RetentionMs })
	k.limits([]rule{atLeast(-1)})
	return k
}

// internalSegmentBytes is Kafka's way around the minimum of segment.bytes, for tests.
func internalSegmentBytes() topicKey {
	k := topicKey{Def: Def{
		Name: "internal.segment.bytes", Type: Int, Null: true,
		Doc: "For tests only: wins over segment.bytes and may be smaller than its minimum.",
	}}
	k.limits([]rule{atLeast(1024)})
	return k
}
