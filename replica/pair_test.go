package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"weir/internal/clock"
	"weir/internal/config"
	"weir/internal/record"
	"weir/internal/vfs"
	"weir/raftmeta"
	"weir/uring"
)

// cluster is several managers in one process, wired back to back: fetches are calls, and the test is the controller.
type cluster struct {
	t     testing.TB
	extra map[string]string
	// ctl is held while the metadata changes, so that every node gets the same changes in the same order.
	ctl   sync.Mutex
	log   []raftmeta.Command // all of them, for a node that starts
	img   *raftmeta.Image
	nodes map[int32]*clusterNode
	mu    sync.Mutex // nodes' managers, and what is cut off
	cut   map[int32]bool

	fetchWait time.Duration // at most, of a fetch
}

type clusterNode struct {
	c       *cluster
	id      int32
	disk    *vfs.MemFS
	meta    *raftmeta.Meta
	m       *Manager // nil: down
	source  Source   // what the manager fetches through; nil: the node itself
	applied int      // of cluster.log
	mu      sync.Mutex
	session map[int32]map[PartKey]AskPart // by leader
}

func newCluster(t testing.TB, nodes int, extra map[string]string) *cluster {
	t.Helper()
	c := &cluster{t: t, extra: extra, img: raftmeta.NewImage(), nodes: map[int32]*clusterNode{}, cut: map[int32]bool{}, fetchWait: 20 * time.Millisecond}
	for id := int32(1); id <= int32(nodes); id++ {
		c.nodes[id] = &clusterNode{c: c, id: id, disk: vfs.NewMem()}
		c.log = append(c.log, raftmeta.RegisterBroker{ID: id, Host: "127.0.0.1", Port: 9092 + id})
	}
	for id := int32(1); id <= int32(nodes); id++ {
		c.nodes[id].start()
	}
	return c
}

func (n *clusterNode) start() {
	n.c.t.Helper()
	values := map[string]string{
		"data-dir": "/d", "node.id": fmt.Sprint(n.id), "wal.file.bytes": "1048576", "wal.max.bytes": "8388608", "wal.group.max.bytes": "262144",
		"log.dir.stall.ms": "20000", "io.engine": "portable", "replica.fetch.wait.max.ms": "200", "replica.fetch.backoff.ms": "50",
	}
	for k, v := range n.c.extra {
		values[k] = v
	}
	cfg, err := config.LoadBroker(values)
	if err != nil {
		n.c.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(testWriter{n.c.t}, nil)).With("node", n.id)
	}
	// The metadata is made anew in each life, from all that was ever decided: it is not what is tested here.
	n.meta, err = raftmeta.Open(raftmeta.Options{FS: vfs.NewMem(), Dir: "/m", NodeID: n.id, Logger: slog.New(slog.DiscardHandler),
		StoreTimeout: 20 * time.Second, Ring: uring.Options{Backend: "portable"}})
	if err != nil {
		n.c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := n.meta.Ready(ctx); err != nil {
		n.c.t.Fatal(err)
	}
	n.c.ctl.Lock()
	defer n.c.ctl.Unlock()
	n.applied = 0
	n.catchUp()
	n.session = map[int32]map[PartKey]AskPart{}
	var source Source = n
	if n.source != nil {
		source = n.source
	}
	m, err := Open(Options{FS: n.disk, Config: cfg, Meta: n.meta, Clock: clock.Real{}, Logger: log, Source: source, Control: n})
	if err != nil {
		n.c.t.Fatalf("node %d: %v", n.id, err)
	}
	n.c.mu.Lock()
	n.m = m
	n.c.mu.Unlock()
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

// catchUp applies to the node's metadata what it does not have; ctl is held.
func (n *clusterNode) catchUp() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for n.applied < len(n.c.log) {
		results, err := n.meta.Propose(ctx, n.c.log[n.applied:]...)
		for _, r := range results {
			err = errors.Join(err, r.Err)
		}
		if err != nil {
			n.c.t.Errorf("node %d: metadata: %v", n.id, err)
			return
		}
		n.applied = len(n.c.log)
	}
}

// decide changes the metadata of the cluster; a node that is cut off does not hear of it.
func (c *cluster) decide(cmds ...raftmeta.Command) {
	c.ctl.Lock()
	defer c.ctl.Unlock()
	c.decideLocked(cmds...)
}

func (c *cluster) decideLocked(cmds ...raftmeta.Command) {
	c.log = append(c.log, cmds...)
	for id := int32(1); id <= int32(len(c.nodes)); id++ {
		if n := c.nodes[id]; c.up(id) != nil && !c.isCut(id) {
			n.catchUp()
		}
	}
}

func (c *cluster) up(id int32) *Manager {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[id]; n != nil {
		return n.m
	}
	return nil
}

func (c *cluster) isCut(id int32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut[id]
}

