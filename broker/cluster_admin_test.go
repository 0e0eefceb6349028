package broker

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

func TestDescribeCluster(t *testing.T) {
	c := startCluster(t, 3, nil)
	r := c.follower()
	c.await(r, "three live brokers", func(img *raftmeta.Image) bool { return allAlive(img, 1, 2, 3) })
	c.crash(c.controller())
	c.await(r, "two live brokers", func(img *raftmeta.Image) bool {
		return slices.ContainsFunc(img.Brokers(), func(b raftmeta.Broker) bool { return b.Fenced }) && img.ControllerID >= 0
	})
	w := dial(t, r)
	describe := func(version int16, endpoint int8, fenced bool) *kmsg.DescribeClusterResponse {
		req := kmsg.NewPtrDescribeClusterRequest()
		req.Version, req.EndpointType, req.IncludeFencedBrokers = version, endpoint, fenced
		return w.do(req).(*kmsg.DescribeClusterResponse)
	}
	img := r.b.meta.Image()
	for version := int16(0); version <= 2; version++ {
		resp := describe(version, endpointBrokers, false)
		if resp.ErrorCode != 0 || len(resp.Brokers) != 2 || resp.ClusterID != img.ClusterID || resp.ControllerID != c.controller() {
			t.Errorf("v%d: code %d, %d brokers, cluster %q, controller %d", version, resp.ErrorCode, len(resp.Brokers), resp.ClusterID, resp.ControllerID)
		}
	}
	fenced := 0
	for _, b := range describe(2, endpointBrokers, true).Brokers {
		if b.IsFenced {
			fenced++
		}
	}
	if fenced != 1 {
		t.Errorf("%d fenced brokers, want 1", fenced)
	}
	if got := describe(1, endpointControllers, false).ErrorCode; got != kerr.MismatchedEndpointType.Code {
		t.Errorf("controllers: code %d, want %d", got, kerr.MismatchedEndpointType.Code)
	}
	if got := describe(1, 7, false).ErrorCode; got != kerr.UnsupportedEndpointType.Code {
		t.Errorf("type 7: code %d, want %d", got, kerr.UnsupportedEndpointType.Code)
	}
}

func quorumOf(t testing.TB, r *Running, version int16) *kmsg.DescribeQuorumResponse {
	t.Helper()
	req := kmsg.NewPtrDescribeQuorumRequest()
	req.Version = version
	for _, name := range []string{metadataTopic, "other"} {
		req.Topics = append(req.Topics, kmsg.DescribeQuorumRequestTopic{Topic: name, Partitions: []kmsg.DescribeQuorumRequestTopicPartition{{}}})
	}
	return dial(t, r).do(req).(*kmsg.DescribeQuorumResponse)
}

func TestDescribeQuorum(t *testing.T) {
	c := startCluster(t, 3, nil)
	for version := int16(0); version <= 2; version++ {
		resp := quorumOf(t, c.follower(), version)
		if resp.ErrorCode != 0 {
			t.Fatalf("v%d: %v", version, kerr.ErrorForCode(resp.ErrorCode))
		}
		p := resp.Topics[0].Partitions[0]
		if p.ErrorCode != 0 || p.LeaderID != c.controller() || len(p.CurrentVoters) != 3 || len(p.Observers) != 0 || p.HighWatermark <= 0 {
			t.Errorf("v%d: %+v", version, p)
		}
		if got := resp.Topics[1].Partitions[0].ErrorCode; got != kerr.UnknownTopicOrPartition.Code {
			t.Errorf("v%d: another topic has code %d", version, got)
		}
		if version >= 2 && len(resp.Nodes) != 3 {
			t.Errorf("v%d: %d nodes, want 3", version, len(resp.Nodes))
		}
	}
}

