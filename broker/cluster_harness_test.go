package broker

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/config"
	"weir/internal/vfs"
	"weir/raftmeta"
	"weir/replica"
)

// testCluster is a cluster of nodes in this process, each with an address of its own on the loopback network and a disk in memory.
// What a test waits for it waits for by event, through await.
type testCluster struct {
	t     testing.TB
	seeds string
	extra map[string]string
	nodes map[int32]*testNode
}

// testNode is a node and what remains of it while it does not run.
type testNode struct {
	id          int32
	kafka, peer string
	disk        vfs.FS
	seeds       string
	extra       map[string]string // configuration of this node alone
	run         *Running          // nil: it does not run
	reg         *prometheus.Registry
}

// clusterWait bounds every wait of a test; it is far more than anything needs, also on a machine with much else to do.
const clusterWait = 60 * time.Second

var clusterCount atomic.Int32

// newCluster prepares a cluster of n nodes with ids from 1 on, all of them seeds. extra is added to the configuration of each.
func newCluster(t testing.TB, n int32, extra map[string]string) *testCluster {
	t.Helper()
	c := &testCluster{t: t, extra: extra, nodes: map[int32]*testNode{}}
	network := clusterCount.Add(1)
	var seeds []string
	for id := int32(1); id <= n; id++ {
		node := c.prepare(network, id)
		seeds = append(seeds, fmt.Sprintf("%d@%s", id, node.peer))
	}
	c.seeds = strings.Join(seeds, ",")
	for _, node := range c.nodes {
		node.seeds = c.seeds
	}
	t.Cleanup(c.stopAll)
	return c
}

// startCluster is newCluster, started: when it returns, every node serves.
func startCluster(t testing.TB, n int32, extra map[string]string) *testCluster {
	t.Helper()
	c := newCluster(t, n, extra)
	c.start(slices.Sorted(maps.Keys(c.nodes))...)
	return c
}

// prepare gives a node its addresses and its disk. No other process uses an address like that, and the ports are not of those that the system gives to
// connections (nodes dial from their own address), so they stay free while the node does not run.
func (c *testCluster) prepare(network, id int32) *testNode {
	host := fmt.Sprintf("127.%d.%d.%d", 1+os.Getpid()%254, 1+network%254, id)
	port := 10000 + os.Getpid()%10000
	node := &testNode{id: id, kafka: fmt.Sprintf("%s:%d", host, port), peer: fmt.Sprintf("%s:%d", host, port+10000), disk: vfs.NewMem()}
	c.nodes[id] = node
	return node
}

// add prepares a node that is no seed.
func (c *testCluster) add(id int32) *testNode {
	node := c.prepare(clusterCount.Add(1), id)
	node.seeds = c.seeds
	return node
}

func (c *testCluster) config(node *testNode) *config.Broker {
	c.t.Helper()
	values := map[string]string{
		"node.id": fmt.Sprint(node.id), "data-dir": "/d", "kafka-addr": node.kafka, "peer-addr": node.peer, "seed-nodes": node.seeds,
		"http-addr": "", "io.engine": "portable", "log.dir.stall.ms": "20000", "group.initial.rebalance.delay.ms": "0",
		"offsets.topic.num.partitions": "4", "wal.file.bytes": "4194304", "wal.max.bytes": "33554432", "wal.group.max.bytes": "262144",
		// Long enough for a machine that has other things to do.
		"broker.session.timeout.ms": "3000",
	}
	maps.Copy(values, c.extra)
	maps.Copy(values, node.extra)
	cfg, err := config.LoadBroker(values)
	if err != nil {
		c.t.Fatal(err)
	}
	return cfg
}

// tryStart starts one node.
func (c *testCluster) tryStart(node *testNode) error {
	cfg := c.config(node)
	ctx, cancel := context.WithTimeout(context.Background(), clusterWait)
	defer cancel()
	node.reg = prometheus.NewRegistry()
	log := slog.New(slog.NewTextHandler(testWriter{c.t}, &slog.HandlerOptions{Level: clusterLogLevel})).With("node", node.id)
	run, err := Start(ctx, Options{Config: cfg, FS: node.disk, Logger: log, Registry: node.reg})
	if err != nil {
		return fmt.Errorf("node %d: %w", node.id, err)
	}
	node.run = run
	return nil
}

// clusterLogLevel is lowered by hand to see more.
const clusterLogLevel = slog.LevelError

