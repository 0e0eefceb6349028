package broker

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

// spread asks a node for a topic with three partitions on all nodes.
func spreadTopic(t testing.TB, r *Running, name string, factor int16) [16]byte {
	t.Helper()
	resp := dial(t, r).do(createRequest(7, topicSpec(name, 3, factor))).(*kmsg.CreateTopicsResponse)
	if row := resp.Topics[0]; row.ErrorCode != 0 {
		t.Fatalf("create %s: %v (%s)", name, kerr.ErrorForCode(row.ErrorCode), deref(row.ErrorMessage))
	}
	return resp.Topics[0].TopicID
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func metadataOf(t testing.TB, r *Running, topics ...string) *kmsg.MetadataResponse {
	t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 12
	for _, name := range topics {
		req.Topics = append(req.Topics, kmsg.MetadataRequestTopic{Topic: &name})
	}
	return dial(t, r).do(req).(*kmsg.MetadataResponse)
}

func brokersOf(m *kmsg.MetadataResponse) []int32 {
	var ids []int32
	for _, b := range m.Brokers {
		ids = append(ids, b.NodeID)
	}
	slices.Sort(ids)
	return ids
}

// allAlive reports whether exactly these brokers are registered and not fenced.
func allAlive(img *raftmeta.Image, ids ...int32) bool {
	var live []int32
	for _, b := range img.Brokers() {
		if !b.Fenced {
			live = append(live, b.ID)
		}
	}
	slices.Sort(live)
	return slices.Equal(live, ids)
}

// A list of seeds is all that three nodes need. Every one of them then names the same brokers, controller and cluster, and a topic that was asked for at a
// node which is not the controller can be used when the answer is there.
func TestThreeNodesFormACluster(t *testing.T) {
	c := startCluster(t, 3, nil)
	controller := c.controller()
	var cluster string
	for id := range c.nodes {
		r := c.node(id)
		if h := r.Health(); !h.Ready {
			t.Errorf("node %d is not ready: %s", id, h.Apart)
		}
		c.await(r, "three live brokers", func(img *raftmeta.Image) bool { return allAlive(img, 1, 2, 3) })
		m := metadataOf(t, r)
		if got := brokersOf(m); !slices.Equal(got, []int32{1, 2, 3}) || m.ControllerID != controller {
			t.Errorf("node %d: brokers %v, controller %d, want controller %d", id, got, m.ControllerID, controller)
		}
		if cluster == "" {
			cluster = deref(m.ClusterID)
		}
		if got := deref(m.ClusterID); got == "" || got != cluster {
			t.Errorf("node %d is of cluster %q, another of %q", id, got, cluster)
		}
	}
	spreadTopic(t, c.follower(), "t", 3)
	m := metadataOf(t, c.follower(), "t")
	leaders := map[int32]bool{}
	for _, p := range m.Topics[0].Partitions {
		if p.ErrorCode != 0 || len(p.Replicas) != 3 || len(p.ISR) != 3 || len(p.OfflineReplicas) != 0 {
			t.Errorf("partition %d: code %d, replicas %v, ISR %v, offline %v", p.Partition, p.ErrorCode, p.Replicas, p.ISR, p.OfflineReplicas)
		}
		leaders[p.Leader] = true
		if leader := c.node(p.Leader); leader.b.meta.Image().Topic("t") == nil {
			t.Errorf("partition %d: its leader, node %d, does not know the topic yet", p.Partition, p.Leader)
		}
	}
	if len(leaders) != 3 {
		t.Errorf("three partitions have %d leaders, want 3", len(leaders))
	}
}

// A directory remembers its cluster: started with the seeds of another one, the node refuses.
func TestForeignDirectoryIsRefused(t *testing.T) {
	one := startCluster(t, 3, nil)
	one.stop(2)
	one.stop(1)
	one.stop(3)
	other := startCluster(t, 3, nil)
	other.stop(2)
	stranger := other.nodes[2]
	mine := stranger.disk
	stranger.disk = one.nodes[2].disk
	err := other.tryStart(stranger)
	if !errors.Is(err, errForeign) {
		t.Errorf("a node with the data of another cluster: %v, want %v", err, errForeign)
	}
	stranger.disk = mine
	other.start(2)
}

// When the controller goes, another node becomes it, and requests that were on their way find it.
func TestControllerChange(t *testing.T) {
	c := startCluster(t, 3, nil)
	first := c.controller()
	c.crash(first)
	r := c.any()
	// No wait: the request itself looks for the new controller.
	spreadTopic(t, r, "after", 2)
	if second := c.controller(first); second == first {
		t.Errorf("node %d is still the controller", first)
	}
	c.await(r, "the crashed node is fenced", func(img *raftmeta.Image) bool { return img.Broker(first).Fenced })
	if got := brokersOf(metadataOf(t, r)); slices.Contains(got, first) || len(got) != 2 {
		t.Errorf("brokers %v, want the two without %d", got, first)
	}
	c.start(first)
	c.await(r, "the crashed node is back", func(img *raftmeta.Image) bool { return allAlive(img, 1, 2, 3) })
}

// The partitions of a node that vanishes get other leaders; when it is back it may lead again.
func TestCrashMovesLeaders(t *testing.T) {
	c := startCluster(t, 3, nil)
	r := c.follower()
	spreadTopic(t, r, "t", 3)
	var victim int32
	for id := range c.nodes {
		if id != c.controller() && c.node(id) != r {
			victim = id
		}
	}
	c.crash(victim)
	c.await(r, "its partitions have other leaders", func(img *raftmeta.Image) bool {
		return !slices.ContainsFunc(img.Topic("t").Partitions, func(p raftmeta.Partition) bool { return p.Leader == victim || p.Leader < 0 })
	})
	for _, p := range metadataOf(t, r, "t").Topics[0].Partitions {
		if !slices.Equal(p.OfflineReplicas, []int32{victim}) {
			t.Errorf("partition %d: offline replicas %v, want %d", p.Partition, p.OfflineReplicas, victim)
		}
	}
	c.start(victim)
	c.await(r, "it is in sync again", func(img *raftmeta.Image) bool {
		return !slices.ContainsFunc(img.Topic("t").Partitions, func(p raftmeta.Partition) bool { return !slices.Contains(p.ISR, victim) })
	})
}

// A node that is told to stop hands its leaderships over before it goes: nobody finds a partition without a leader.
func TestControlledShutdown(t *testing.T) {
	c := startCluster(t, 3, nil)
	r := c.follower()
	spreadTopic(t, r, "t", 3)
	leaderless := make(chan int32, 1024)
	cancel := r.b.meta.Subscribe(func(img *raftmeta.Image, _ *raftmeta.Delta) {
		for i, p := range img.Topic("t").Partitions {
			if p.Leader < 0 || img.Broker(p.Leader).Fenced {
				leaderless <- int32(i)
			}
		}
	})
	defer cancel()
	controller := c.controller()
	c.stop(controller)
	c.await(r, "the node leads nothing", func(img *raftmeta.Image) bool {
		return !slices.ContainsFunc(img.Topic("t").Partitions, func(p raftmeta.Partition) bool { return p.Leader == controller })
	})
	if next := c.controller(controller); next == controller {
		t.Error("the node that left is still the controller")
	}
	select {
	case p := <-leaderless:
		t.Errorf("partition %d had no leader for a while", p)
	default:
	}
	c.start(controller)
}

// A node that is no seed joins through one, and then is a broker like the others.
func TestObserverJoins(t *testing.T) {
	c := startCluster(t, 3, nil)
	c.add(4)
	c.start(4)
	r := c.node(4)
	c.await(r, "four live brokers", func(img *raftmeta.Image) bool { return allAlive(img, 1, 2, 3, 4) })
	spreadTopic(t, r, "t", 4)
	c.stop(4)
	c.start(4)
	if !r.b.closing.Load() || c.node(4).b.meta.Image().Topic("t") == nil {
		t.Error("the node does not know the topic after its restart")
	}
	q := c.node(c.controller()).b.meta.Quorum()
	if memberOf(q.Observers, 4) == nil || memberOf(q.Voters, 4) != nil || len(q.Voters) != 3 {
		t.Errorf("quorum: voters %v, observers %v", q.Voters, q.Observers)
	}
}

// Requests that are forwarded share the connections there are.
func TestForwardingReusesConnections(t *testing.T) {
	c := startCluster(t, 3, nil)
	r := c.follower()
	id := r.b.cfg.NodeID
	w := dial(t, r)
	spreadTopic(t, r, "first", 1)
	before := c.metric(id, "weir_peer_connections_created_total")
	for i := range 100 {
		req := createRequest(7, topicSpec(fmt.Sprintf("t%d", i), 1, 1))
		req.ValidateOnly = true
		if code := w.do(req).(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode; code != 0 {
			t.Fatal(kerr.ErrorForCode(code))
		}
	}
	if made := c.metric(id, "weir_peer_connections_created_total") - before; made != 0 {
		t.Errorf("100 forwarded requests made %v connections, want none", made)
	}
	if reused := c.metric(id, "weir_peer_connections_reused_total"); reused < 100 {
		t.Errorf("connections were reused %v times, want 100 or more", reused)
	}
}

// The codes of a forwarded answer reach the client, row by row.
func TestForwardedCodes(t *testing.T) {
	c := startCluster(t, 3, nil)
	r := c.follower()
	resp := dial(t, r).do(createRequest(7, topicSpec("good", 1, 3), topicSpec("bad", 1, 9), topicSpec("worse", 0, 1))).(*kmsg.CreateTopicsResponse)
	want := map[string]int16{"good": 0, "bad": kerr.InvalidReplicationFactor.Code, "worse": kerr.InvalidPartitions.Code}
	for _, row := range resp.Topics {
		if row.ErrorCode != want[row.Topic] {
			t.Errorf("%s: %v, want %v", row.Topic, kerr.ErrorForCode(row.ErrorCode), kerr.ErrorForCode(want[row.Topic]))
		}
	}
	if len(resp.Topics) != len(want) {
		t.Errorf("%d rows, want %d", len(resp.Topics), len(want))
	}
	del := kmsg.NewPtrDeleteTopicsRequest()
	del.Version, del.TimeoutMillis, del.TopicNames = 5, 10000, []string{"good", "none"}
	for _, row := range dial(t, r).do(del).(*kmsg.DeleteTopicsResponse).Topics {
		if want := map[string]int16{"good": 0, "none": kerr.UnknownTopicOrPartition.Code}[*row.Topic]; row.ErrorCode != want {
			t.Errorf("delete %s: code %d, want %d", *row.Topic, row.ErrorCode, want)
		}
	}
	if r.b.meta.Image().Topic("good") != nil {
		t.Error("the node that was asked still has the deleted topic")
	}
}

// Every node hands out producer ids that no other node does.
func TestProducerIDsAreUniqueInTheCluster(t *testing.T) {
	c := startCluster(t, 3, nil)
	seen := map[int64]int32{}
	for id := range c.nodes {
		w := dial(t, c.node(id))
		for range 3 {
			req := kmsg.NewPtrInitProducerIDRequest()
			req.Version, req.ProducerID, req.ProducerEpoch = 4, -1, -1
			resp := w.do(req).(*kmsg.InitProducerIDResponse)
			if resp.ErrorCode != 0 {
				t.Fatalf("node %d: %v", id, kerr.ErrorForCode(resp.ErrorCode))
			}
			if other, dup := seen[resp.ProducerID]; dup {
				t.Errorf("nodes %d and %d gave out producer id %d", id, other, resp.ProducerID)
			}
			seen[resp.ProducerID] = id
		}
	}
}

// A second node with the id of one that lives, at another address, is refused; the one that lives notices nothing.
func TestSecondNodeWithALivingIDIsRefused(t *testing.T) {
	c := startCluster(t, 3, nil)
	c.add(4)
	c.start(4)
	first := c.nodes[4]
	c.await(first.run, "it serves", func(img *raftmeta.Image) bool { return allAlive(img, 1, 2, 3, 4) })
	epoch := first.run.b.life.epoch.Load()
	second := c.add(4)
	err := c.tryStart(second)
	if !errors.Is(err, errTaken) {
		t.Errorf("a second node 4: %v, want %v", err, errTaken)
	}
	c.nodes[4] = first
	spreadTopic(t, first.run, "t", 4)
	if now := first.run.b.life.epoch.Load(); now != epoch {
		t.Errorf("the first node 4 had to register again: epoch %d, was %d", now, epoch)
	}
}

// Without a majority nothing can be changed; what is known is still told, and a request says that nothing was done.
func TestWithoutAMajority(t *testing.T) {
	c := startCluster(t, 3, nil)
	spreadTopic(t, c.any(), "t", 3)
	c.crash(1)
	c.crash(2)
	r := c.node(3)
	c.await(r, "no controller", func(img *raftmeta.Image) bool { return img.ControllerID < 0 })
	req := createRequest(7, topicSpec("more", 1, 1))
	req.TimeoutMillis = 1000
	if code := dial(t, r).do(req).(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode; code != kerr.NotController.Code {
		t.Errorf("create: %v, want NOT_CONTROLLER", kerr.ErrorForCode(code))
	}
	m := metadataOf(t, r, "t")
	if m.ControllerID != -1 || len(m.Topics[0].Partitions) != 3 {
		t.Errorf("metadata: controller %d, %d partitions", m.ControllerID, len(m.Topics[0].Partitions))
	}
	c.start(1)
	spreadTopic(t, r, "again", 2)
	c.start(2)
}

// What nodes say to each other is not for clients, on either listener.
func TestClientsAreNoNodes(t *testing.T) {
	c := startCluster(t, 2, nil)
	r := c.any()
	w := dial(t, r)
	w.send(kmsg.NewPtrBrokerHeartbeatRequest())
	w.closed("a heartbeat on the clients' listener")
	conn, err := net.Dial("tcp", c.nodes[r.b.cfg.NodeID].peer)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(clusterWait)); err != nil {
		t.Fatal(err)
	}
	w = &wire{t: t, conn: conn}
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 12
	w.send(req)
	w.closed("a client's request on the nodes' listener")
}

// slowToLearn has a node take its time to apply a topic, and returns whether it has.
func slowToLearn(t testing.TB, r *Running, topic string) *atomic.Bool {
	var applied atomic.Bool
	t.Cleanup(r.b.meta.Subscribe(func(img *raftmeta.Image, _ *raftmeta.Delta) {
		if img.Topic(topic) != nil && !applied.Load() {
			time.Sleep(150 * time.Millisecond)
			applied.Store(true)
		}
	}))
	return &applied
}

// Who creates a topic has the answer when the broker that was asked and the one that leads the partition have it, however slow they are.
func TestCreationWaitsForTheAskedAndTheLeader(t *testing.T) {
	c := startCluster(t, 3, nil)
	asked := c.follower()
	leader := c.node(slices.DeleteFunc([]int32{1, 2, 3}, func(id int32) bool { return id == c.controller() || id == asked.b.cfg.NodeID })[0])
	for topic, slow := range map[string]*Running{"asked": asked, "leader": leader} {
		applied := slowToLearn(t, slow, topic)
		resp := dial(t, asked).do(createRequest(7, assigned(topic, []int32{leader.b.cfg.NodeID}))).(*kmsg.CreateTopicsResponse)
		if code := resp.Topics[0].ErrorCode; code != 0 {
			t.Fatal(kerr.ErrorForCode(code))
		}
		if !applied.Load() {
			t.Errorf("the answer was there before the %s broker had applied the topic", topic)
		}
	}
}