func TestRaftVoters(t *testing.T) {
	c := startCluster(t, 3, nil)
	c.add(4)
	c.start(4)
	r := c.node(4)
	w := dial(t, r)
	add := func(id int32) int16 {
		req := kmsg.NewPtrAddRaftVoterRequest()
		req.Version, req.VoterID, req.TimeoutMillis = 1, id, 20000
		return w.do(req).(*kmsg.AddRaftVoterResponse).ErrorCode
	}
	remove := func(id int32) int16 {
		req := kmsg.NewPtrRemoveRaftVoterRequest()
		req.VoterID = id
		return w.do(req).(*kmsg.RemoveRaftVoterResponse).ErrorCode
	}
	voters := func(want ...int32) {
		t.Helper()
		var got []int32
		for _, v := range c.node(c.controller()).b.meta.Quorum().Voters {
			got = append(got, v.ID)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("voters %v, want %v", got, want)
		}
	}
	if code := add(9); code != kerr.InvalidRequest.Code {
		t.Errorf("a node that does not run: code %d", code)
	}
	for name, change := range map[string]func(*kmsg.AddRaftVoterRequest){
		"negative id":             func(r *kmsg.AddRaftVoterRequest) { r.VoterID = -1 },
		"another data directory":  func(r *kmsg.AddRaftVoterRequest) { r.VoterDirectoryID[3] = 1 },
		"another address":         func(r *kmsg.AddRaftVoterRequest) { r.Listeners = listeners(listenerPeers, "127.0.0.1", 9) },
		"no address for its kind": func(r *kmsg.AddRaftVoterRequest) { r.Listeners = listeners("CONTROLLER", "127.0.0.1", 9) },
	} {
		req := kmsg.NewPtrAddRaftVoterRequest()
		req.VoterID, req.TimeoutMillis = 4, 20000
		change(req)
		if code := w.do(req).(*kmsg.AddRaftVoterResponse).ErrorCode; code != kerr.InvalidRequest.Code {
			t.Errorf("%s: %v", name, kerr.ErrorForCode(code))
		}
	}
	if code := add(1); code != kerr.DuplicateVoter.Code {
		t.Errorf("a voter: code %d", code)
	}
	right := kmsg.NewPtrAddRaftVoterRequest()
	host, port, err := splitHostPort(c.nodes[4].peer)
	if err != nil {
		t.Fatal(err)
	}
	right.VoterID, right.TimeoutMillis, right.Listeners = 4, 20000, listeners(listenerPeers, host, uint16(port))
	if code := w.do(right).(*kmsg.AddRaftVoterResponse).ErrorCode; code != 0 {
		t.Fatalf("add 4: %v", kerr.ErrorForCode(code))
	}
	otherDir := kmsg.NewPtrRemoveRaftVoterRequest()
	otherDir.VoterID, otherDir.VoterDirectoryID = 4, [16]byte{1}
	if code := w.do(otherDir).(*kmsg.RemoveRaftVoterResponse).ErrorCode; code != kerr.VoterNotFound.Code {
		t.Errorf("remove a voter of another directory: %v", kerr.ErrorForCode(code))
	}
	voters(1, 2, 3, 4)
	// The controller itself: another node takes over and does it.
	first := c.controller()
	if code := remove(first); code != 0 {
		t.Fatalf("remove the controller: %v", kerr.ErrorForCode(code))
	}
	if second := c.controller(first); second == first {
		t.Errorf("node %d is still the controller", second)
	}
	if code := remove(first); code != kerr.VoterNotFound.Code {
		t.Errorf("remove again: code %d", code)
	}
	voters(slices.DeleteFunc([]int32{1, 2, 3, 4}, func(id int32) bool { return id == first })...)
	// It goes on following.
	spreadTopic(t, r, "t", 4)
	c.await(c.node(first), "a topic", func(img *raftmeta.Image) bool { return img.Topic("t") != nil })
	wrong := "another"
	req := kmsg.NewPtrRemoveRaftVoterRequest()
	req.ClusterID, req.VoterID = &wrong, 4
	if code := w.do(req).(*kmsg.RemoveRaftVoterResponse).ErrorCode; code != kerr.InconsistentClusterID.Code {
		t.Errorf("another cluster: code %d", code)
	}
}

func listeners(name, host string, port uint16) []kmsg.AddRaftVoterRequestListener {
	return []kmsg.AddRaftVoterRequestListener{{Name: name, Host: host, Port: port}}
}