// start starts nodes, all at the same time, and returns when all serve.
func (c *testCluster) start(ids ...int32) {
	c.t.Helper()
	errs := make(chan error, len(ids))
	for _, id := range ids {
		go func() { errs <- c.tryStart(c.nodes[id]) }()
	}
	failed := false
	for range ids {
		if err := <-errs; err != nil {
			failed = true
			c.t.Errorf("start: %v", err)
		}
	}
	if failed {
		c.t.FailNow()
	}
}

// stop shuts a node down in good order.
func (c *testCluster) stop(id int32) {
	c.t.Helper()
	if err := c.shutdown(id); err != nil {
		c.t.Errorf("shutdown of node %d: %v", id, err)
	}
}

func (c *testCluster) shutdown(id int32) error {
	node := c.nodes[id]
	run := node.run
	node.run = nil
	ctx, cancel := context.WithTimeout(context.Background(), clusterWait)
	defer cancel()
	return run.Shutdown(ctx)
}

var errCrash = fmt.Errorf("%w: the test has it crash", replica.ErrStorage)

// crash has a node vanish: its connections are reset and its ports closed at once, nothing is handed over.
func (c *testCluster) crash(id int32) {
	c.t.Helper()
	run := c.nodes[id].run
	run.b.parts.Fail(errCrash)
	select {
	case <-run.Done():
	case <-time.After(clusterWait):
		c.t.Errorf("node %d does not notice that its storage failed", id)
	}
	_ = c.shutdown(id) // says that the storage failed
}

func (c *testCluster) stopAll() {
	var wg sync.WaitGroup
	for id, node := range c.nodes {
		if node.run != nil {
			// All go at the same time: the last ones would look for a controller in vain.
			node.run.b.life.letGo.Do(func() { close(node.run.b.life.released) })
			wg.Go(func() {
				if err := c.shutdown(id); err != nil {
					c.t.Errorf("shutdown of node %d: %v", id, err)
				}
			})
		}
	}
	wg.Wait()
}

// node is the running node of this id.
func (c *testCluster) node(id int32) *Running { return c.nodes[id].run }

// any is a running node.
func (c *testCluster) any() *Running {
	for _, id := range slices.Sorted(maps.Keys(c.nodes)) {
		if run := c.nodes[id].run; run != nil {
			return run
		}
	}
	c.t.Fatal("no node runs")
	return nil
}

// await waits until a node's metadata satisfies cond.
func (c *testCluster) await(r *Running, what string, cond func(*raftmeta.Image) bool) {
	c.t.Helper()
	met := make(chan struct{})
	var once sync.Once
	cancel := r.b.meta.Subscribe(func(img *raftmeta.Image, _ *raftmeta.Delta) {
		if cond(img) {
			once.Do(func() { close(met) })
		}
	})
	defer cancel()
	select {
	case <-met:
	case <-time.After(clusterWait):
		for topic := range r.b.meta.Image().Topics() {
			c.t.Logf("topic %s: %+v", topic.Name, topic.Partitions)
		}
		c.t.Fatalf("node %d: %s: not within %s; brokers: %+v", r.b.cfg.NodeID, what, clusterWait, r.b.meta.Image().Brokers())
	}
}

// controller waits until a node other than those knows who is the controller, and returns it.
func (c *testCluster) controller(not ...int32) int32 {
	c.t.Helper()
	id := int32(-1)
	c.await(c.any(), "a controller", func(img *raftmeta.Image) bool {
		if img.ControllerID < 0 || slices.Contains(not, img.ControllerID) {
			return false
		}
		id = img.ControllerID
		return true
	})
	return id
}

// follower is a running node that is not the controller.
func (c *testCluster) follower() *Running {
	c.t.Helper()
	controller := c.controller()
	for _, id := range slices.Sorted(maps.Keys(c.nodes)) {
		if run := c.nodes[id].run; run != nil && id != controller {
			return run
		}
	}
	c.t.Fatal("no follower runs")
	return nil
}

// client is a client of the whole cluster.
func (c *testCluster) client(opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	var addrs []string
	for _, node := range c.nodes {
		addrs = append(addrs, node.kafka)
	}
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addrs...)}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl
}

// metric sums up a metric of a node over all its labels.
func (c *testCluster) metric(id int32, name string) float64 {
	c.t.Helper()
	families, err := c.nodes[id].reg.Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}
