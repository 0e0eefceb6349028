package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Seed is one of the nodes that form the cluster.
type Seed struct {
	ID   int32
	Addr string // host:port of its peer listener
}

// maxSeeds bounds the voters: each further one makes every metadata change slower.
const maxSeeds = 9

// Seeds returns seed-nodes, parsed, in the order given. The caller must not change it.
func (b *Broker) Seeds() []Seed { return b.seeds }

// Clustered: this node is, or wants to become, one of several. A node that is its own only seed is a single node.
func (b *Broker) Clustered() bool {
	return slices.ContainsFunc(b.seeds, func(s Seed) bool { return s.ID != b.NodeID })
}

// parseSeed reads id@host:port. False: it is something else.
func parseSeed(s string) (Seed, bool) {
	id, addr, ok := strings.Cut(s, "@")
	n, err := strconv.ParseInt(id, 10, 32)
	if !ok || err != nil || n < 0 {
		return Seed{}, false
	}
	host, port, err := splitAddress(addr)
	if err != nil || wildcard(host) || port == 0 {
		return Seed{}, false
	}
	return Seed{ID: int32(n), Addr: addr}, true
}

// checkCluster parses seed-nodes and refuses what could not form a cluster, or what a single node would ignore.
func (b *Broker) checkCluster() error {
	if err := b.checkSeeds(); err != nil {
		return err
	}
	bad := func(key, value, expected string) error {
		return &ValueError{Key: key, Value: value, Origin: b.set[key].origin, Expected: expected}
	}
	if !b.Clustered() {
		const alone = ", since seed-nodes names no other node and so this is a single node"
		switch {
		case b.PeerAddr != "" && len(b.seeds) == 0:
			return bad("peer-addr", b.PeerAddr, "seed-nodes to be set too, with the id@host:port of each node that forms the cluster")
		case b.DefaultReplicationFactor > 1:
			return bad("default.replication.factor", strconv.Itoa(b.DefaultReplicationFactor), "1"+alone)
		case b.OffsetsTopicReplicationFactor > 1:
			return bad("offsets.topic.replication.factor", strconv.Itoa(b.OffsetsTopicReplicationFactor), "1"+alone)
		}
		return nil
	}
	if b.PeerAddr == "" {
		return bad("peer-addr", "", "an address, host:port, on which the other nodes of seed-nodes reach this one")
	}
	for _, s := range b.seeds {
		_, seedPort, _ := splitAddress(s.Addr)
		_, port, _ := splitAddress(b.PeerAddr)
		switch {
		case s.ID == b.NodeID && seedPort != port:
			return bad("peer-addr", b.PeerAddr, fmt.Sprintf("the port that seed-nodes has for this node, %d: %s", s.ID, s.Addr))
		case s.ID != b.NodeID && s.Addr == b.PeerAddr:
			return bad("node.id", i64(int64(b.NodeID)), fmt.Sprintf("%d, which seed-nodes has for peer-addr %s", s.ID, s.Addr))
		}
	}
	return nil
}

// checkSeeds parses seed-nodes.
func (b *Broker) checkSeeds() error {
	bad := func(value, expected string) error {
		return &ValueError{Key: "seed-nodes", Value: value, Origin: b.set["seed-nodes"].origin, Expected: expected}
	}
	all := strings.Join(b.SeedNodes, ",")
	if len(b.SeedNodes) > maxSeeds {
		return bad(all, fmt.Sprintf("at most %d nodes, and better three or five: the others join", maxSeeds))
	}
	for _, text := range b.SeedNodes {
		seed, ok := parseSeed(text)
		if !ok {
			return bad(text, "a list of id@host:port")
		}
		for _, other := range b.seeds {
			if other.ID == seed.ID || other.Addr == seed.Addr {
				return bad(all, "each node, and each address, once")
			}
		}
		b.seeds = append(b.seeds, seed)
	}
	return nil
}
