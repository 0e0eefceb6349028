package broker

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

// attempt sends a request to the controller through r, as one attempt among those with this key.
func attempt(t testing.TB, c *testCluster, r *Running, req kmsg.Request, key attemptKey) kmsg.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clusterWait)
	defer cancel()
	resp, err := r.b.forward(ctx, c.controller(), apisByKey[req.Key()], req, origin{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// prepared is how a request will be repeated, as r knows the cluster now.
func prepared(r *Running, req kmsg.Request) *repetition { return apisByKey[req.Key()].repeat(r.b, req) }

// repeated sends a request once more and returns the answer for the client.
func repeated(t testing.TB, c *testCluster, r *Running, again *repetition, key attemptKey) kmsg.Response {
	t.Helper()
	try := attempts{key: key, again: again, doubt: errInDoubt}
	return try.answer(attempt(t, c, r, try.request(nil), key))
}

// An attempt whose answer was lost is made again: the topics that it made are recognised by their ids, and only by the request that made them.
func TestCreateTopicsAgain(t *testing.T) {
	c := startCluster(t, 3, nil)
	r := c.follower()
	key, other := newAttemptKey(), newAttemptKey()
	for version := int16(2); version <= 7; version++ {
		name := string(rune('a' + version))
		req := createRequest(version, topicSpec(name, 2, 3))
		first := attempt(t, c, r, req, key).(*kmsg.CreateTopicsResponse).Topics[0]
		if first.ErrorCode != 0 {
			t.Fatalf("v%d: %v", version, kerr.ErrorForCode(first.ErrorCode))
		}
		second := createRequest(version, topicSpec(name, 2, 3), topicSpec(name+"2", 1, 1))
		again := repeated(t, c, r, prepared(r, second), key).(*kmsg.CreateTopicsResponse).Topics
		if len(again) != 2 || again[0].ErrorCode != 0 || again[1].ErrorCode != 0 {
			t.Fatalf("v%d: again: %+v", version, again)
		}
		if again[0].TopicID != first.TopicID || again[0].NumPartitions != first.NumPartitions || again[0].ReplicationFactor != first.ReplicationFactor || len(again[0].Configs) != len(first.Configs) {
			t.Errorf("v%d: the answers differ: %+v, %+v", version, first, again[0])
		}
		if id := r.b.meta.Image().Topic(name).ID; id != key.topicID(name) || version == 7 && again[0].TopicID != id {
			t.Errorf("v%d: id %x", version, id)
		}
		if got := attempt(t, c, r, req, other).(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode; got != kerr.TopicAlreadyExists.Code {
			t.Errorf("v%d: another request: code %d", version, got)
		}
	}
}

// A deletion that is made again does not touch a topic that was made in between under the same name.
func TestDeleteTopicsAgain(t *testing.T) {
	c := startCluster(t, 3, nil)
	r := c.follower()
	for version := int16(1); version <= 6; version++ {
		spreadTopic(t, r, "kept", 1)
		spreadTopic(t, r, "made-anew", 1)
		spreadTopic(t, r, "gone", 1)
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.Version, req.TimeoutMillis, req.TopicNames = version, 20000, []string{"made-anew", "gone", "never"}
		if version >= 6 {
			req.TopicNames = nil
			for _, name := range []string{"made-anew", "gone", "never"} {
				req.Topics = append(req.Topics, kmsg.DeleteTopicsRequestTopic{Topic: &name})
			}
		}
		again := prepared(r, req)
		first := attempt(t, c, r, req, newAttemptKey()).(*kmsg.DeleteTopicsResponse)
		codes := map[string]int16{}
		for _, row := range first.Topics {
			codes[*row.Topic] = row.ErrorCode
		}
		if codes["made-anew"] != 0 || codes["gone"] != 0 || codes["never"] != kerr.UnknownTopicOrPartition.Code {
			t.Fatalf("v%d: first: %v", version, codes)
		}
		anew := spreadTopic(t, r, "made-anew", 1)
		second := repeated(t, c, r, again, newAttemptKey()).(*kmsg.DeleteTopicsResponse)
		codes = map[string]int16{}
		for _, row := range second.Topics {
			codes[*row.Topic] = row.ErrorCode
		}
		if len(second.Topics) != 3 || codes["made-anew"] != 0 || codes["gone"] != 0 || codes["never"] != kerr.RequestTimedOut.Code {
			t.Errorf("v%d: again: %v", version, codes)
		}
		if topic := r.b.meta.Image().Topic("made-anew"); topic == nil || topic.ID != anew {
			t.Fatalf("v%d: the topic that was made since is gone: %+v", version, topic)
		}
		for _, name := range []string{"kept", "made-anew"} {
			deleteTopic(t, r, name)
		}
	}
}

func deleteTopic(t testing.TB, r *Running, name string) {
	t.Helper()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.Version, req.TimeoutMillis, req.TopicNames = 5, 20000, []string{name}
	if code := dial(t, r).do(req).(*kmsg.DeleteTopicsResponse).Topics[0].ErrorCode; code != 0 {
		t.Fatalf("delete %s: %v", name, kerr.ErrorForCode(code))
	}
}

// What was reached before counts as reached by the repetition, and nothing else does.
func TestOtherRequestsAgain(t *testing.T) {
	c := startCluster(t, 3, nil)
	c.add(4)
	c.start(4)
	r := c.follower()
	spreadTopic(t, r, "t", 2)
	move := func(replicas []int32) *kmsg.AlterPartitionAssignmentsRequest {
		req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
		req.Topics = []kmsg.AlterPartitionAssignmentsRequestTopic{{Topic: "t", Partitions: []kmsg.AlterPartitionAssignmentsRequestTopicPartition{{Replicas: replicas}}}}
		return req
	}
	unregister, add, remove := kmsg.NewPtrUnregisterBrokerRequest(), kmsg.NewPtrAddRaftVoterRequest(), kmsg.NewPtrRemoveRaftVoterRequest()
	unregister.BrokerID, add.VoterID, remove.VoterID = 4, 4, 4
	start, err := NewDecommissionRequest(DecommissionRequest{Action: DecommissionStart, Node: 4})
	if err != nil {
		t.Fatal(err)
	}
	code := func(resp kmsg.Response) int16 {
		switch r := resp.(type) {
		case *kmsg.CreatePartitionsResponse:
			return r.Topics[0].ErrorCode
		case *kmsg.AlterPartitionAssignmentsResponse:
			if len(r.Topics) > 0 {
				return r.Topics[0].Partitions[0].ErrorCode
			}
			return r.ErrorCode
		case *kmsg.AddRaftVoterResponse:
			return r.ErrorCode
		case *kmsg.RemoveRaftVoterResponse:
			return r.ErrorCode
		case *kmsg.UnregisterBrokerResponse:
			return r.ErrorCode
		case *kmsg.ElectLeadersResponse:
			return r.ErrorCode
		}
		t.Fatalf("%T", resp)
		return 0
	}
	topics := 0
	known := func() { // the quorum is not part of the image, but changes in order with it
		topics++
		spreadTopic(t, r, fmt.Sprintf("known%d", topics), 1)
	}
	for _, tt := range []struct {
		name   string
		before func()
		req    kmsg.Request
		third  int16 // for a request that comes afterwards and is repeated, too
	}{
		{"grow", nil, growRequest(3, grown("t", 5)), kerr.InvalidPartitions.Code},
		{"move", nil, move([]int32{1, 2, 3}), 0},
		{"add a voter", nil, add, kerr.DuplicateVoter.Code},
		{"remove a voter", nil, remove, kerr.VoterNotFound.Code},
		{"decommission", nil, start, 0},
		{"unregister", func() {
			c.stop(4)
		}, unregister, kerr.BrokerIDNotRegistered.Code},
		{"elect", nil, &kmsg.ElectLeadersRequest{Version: 2, TimeoutMillis: 20000}, 0},
	} {
		if tt.before != nil {
			tt.before()
			c.await(r, "nothing is left on node 4", func(img *raftmeta.Image) bool {
				return img.Broker(4).Fenced && replicasOn(img, 4) == 0
			})
		}
		known() // r has what was changed before
		again := prepared(r, tt.req)
		if again == nil {
			t.Fatalf("%s cannot be repeated", tt.name)
		}
		if got := code(attempt(t, c, r, tt.req, newAttemptKey())); got != 0 {
			t.Fatalf("%s: %v", tt.name, kerr.ErrorForCode(got))
		}
		if got := code(repeated(t, c, r, again, newAttemptKey())); got != 0 {
			t.Errorf("%s, again: %v", tt.name, kerr.ErrorForCode(got))
		}
		known()
		if got := code(repeated(t, c, r, prepared(r, tt.req), newAttemptKey())); got != tt.third {
			t.Errorf("%s, once it was so before: %v, want %v", tt.name, kerr.ErrorForCode(got), kerr.ErrorForCode(tt.third))
		}
	}
	cancel, err := NewDecommissionRequest(DecommissionRequest{Action: DecommissionCancel, Node: 4})
	if err != nil || prepared(r, cancel) != nil {
		t.Errorf("the end of a decommission can be repeated: %v", err)
	}
}

func replicasOn(img *raftmeta.Image, node int32) (n int) {
	for t := range img.Topics() {
		for _, p := range t.Partitions {
			for _, id := range p.Replicas {
				if id == node {
					n++
				}
			}
		}
	}
	return n
}

// The controller's disk stops answering with requests of all kinds in its hands. Another controller is there soon, the nodes that were asked
// turn to it, and the clients see nothing of it: no error of somebody else's disk, and nothing done twice.
func TestControllersDiskStallsWithRequestsInItsHands(t *testing.T) {
	c := newCluster(t, 3, map[string]string{"log.dir.stall.ms": "3000"})
	disks := map[int32]*slowDisk{}
	for id, node := range c.nodes {
		disks[id] = newSlowDisk()
		node.disk = disks[id]
	}
	c.start(1, 2, 3)
	r := c.follower()
	c.await(r, "three live brokers", func(img *raftmeta.Image) bool { return allAlive(img, 1, 2, 3) })
	spreadTopic(t, r, "deleted", 2)
	spreadTopic(t, r, "grown", 2)
	victim := c.controller()
	disks[victim].hold("/d/meta")
	defer disks[victim].release(errCrash)

	create := createRequest(7, topicSpec("created", 3, 2))
	create.TimeoutMillis = 60000
	remove := kmsg.NewPtrDeleteTopicsRequest()
	remove.Version, remove.TimeoutMillis, remove.TopicNames = 5, 60000, []string{"deleted"}
	grow := growRequest(3, grown("grown", 5))
	grow.TimeoutMillis = 60000
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.Version, find.CoordinatorKeys = 4, []string{"g"}
	initID := kmsg.NewPtrInitProducerIDRequest()
	initID.Version, initID.ProducerID, initID.ProducerEpoch = 4, -1, -1
	answers := make(chan kmsg.Response)
	reqs := []kmsg.Request{create, remove, grow, initID, find}
	for _, req := range reqs {
		w := dial(t, r)
		if err := w.conn.SetDeadline(time.Now().Add(clusterWait)); err != nil {
			t.Fatal(err)
		}
		w.send(req)
		go func() { answers <- w.receive(req, 1) }()
	}
	for range reqs {
		switch resp := (<-answers).(type) {
		case *kmsg.CreateTopicsResponse:
			if row := resp.Topics[0]; row.ErrorCode != 0 {
				t.Errorf("create: %v (%s)", kerr.ErrorForCode(row.ErrorCode), deref(row.ErrorMessage))
			} else if topic := r.b.meta.Image().Topic("created"); topic == nil || topic.ID != row.TopicID || len(topic.Partitions) != 3 {
				t.Errorf("created: %+v, answered id %x", topic, row.TopicID)
			}
		case *kmsg.DeleteTopicsResponse:
			if row := resp.Topics[0]; row.ErrorCode != 0 || deref(row.Topic) != "deleted" || r.b.meta.Image().Topic("deleted") != nil {
				t.Errorf("delete: %v (%s) of %q", kerr.ErrorForCode(row.ErrorCode), deref(row.ErrorMessage), deref(row.Topic))
			}
		case *kmsg.CreatePartitionsResponse:
			if row := resp.Topics[0]; row.ErrorCode != 0 || len(r.b.meta.Image().Topic("grown").Partitions) != 5 {
				t.Errorf("grow: %v (%s)", kerr.ErrorForCode(row.ErrorCode), deref(row.ErrorMessage))
			}
		case *kmsg.InitProducerIDResponse:
			if resp.ErrorCode != 0 || resp.ProducerID < 0 {
				t.Errorf("producer id: %v", kerr.ErrorForCode(resp.ErrorCode))
			}
		case *kmsg.FindCoordinatorResponse:
			// Whether the offsets topic is there already decides; no other error is right.
			if code := resp.Coordinators[0].ErrorCode; code != 0 && code != kerr.CoordinatorNotAvailable.Code {
				t.Errorf("coordinator: %v", kerr.ErrorForCode(code))
			}
		}
	}
	if id := r.b.meta.Image().ControllerID; id == victim {
		t.Errorf("node %d is still the controller", id)
	}
	disks[victim].release(errCrash)
	_ = c.shutdown(victim) // says that the storage failed
}
