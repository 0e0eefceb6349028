package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

// steadyProducer produces numbers, idempotently and with acks=all, until it is stopped.
type steadyProducer struct {
	t     testing.TB
	stop  context.CancelFunc
	over  sync.WaitGroup
	acked chan int // each acknowledged record; nobody need listen

	mu    sync.Mutex
	count int
}

// produceSteadily begins; each record has a key, so that equal numbers modulo keys keep their order in one partition.
func (c *testCluster) produceSteadily(topic string, keys int) *steadyProducer {
	ctx, cancel := context.WithCancel(context.Background())
	s := &steadyProducer{t: c.t, stop: cancel, acked: make(chan int, 1)}
	cl := c.client(kgo.DefaultProduceTopic(topic), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.MaxBufferedRecords(8), kgo.UnknownTopicRetries(-1))
	s.over.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			r := &kgo.Record{Key: []byte(strconv.Itoa(i % keys)), Value: []byte(strconv.Itoa(i))}
			cl.Produce(context.Background(), r, func(_ *kgo.Record, err error) {
				if err != nil {
					c.t.Errorf("record %d: %v", i, err)
				}
				select {
				case s.acked <- i:
				default:
				}
			})
			s.mu.Lock()
			s.count = i + 1
			s.mu.Unlock()
		}
		if err := cl.Flush(context.Background()); err != nil {
			c.t.Errorf("flush: %v", err)
		}
	})
	c.t.Cleanup(func() { s.finish() })
	return s
}

// awaitMore waits until n more records were acknowledged than when it was called. Those that were under way then do not count.
func (s *steadyProducer) awaitMore(ctx context.Context, n int) {
	s.t.Helper()
	s.mu.Lock()
	from := s.count
	s.mu.Unlock()
	for {
		select {
		case i := <-s.acked:
			if i >= from+n {
				return
			}
		case <-ctx.Done():
			s.t.Fatalf("no record behind %d was acknowledged", from+n)
		}
	}
}

// finish ends it when all that was begun is acknowledged, and says how many there are.
func (s *steadyProducer) finish() int {
	s.stop()
	s.over.Wait()
	return s.count
}

// verify checks that each of n records is there exactly once, and in order by key.
func verifySteady(t testing.TB, got map[int32][]string, n, keys int) {
	t.Helper()
	seen := make([]bool, n)
	for p, values := range got {
		last := map[int]int{}
		for _, v := range values {
			i, err := strconv.Atoi(v)
			if err != nil || i >= n {
				t.Fatalf("partition %d has %q", p, v)
			}
			if seen[i] {
				t.Errorf("record %d is there twice", i)
			}
			seen[i] = true
			if before, ok := last[i%keys]; ok && before > i {
				t.Errorf("partition %d: record %d follows %d", p, i, before)
			}
			last[i%keys] = i
		}
	}
	if i := slices.Index(seen, false); i >= 0 {
		t.Errorf("record %d of %d is lost", i, n)
	}
}

// TestLeaderCrashes: when a node that leads vanishes the others take over, the producer goes on, and no acknowledged record is lost or there twice; the
// node comes back and catches up; then the next one goes.
func TestLeaderCrashes(t *testing.T) {
	c := startCluster(t, 3, map[string]string{"min.insync.replicas": "2"})
	c.createReplicated("orders", 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*clusterWait)
	defer cancel()
	const keys = 7
	p := c.produceSteadily("orders", keys)
	p.awaitMore(ctx, 50)
	for range 2 {
		victim := leaderOf(c.any(), "orders", 0)
		c.crash(victim)
		p.awaitMore(ctx, 200)
		c.start(victim)
		c.await(c.any(), "all replicas in sync", func(img *raftmeta.Image) bool { return inSync(img, "orders", 3) })
		p.awaitMore(ctx, 100)
	}
	n := p.finish()
	verifySteady(t, c.consumeAll("orders", n), n, keys)
	t.Logf("%d records", n)
}

func inSync(img *raftmeta.Image, topic string, replicas int) bool {
	t := img.Topic(topic)
	if t == nil {
		return false
	}
	for i := range t.Partitions {
		if len(t.Partitions[i].ISR) != replicas || t.Partitions[i].Leader < 0 {
			return false
		}
	}
	return true
}