// A vote is not taken away if those that stay could decide nothing; the last one never is.
func TestRaftVotersKeepAMajority(t *testing.T) {
	c := startCluster(t, 3, nil)
	r := c.node(c.controller())
	leader := r.b.cfg.NodeID
	others := slices.DeleteFunc([]int32{1, 2, 3}, func(id int32) bool { return id == leader })
	w := dial(t, r)
	if err := w.conn.SetDeadline(time.Now().Add(clusterWait)); err != nil {
		t.Fatal(err)
	}
	remove := func(id int32) *kmsg.RemoveRaftVoterResponse {
		req := kmsg.NewPtrRemoveRaftVoterRequest()
		req.VoterID = id
		return w.do(req).(*kmsg.RemoveRaftVoterResponse)
	}
	dead, alive := others[0], others[1]
	c.crash(dead)
	c.await(r, "it is fenced", func(img *raftmeta.Image) bool { return img.Broker(dead).Fenced })
	// A heartbeat that was queued when it died may have it unfenced once more: until it is silent for long enough it counts as heard of.
	call := &adminCall{b: r.b}
	for end := time.Now().Add(clusterWait); call.heardOf(memberOf(r.b.meta.Quorum().Voters, dead)) && time.Now().Before(end); {
		<-time.After(50 * time.Millisecond)
	}
	if resp := remove(alive); resp.ErrorCode != kerr.InvalidRequest.Code || !strings.Contains(deref(resp.ErrorMessage), "no majority") {
		t.Fatalf("the leader and a dead one stay: %v (%s)", kerr.ErrorForCode(resp.ErrorCode), deref(resp.ErrorMessage))
	}
	if resp := remove(dead); resp.ErrorCode != 0 {
		t.Fatalf("remove the dead one: %v (%s)", kerr.ErrorForCode(resp.ErrorCode), deref(resp.ErrorMessage))
	}
	add := kmsg.NewPtrAddRaftVoterRequest()
	add.VoterID, add.TimeoutMillis = dead, 20000
	if code := w.do(add).(*kmsg.AddRaftVoterResponse).ErrorCode; code != kerr.RequestTimedOut.Code {
		t.Errorf("a dead one gets a vote: %v", kerr.ErrorForCode(code))
	}
	if resp := remove(alive); resp.ErrorCode != 0 {
		t.Fatalf("remove the other one: %v (%s)", kerr.ErrorForCode(resp.ErrorCode), deref(resp.ErrorMessage))
	}
	if resp := remove(leader); resp.ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("remove the last one: %v", kerr.ErrorForCode(resp.ErrorCode))
	}
	spreadTopic(t, r, "t", 2) // it still decides
}

func TestReassignmentThroughAnyNode(t *testing.T) {
	c := startCluster(t, 3, nil)
	r := c.follower()
	w := dial(t, r)
	resp := w.do(createRequest(7, assigned("t", []int32{1}))).(*kmsg.CreateTopicsResponse)
	if resp.Topics[0].ErrorCode != 0 {
		t.Fatal(kerr.ErrorForCode(resp.Topics[0].ErrorCode))
	}
	move := func(version int16, keep bool, partition int32, replicas []int32) *kmsg.AlterPartitionAssignmentsResponse {
		req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
		req.Version, req.TimeoutMillis, req.AllowReplicationFactorChange = version, 20000, !keep
		req.Topics = []kmsg.AlterPartitionAssignmentsRequestTopic{{Topic: "t", Partitions: []kmsg.AlterPartitionAssignmentsRequestTopicPartition{{
			Partition: partition, Replicas: replicas}}}}
		return w.do(req).(*kmsg.AlterPartitionAssignmentsResponse)
	}
	code := func(r *kmsg.AlterPartitionAssignmentsResponse) int16 { return r.Topics[0].Partitions[0].ErrorCode }
	if got := code(move(0, false, 0, nil)); got != kerr.NoReassignmentInProgress.Code {
		t.Errorf("cancel nothing: code %d", got)
	}
	if got := code(move(0, false, 0, []int32{})); got != kerr.InvalidReplicaAssignment.Code {
		t.Errorf("no replicas: code %d", got)
	}
	if got := code(move(0, false, 5, []int32{1})); got != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("no such partition: code %d", got)
	}
	if got := code(move(1, true, 0, []int32{2, 3})); got != kerr.InvalidReplicationFactor.Code {
		t.Errorf("another factor: code %d", got)
	}
	if got := move(1, false, 0, []int32{2, 3}); got.ErrorCode != 0 || code(got) != 0 {
		t.Fatalf("move: %v, %v", kerr.ErrorForCode(got.ErrorCode), kerr.ErrorForCode(code(got)))
	}
	c.await(r, "the move is done", func(img *raftmeta.Image) bool {
		p := img.Topic("t").Partitions[0]
		return slices.Equal(p.Replicas, []int32{2, 3}) && len(p.Adding) == 0 && len(p.Removing) == 0 && (p.Leader == 2 || p.Leader == 3)
	})
	list := kmsg.NewPtrListPartitionReassignmentsRequest()
	if got := w.do(list).(*kmsg.ListPartitionReassignmentsResponse); got.ErrorCode != 0 || len(got.Topics) != 0 {
		t.Errorf("after the move: code %d, %d topics", got.ErrorCode, len(got.Topics))
	}
}

