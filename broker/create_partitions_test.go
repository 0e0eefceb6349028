package broker

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/raftmeta"
)

func growRequest(version int16, topics ...kmsg.CreatePartitionsRequestTopic) *kmsg.CreatePartitionsRequest {
	req := kmsg.NewPtrCreatePartitionsRequest()
	req.Version, req.TimeoutMillis, req.Topics = version, 10000, topics
	return req
}

// grown asks for so many partitions; replicas are those of the new ones, none: the cluster places them.
func grown(name string, count int32, replicas ...[]int32) kmsg.CreatePartitionsRequestTopic {
	t := kmsg.NewCreatePartitionsRequestTopic()
	t.Topic, t.Count = name, count
	for _, r := range replicas {
		t.Assignment = append(t.Assignment, kmsg.CreatePartitionsRequestTopicAssignment{Replicas: r})
	}
	return t
}

func TestCreatePartitionsErrors(t *testing.T) {
	r := startNode(t, t.TempDir(), map[string]string{"node.id": "1"})
	w := dial(t, r)
	createTopic(t, w, "t", 2)
	createTopic(t, w, offsetsTopic, 4)
	none := grown("t", 3)
	none.Assignment = []kmsg.CreatePartitionsRequestTopicAssignment{}
	for name, tt := range map[string]struct {
		topic kmsg.CreatePartitionsRequestTopic
		want  *kerr.Error
		says  string
	}{
		"unknown topic":         {grown("u", 3), kerr.UnknownTopicOrPartition, ""},
		"empty name":            {grown("", 3), kerr.UnknownTopicOrPartition, ""},
		"as many":               {grown("t", 2), kerr.InvalidPartitions, "Topic already has 2 partition(s)."},
		"fewer":                 {grown("t", 1), kerr.InvalidPartitions, "The topic t currently has 2 partition(s); 1 would not be an increase."},
		"none":                  {grown("t", 0), kerr.InvalidPartitions, "0 would not be an increase."},
		"negative":              {grown("t", -1), kerr.InvalidPartitions, "-1 would not be an increase."},
		"very many":             {grown("t", 1<<30), kerr.InvalidPartitions, "at most"},
		"internal":              {grown(offsetsTopic, 5), kerr.InvalidRequest, "internal"},
		"too few assignments":   {grown("t", 4, []int32{1}), kerr.InvalidReplicaAssignment, "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified."},
		"too many assignments":  {grown("t", 3, []int32{1}, []int32{1}), kerr.InvalidReplicaAssignment, "2 assignment(s)"},
		"empty assignments":     {none, kerr.InvalidReplicaAssignment, "only 0 assignment(s)"},
		"no replicas":           {grown("t", 3, []int32{}), kerr.InvalidReplicaAssignment, "empty replica list"},
		"a broker twice":        {grown("t", 3, []int32{1, 1}), kerr.InvalidReplicaAssignment, "more than once"},
		"no such broker":        {grown("t", 3, []int32{9}), kerr.InvalidReplicaAssignment, "no such broker"},
		"another factor":        {grown("t", 3, []int32{1, 9}), kerr.InvalidReplicaAssignment, ""},
		"one of them is wrong":  {grown("t", 4, []int32{1}, []int32{9}), kerr.InvalidReplicaAssignment, "no such broker"},
		"negative broker":       {grown("t", 3, []int32{-1}), kerr.InvalidReplicaAssignment, ""},
		"metadata topic":        {grown(metadataTopic, 3), kerr.UnknownTopicOrPartition, ""},
		"name not to be had":    {grown("a/b", 3), kerr.UnknownTopicOrPartition, ""},
		"count of 32 bits, max": {grown("t", 1<<31-1), kerr.InvalidPartitions, ""},
	} {
		for version := int16(0); version <= 3; version++ {
			for _, only := range []bool{false, true} {
				req := growRequest(version, tt.topic)
				req.ValidateOnly = only
				resp := w.do(req).(*kmsg.CreatePartitionsResponse)
				if len(resp.Topics) != 1 || resp.Topics[0].Topic != tt.topic.Topic {
					t.Fatalf("%s v%d: %+v", name, version, resp.Topics)
				}
				if row := resp.Topics[0]; row.ErrorCode != tt.want.Code || !strings.Contains(deref(row.ErrorMessage), tt.says) {
					t.Errorf("%s v%d, only validated %v: %v %q, want %v %q", name, version, only, kerr.ErrorForCode(row.ErrorCode), deref(row.ErrorMessage), tt.want, tt.says)
				}
			}
		}
	}
	if n := len(r.b.meta.Image().Topic("t").Partitions); n != 2 {
		t.Errorf("%d partitions after nothing but errors", n)
	}
}