// TestMinISR: acks=all is refused while too few replicas are in sync, and taken again when they are back; acks=1 goes on.
func TestMinISR(t *testing.T) {
	c := startCluster(t, 3, nil)
	controller := c.controller()
	others := slices.DeleteFunc([]int32{1, 2, 3}, func(id int32) bool { return id == controller })
	leader, follower := controller, others[0]
	c.assigned("orders", []int32{leader, follower}, [2]string{"min.insync.replicas", "2"})
	w := dial(t, c.node(leader))
	produce := func(acks int16) int16 {
		return w.do(produceRequest("orders", 0, acks, buildBatch(t, "x"))).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode
	}
	if code := produce(-1); code != 0 {
		t.Fatalf("both in sync: code %d", code)
	}
	c.stop(follower)
	c.await(c.node(leader), "one replica in sync", func(img *raftmeta.Image) bool { return inSync(img, "orders", 1) })
	if code := produce(-1); code != kerr.NotEnoughReplicas.Code && code != kerr.NotEnoughReplicasAfterAppend.Code {
		t.Errorf("one in sync: code %d, want %d", code, kerr.NotEnoughReplicas.Code)
	}
	if code := produce(1); code != 0 {
		t.Errorf("acks=1 with one in sync: code %d", code)
	}
	hw := c.node(leader).b.parts.ByName("orders", 0).HighWatermark()
	if end := c.node(leader).b.parts.ByName("orders", 0).End(); hw >= end {
		t.Errorf("the high watermark is %d of %d with one replica of two that must be in sync", hw, end)
	}
	c.start(follower)
	c.await(c.node(leader), "both in sync", func(img *raftmeta.Image) bool { return inSync(img, "orders", 2) })
	if code := produce(-1); code != 0 {
		t.Errorf("both in sync again: code %d", code)
	}
}

// TestCoordinatorMoves: a group's offsets survive the crash of its coordinator, its members find the next one, and go on where they were.
func TestCoordinatorMoves(t *testing.T) {
	c := startCluster(t, 3, map[string]string{"min.insync.replicas": "2"})
	c.createReplicated("orders", 2)
	ctx, cancel := context.WithTimeout(context.Background(), 2*clusterWait)
	defer cancel()
	cl := c.client(kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	produce := func(from, to int) {
		for i := from; i < to; i++ {
			if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	produce(0, 20)
	consumer := c.client(kgo.ConsumerGroup("g"), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	seen := map[string]int{}
	consume := func(want int) {
		for len(seen) < want {
			f := consumer.PollFetches(ctx)
			if ctx.Err() != nil {
				t.Fatalf("%d of %d records: %v", len(seen), want, f.Errors())
			}
			f.EachRecord(func(r *kgo.Record) { seen[string(r.Value)]++ })
			for {
				err := consumer.CommitUncommittedOffsets(ctx)
				if err == nil {
					break
				}
				if ctx.Err() != nil || !errors.Is(err, kerr.RebalanceInProgress) && !kerr.IsRetriable(err) && !errors.Is(err, kerr.UnknownMemberID) && !errors.Is(err, kerr.IllegalGeneration) {
					t.Fatalf("commit: %v", err)
				}
			}
		}
	}
	consume(20)
	coordinator := leaderOf(c.any(), offsetsTopic, c.any().b.groups.PartitionFor("g"))
	if coordinator < 0 {
		t.Fatal("nobody coordinates the group")
	}
	c.crash(coordinator)
	produce(20, 40)
	consume(40)
	for v, n := range seen {
		if n != 1 {
			t.Errorf("record %s was read %d times", v, n)
		}
	}
	// What the next coordinator knows is what was committed.
	next := leaderOf(c.any(), offsetsTopic, c.any().b.groups.PartitionFor("g"))
	if next == coordinator {
		t.Fatalf("node %d, which does not run, coordinates the group", next)
	}
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version = 8
	rg := kmsg.NewOffsetFetchRequestGroup()
	rg.Group = "g"
	req.Groups = append(req.Groups, rg)
	resp := dial(t, c.node(next)).do(req).(*kmsg.OffsetFetchResponse)
	if resp.Groups[0].ErrorCode != 0 {
		t.Fatalf("offsets: %+v", resp)
	}
	total := int64(0)
	for _, topic := range resp.Groups[0].Topics {
		for _, p := range topic.Partitions {
			total += p.Offset
		}
	}
	if total != 40 {
		t.Errorf("offsets add up to %d, want 40: %+v", total, resp.Groups[0].Topics)
	}
}
