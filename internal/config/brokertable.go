package config

import "strconv"

// brokerKey is a row of the broker table: the definition and the field it fills.
type brokerKey struct {
	Def
	field func(*Broker) any // pointer; nil: the key only feeds another one's synonym chain
	// derive, if set, makes the default from keys that stand before this one in the table.
	derive func(*Broker) string
}

// key makes a row of a key that Kafka has too; own one of Weir's.
func key(name string, t Type, def, doc string, field func(*Broker) any, rules ...rule) brokerKey {
	k := brokerKey{Def: Def{Name: name, Type: t, Default: def, Doc: doc, ReadOnly: true}, field: field}
	k.limits(rules)
	return k
}

func own(name string, t Type, def, doc string, field func(*Broker) any, rules ...rule) brokerKey {
	k := key(name, t, def, doc, field, rules...)
	k.Weir = true
	return k
}

// null marks a key that has no default; synonyms, if any, provide the value.
func (k brokerKey) null(synonyms ...string) brokerKey {
	k.Null, k.Default, k.Synonyms = true, "", synonyms
	return k
}

// derived marks a key whose default depends on others; Doc says how.
func (k brokerKey) derived(from func(*Broker) string) brokerKey {
	k.Null, k.Default, k.derive = true, "", from
	return k
}

// sameAs marks a second spelling of another key.
func (k brokerKey) sameAs(name string) brokerKey {
	k.Null, k.Default, k.SameAs = true, "", name
	return k
}

const (
	always   = "Weir flushes every message to the disk before it acknowledges it, and cannot do less yet"
	noChange = "Weir stores batches as producers sent them and does not recompress"
	forever  = "9223372036854775807"
)

func i64(n int64) string { return strconv.FormatInt(n, 10) }

// brokerTable is grouped by subject; BrokerDefs sorts it by name.
var brokerTable = func() []brokerKey {
	var t []brokerKey
	for _, group := range [][]brokerKey{addressKeys, connectionKeys, traceKeys, clusterKeys, topicDefaultKeys, logKeys, cleanerKeys, storageKeys, groupKeys, processKeys} {
		t = append(t, group...)
	}
	return t
}()

var addressKeys = []brokerKey{
	key("node.id", Int, "1", "The id of this node, unique in its cluster.",
		func(b *Broker) any { return &b.NodeID }, between(0, 1<<31-1)),
	key("broker.id", Int, "", "Kafka's older name for node.id.", nil).sameAs("node.id"),
	key("broker.rack", String, "", "The rack or zone of this node, told to clients that fetch from the nearest replica.",
		func(b *Broker) any { return &b.BrokerRack }).null(),
	own("data-dir", String, "./data", "The directory for everything that Weir stores. One process at a time can use it.",
		func(b *Broker) any { return &b.DataDir }, notEmpty("a directory")),
	key("log.dirs", List, "", "Kafka's name for data-dir. A node has one data directory.", nil).sameAs("data-dir"),
	key("log.dir", String, "", "Kafka's other name for data-dir.", nil).sameAs("data-dir"),
	own("kafka-addr", String, "127.0.0.1:9092", "The address, host:port, on which Kafka clients are served. With a wildcard host (0.0.0.0, ::, or none) advertised.listeners must be set.",
		func(b *Broker) any { return &b.KafkaAddr }, address()),
	key("listeners", List, "", "Kafka's name for kafka-addr: one PLAINTEXT://host:port.", nil).sameAs("kafka-addr"),
	key("advertised.listeners", List, "", "The one PLAINTEXT://host:port that clients are told to connect to. Not set: kafka-addr. It cannot be a wildcard, since clients would connect to themselves.",
		func(b *Broker) any { return &b.AdvertisedListeners }).null(),
	own("http-addr", String, "127.0.0.1:9644", "The address, host:port, of metrics, health and console. Empty: none of them is served.",
		func(b *Broker) any { return &b.HTTPAddr }, addressOrNone()),
	own("peer-addr", String, "", "The address, host:port, on which the other nodes of the cluster reach this one. It is what they are told, so it cannot be a wildcard. Needed when seed-nodes names another node.",
		func(b *Broker) any { return &b.PeerAddr }, peerAddress()),
	own("seed-nodes", List, "", "The nodes that form the cluster and vote on its metadata, three or five: id@host:port, comma-separated, with each one's peer-addr; the same list on every node. A node that is not among them joins the cluster that they form. Empty, or only this node: a single node.",
		func(b *Broker) any { return &b.SeedNodes }),
}