// A topic that is named twice fails, the others do not; one that is only validated stays as it is.
func TestCreatePartitionsRows(t *testing.T) {
	r := startNode(t, t.TempDir(), map[string]string{"node.id": "1"})
	w := dial(t, r)
	for _, name := range []string{"a", "b", "c"} {
		createTopic(t, w, name, 1)
	}
	req := growRequest(3, grown("b", 3), grown("a", 2), grown("b", 2), grown("u", 2), grown("c", 3, []int32{1}, []int32{1}))
	req.ValidateOnly = true
	rows := func() map[string]int16 {
		t.Helper()
		resp := w.do(req).(*kmsg.CreatePartitionsResponse)
		codes := map[string]int16{}
		for _, row := range resp.Topics {
			if _, twice := codes[row.Topic]; twice {
				t.Errorf("%s has two rows", row.Topic)
			}
			codes[row.Topic] = row.ErrorCode
			if (row.ErrorCode == 0) != (row.ErrorMessage == nil) {
				t.Errorf("%s: code %d with message %v", row.Topic, row.ErrorCode, row.ErrorMessage)
			}
		}
		return codes
	}
	sizes := func() (n []int) {
		for _, name := range []string{"a", "b", "c"} {
			n = append(n, len(r.b.meta.Image().Topic(name).Partitions))
		}
		return n
	}
	want := map[string]int16{"a": 0, "b": kerr.InvalidRequest.Code, "c": 0, "u": kerr.UnknownTopicOrPartition.Code}
	for _, only := range []bool{true, false} {
		req.ValidateOnly = only
		got := rows()
		for name, code := range want {
			if got[name] != code || len(got) != len(want) {
				t.Errorf("only validated %v: %v, want %v", only, got, want)
				break
			}
		}
		if size := sizes(); only && !slices.Equal(size, []int{1, 1, 1}) || !only && !slices.Equal(size, []int{2, 1, 3}) {
			t.Errorf("only validated %v: %v", only, size)
		}
	}
	if resp := w.do(growRequest(3)).(*kmsg.CreatePartitionsResponse); len(resp.Topics) != 0 {
		t.Errorf("no topics: %+v", resp.Topics)
	}
}

// Asked through a node that is not the controller: when the answer is there, every node that leads a new partition takes records for it, the replicas are
// spread like those of a new topic, and a client that knew the topic before finds the new partitions by itself.
func TestCreatePartitionsInACluster(t *testing.T) {
	c := startCluster(t, 3, nil)
	r := c.follower()
	c.await(r, "three live brokers", func(img *raftmeta.Image) bool { return allAlive(img, 1, 2, 3) })
	spreadTopic(t, r, "t", 3)
	ctx, cancel := context.WithTimeout(context.Background(), clusterWait)
	defer cancel()
	cl := c.client(kgo.ConsumeTopics("t"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(1e7), kgo.MetadataMaxAge(1e8))
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Partition: 0, Value: []byte("before")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w := dial(t, r)
	if row := w.do(growRequest(3, grown("t", 12))).(*kmsg.CreatePartitionsResponse).Topics[0]; row.ErrorCode != 0 {
		t.Fatal(kerr.ErrorForCode(row.ErrorCode), deref(row.ErrorMessage))
	}
	topic := r.b.meta.Image().Topic("t")
	if topic == nil || len(topic.Partitions) != 12 {
		t.Fatalf("the node that was asked has not applied it: %+v", topic)
	}
	leads := map[int32]int{}
	for i, p := range topic.Partitions {
		leads[p.Leader]++
		if len(p.Replicas) != 3 || len(p.ISR) != 3 || p.Leader < 0 {
			t.Fatalf("partition %d: %+v", i, p)
		}
		if code, _ := dial(t, c.node(p.Leader)).produceCode(produceRequest("t", int32(i), acksAll, buildBatch(t, "x"))); code != 0 {
			t.Errorf("partition %d, led by %d: %v", i, p.Leader, kerr.ErrorForCode(code))
		}
	}
	if leads[1] != 4 || leads[2] != 4 || leads[3] != 4 {
		t.Errorf("leaders: %v", leads)
	}
	seen := map[int32]bool{}
	for len(seen) < 12 {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("the consumer has found %v", seen)
		}
		fetches.EachRecord(func(rec *kgo.Record) { seen[rec.Partition] = true })
	}
	// While partitions move, and with a manual assignment.
	move := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	move.Topics = []kmsg.AlterPartitionAssignmentsRequestTopic{{Topic: "t", Partitions: []kmsg.AlterPartitionAssignmentsRequestTopicPartition{{Replicas: []int32{1, 2}}}}}
	if got := w.do(move).(*kmsg.AlterPartitionAssignmentsResponse); got.ErrorCode != 0 || got.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("%+v", got)
	}
	c.await(r, "two replicas", func(img *raftmeta.Image) bool { return len(img.Topic("t").Partitions[0].Replicas) == 2 })
	if row := w.do(growRequest(3, grown("t", 13, []int32{3, 1}))).(*kmsg.CreatePartitionsResponse).Topics[0]; row.ErrorCode != 0 {
		t.Errorf("as many replicas as partition 0 has: %v (%s)", kerr.ErrorForCode(row.ErrorCode), deref(row.ErrorMessage))
	}
	if p := r.b.meta.Image().Topic("t").Partitions[12]; !slices.Equal(p.Replicas, []int32{3, 1}) || p.Leader != 3 {
		t.Errorf("assigned by hand: %+v", p)
	}
}
