package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/test/internal/verify"
	"weir/test/internal/weirproc"
	"weir/test/internal/wire"
)

const (
	manyTopics    = 100
	topicsAtOnce  = 1000
	forwards      = 10_000
	connectionMax = 10 // for all forwards together
	createMax     = 30 * time.Second
)

// TestTopicCreation: 30 s is the number we came from. Topics are made through a node that is not the controller and must be usable, on
// every partition's leader at the first try, when the answer comes.
func TestTopicCreation(t *testing.T) {
	c := start(t, weirproc.ClusterOptions{})
	admin := newAdmin(t, c)
	awaitNodes(t, admin, 1, 2, 3)
	follower := other(controller(t, admin), func(int32) bool { return true })
	client := newClient(t, c)
	conns := map[int32]*wire.Conn{}
	for i, b := range c.Nodes {
		conns[int32(i+1)] = wire.Dial(t, b.Addr)
	}
	var took []time.Duration
	for i := range manyTopics {
		topic := fmt.Sprintf("made-%03d", i)
		begun := time.Now()
		createThrough(t, client, follower, 3, topic)
		created := time.Since(begun)
		// Whom to ask is known from the node that answered; a client asks the same.
		at := placed(t, client, follower, topic)
		for partition, leader := range at {
			code, _, err := conns[leader].ProduceCode(topic, int32(partition), wire.Batch([]byte("first")))
			if code != 0 || err != nil {
				t.Fatalf("%s-%d cannot be written to on its leader %d, %v after its creation: code %d %v, %v", topic, partition, leader,
					time.Since(begun)-created, code, kerr.ErrorForCode(code), err)
			}
		}
		took = append(took, time.Since(begun))
	}
	t.Logf("topic with 3 partitions, 3 replicas, through a follower, until each partition has a record: %s", percentiles(took))
	names := make([]string, topicsAtOnce)
	for i := range names {
		names[i] = fmt.Sprintf("batch-%04d", i)
	}
	begun := time.Now()
	createThrough(t, client, follower, 3, names...)
	at := time.Since(begun)
	t.Logf("%d topics in one request: %v", topicsAtOnce, at.Round(time.Millisecond))
	if at > createMax {
		t.Errorf("%d topics took %v", topicsAtOnce, at)
	}
	for _, topic := range []string{names[0], names[topicsAtOnce/2], names[topicsAtOnce-1]} {
		for partition, leader := range placed(t, client, follower, topic) {
			if code, _, err := conns[leader].ProduceCode(topic, int32(partition), wire.Batch([]byte("first"))); code != 0 || err != nil {
				t.Errorf("%s-%d cannot be written to: code %d %v, %v", topic, partition, code, kerr.ErrorForCode(code), err)
			}
		}
	}
}

// createThrough asks one node, whoever the controller is.
func createThrough(t *testing.T, client *kgo.Client, node int32, partitions int32, topics ...string) {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 30_000
	for _, name := range topics {
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, partitions, 3
		req.Topics = append(req.Topics, rt)
	}
	resp, err := client.Broker(int(node)).Request(limit(t, time.Minute), req)
	if err != nil {
		t.Fatalf("create %d topics through node %d: %v", len(topics), node, err)
	}
	for _, rt := range resp.(*kmsg.CreateTopicsResponse).Topics {
		if err := kerr.ErrorForCode(rt.ErrorCode); err != nil {
			t.Fatalf("create topic %s through node %d: %v %v", rt.Topic, node, err, rt.ErrorMessage)
		}
	}
}

// placed is the leader of each of a topic's partitions, as one node tells.
func placed(t *testing.T, client *kgo.Client, node int32, topic string) []int32 {
	t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &topic
	req.Topics = append(req.Topics, rt)
	resp, err := client.Broker(int(node)).Request(limit(t, settle), req)
	if err != nil {
		t.Fatalf("metadata of %s from node %d: %v", topic, node, err)
	}
	topics := resp.(*kmsg.MetadataResponse).Topics
	if len(topics) != 1 || topics[0].ErrorCode != 0 {
		t.Fatalf("metadata of %s from node %d: %+v", topic, node, topics)
	}
	leaders := make([]int32, len(topics[0].Partitions))
	for _, p := range topics[0].Partitions {
		leaders[p.Partition] = p.Leader
	}
	return leaders
}

