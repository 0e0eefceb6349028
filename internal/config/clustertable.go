package config

const (
	maxReplicas = 1<<15 - 1 // the protocol counts them in 16 bits
	// rackAware is Kafka's class for the one choice that replica.selector.class has.
	rackAware = "org.apache.kafka.common.replica.RackAwareReplicaSelector"
)

// clusterKeys are about several nodes; a single node uses none of them.
var clusterKeys = []brokerKey{
	key("broker.heartbeat.interval.ms", Int, "250", "How often a node tells the controller that it is alive. Kafka's default is 2000.",
		func(b *Broker) any { return &b.BrokerHeartbeatIntervalMs }, between(10, 60000)),
	key("broker.session.timeout.ms", Int, "1500", "A node that the controller has not heard of for this long is fenced: its partitions get other leaders. Shorter: a dead node is noticed sooner, a slow one is taken for dead sooner. Kafka's default is 9000.",
		func(b *Broker) any { return &b.BrokerSessionTimeoutMs }, between(50, 600000)),
	key("controller.quorum.election.timeout.ms", Int, "1000", "A seed node that wants to lead the metadata and gets no majority of votes for this long tries again; with up to as much again at random.",
		func(b *Broker) any { return &b.QuorumElectionTimeoutMs }, between(50, 60000)),
	key("controller.quorum.fetch.timeout.ms", Int, "1000", "A seed node that has not heard of the metadata's leader for this long, and a little longer for each seed before it, asks for an election; at once, where the leader's process is gone. A leader that a majority has not answered for half of it steps down. Kafka's default is 2000.",
		func(b *Broker) any { return &b.QuorumFetchTimeoutMs }, between(50, 60000)),
	key("controlled.shutdown.enable", Boolean, "true", "Whether a node that is stopped has its leaderships moved first, so that clients see no gap.",
		func(b *Broker) any { return &b.ControlledShutdownEnable }),
	key("auto.leader.rebalance.enable", Boolean, "true", "Whether leaderships go back to the preferred replicas, the first of each partition, by themselves.",
		func(b *Broker) any { return &b.AutoLeaderRebalanceEnable }),
	key("leader.imbalance.check.interval.seconds", Long, "300", "How often auto.leader.rebalance.enable looks.",
		func(b *Broker) any { return &b.LeaderImbalanceCheckIntervalSeconds }, between(1, 1<<31-1)),
	key("leader.imbalance.per.broker.percentage", Int, "10", "The share of the partitions preferred to lead on a node that may be led elsewhere before auto.leader.rebalance.enable moves them.",
		func(b *Broker) any { return &b.LeaderImbalancePerBrokerPercentage }, between(0, 100)),
	key("replica.lag.time.max.ms", Long, "30000", "A follower that has not reached its leader's log end for this long is taken out of the in-sync replicas.",
		func(b *Broker) any { return &b.ReplicaLagTimeMaxMs }, atLeast(100)),
	key("replica.fetch.wait.max.ms", Int, "500", "The longest that a follower's fetch waits at the leader for data. It also bounds how late a follower without data to fetch reports.",
		func(b *Broker) any { return &b.ReplicaFetchWaitMaxMs }, atLeast(1)),
	key("replica.fetch.min.bytes", Int, "1", "The least data that a follower's fetch waits for.",
		func(b *Broker) any { return &b.ReplicaFetchMinBytes }, atLeast(0)),
	key("replica.fetch.max.bytes", Int, i64(1<<20), "The most bytes of one partition in a follower's fetch; the first batch comes even if it is larger.",
		func(b *Broker) any { return &b.ReplicaFetchMaxBytes }, atLeast(1024)),
	key("replica.fetch.response.max.bytes", Int, i64(10<<20), "The most bytes of one follower's fetch over all partitions; the first batch comes even if it is larger.",
		func(b *Broker) any { return &b.ReplicaFetchResponseMaxBytes }, atLeast(1024)),
	key("replica.fetch.backoff.ms", Int, "1000", "How long a follower waits after an error before it fetches the partition again; new metadata ends the wait.",
		func(b *Broker) any { return &b.ReplicaFetchBackoffMs }, atLeast(1)),
	own("replica.catchup.bytes.per.sec", Long, i64(64<<20), "The most bytes per second that this node fetches for its replicas that are not in sync, on top of what is being produced to them, so that a node that comes back does not hold up those that are. 0: no limit.",
		func(b *Broker) any { return &b.ReplicaCatchupBytesPerSec }, zeroOrAtLeast(64<<10)),
	key("replica.selector.class", String, "", "Which replica consumers are sent to. Not set: the leader. Kafka's RackAwareReplicaSelector: an in-sync one in the consumer's client.rack, if there is one (KIP-392).",
		func(b *Broker) any { return &b.ReplicaSelectorClass }, oneOf("", rackAware)).null(),
	own("peer.inflight.requests.max", Int, "1024", "The most requests in progress on one connection to another node; a further one fails at once.",
		func(b *Broker) any { return &b.PeerInflightRequestsMax }, between(1, 1<<20)),
	own("peer.inflight.bytes.max", Long, i64(64<<20), "The most bytes of requests in progress on one connection to another node; a further one fails at once. One request of any size always fits.",
		func(b *Broker) any { return &b.PeerInflightBytesMax }, atLeast(1<<20)),
	own("peer.dial.timeout.ms", Int, "1000", "The longest that connecting to another node may take.",
		func(b *Broker) any { return &b.PeerDialTimeoutMs }, between(10, 60000)),
}

// offsetsReplicas is the default of offsets.topic.replication.factor: Kafka's 3, as far as the nodes that are sure to be there go.
// The number of nodes alive at that moment would make it depend on who starts first.
func offsetsReplicas(b *Broker) string {
	return i64(int64(min(3, max(1, len(b.SeedNodes)))))
}
