package broker

import (
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

// decommissionBy asks a node; the error is that of the answer.
func decommissionBy(t testing.TB, r *Running, d DecommissionRequest) ([]DecommissionState, *kerr.Error, string) {
	t.Helper()
	req, err := NewDecommissionRequest(d)
	if err != nil {
		t.Fatal(err)
	}
	resp := dial(t, r).do(req).(*kmsg.AlterPartitionAssignmentsResponse)
	if resp.ErrorCode != 0 {
		return nil, kerr.ErrorForCode(resp.ErrorCode).(*kerr.Error), deref(resp.ErrorMessage)
	}
	answer, ok, err := DecommissionAnswerOf(resp)
	if err != nil || !ok {
		t.Fatalf("%+v: field %v, %v", d, ok, err)
	}
	return answer.Nodes, nil, ""
}

// A node is emptied under records, through any node, while the controller changes; then it can be forgotten.
func TestDecommission(t *testing.T) {
	c := startCluster(t, 3, nil)
	c.add(4)
	c.start(4)
	r := c.follower()
	c.await(r, "four live brokers", func(img *raftmeta.Image) bool { return allAlive(img, 1, 2, 3, 4) })
	made := dial(t, r).do(createRequest(7, assigned("t", []int32{4, 1}, []int32{2, 4}, []int32{4, 3}, []int32{1, 2}))).(*kmsg.CreateTopicsResponse)
	if made.Topics[0].ErrorCode != 0 {
		t.Fatal(kerr.ErrorForCode(made.Topics[0].ErrorCode))
	}
	for partition := range int32(4) {
		leader := r.b.meta.Image().Topic("t").Partitions[partition].Leader
		if code, _ := dial(t, c.node(leader)).produceCode(produceRequest("t", partition, acksAll, buildBatch(t, "kept"))); code != 0 {
			t.Fatalf("produce to %d: %v", partition, kerr.ErrorForCode(code))
		}
	}
	for name, tt := range map[string]struct {
		d    DecommissionRequest
		want *kerr.Error
		says string
	}{
		"unknown node":         {DecommissionRequest{DecommissionStart, 77}, kerr.BrokerIDNotRegistered, "77"},
		"unknown, tried":       {DecommissionRequest{DecommissionTry, 77}, kerr.BrokerIDNotRegistered, "77"},
		"a voter":              {DecommissionRequest{DecommissionStart, 1}, kerr.InvalidRequest, "weir cluster voters remove 1"},
		"a voter, tried":       {DecommissionRequest{DecommissionTry, 1}, kerr.InvalidRequest, "votes on the metadata"},
		"nothing to cancel":    {DecommissionRequest{DecommissionCancel, 4}, kerr.InvalidRequest, "not being decommissioned"},
		"cancel of an unknown": {DecommissionRequest{DecommissionCancel, 77}, kerr.BrokerIDNotRegistered, "77"},
		"unknown action":       {DecommissionRequest{"forget", 4}, kerr.InvalidRequest, "forget"},
	} {
		if _, got, says := decommissionBy(t, r, tt.d); got != tt.want || !strings.Contains(says, tt.says) {
			t.Errorf("%s: %v (%s), want %v (%s)", name, got, says, tt.want, tt.says)
		}
	}
	if s, err, _ := decommissionBy(t, r, DecommissionRequest{DecommissionTry, 4}); err != nil || len(s) != 1 || s[0].Leaving || s[0].Started != 3 || s[0].Left != 3 {
		t.Fatalf("try: %+v, %v", s, err)
	}
	if s, err, _ := decommissionBy(t, r, DecommissionRequest{Action: DecommissionList}); err != nil || len(s) != 0 {
		t.Fatalf("after a try: %+v, %v", s, err)
	}
	if s, err, _ := decommissionBy(t, r, DecommissionRequest{DecommissionStart, 4}); err != nil || len(s) != 1 || !s[0].Leaving || !s[0].Alive || s[0].Started != 3 || s[0].Stuck != 0 {
		t.Fatalf("start: %+v, %v", s, err)
	}
	// It gets nothing new, whoever the controller is.
	c.crash(c.controller())
	r = c.any()
	c.controller()
	for _, name := range []string{"a", "b", "d"} {
		spreadTopic(t, r, name, 2)
	}
	voter := kmsg.NewPtrAddRaftVoterRequest()
	voter.VoterID, voter.TimeoutMillis = 4, 20000
	if code := dial(t, r).do(voter).(*kmsg.AddRaftVoterResponse).ErrorCode; code != kerr.InvalidRequest.Code {
		t.Errorf("it becomes a voter: %v", kerr.ErrorForCode(code))
	}
	byHand := dial(t, r).do(createRequest(7, assigned("h", []int32{4}))).(*kmsg.CreateTopicsResponse).Topics[0]
	if byHand.ErrorCode != kerr.InvalidReplicaAssignment.Code || !strings.Contains(deref(byHand.ErrorMessage), "decommissioned") {
		t.Errorf("a topic on it by hand: %v (%s)", kerr.ErrorForCode(byHand.ErrorCode), deref(byHand.ErrorMessage))
	}
	for _, id := range []int32{1, 2, 3} {
		if c.nodes[id].run == nil {
			c.start(id) // the one that crashed: three replicas need it
		}
	}
	c.await(r, "node 4 holds nothing", func(img *raftmeta.Image) bool { return replicasOn(img, 4) == 0 })
	if s, err, _ := decommissionBy(t, r, DecommissionRequest{Action: DecommissionList}); err != nil || len(s) != 1 || s[0].Left != 0 {
		t.Fatalf("list: %+v, %v", s, err)
	}
	// The records are where the partitions are.
	c.await(r, "every partition is led", func(img *raftmeta.Image) bool {
		return !slices.ContainsFunc(img.Topic("t").Partitions, func(p raftmeta.Partition) bool { return p.Leader < 0 })
	})
	for i, p := range r.b.meta.Image().Topic("t").Partitions {
		part := c.node(p.Leader).b.parts.Partition(r.b.meta.Image().Topic("t").ID, int32(i))
		if part == nil || part.End() != 1 {
			t.Errorf("partition %d, led by %d, has lost its record: %+v", i, p.Leader, part)
		}
	}
	c.stop(4)
	unregister := kmsg.NewPtrUnregisterBrokerRequest()
	unregister.BrokerID = 4
	if code := dial(t, r).do(unregister).(*kmsg.UnregisterBrokerResponse).ErrorCode; code != 0 {
		t.Errorf("unregister: %v", kerr.ErrorForCode(code))
	}
}

// The field is malformed, in the wrong company, or sent to a node that is alone.
func TestDecommissionRequestsThatAreWrong(t *testing.T) {
	r := startNode(t, t.TempDir(), map[string]string{"node.id": "1"})
	for name, tt := range map[string]struct {
		field string
		topic string
		says  string
	}{
		"no json":       {"{", "", "malformed"},
		"empty":         {"", "", "malformed"},
		"another shape": {`{"action":7}`, "", "malformed"},
		"topics":        {`{"action":"start","node":1}`, "t", "names no topics"},
		"alone":         {`{"action":"start","node":1}`, "", "alone"},
		"alone, tried":  {`{"action":"try","node":1}`, "", "alone"},
	} {
		req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
		req.UnknownTags.Set(DecommissionTag, []byte(tt.field))
		if tt.topic != "" {
			req.Topics = []kmsg.AlterPartitionAssignmentsRequestTopic{{Topic: tt.topic}}
		}
		resp := dial(t, r).do(req).(*kmsg.AlterPartitionAssignmentsResponse)
		if resp.ErrorCode != kerr.InvalidRequest.Code || !strings.Contains(deref(resp.ErrorMessage), tt.says) {
			t.Errorf("%s: %v (%s)", name, kerr.ErrorForCode(resp.ErrorCode), deref(resp.ErrorMessage))
		}
	}
	// Other tags do nothing.
	req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	req.UnknownTags.Set(DecommissionTag+1, []byte("x"))
	if resp := dial(t, r).do(req).(*kmsg.AlterPartitionAssignmentsResponse); resp.ErrorCode != 0 || resp.UnknownTags.Len() != 0 {
		t.Errorf("another field: %+v", resp)
	}
}

func FuzzDecommission(f *testing.F) {
	f.Add([]byte(`{"action":"start","node":4}`))
	f.Add([]byte(`{"action":"list"}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseDecommission(b)
		if err != nil {
			return
		}
		req, err := NewDecommissionRequest(r)
		if err != nil {
			t.Fatal(err)
		}
		value, ok := decommissionField(&req.UnknownTags)
		if back, err := parseDecommission(value); err != nil || !ok || back != r && strings.ToValidUTF8(string(r.Action), "\uFFFD") == string(r.Action) {
			t.Fatalf("%+v became %+v, %v", r, back, err)
		}
	})
}
