package config

import (
	"fmt"
	"strconv"
	"strings"
)

// check refuses values that are fine each on its own but not together.
func (b *Broker) check() error {
	if err := b.checkSeeds(); err != nil {
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
	case b.MessageMaxBytes > b.SocketRequestMaxBytes:
		return bad("message.max.bytes", strconv.Itoa(b.MessageMaxBytes),
			fmt.Sprintf("at most socket.request.max.bytes, which is %d", b.SocketRequestMaxBytes))
	}
	return nil
}

// checkSeeds parses seed-nodes and, as long as there is no cluster, refuses any node but this one.
func (b *Broker) checkSeeds() error {
	for _, s := range b.SeedNodes {
		bad := &ValueError{Key: "seed-nodes", Value: s, Origin: b.set["seed-nodes"].origin, Expected: "a list of id@host:port"}
		id, addr, ok := strings.Cut(s, "@")
		n, err := strconv.ParseInt(id, 10, 32)
		if !ok || err != nil || n < 0 {
			return bad
		}
		if host, _, err := splitAddress(addr); err != nil || wildcard(host) {
			return bad
		}
		if int32(n) != b.NodeID {
			bad.Why = oneNode + " and cannot form a cluster with node " + id
			bad.Expected = fmt.Sprintf("no seed nodes, or only this one, %d", b.NodeID)
			return bad
		}
	}
	if len(b.SeedNodes) > 1 {
		return &ValueError{
			Key: "seed-nodes", Value: strings.Join(b.SeedNodes, ","), Origin: b.set["seed-nodes"].origin,
			Expected: "each node once",
		}
	}
	return nil
}
