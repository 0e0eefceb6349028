package main

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// details makes topics of partitions given as {leader, replicas, isr}.
func details(topics map[string][]partitionState) kadm.TopicDetails {
	out := kadm.TopicDetails{}
	for name, partitions := range topics {
		d := kadm.TopicDetail{Topic: name, Partitions: kadm.PartitionDetails{}}
		for i, p := range partitions {
			d.Partitions[int32(i)] = kadm.PartitionDetail{Topic: name, Partition: int32(i), Leader: p.Leader, Replicas: p.Replicas, ISR: p.ISR}
		}
		out[name] = d
	}
	return out
}

func TestStatusCounts(t *testing.T) {
	s := &clusterState{Nodes: []nodeState{{ID: 1}, {ID: 2, Fenced: true}, {ID: 3}}, Controller: 3, ClusterID: "c",
		Quorum: &quorumState{Leader: 3, HighWatermark: 50, Members: []memberState{{Node: 1, Voter: true, End: 50}, {Node: 2, Voter: true, End: 40}, {Node: 3, Voter: true, End: 50}}}}
	s.countPartitions(details(map[string][]partitionState{
		"orders": {
			{Leader: 1, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2, 3}},
			{Leader: 3, Replicas: []int32{2, 3, 1}, ISR: []int32{3, 1}},
			{Leader: -1, Replicas: []int32{2}, ISR: []int32{2}},
		},
	}))
	if s.Partitions != 3 || len(s.Under) != 1 || len(s.Offline) != 1 || s.Misled != 1 {
		t.Errorf("got %+v", s)
	}
	if n := s.Nodes[1]; n.Leads != 0 || n.Replicas != 3 || n.Behind != 1 {
		t.Errorf("node 2: %+v", n)
	}
	var out strings.Builder
	if err := s.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"cluster c, controller 3, 3 nodes", "1 under-replicated, 1 offline, 1 not led", "2     FENCED  voter, 10 behind", "3     alive   leader", "orders-2   NONE", "orders-1   3       [2 3 1]   [3 1]",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Index(out.String(), "orders-2") > strings.Index(out.String(), "orders-1") {
		t.Error("offline partitions do not come first")
	}
}

func TestStatusIsOneScreen(t *testing.T) {
	s := &clusterState{Controller: -1}
	for i := range 100 {
		s.Under = append(s.Under, partitionState{Topic: "t", Partition: int32(i)})
	}
	var out strings.Builder
	if err := s.print(&out); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(out.String(), "\n"); lines > 30 || !strings.Contains(out.String(), "and 80 more") || !strings.Contains(out.String(), "NO CONTROLLER") {
		t.Errorf("%d lines:\n%s", lines, out.String())
	}
}

func newThree(t *testing.T) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.DefaultNumPartitions(2))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestClusterStatusOfRunningCluster(t *testing.T) {
	c := newThree(t)
	addr := strings.Join(c.ListenAddrs(), ",")
	ok(t, addr, "", "topic", "create", "orders", "-p", "4", "--replication-factor", "3")
	if out := ok(t, addr, "", "cluster", "status"); !strings.Contains(out, "3 nodes") || !strings.Contains(out, "1 topics, 4 partitions: 0 under-replicated, 0 offline") {
		t.Errorf("status:\n%s", out)
	}
	var s clusterState
	if err := json.Unmarshal([]byte(ok(t, addr, "", "cluster", "status", "--json")), &s); err != nil || len(s.Nodes) != 3 || s.Partitions != 4 {
		t.Errorf("json: %+v, %v", s, err)
	}
}

// What the cluster answers reaches the user: counts for what was done, a message for each partition that failed.
func TestClusterChanges(t *testing.T) {
	c := newThree(t)
	addr := strings.Join(c.ListenAddrs(), ",")
	ok(t, addr, "", "topic", "create", "orders", "-p", "2", "-r", "3")
	message := "said by the cluster"
	c.ControlKey(int16(kmsg.ElectLeaders), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := req.ResponseKind().(*kmsg.ElectLeadersResponse)
		topic := kmsg.NewElectLeadersResponseTopic()
		topic.Topic = "orders"
		for i, code := range []int16{0, 84, 83} { // none, ELECTION_NOT_NEEDED, ELIGIBLE_LEADERS_NOT_AVAILABLE
			p := kmsg.NewElectLeadersResponseTopicPartition()
			p.Partition, p.ErrorCode = int32(i), code
			topic.Partitions = append(topic.Partitions, p)
		}
		topic.Partitions[2].ErrorMessage = &message
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	var reassigned *kmsg.AlterPartitionAssignmentsRequest
	c.ControlKey(int16(kmsg.AlterPartitionAssignments), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		reassigned = req.(*kmsg.AlterPartitionAssignmentsRequest)
		resp := req.ResponseKind().(*kmsg.AlterPartitionAssignmentsResponse)
		for _, t := range reassigned.Topics {
			rt := kmsg.NewAlterPartitionAssignmentsResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
				rp.Partition = p.Partition
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	tests := []struct {
		args string
		code int
		out  string
		errs string
	}{
		{"elect", exitError, "1 leaders elected, 1 already led", "orders-2: ELIGIBLE_LEADERS_NOT_AVAILABLE"},
		{"elect orders --unclean", exitError, "", "name one topic and its partitions"},
		{"elect ordres", exitError, "", `did you mean "orders"`},
		{"reassign orders --to 2,0,1", exitOK, "2 partitions reassigned", ""},
		{"reassign orders --to 2,x", exitError, "", `"x" is no node id`},
		{"reassign --to 1", exitError, "", "name the topics"},
		{"reassign orders", exitError, "", "at least one of the flags"},
		{"unregister 2", exitError, "", "node 2 is alive at"},
		{"unregister 7", exitError, "", "broker is too old"},
		{"unregister two", exitError, "", "no node id"},
	}
	for _, test := range tests {
		code, out, errs := cli(t, addr, "", append([]string{"cluster"}, strings.Fields(test.args)...)...)
		if code != test.code || !strings.Contains(out, test.out) || !strings.Contains(errs, test.errs) {
			t.Errorf("weir cluster %s: exit %d, %q, %q", test.args, code, out, errs)
		}
	}
	if reassigned == nil || !reflect.DeepEqual(reassigned.Topics[0].Partitions[0].Replicas, []int32{2, 0, 1}) {
		t.Errorf("asked for %+v", reassigned)
	}
}