func TestElectLeaders(t *testing.T) {
	c := startCluster(t, 3, map[string]string{"auto.leader.rebalance.enable": "false"})
	r := c.follower()
	w := dial(t, r)
	preferred := r.b.cfg.NodeID%3 + 1 // a node other than r, which stays up
	if preferred == c.controller() {
		preferred = preferred%3 + 1
	}
	if preferred == r.b.cfg.NodeID {
		t.Fatalf("the test's arithmetic: %d", preferred)
	}
	others := slices.DeleteFunc([]int32{1, 2, 3}, func(id int32) bool { return id == preferred })
	resp := w.do(createRequest(7, assigned("t", append([]int32{preferred}, others...)))).(*kmsg.CreateTopicsResponse)
	if resp.Topics[0].ErrorCode != 0 {
		t.Fatal(kerr.ErrorForCode(resp.Topics[0].ErrorCode))
	}
	elect := func(version int16, kind int8, topics []kmsg.ElectLeadersRequestTopic) *kmsg.ElectLeadersResponse {
		req := kmsg.NewPtrElectLeadersRequest()
		req.Version, req.ElectionType, req.TimeoutMillis, req.Topics = version, kind, 20000, topics
		return w.do(req).(*kmsg.ElectLeadersResponse)
	}
	one := []kmsg.ElectLeadersRequestTopic{{Topic: "t", Partitions: []int32{0}}}
	for version := int16(0); version <= 2; version++ {
		if got := elect(version, electPreferred, one).Topics[0].Partitions[0].ErrorCode; got != kerr.ElectionNotNeeded.Code {
			t.Errorf("v%d: code %d, want ELECTION_NOT_NEEDED", version, got)
		}
	}
	if got := elect(2, 9, one).ErrorCode; got != kerr.InvalidRequest.Code {
		t.Errorf("unknown type: code %d", got)
	}
	c.crash(preferred)
	c.await(r, "another leads", func(img *raftmeta.Image) bool {
		p := img.Topic("t").Partitions[0]
		return p.Leader >= 0 && p.Leader != preferred
	})
	if got := elect(2, electPreferred, one).Topics[0].Partitions[0].ErrorCode; got != kerr.PreferredLeaderNotAvailable.Code {
		t.Errorf("the preferred one is away: code %d", got)
	}
	c.start(preferred)
	c.await(r, "it is in sync", func(img *raftmeta.Image) bool { return slices.Contains(img.Topic("t").Partitions[0].ISR, preferred) })
	if got := elect(2, electPreferred, nil); got.ErrorCode != 0 || len(got.Topics) != 1 || got.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Errorf("elect all: %+v", got)
	}
	c.await(r, "the preferred one leads", func(img *raftmeta.Image) bool { return img.Topic("t").Partitions[0].Leader == preferred })
}

func TestUnregisterBroker(t *testing.T) {
	c := startCluster(t, 3, nil)
	c.add(4)
	c.start(4)
	r := c.follower()
	unregister := func(id int32) int16 {
		req := kmsg.NewPtrUnregisterBrokerRequest()
		req.BrokerID = id
		return dial(t, r).do(req).(*kmsg.UnregisterBrokerResponse).ErrorCode
	}
	if code := unregister(77); code != kerr.BrokerIDNotRegistered.Code {
		t.Errorf("no such broker: code %d", code)
	}
	c.stop(4)
	if code := unregister(4); code != 0 {
		t.Fatalf("unregister: %v", kerr.ErrorForCode(code))
	}
	if r.b.meta.Image().Broker(4) != nil {
		t.Error("the broker is still registered")
	}
	if q := c.node(c.controller()).b.meta.Quorum(); memberOf(q.Observers, 4) != nil {
		t.Error("it is still an observer")
	}
	c.start(4) // it may come back
	c.await(r, "it is back", func(img *raftmeta.Image) bool { return allAlive(img, 1, 2, 3, 4) })
}