var connectionKeys = []brokerKey{
	key("socket.request.max.bytes", Int, i64(100<<20), "The largest request that is accepted. A larger one closes the connection before memory is allocated for it.",
		func(b *Broker) any { return &b.SocketRequestMaxBytes }, atLeast(1)),
	key("connections.max.idle.ms", Long, i64(10*60*1000), "A connection with no request for this long is closed. -1: never.",
		func(b *Broker) any { return &b.ConnectionsMaxIdleMs }, atLeast(-1)),
	key("max.connections", Int, i64(1<<31-1), "The most connections at a time; a further one is closed at once.",
		func(b *Broker) any { return &b.MaxConnections }, atLeast(0)),
	own("connection.inflight.requests.max", Int, "64", "A connection with this many requests in progress is not read until one is answered.",
		func(b *Broker) any { return &b.ConnectionInflightRequestsMax }, atLeast(1)),
	own("connection.inflight.bytes.max", Long, i64(32<<20), "A connection whose requests in progress have this many bytes is not read until some are answered. One request of any size always fits.",
		func(b *Broker) any { return &b.ConnectionInflightBytesMax }, atLeast(1)),
	key("queued.max.request.bytes", Long, i64(256<<20), "The memory for the requests that are being read or served, over all connections; without room connections are not read. One request of any size fits. -1, which is Kafka's default: no limit but connection.inflight.bytes.max.",
		func(b *Broker) any { return &b.QueuedMaxRequestBytes }, atLeast(-1), notZero()),
	own("connection.write.timeout.ms", Long, "30000", "A connection that does not take a response, or the next MiB of a larger one, within this time is closed.",
		func(b *Broker) any { return &b.ConnectionWriteTimeoutMs }, atLeast(1)),
	key("request.timeout.ms", Int, "30000", "The longest that a request to the cluster's metadata may take.",
		func(b *Broker) any { return &b.RequestTimeoutMs }, atLeast(1)),
	key("fetch.max.bytes", Int, i64(55<<20), "The most bytes that one fetch response carries; the first batch is sent even if it is larger.",
		func(b *Broker) any { return &b.FetchMaxBytes }, atLeast(1024)),
	own("fetch.memory.max.bytes", Long, i64(128<<20), "The memory for records on their way to consumers, over all connections. A connection gets a part of what is free, at least one batch; without that a fetch waits, at most for the time that its consumer would wait for data. One batch of any size fits.",
		func(b *Broker) any { return &b.FetchMemoryMaxBytes }, atLeast(1<<20)),
	key("max.incremental.fetch.session.cache.slots", Int, "1000", "The most incremental fetch sessions that are kept; 0 turns sessions off.",
		func(b *Broker) any { return &b.FetchSessionSlots }, atLeast(0)),
}

var topicDefaultKeys = []brokerKey{
	key("num.partitions", Int, "1", "The number of partitions of a topic created without one.",
		func(b *Broker) any { return &b.NumPartitions }, atLeast(1)),
	key("default.replication.factor", Int, "1", "The replication factor of a topic created without one. More than there are nodes makes such a creation fail.",
		func(b *Broker) any { return &b.DefaultReplicationFactor }, between(1, maxReplicas)),
	key("auto.create.topics.enable", Boolean, "true", "Create a topic when a client that allows it asks for the metadata of one that does not exist.",
		func(b *Broker) any { return &b.AutoCreateTopics }),
	key("delete.topic.enable", Boolean, "true", "Whether topics can be deleted.",
		func(b *Broker) any { return &b.DeleteTopics }),
	key("message.max.bytes", Int, "1048588", "The largest record batch, after compression. Topic key: max.message.bytes.",
		func(b *Broker) any { return &b.MessageMaxBytes }, atLeast(0)),
	own("message.validate.compressed", Boolean, "false", "Whether every compressed batch is decompressed and its records are checked before it is stored, as in Kafka. Without it that is done where the topic needs it: compaction, message.timestamp.before.max.ms, a header out of range.",
		func(b *Broker) any { return &b.MessageValidateCompressed }),
	key("min.insync.replicas", Int, "1", "With acks=all, the fewest in-sync replicas for a produce to be accepted; for a partition with fewer replicas than that, all of them. Below it, what was written is not shown to consumers either.",
		func(b *Broker) any { return &b.MinInsyncReplicas }, atLeast(1)),
	key("compression.type", String, "producer", "How batches are stored: producer keeps what the producer chose.",
		func(b *Broker) any { return &b.CompressionType }, oneOf(compressionTypes...), only(noChange, "producer")),
	key("compression.gzip.level", Int, "-1", "The level for compression.type gzip. No effect while compression.type is producer.",
		func(b *Broker) any { return &b.CompressionGzipLevel }, gzipLevel()),
	key("compression.lz4.level", Int, "9", "The level for compression.type lz4. No effect while compression.type is producer.",
		func(b *Broker) any { return &b.CompressionLz4Level }, between(1, 17)),
	key("compression.zstd.level", Int, "3", "The level for compression.type zstd. No effect while compression.type is producer.",
		func(b *Broker) any { return &b.CompressionZstdLevel }, between(-131072, 22)),
	key("unclean.leader.election.enable", Boolean, "false", "Whether a replica that is not in sync may become leader, losing acknowledged records.",
		func(b *Broker) any { return &b.UncleanLeaderElection }),
}