// part is the present state of a partition as the test's controller has decided it.
func (c *cluster) part(topic string, index int32) (*raftmeta.Topic, *raftmeta.Partition) {
	for id := int32(1); id <= int32(len(c.nodes)); id++ {
		n := c.nodes[id]
		if c.up(id) != nil && n.applied == len(c.log) {
			if t := n.meta.Image().Topic(topic); t != nil {
				return t, &t.Partitions[index]
			}
		}
	}
	c.t.Fatalf("no node knows %s-%d", topic, index)
	return nil, nil
}

// elect makes a node the leader, with these in sync.
func (c *cluster) elect(topic string, index, leader int32, isr ...int32) {
	c.t.Helper()
	c.ctl.Lock()
	defer c.ctl.Unlock()
	t, p := c.part(topic, index)
	c.decideLocked(raftmeta.ChangePartition{TopicID: t.ID, Partition: index, PartitionEpoch: p.PartitionEpoch, Leader: leader, NewEpoch: true, ISR: isr})
}

// crash ends a node as a loss of power does.
func (c *cluster) crash(id int32, rng *rand.Rand) {
	c.t.Helper()
	n := c.nodes[id]
	disk := n.disk.CrashClone(rng, rng.Float64())
	n.stop()
	n.disk = disk
}

func (n *clusterNode) stop() {
	n.c.mu.Lock()
	m := n.m
	n.m = nil
	n.c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := errors.Join(m.Close(ctx), n.meta.Close()); err != nil {
		n.c.t.Errorf("node %d: close: %v", n.id, err)
	}
}

func (c *cluster) close() {
	for id, n := range c.nodes {
		if c.up(id) != nil {
			n.stop()
		}
	}
}

// BrokerEpoch is Control's.
func (n *clusterNode) BrokerEpoch(int32) int64 { return 1 }

// AlterISR is Control's.
func (n *clusterNode) AlterISR(_ context.Context, changes []ISRChange) ([]ISRResult, error) {
	if n.c.isCut(n.id) {
		return nil, errors.New("cut off")
	}
	n.c.ctl.Lock()
	defer n.c.ctl.Unlock()
	results := make([]ISRResult, len(changes))
	for i, change := range changes {
		results[i] = n.alter(change)
	}
	return results, nil
}

func (n *clusterNode) alter(change ISRChange) ISRResult {
	t := n.meta.Image().TopicByID(change.TopicID)
	if t == nil || n.applied < len(n.c.log) {
		return ISRResult{Err: ErrNotHere}
	}
	was := &t.Partitions[change.Partition]
	switch {
	case was.LeaderEpoch != change.LeaderEpoch:
		return ISRResult{Err: ErrFencedEpoch}
	case was.PartitionEpoch != change.PartitionEpoch:
		return ISRResult{Err: ErrStalePartition}
	}
	isr := []int32{}
	for _, m := range change.ISR {
		if n.c.up(m.ID) == nil || n.c.isCut(m.ID) {
			return ISRResult{Err: ErrNotReplica}
		}
		isr = append(isr, m.ID)
	}
	n.c.decideLocked(raftmeta.ChangePartition{TopicID: t.ID, Partition: change.Partition, PartitionEpoch: was.PartitionEpoch, Leader: raftmeta.LeaderSame, ISR: isr})
	now := n.meta.Image().TopicByID(change.TopicID).Partitions[change.Partition]
	return ISRResult{ISR: now.ISR, Leader: now.Leader, LeaderEpoch: now.LeaderEpoch, PartitionEpoch: now.PartitionEpoch}
}

