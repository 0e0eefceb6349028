package broker

import (
	"context"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
	"weir/replica"
)

// awaitPartition waits until a node's partition satisfies cond, which is looked at whenever it moves.
func (c *testCluster) awaitPartition(r *Running, topic string, what string, cond func(p *replica.Partition) bool) {
	c.t.Helper()
	p := r.b.parts.ByName(topic, 0)
	if p == nil {
		c.t.Fatalf("%s: %s-0 is not on node %d", what, topic, r.b.cfg.NodeID)
	}
	waitFor(c.t, what, func() bool { return cond(p) }, func(wake func()) func() {
		append, commit := replica.Waiter{Wake: wake}, replica.Waiter{Wake: wake}
		p.WaitAppend(&append)
		p.Wait(&commit)
		return func() { append.Stop(); commit.Stop() }
	})
}

// TestNearReplica: a consumer that says where it is is sent to the replica there, which serves it up to the high watermark (KIP-392); without a
// rack only the leader serves.
func TestNearReplica(t *testing.T) {
	c := newCluster(t, 3, map[string]string{"replica.selector.class": "org.apache.kafka.common.replica.RackAwareReplicaSelector"})
	for id := int32(1); id <= 3; id++ {
		c.nodes[id].extra = map[string]string{"broker.rack": fmt.Sprint("r", id)}
	}
	c.start(1, 2, 3)
	id := c.assigned("orders", []int32{1, 2, 3})
	for i := range 5 {
		if code := dial(t, c.node(1)).do(produceRequest("orders", 0, -1, buildBatch(t, fmt.Sprint(i)))).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode; code != 0 {
			t.Fatal(kerr.ErrorForCode(code))
		}
	}
	c.awaitPartition(c.node(2), "orders", "the follower knows what is committed", func(p *replica.Partition) bool { return p.HighWatermark() == 5 })
	fetch := func(node int32, rack string, offset int64) kmsg.FetchResponseTopicPartition {
		req := fetchNow(17, "orders", id, 0, offset)
		req.Rack = rack
		return dial(t, c.node(node)).do(req).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	}
	for _, tt := range []struct {
		name    string
		node    int32
		rack    string
		offset  int64
		code    int16
		nearer  int32
		records bool
	}{
		{"the leader, no rack", 1, "", 0, 0, -1, true},
		{"the leader, its rack", 1, "r1", 0, 0, -1, true},
		{"the leader, a follower's rack", 1, "r2", 0, 0, 2, false},
		{"the leader, another follower's rack", 1, "r3", 4, 0, 3, false},
		{"the leader, nobody's rack", 1, "r9", 0, 0, -1, true},
		{"the leader, out of range", 1, "r2", 99, kerr.OffsetOutOfRange.Code, -1, false},
		{"a follower", 2, "r2", 0, 0, -1, true},
		{"a follower, at the end", 2, "r2", 5, 0, -1, false},
		{"a follower, beyond its end", 2, "r2", 6, kerr.OffsetNotAvailable.Code, -1, false},
		{"a follower, no rack", 2, "", 0, kerr.NotLeaderForPartition.Code, -1, false},
	} {
		got := fetch(tt.node, tt.rack, tt.offset)
		if got.ErrorCode != tt.code || got.PreferredReadReplica != tt.nearer || (len(got.RecordBatches) > 0) != tt.records {
			t.Errorf("%s: code %d, nearer replica %d, %d bytes; want %d, %d, records: %v", tt.name, got.ErrorCode, got.PreferredReadReplica, len(got.RecordBatches), tt.code, tt.nearer, tt.records)
		}
	}
	// A whole consumer of that kind.
	before := c.metric(3, "weir_broker_fetch_bytes_total")
	c.consumeAll("orders", 5, kgo.Rack("r3"))
	if read := c.metric(3, "weir_broker_fetch_bytes_total") - before; read == 0 {
		t.Error("the consumer did not read from the replica in its rack")
	}
}