var groupKeys = []brokerKey{
	key("group.min.session.timeout.ms", Int, "6000", "The shortest session timeout that a group member may ask for.",
		func(b *Broker) any { return &b.GroupMinSessionTimeoutMs }, atLeast(1)),
	key("group.max.session.timeout.ms", Int, i64(30*60*1000), "The longest session timeout that a group member may ask for.",
		func(b *Broker) any { return &b.GroupMaxSessionTimeoutMs }, atLeast(1)),
	key("group.initial.rebalance.delay.ms", Int, "3000", "How long an empty group waits for more members before its first rebalance.",
		func(b *Broker) any { return &b.GroupInitialRebalanceDelayMs }, atLeast(0)),
	key("group.max.size", Int, i64(1<<31-1), "The most members of one group.",
		func(b *Broker) any { return &b.GroupMaxSize }, atLeast(1)),
	key("offsets.topic.num.partitions", Int, "50", "The number of partitions of __consumer_offsets; fixed once the topic exists.",
		func(b *Broker) any { return &b.OffsetsTopicNumPartitions }, atLeast(1)),
	key("offsets.topic.replication.factor", Int, "", "The replication factor of __consumer_offsets, when it is created. Not set: 3, Kafka's default, or as many as there are seed-nodes if those are fewer. More than there are nodes makes the creation fail, and groups wait.",
		func(b *Broker) any { return &b.OffsetsTopicReplicationFactor }, between(1, maxReplicas)).derived(offsetsReplicas),
	key("offsets.topic.segment.bytes", Int, i64(100<<20), "The segment size of __consumer_offsets.",
		func(b *Broker) any { return &b.OffsetsTopicSegmentBytes }, atLeast(1<<20)),
	key("offsets.topic.compression.codec", Int, "0", "The compression of the records in __consumer_offsets; 0: none.",
		func(b *Broker) any { return &b.OffsetsTopicCompressionCodec }, between(0, 4), only("offsets are stored uncompressed", "0")),
	key("offsets.retention.minutes", Int, i64(7*24*60), "How long committed offsets are kept once their group is empty.",
		func(b *Broker) any { return &b.OffsetsRetentionMinutes }, atLeast(1)),
	key("offsets.retention.check.interval.ms", Long, i64(10*60*1000), "How often expired offsets are looked for.",
		func(b *Broker) any { return &b.OffsetsRetentionCheckIntervalMs }, atLeast(1)),
	key("offsets.commit.timeout.ms", Int, "5000", "The longest that an offset commit waits for its replicas.",
		func(b *Broker) any { return &b.OffsetsCommitTimeoutMs }, atLeast(1)),
	key("offset.metadata.max.bytes", Int, "4096", "The longest metadata text of an offset commit.",
		func(b *Broker) any { return &b.OffsetMetadataMaxBytes }, atLeast(0)),
	key("producer.id.expiration.ms", Int, i64(24*60*60*1000), "How long the state of an idempotent producer is kept after its last batch.",
		func(b *Broker) any { return &b.ProducerIDExpirationMs }, atLeast(1)),
}

var processKeys = []brokerKey{
	own("metrics.topics.max", Int, "1000", "The most topics, in order of their names, that have metrics of their own; the others are told as one, (other).",
		func(b *Broker) any { return &b.MetricsTopicsMax }, atLeast(0)),
	own("metrics.partitions.enable", Boolean, "false", "Whether each partition has metrics of its own: size, log start, high watermark, log end.",
		func(b *Broker) any { return &b.MetricsPartitions }),
	own("log.level", String, "info", "What is logged: debug, info, warn or error and above.",
		func(b *Broker) any { return &b.LogLevel }, oneOf("debug", "info", "warn", "error")),
	own("log.format", String, "text", "How log lines are written to stderr: text or json.",
		func(b *Broker) any { return &b.LogFormat }, oneOf("text", "json")),
	own("memory.limit.bytes", Long, "0", "The memory that the process should stay below: the garbage collector works harder before it is reached. 0: the memory budgets and room for the rest, at most 80 % of what the machine or its container has. The variable GOMEMLIMIT, if set, wins over 0.",
		func(b *Broker) any { return &b.MemoryLimitBytes }, zeroOrAtLeast(64<<20)),
	own("gc.percent", Int, "100", "The growth of the heap, in percent, at which the garbage collector runs (GOGC). The variable GOGC, if set, wins over the default.",
		func(b *Broker) any { return &b.GCPercent }, between(10, 10000)),
	own("shutdown.timeout.ms", Long, "30000", "How long a shutdown may take to answer what is in progress and to write what is in memory.",
		func(b *Broker) any { return &b.ShutdownTimeoutMs }, atLeast(1)),
}