// Fetch is Source's: it does what the broker does, in memory.
func (n *clusterNode) Fetch(ctx context.Context, leader int32, ask *FetchAsk) (*FetchAnswer, error) {
	n.mu.Lock()
	defer n.mu.Unlock() // one ask to a leader at a time is the rule; across leaders the test can do without
	session := n.session[leader]
	if ask.Full || session == nil {
		if !ask.Full {
			return nil, ErrSessionLost
		}
		session = map[PartKey]AskPart{}
		n.session[leader] = session
	}
	for _, k := range ask.Forget {
		delete(session, k)
	}
	for _, p := range ask.Parts {
		session[PartKey{p.TopicID, p.Index}] = p
	}
	woken := make(chan struct{}, 1)
	deadline := time.NewTimer(min(ask.MaxWait, n.c.fetchWait)) // waits of several leaders share a lock
	defer deadline.Stop()
	for {
		m := n.c.up(leader)
		if m == nil || n.c.isCut(leader) || n.c.isCut(n.id) {
			select {
			case <-deadline.C:
			case <-ctx.Done():
			}
			return nil, errors.New("leader cannot be reached")
		}
		var waits []*Waiter
		for k := range session {
			if p := m.Partition(k.TopicID, k.Index); p != nil {
				w := &Waiter{Wake: func() {
					select {
					case woken <- struct{}{}:
					default:
					}
				}}
				p.WaitAppend(w)
				waits = append(waits, w)
			}
		}
		answer := n.answers(m, session)
		stop := false
		if len(answer.Parts) == 0 {
			select {
			case <-woken:
			case <-deadline.C:
				stop = true
			case <-ctx.Done():
				stop = true
			}
		}
		for _, w := range waits {
			w.Stop()
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if len(answer.Parts) > 0 || stop {
			return answer, nil
		}
	}
}

// answers is what the leader has for the session now.
func (n *clusterNode) answers(m *Manager, session map[PartKey]AskPart) *FetchAnswer {
	a := &FetchAnswer{}
	for k, ask := range session {
		part := AnswerPart{TopicID: k.TopicID, Index: k.Index, Leader: -1, LeaderEpoch: -1}
		p := m.Partition(k.TopicID, k.Index)
		if p == nil {
			part.Err = ErrNotHere
			a.Parts = append(a.Parts, part)
			continue
		}
		part.Diverging, part.Err = p.FollowerFetched(FollowerFetch{Replica: n.id, BrokerEpoch: 1, CurrentEpoch: ask.CurrentEpoch, Offset: ask.Offset,
			LastEpoch: ask.LastEpoch, LogStart: ask.LogStart, HighWatermark: ask.HighWatermark})
		part.Leader, part.LeaderEpoch = p.Leader()
		if part.Err == nil && part.Diverging == nil {
			r, err := p.ReadReplica(nil, ask.Offset, ask.MaxBytes, true)
			if part.Err = err; r != nil {
				for _, b := range r.Buffers() {
					part.Records = append(part.Records, b...)
				}
				r.Release()
			}
		}
		part.HighWatermark, part.LogStart = p.HighWatermark(), p.LogStart()
		if part.Err != nil || part.Diverging != nil || len(part.Records) > 0 || part.HighWatermark != ask.HighWatermark || part.LogStart > ask.LogStart {
			a.Parts = append(a.Parts, part)
		}
	}
	return a
}

// until waits for something that an event brings about; the test's deadline ends it if it never comes.
func (c *cluster) until(what string, ok func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			c.t.Fatalf("it does not come: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// produce appends one value with AcksAll at whoever leads, and waits. An error says that the outcome is not known.
func (c *cluster) produce(topic string, index, leader int32, b record.Batch) (int64, error) {
	m := c.up(leader)
	if m == nil {
		return -1, ErrNotHere
	}
	p := m.ByName(topic, index)
	if p == nil {
		return -1, ErrNotHere
	}
	if err := m.Reserve(len(b), 10*time.Second); err != nil {
		return -1, err
	}
	done := make(chan struct{})
	a := &Append{Batch: b, AcksAll: true, Done: func(*Append) { close(done) }}
	p.Append(a)
	<-done
	return a.BaseOffset, a.Err
}

// appendTo appends to one node's replica, and waits for its disk only.
func (c *cluster) appendTo(node int32, value string) {
	c.t.Helper()
	b := valueBatch(c.t, value)
	if err := c.up(node).Reserve(len(b), time.Second); err != nil {
		c.t.Fatal(err)
	}
	done := make(chan error, 1)
	c.up(node).ByName("t", 0).Append(&Append{Batch: b, Done: func(a *Append) { done <- a.Err }})
	if err := <-done; err != nil {
		c.t.Fatal(err)
	}
}

// contents is a partition's batches as values by offset, with their epochs.
func (c *cluster) contents(topic string, index, node int32) []string {
	c.t.Helper()
	var got []string
	err := c.up(node).ByName(topic, index).ReadAll(func(b record.Batch) error {
		return b.Each(func(r *record.Record) bool {
			got = append(got, fmt.Sprintf("%d/%d:%s", r.Offset, b.LeaderEpoch(), r.Value))
			return true
		})
	})
	if err != nil {
		c.t.Fatalf("node %d: %v", node, err)
	}
	return got
}

// same waits until all these nodes have the same log and know that all of it is committed.
func (c *cluster) same(topic string, index int32, nodes ...int32) []string {
	c.t.Helper()
	c.until(fmt.Sprintf("nodes %v have the same %s-%d", nodes, topic, index), func() bool {
		first := c.up(nodes[0]).ByName(topic, index)
		for _, id := range nodes {
			p := c.up(id).ByName(topic, index)
			if p == nil || p.End() != first.End() || p.HighWatermark() != first.End() || p.Durable() != first.End() {
				return false
			}
		}
		return true
	})
	want := c.contents(topic, index, nodes[0])
	for _, id := range nodes[1:] {
		if got := c.contents(topic, index, id); !slices.Equal(got, want) {
			c.t.Fatalf("node %d has\n%q, node %d has\n%q", id, got, nodes[0], want)
		}
	}
	return want
}
