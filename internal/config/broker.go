package config

import "net"

// Broker is the configuration of one node, valid as a whole. It is immutable after LoadBroker; fields are named after
// their keys. Where a key has synonyms (log.retention.hours) the field holds what they resolve to.
type Broker struct {
	// The node and its addresses.
	NodeID              int32    // node.id
	BrokerRack          string   // broker.rack, "" if none
	KafkaAddr           string   // kafka-addr, host:port
	HTTPAddr            string   // http-addr, host:port, "" for none
	PeerAddr            string   // peer-addr, host:port, never a wildcard; "" on a single node
	SeedNodes           []string // seed-nodes as configured; see Seeds
	AdvertisedListeners []string // advertised.listeners as configured, none if not
	AdvertisedHost      string   // never a wildcard
	AdvertisedPort      int32    // 0: the port that kafka-addr was bound to
	DataDir             string   // data-dir

	// Connections and requests.
	SocketRequestMaxBytes         int   // socket.request.max.bytes
	ConnectionsMaxIdleMs          int64 // connections.max.idle.ms
	MaxConnections                int   // max.connections
	ConnectionInflightRequestsMax int   // connection.inflight.requests.max
	ConnectionInflightBytesMax    int64 // connection.inflight.bytes.max
	QueuedMaxRequestBytes         int64 // queued.max.request.bytes, -1: no bound
	ConnectionWriteTimeoutMs      int64 // connection.write.timeout.ms
	RequestTimeoutMs              int64 // request.timeout.ms
	FetchMaxBytes                 int   // fetch.max.bytes
	FetchMemoryMaxBytes           int64 // fetch.memory.max.bytes
	FetchSessionSlots             int   // max.incremental.fetch.session.cache.slots

	// Where the time of requests goes.
	RequestSlowLogMs      int64   // request.slow.log.ms, 0: never
	OtelTracesEndpoint    string  // otel.traces.endpoint, "" for none
	OtelTracesSampleRatio float64 // otel.traces.sample.ratio

	// The cluster. A single node uses none of these.
	BrokerHeartbeatIntervalMs           int64  // broker.heartbeat.interval.ms
	BrokerSessionTimeoutMs              int64  // broker.session.timeout.ms
	QuorumElectionTimeoutMs             int64  // controller.quorum.election.timeout.ms
	QuorumFetchTimeoutMs                int64  // controller.quorum.fetch.timeout.ms
	ControlledShutdownEnable            bool   // controlled.shutdown.enable
	AutoLeaderRebalanceEnable           bool   // auto.leader.rebalance.enable
	LeaderImbalanceCheckIntervalSeconds int64  // leader.imbalance.check.interval.seconds
	LeaderImbalancePerBrokerPercentage  int    // leader.imbalance.per.broker.percentage
	ReplicaLagTimeMaxMs                 int64  // replica.lag.time.max.ms
	ReplicaFetchWaitMaxMs               int64  // replica.fetch.wait.max.ms
	ReplicaFetchMinBytes                int    // replica.fetch.min.bytes
	ReplicaFetchMaxBytes                int    // replica.fetch.max.bytes
	ReplicaFetchResponseMaxBytes        int    // replica.fetch.response.max.bytes
	ReplicaFetchBackoffMs               int64  // replica.fetch.backoff.ms
	ReplicaCatchupBytesPerSec           int64  // replica.catchup.bytes.per.sec, 0: no limit
	ReplicaSelectorClass                string // replica.selector.class: "" the leader, else rack-aware
	PeerInflightRequestsMax             int    // peer.inflight.requests.max
	PeerInflightBytesMax                int64  // peer.inflight.bytes.max
	PeerDialTimeoutMs                   int64  // peer.dial.timeout.ms

	// Topics.
	NumPartitions             int32 // num.partitions
	DefaultReplicationFactor  int   // default.replication.factor
	AutoCreateTopics          bool  // auto.create.topics.enable
	DeleteTopics              bool  // delete.topic.enable
	MessageMaxBytes           int   // message.max.bytes
	MessageValidateCompressed bool  // message.validate.compressed
	MinInsyncReplicas         int   // min.insync.replicas
	CompressionType           string
	CompressionGzipLevel      int
	CompressionLz4Level       int
	CompressionZstdLevel      int
	UncleanLeaderElection     bool

	// Logs. Broker-wide defaults of the topic keys, and Weir's own.
	LogSegmentBytes                int
	LogRollMs                      int64 // log.roll.ms, log.roll.hours
	LogRollJitterMs                int64 // log.roll.jitter.ms, log.roll.jitter.hours
	LogRetentionMs                 int64 // log.retention.ms, .minutes, .hours; -1: for ever
	LogRetentionBytes              int64 // -1: no limit
	LogRetentionCheckIntervalMs    int64
	LogSegmentDeleteDelayMs        int64
	LogIndexIntervalBytes          int
	LogIndexSizeMaxBytes           int
	LogCleanupPolicy               []string
	LogFlushIntervalMessages       int64
	LogFlushIntervalMs             int64
	LogMessageTimestampType        string // CreateTime or LogAppendTime
	LogMessageTimestampBeforeMaxMs int64
	LogMessageTimestampAfterMaxMs  int64
	LogPreallocate                 bool
	LogCleanerEnable               bool
	LogCleanerThreads              int
	LogCleanerDedupeBufferSize     int64 // bytes
	LogCleanerIOBufferSize         int   // bytes
	LogCleanerIOBufferLoadFactor   float64
	LogCleanerIOMaxBytesPerSecond  float64
	LogCleanerBackoffMs            int64
	LogCleanerDeleteRetentionMs    int64
	LogCleanerMinCleanableRatio    float64
	LogCleanerMinCompactionLagMs   int64
	LogCleanerMaxCompactionLagMs   int64
	LogTailMaxBytes                int64  // log.tail.max.bytes
	LogWritebackBytes              int    // log.writeback.bytes
	LogWritebackMs                 int64  // log.writeback.ms
	LogDirStallMs                  int64  // log.dir.stall.ms
	LogDirStallAction              string // log.dir.stall.action: exit or wait
	LogDirFullPercent              int    // log.dir.full.percent
	IOEngine                       string
	RaftCPUs                       []string // raft.cpus

	// The write-ahead log.
	WALFileBytes         int64 // wal.file.bytes
	WALMaxBytes          int64 // wal.max.bytes
	WALQueueMaxBytes     int64 // wal.queue.max.bytes
	WALGroupMaxBytes     int   // wal.group.max.bytes
	WALPipelineBytes     int   // wal.pipeline.bytes
	WALInflightWritesMax int   // wal.inflight.writes.max

	// Groups, offsets and producers.
	GroupMinSessionTimeoutMs        int64
	GroupMaxSessionTimeoutMs        int64
	GroupInitialRebalanceDelayMs    int64
	GroupMaxSize                    int
	OffsetsTopicNumPartitions       int32
	OffsetsTopicReplicationFactor   int
	OffsetsTopicSegmentBytes        int
	OffsetsTopicCompressionCodec    int
	OffsetsRetentionMinutes         int
	OffsetsRetentionCheckIntervalMs int64
	OffsetsCommitTimeoutMs          int64
	OffsetMetadataMaxBytes          int
	ProducerIDExpirationMs          int64

	// The process.
	MetricsTopicsMax  int    // metrics.topics.max
	MetricsPartitions bool   // metrics.partitions.enable
	LogLevel          string // log.level
	LogFormat         string // log.format: text or json
	MemoryLimitBytes  int64  // memory.limit.bytes, 0: from the budgets
	GCPercent         int    // gc.percent
	ShutdownTimeoutMs int64  // shutdown.timeout.ms

	seeds []Seed // SeedNodes, parsed

	// set has the keys that were given, by canonical name: raw text and where it came from.
	set map[string]given
}

// given is a value as somebody wrote it.
type given struct {
	value  string
	origin string // "flag --data-dir", "WEIR_DATA_DIR", "weir.yaml"; may be empty
}

// IOBackend is io.engine as the I/O layer has it: empty for auto.
func (b *Broker) IOBackend() string {
	if b.IOEngine == "auto" {
		return ""
	}
	return b.IOEngine
}

// Advertised returns the host and port that clients are told to connect to, given the address that
// kafka-addr was bound to.
func (b *Broker) Advertised(bound net.Addr) (host string, port int32) {
	port = b.AdvertisedPort
	if tcp, ok := bound.(*net.TCPAddr); ok && port == 0 {
		port = int32(tcp.Port)
	}
	return b.AdvertisedHost, port
}
