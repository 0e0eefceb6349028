package broker

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

// createReplicated makes a topic with three replicas of each partition and waits until all of them are in sync.
func (c *testCluster) createReplicated(name string, partitions int32, configs ...[2]string) [16]byte {
	c.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = 7, int32(clusterWait.Milliseconds())
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, partitions, 3
	for _, kv := range configs {
		topic.Configs = append(topic.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: kv[0], Value: &kv[1]})
	}
	req.Topics = append(req.Topics, topic)
	resp := dial(c.t, c.any()).do(req).(*kmsg.CreateTopicsResponse)
	if code := resp.Topics[0].ErrorCode; code != 0 {
		c.t.Fatalf("create %s: %v", name, kerr.ErrorForCode(code))
	}
	return resp.Topics[0].TopicID
}

// assigned makes a topic of one partition whose replicas are given, the first of them the leader.
func (c *testCluster) assigned(name string, replicas []int32, configs ...[2]string) [16]byte {
	c.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = 7, int32(clusterWait.Milliseconds())
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, -1, -1
	topic.ReplicaAssignment = []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Partition: 0, Replicas: replicas}}
	for _, kv := range configs {
		topic.Configs = append(topic.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: kv[0], Value: &kv[1]})
	}
	req.Topics = append(req.Topics, topic)
	resp := dial(c.t, c.any()).do(req).(*kmsg.CreateTopicsResponse)
	if code := resp.Topics[0].ErrorCode; code != 0 {
		c.t.Fatalf("create %s: %v", name, kerr.ErrorForCode(code))
	}
	return resp.Topics[0].TopicID
}

// leaderOf is who leads a partition, as a node's metadata has it.
func leaderOf(r *Running, topic string, partition int32) int32 {
	t := r.b.meta.Image().Topic(topic)
	if t == nil || int(partition) >= len(t.Partitions) {
		return -1
	}
	return t.Partitions[partition].Leader
}

// consumeAll reads a topic from its start until want records were seen, and returns the values of each partition in their order.
func (c *testCluster) consumeAll(topic string, want int, opts ...kgo.Opt) map[int32][]string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clusterWait)
	defer cancel()
	cl := c.client(append([]kgo.Opt{kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}, opts...)...)
	defer cl.Close()
	got, n := map[int32][]string{}, 0
	next := map[int32]int64{}
	for n < want {
		f := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			c.t.Fatalf("%s: %d of %d records after %s: %v", topic, n, want, clusterWait, f.Errors())
		}
		f.EachRecord(func(r *kgo.Record) {
			if r.Offset != next[r.Partition] {
				c.t.Errorf("%s-%d: offset %d where %d is due", topic, r.Partition, r.Offset, next[r.Partition])
			}
			next[r.Partition] = r.Offset + 1
			got[r.Partition] = append(got[r.Partition], string(r.Value))
			n++
		})
	}
	return got
}

// TestReplicatedProduce: what is acknowledged with acks=all is on all replicas, and consumers see it without a gap.
func TestReplicatedProduce(t *testing.T) {
	c := startCluster(t, 3, map[string]string{"min.insync.replicas": "2"})
	c.createReplicated("orders", 6)
	ctx := testContext(t)
	cl := c.client(kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()))
	const records = 300
	for i := range records {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	seen := map[string]int{}
	for _, values := range c.consumeAll("orders", records) {
		for _, v := range values {
			seen[v]++
		}
	}
	for i := range records {
		if n := seen[fmt.Sprint(i)]; n != 1 {
			t.Errorf("record %d was read %d times", i, n)
		}
	}
	// Nothing was acknowledged before it was durable on the others.
	for id := int32(1); id <= 3; id++ {
		total := int64(0)
		for p := range int32(6) {
			total += c.node(id).b.parts.ByName("orders", p).End()
		}
		if total != records {
			t.Errorf("node %d has %d of %d acknowledged records", id, total, records)
		}
	}
}

// waitFor waits for a condition that depends on partitions' progress: it is looked at when one of them moves.
func waitFor(t testing.TB, what string, cond func() bool, poke func(wake func()) (stop func())) {
	t.Helper()
	woken := make(chan struct{}, 1)
	stop := poke(func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	})
	defer stop()
	deadline := time.After(clusterWait)
	for !cond() {
		select {
		case <-woken:
		case <-deadline:
			t.Fatalf("%s: not within %s", what, clusterWait)
		}
	}
}

