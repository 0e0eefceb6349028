package config

import (
	"fmt"
	"strconv"
)

// check refuses values that are fine each on its own but not together.
func (b *Broker) check() error {
	if err := b.checkCluster(); err != nil {
		return err
	}
	bad := func(key, value, expected string) error {
		return &ValueError{Key: key, Value: value, Origin: b.set[key].origin, Expected: expected}
	}
	switch {
	case b.GroupMinSessionTimeoutMs > b.GroupMaxSessionTimeoutMs:
		return bad("group.min.session.timeout.ms", i64(b.GroupMinSessionTimeoutMs),
			fmt.Sprintf("at most group.max.session.timeout.ms, which is %d", b.GroupMaxSessionTimeoutMs))
	case b.WALMaxBytes < 2*b.WALFileBytes:
		return bad("wal.max.bytes", i64(b.WALMaxBytes),
			fmt.Sprintf("at least twice wal.file.bytes, which is %d", b.WALFileBytes))
	case int64(b.WALGroupMaxBytes) > b.WALFileBytes/2:
		return bad("wal.group.max.bytes", strconv.Itoa(b.WALGroupMaxBytes),
			fmt.Sprintf("at most half of wal.file.bytes, which is %d", b.WALFileBytes))
	case b.LogCleanerMinCompactionLagMs > b.LogCleanerMaxCompactionLagMs:
		return bad("log.cleaner.min.compaction.lag.ms", i64(b.LogCleanerMinCompactionLagMs),
			fmt.Sprintf("at most log.cleaner.max.compaction.lag.ms, which is %d", b.LogCleanerMaxCompactionLagMs))
	case b.BrokerSessionTimeoutMs < 2*b.BrokerHeartbeatIntervalMs:
		return bad("broker.session.timeout.ms", i64(b.BrokerSessionTimeoutMs),
			fmt.Sprintf("at least twice broker.heartbeat.interval.ms, which is %d", b.BrokerHeartbeatIntervalMs))
	case b.ReplicaFetchWaitMaxMs > b.ReplicaLagTimeMaxMs:
		return bad("replica.fetch.wait.max.ms", i64(b.ReplicaFetchWaitMaxMs),
			fmt.Sprintf("at most replica.lag.time.max.ms, which is %d", b.ReplicaLagTimeMaxMs))
	case b.MessageMaxBytes > b.SocketRequestMaxBytes:
		return bad("message.max.bytes", strconv.Itoa(b.MessageMaxBytes),
			fmt.Sprintf("at most socket.request.max.bytes, which is %d", b.SocketRequestMaxBytes))
	}
	return nil
}
