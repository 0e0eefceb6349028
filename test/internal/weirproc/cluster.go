package weirproc

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/verify"
)

// ClusterOptions says what a cluster is made of.
type ClusterOptions struct {
	Nodes  int               // 0: three; all of them are seeds
	Config map[string]string // of every node
	// Each, if set, adds to the configuration of one node.
	Each func(node int32) map[string]string
	Env  []string
	// EnvOf, if set, adds to the environment of one node.
	EnvOf func(node int32) []string
}

// Cluster is several brokers on addresses 127.0.0.11, .12 and so on, so that what passes between two of them can be told from
// everything else, what the test's clients send included.
type Cluster struct {
	Nodes []*Broker // by node id, from 1

	tb      testing.TB
	options ClusterOptions
	seeds   string
}

// StartCluster starts a cluster from empty directories and ends it with the test.
func StartCluster(tb testing.TB, o ClusterOptions) *Cluster {
	tb.Helper()
	c := NewCluster(tb, o)
	if err := c.Launch(); err != nil {
		tb.Fatalf("start the cluster: %v", err)
	}
	return c
}

// NewCluster prepares a cluster without starting it.
func NewCluster(tb testing.TB, o ClusterOptions) *Cluster {
	tb.Helper()
	if Reference() {
		tb.Skip("the reference runs as one node only")
	}
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	c := &Cluster{tb: tb, options: o}
	peers, seeds := make([]string, o.Nodes), make([]string, o.Nodes)
	for i := range peers {
		peers[i] = FreeAddrOn(tb, host(int32(i+1)))
		seeds[i] = fmt.Sprintf("%d@%s", i+1, peers[i])
	}
	c.seeds = strings.Join(seeds, ",")
	for i, peer := range peers {
		c.Nodes = append(c.Nodes, New(tb, c.node(int32(i+1), peer)))
	}
	return c
}

// host is where a node is.
func host(node int32) string { return fmt.Sprintf("127.0.0.%d", 10+node) }

func (c *Cluster) node(id int32, peer string) Options {
	config := maps.Clone(c.options.Config)
	if config == nil {
		config = map[string]string{}
	}
	if c.options.Each != nil {
		maps.Copy(config, c.options.Each(id))
	}
	env := c.options.Env
	if c.options.EnvOf != nil {
		env = append(slices.Clone(env), c.options.EnvOf(id)...)
	}
	return Options{Config: config, Env: env, Host: host(id), Node: id, Peer: peer, Seeds: c.seeds}
}

// Add prepares one more node, which is not among the seeds and joins when it is launched.
func (c *Cluster) Add() *Broker {
	c.tb.Helper()
	id := int32(len(c.Nodes) + 1)
	b := New(c.tb, c.node(id, FreeAddrOn(c.tb, host(id))))
	c.Nodes = append(c.Nodes, b)
	return b
}

// With prepares a node like another one of the cluster, on addresses of its own, with changed options; for nodes that must be refused.
func (c *Cluster) With(like int32, change func(*Options)) *Broker {
	c.tb.Helper()
	o := c.node(like, c.Nodes[like-1].options.Peer)
	change(&o)
	return New(c.tb, o)
}

// Node is the broker of a node id.
func (c *Cluster) Node(id int32) *Broker { return c.Nodes[id-1] }

// Launch starts every node that does not run, together, and waits until all are ready.
func (c *Cluster) Launch() error {
	errs := make([]error, len(c.Nodes))
	var wait sync.WaitGroup
	for i, b := range c.Nodes {
		if b.Running() {
			continue
		}
		if err := b.LaunchAsync(); err != nil {
			return fmt.Errorf("node %d: %w", i+1, err)
		}
		wait.Go(func() {
			if err := b.AwaitReady(); err != nil {
				errs[i] = fmt.Errorf("node %d: %w", i+1, err)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// Addrs are the Kafka addresses of all nodes.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, len(c.Nodes))
	for i, b := range c.Nodes {
		addrs[i] = b.Addr
	}
	return addrs
}

// Peer is a node's address for the others.
func (c *Cluster) Peer(id int32) string { return c.Nodes[id-1].options.Peer }

// Kill ends every node with SIGKILL.
func (c *Cluster) Kill() {
	for _, b := range c.Nodes {
		b.Kill()
	}
}

// Diagnose logs how replication goes on each node, twice, a second apart: for a test that has failed.
func (c *Cluster) Diagnose() {
	c.tb.Helper()
	for range 2 {
		for i, b := range c.Nodes {
			if !b.Running() {
				continue
			}
			var lines []string
			for name, v := range b.Metrics() {
				if rest, ok := strings.CutPrefix(name, "weir_replica_"); ok && v != 0 && !strings.Contains(rest, "_bucket") && !strings.HasPrefix(rest, "cleaner") {
					lines = append(lines, fmt.Sprintf("%s=%v", rest, v))
				}
			}
			slices.Sort(lines)
			c.tb.Logf("node %d: %s", i+1, strings.Join(lines, " "))
		}
		time.Sleep(time.Second)
	}
}

// DumpAround lists the record batches around a record as its leader has them, for what verify.Ledger finds.
func (c *Cluster) DumpAround(r *kgo.Record) string {
	for _, b := range c.Nodes {
		partitions, err := verify.Describe(b.Addr, r.Topic)
		for _, p := range partitions {
			if err == nil && p.Partition == r.Partition && p.Leader > 0 {
				return fmt.Sprintf("leader %d, epoch %d\n%s", p.Leader, p.LeaderEpoch, verify.DumpBatches(c.tb, c.Node(p.Leader).Addr, r.Topic, r.Partition, r.Offset))
			}
		}
	}
	return "no node tells who leads\n"
}
