package config

// cleanerKeys are about log compaction.
var cleanerKeys = []brokerKey{
	key("log.cleaner.enable", Boolean, "true", "Whether logs are compacted. Without it topics with cleanup.policy compact, __consumer_offsets among them, grow without end.",
		func(b *Broker) any { return &b.LogCleanerEnable }),
	key("log.cleaner.threads", Int, "1", "How many logs are compacted at a time. They share log.cleaner.dedupe.buffer.size, log.cleaner.io.buffer.size and log.cleaner.io.max.bytes.per.second.",
		func(b *Broker) any { return &b.LogCleanerThreads }, between(1, 16)),
	key("log.cleaner.dedupe.buffer.size", Long, i64(32<<20), "The memory for the keys of what is compacted, 24 bytes each, over all threads. It is taken while a log is compacted, and no more of it than that log needs. Where the keys do not fit, compaction takes several passes. Kafka's default is 128 MiB.",
		func(b *Broker) any { return &b.LogCleanerDedupeBufferSize }, between(1<<20, 1<<36)),
	key("log.cleaner.io.buffer.size", Int, i64(512<<10), "The memory for reading and writing while compacting, over all threads. A batch larger than its share gets room of its own.",
		func(b *Broker) any { return &b.LogCleanerIOBufferSize }, between(64<<10, 1<<30)),
	key("log.cleaner.io.buffer.load.factor", Double, "0.9", "How full the memory for keys may become. More keys fit, and take longer to find.",
		func(b *Broker) any { return &b.LogCleanerIOBufferLoadFactor }, share()),
	key("log.cleaner.io.max.bytes.per.second", Double, "67108864", "The most that compaction reads and writes, together, in a second, over all threads. Kafka's default is no limit; Weir's is 64 MiB, so that producers do not wait behind it.",
		func(b *Broker) any { return &b.LogCleanerIOMaxBytesPerSecond }, positive()),
	key("log.cleaner.backoff.ms", Long, "15000", "The shortest time between two looks at a log that had nothing to compact, or that could not be compacted. In Kafka also how often all logs are looked at; Weir looks when a segment was closed or a deadline has come.",
		func(b *Broker) any { return &b.LogCleanerBackoffMs }, atLeast(0)),
	key("log.cleaner.delete.retention.ms", Long, i64(24*60*60*1000), "How long compaction keeps tombstones. Topic key: delete.retention.ms.",
		func(b *Broker) any { return &b.LogCleanerDeleteRetentionMs }, atLeast(0)),
	key("log.cleaner.min.cleanable.ratio", Double, "0.5", "The share of a log that must be dirty before it is compacted. Topic key: min.cleanable.dirty.ratio.",
		func(b *Broker) any { return &b.LogCleanerMinCleanableRatio }, ratio()),
	key("log.cleaner.min.compaction.lag.ms", Long, "0", "The shortest time that a record stays uncompacted. Topic key: min.compaction.lag.ms.",
		func(b *Broker) any { return &b.LogCleanerMinCompactionLagMs }, atLeast(0)),
	key("log.cleaner.max.compaction.lag.ms", Long, forever, "The longest time that a record stays ineligible for compaction. Topic key: max.compaction.lag.ms.",
		func(b *Broker) any { return &b.LogCleanerMaxCompactionLagMs }, atLeast(1)),
}