// TestForwardedProduce sends everything to one node: what others lead is forwarded, and each partition has its own result.
func TestForwardedProduce(t *testing.T) {
	c := startCluster(t, 3, nil)
	id := c.createReplicated("orders", 6)
	r := c.node(1)
	w := dial(t, r)
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 9, -1, int32(clusterWait.Milliseconds())
	topic := kmsg.ProduceRequestTopic{Topic: "orders"}
	for p := range int32(6) {
		b := buildBatch(t, fmt.Sprintf("value %d", p))
		if p == 4 {
			b[len(b)-1] ^= 1 // the checksum is wrong
		}
		topic.Partitions = append(topic.Partitions, kmsg.ProduceRequestTopicPartition{Partition: p, Records: b})
	}
	topic.Partitions = append(topic.Partitions, kmsg.ProduceRequestTopicPartition{Partition: 77, Records: buildBatch(t, "x")})
	req.Topics = []kmsg.ProduceRequestTopic{topic, {Topic: "absent", Partitions: []kmsg.ProduceRequestTopicPartition{{Records: buildBatch(t, "x")}}}}
	resp := w.do(req).(*kmsg.ProduceResponse)
	for _, row := range resp.Topics[0].Partitions {
		want, offset := int16(0), int64(0)
		switch row.Partition {
		case 4:
			want, offset = kerr.CorruptMessage.Code, -1
		case 77:
			want, offset = kerr.UnknownTopicOrPartition.Code, -1
		}
		if row.ErrorCode != want || row.BaseOffset != offset {
			t.Errorf("partition %d: code %d at %d (%v), want %d at %d", row.Partition, row.ErrorCode, row.BaseOffset, row.ErrorMessage, want, offset)
		}
	}
	if code := resp.Topics[1].Partitions[0].ErrorCode; code != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("absent topic: code %d", code)
	}
	if sent := c.metric(1, "weir_broker_produce_forwards_total"); sent != 2 {
		t.Errorf("%v forwards, want one to each of the other leaders", sent)
	}

	// acks=0 is forwarded in any version; the next answer on the connection says that it was not closed.
	for p := range int32(6) {
		none := produceRequest("orders", p, 0, buildBatch(t, "unanswered"))
		none.Version = 13
		none.Topics[0].TopicID = id
		w.send(none)
	}
	if code := w.do(produceRequest("orders", 0, -1, buildBatch(t, "last"))).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode; code != 0 {
		t.Errorf("after acks=0: code %d", code)
	}
	got := c.consumeAll("orders", 5+6+1)
	for p := range int32(6) {
		want := []string{fmt.Sprintf("value %d", p), "unanswered"}
		if p == 4 {
			want = want[1:]
		}
		if p == 0 {
			want = append(want, "last")
		}
		if !slices.Equal(got[p], want) {
			t.Errorf("partition %d has %q, want %q", p, got[p], want)
		}
	}
}

// TestLeaderIsTold: a client whose version has a place for it learns who leads (KIP-951), and is not served by forwarding.
func TestLeaderIsTold(t *testing.T) {
	c := startCluster(t, 3, nil)
	id := c.assigned("orders", []int32{2, 3, 1})
	c.await(c.node(1), "the topic", func(img *raftmeta.Image) bool { return img.Topic("orders") != nil })
	node := c.node(1).b.meta.Image().Broker(2)
	w := dial(t, c.node(1))
	for _, version := range []int16{10, 13} {
		req := produceRequest("orders", 0, 1, buildBatch(t, "x"))
		req.Version, req.Topics[0].TopicID = version, id
		resp := w.do(req).(*kmsg.ProduceResponse)
		row := resp.Topics[0].Partitions[0]
		if row.ErrorCode != kerr.NotLeaderForPartition.Code || row.CurrentLeader.LeaderID != 2 || row.CurrentLeader.LeaderEpoch != 0 ||
			len(resp.Brokers) != 1 || resp.Brokers[0].NodeID != 2 || resp.Brokers[0].Host != node.Host || resp.Brokers[0].Port != node.Port {
			t.Errorf("produce v%d: %+v, nodes %+v", version, row, resp.Brokers)
		}
	}
	for _, version := range []int16{12, 16, 18} {
		req := fetchNow(version, "orders", id, 0, 0)
		resp := w.do(req).(*kmsg.FetchResponse)
		row := resp.Topics[0].Partitions[0]
		told := row.CurrentLeader.LeaderID == 2 && row.CurrentLeader.LeaderEpoch == 0 && len(resp.Brokers) == 1 && resp.Brokers[0].Port == node.Port
		if row.ErrorCode != kerr.NotLeaderForPartition.Code || told != (version >= fetchLeaderVersion) {
			t.Errorf("fetch v%d: %+v, nodes %+v", version, row, resp.Brokers)
		}
	}
	// The leader fences a client whose epoch is old only if there is a newer one, and says which.
	lead := dial(t, c.node(2))
	req := fetchNow(17, "orders", id, 0, 0)
	req.Topics[0].Partitions[0].CurrentLeaderEpoch = 5
	if code := lead.do(req).(*kmsg.FetchResponse).Topics[0].Partitions[0].ErrorCode; code != kerr.UnknownLeaderEpoch.Code {
		t.Errorf("an epoch that is to come: code %d", code)
	}
}

// fetchNow asks for one partition, without waiting.
func fetchNow(version int16, topic string, id [16]byte, partition int32, offset int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxBytes, req.SessionEpoch, req.ReplicaID = version, 1<<20, -1, -1
	part := kmsg.NewFetchRequestTopicPartition()
	part.Partition, part.FetchOffset, part.PartitionMaxBytes = partition, offset, 1<<20
	req.Topics = []kmsg.FetchRequestTopic{{Topic: topic, TopicID: id, Partitions: []kmsg.FetchRequestTopicPartition{part}}}
	return req
}