// TestEpochsAreTold: offsets come with the epochs that wrote them, and a client can ask where an epoch ends, also when the leader is another.
func TestEpochsAreTold(t *testing.T) {
	c := startCluster(t, 3, map[string]string{"min.insync.replicas": "2"})
	controller := c.controller()
	first := controller%3 + 1 // not the controller: its crash is enough to do
	c.assigned("orders", []int32{first, controller, 6 - first - controller})
	produce := func(n int) {
		ctx, cancel := context.WithTimeout(context.Background(), clusterWait)
		defer cancel()
		cl := c.client(kgo.DefaultProduceTopic("orders"))
		for range n {
			if err := cl.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		cl.Close()
	}
	produce(4)
	c.crash(first)
	c.await(c.node(controller), "another leader", func(img *raftmeta.Image) bool {
		l := img.Topic("orders").Partitions[0].Leader
		return l >= 0 && l != first
	})
	produce(3)
	next := leaderOf(c.node(controller), "orders", 0)
	epoch := c.node(controller).b.meta.Image().Topic("orders").Partitions[0].LeaderEpoch
	if epoch == 0 {
		t.Fatal("the epoch is still 0")
	}
	w := dial(t, c.node(next))
	end := func(current, asked int32) kmsg.OffsetForLeaderEpochResponseTopicPartition {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.Version, req.ReplicaID = 4, -1
		req.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: "orders", Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{
			{Partition: 0, CurrentLeaderEpoch: current, LeaderEpoch: asked}}}}
		return w.do(req).(*kmsg.OffsetForLeaderEpochResponse).Topics[0].Partitions[0]
	}
	for _, tt := range []struct {
		current, asked int32
		code           int16
		epoch          int32
		end            int64
	}{
		{-1, 0, 0, 0, 4}, {epoch, 0, 0, 0, 4}, {-1, epoch, 0, epoch, 7}, {-1, epoch + 1, 0, -1, -1},
		{0, 0, kerr.FencedLeaderEpoch.Code, -1, -1}, {epoch + 1, 0, kerr.UnknownLeaderEpoch.Code, -1, -1},
	} {
		if got := end(tt.current, tt.asked); got.ErrorCode != tt.code || got.LeaderEpoch != tt.epoch || got.EndOffset != tt.end {
			t.Errorf("end of epoch %d, asked in %d: %+v, want code %d, epoch %d, end %d", tt.asked, tt.current, got, tt.code, tt.epoch, tt.end)
		}
	}
	list := func(node int32, timestamp int64) kmsg.ListOffsetsResponseTopicPartition {
		req := kmsg.NewPtrListOffsetsRequest()
		req.Version, req.ReplicaID = 7, -1
		part := kmsg.NewListOffsetsRequestTopicPartition()
		part.Timestamp = timestamp
		req.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: "orders", Partitions: []kmsg.ListOffsetsRequestTopicPartition{part}}}
		return dial(t, c.node(node)).do(req).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
	}
	if got := list(next, earliestOffset); got.Offset != 0 || got.LeaderEpoch != 0 || got.ErrorCode != 0 {
		t.Errorf("earliest: %+v", got)
	}
	if got := list(next, latestOffset); got.Offset != 7 || got.LeaderEpoch != epoch || got.ErrorCode != 0 {
		t.Errorf("latest: %+v", got)
	}
	if got := list(next, maxTimestampOffset); got.ErrorCode != 0 || got.LeaderEpoch != epoch {
		t.Errorf("greatest timestamp: %+v", got)
	}
	if other := 6 - first - next; list(other, latestOffset).ErrorCode != kerr.NotLeaderForPartition.Code {
		t.Errorf("a follower lists offsets: %+v", list(other, latestOffset))
	}
}

// TestRecordsDeletedEverywhere: the answer to DeleteRecords comes when the in-sync replicas have followed.
func TestRecordsDeletedEverywhere(t *testing.T) {
	c := startCluster(t, 3, nil)
	c.assigned("orders", []int32{1, 2, 3})
	for i := range 6 {
		if code := dial(t, c.node(1)).do(produceRequest("orders", 0, -1, buildBatch(t, fmt.Sprint(i)))).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode; code != 0 {
			t.Fatal(kerr.ErrorForCode(code))
		}
	}
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.Version, req.TimeoutMillis = 2, int32(clusterWait.Milliseconds())
	req.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: "orders", Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: 0, Offset: 4}}}}
	row := dial(t, c.node(1)).do(req).(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0]
	if row.ErrorCode != 0 || row.LowWatermark != 4 {
		t.Fatalf("%+v", row)
	}
	for id := int32(1); id <= 3; id++ {
		if start := c.node(id).b.parts.ByName("orders", 0).LogStart(); start != 4 {
			t.Errorf("the log of node %d begins at %d", id, start)
		}
	}
	if row := dial(t, c.node(2)).do(req).(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0]; row.ErrorCode != kerr.NotLeaderForPartition.Code || row.LowWatermark != -1 {
		t.Errorf("a follower: %+v", row)
	}
}

// Bytes count for a consumer's min.bytes when it can read them, not when they are on the leader's disk.
func TestBytesCountWhenTheyAreVisible(t *testing.T) {
	c := newCluster(t, 3, map[string]string{"log.dir.stall.ms": "120000"})
	disks := map[int32]*slowDisk{}
	for id, node := range c.nodes {
		disks[id] = newSlowDisk()
		node.disk = disks[id]
	}
	c.start(1, 2, 3)
	r := c.any()
	if row := dial(t, r).do(createRequest(7, assigned("t", []int32{1, 2}))).(*kmsg.CreateTopicsResponse).Topics[0]; row.ErrorCode != 0 {
		t.Fatal(kerr.ErrorForCode(row.ErrorCode))
	}
	part := c.node(1).b.parts.ByName("t", 0)
	disks[2].hold("/d/wal")
	defer disks[2].release(nil)
	if code, _ := dial(t, c.node(1)).produceCode(produceRequest("t", 0, acksOne, buildBatch(t, "on one disk"))); code != 0 {
		t.Fatal(kerr.ErrorForCode(code))
	}
	if part.Durable() != 1 || part.HighWatermark() != 0 || part.CommittedBytes() != 0 {
		t.Errorf("durable up to %d, visible up to %d: %d bytes count", part.Durable(), part.HighWatermark(), part.CommittedBytes())
	}
	disks[2].release(nil)
	if code, _ := dial(t, c.node(1)).produceCode(produceRequest("t", 0, acksAll, buildBatch(t, "on two"))); code != 0 {
		t.Fatal(kerr.ErrorForCode(code))
	}
	if n := part.CommittedBytes(); part.HighWatermark() != 2 || n < 2*60 {
		t.Errorf("visible up to %d: %d bytes count", part.HighWatermark(), n)
	}
}