func percentiles(d []time.Duration) string {
	d = slices.Clone(d)
	slices.Sort(d)
	at := func(p float64) time.Duration {
		return d[min(len(d)-1, int(p*float64(len(d))))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("p50 %v, p99 %v, longest %v of %d", at(.5), at(.99), d[len(d)-1].Round(10*time.Microsecond), len(d))
}

// TestForwarding: produces that reach a node that does not lead are passed on, over connections that are there already.
func TestForwarding(t *testing.T) {
	c := start(t, weirproc.ClusterOptions{})
	admin := newAdmin(t, c)
	createTopic(t, admin, "forwarded", 3, 3)
	awaitInSync(t, c, admin, "forwarded")
	at := leaders(t, admin, "forwarded")
	conns := map[int32]*wire.Conn{}
	for i, b := range c.Nodes {
		conns[int32(i+1)] = wire.Dial(t, b.Addr)
	}
	total := forwards
	if testing.Short() {
		total = forwards / 10
	}
	sent := map[int32]int64{}
	produce := func(via int32, partition int32) time.Duration {
		begun := time.Now()
		code, base, err := conns[via].ProduceCode("forwarded", partition, wire.Batch([]byte("x")))
		if code != 0 || err != nil {
			t.Fatalf("produce to partition %d of leader %d through node %d: code %d %v, %v", partition, at[partition], via, code, kerr.ErrorForCode(code), err)
		}
		if base != sent[partition] {
			t.Fatalf("partition %d: base offset %d, want %d", partition, base, sent[partition])
		}
		sent[partition]++
		return time.Since(begun)
	}
	before := connectionsCreated(t, c)
	var wrong, right []time.Duration
	for i := range total {
		partition := int32(i % 3)
		via := at[partition]%3 + 1 // any but the leader
		wrong = append(wrong, produce(via, partition))
		if i%10 == 0 {
			right = append(right, produce(at[partition], partition))
		}
	}
	created := connectionsCreated(t, c) - before
	t.Logf("%d produces through the wrong node: %s; to the leader: %s; %v peer connections created", total, percentiles(wrong), percentiles(right), created)
	if created > connectionMax {
		t.Errorf("%v connections created, want at most %d", created, connectionMax)
	}
	for p, end := range sent {
		verify.Each(t, verify.Quick(c.Addrs()), "forwarded", p, 0, end, func(r *kgo.Record) error {
			if string(r.Value) != "x" {
				return fmt.Errorf("value %q", r.Value)
			}
			return nil
		})
	}
}

// connectionsCreated is what all nodes together have dialled so far.
func connectionsCreated(t *testing.T, c *weirproc.Cluster) float64 {
	t.Helper()
	sum, series := 0.0, 0
	for _, b := range c.Nodes {
		for name, v := range b.Metrics() {
			if strings.HasPrefix(name, "weir_peer_connections_created_total") {
				sum += v
				series++
			}
		}
	}
	if series == 0 {
		t.Fatal("/metrics has no weir_peer_connections_created_total")
	}
	return sum
}

// TestReplicationFactor: more replicas than nodes is refused, as in Kafka, and says so.
func TestReplicationFactor(t *testing.T) {
	c := start(t, weirproc.ClusterOptions{})
	admin := newAdmin(t, c)
	awaitNodes(t, admin, 1, 2, 3)
	resp, err := admin.CreateTopic(limit(t, settle), 1, 4, nil, "too-many")
	if err != nil && resp.Err == nil || resp.Err != kerr.InvalidReplicationFactor {
		t.Errorf("got %v, %v", resp.Err, err)
	}
	for partition, d := range replicasOf(t, admin, "spread", 6) {
		if got := slices.Sorted(slices.Values(d.Replicas)); !slices.Equal(got, []int32{1, 2, 3}) {
			t.Errorf("partition %d: replicas %v", partition, d.Replicas)
		}
	}
	led := map[int32]int{}
	for _, l := range leaders(t, admin, "spread") {
		led[l]++
	}
	if led[1] != 2 || led[2] != 2 || led[3] != 2 {
		t.Errorf("6 partitions are led by %v", led)
	}
}

func replicasOf(t *testing.T, admin *kadm.Client, topic string, n int32) kadm.PartitionDetails {
	t.Helper()
	createTopic(t, admin, topic, n, 3)
	ps, err := partitions(t, admin, topic)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}
