package broker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func createRequest(version int16, topics ...kmsg.CreateTopicsRequestTopic) *kmsg.CreateTopicsRequest {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis, req.Topics = version, 10000, topics
	return req
}

func topicSpec(name string, partitions int32, factor int16) kmsg.CreateTopicsRequestTopic {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, factor
	return t
}

func assigned(name string, replicas ...[]int32) kmsg.CreateTopicsRequestTopic {
	t := topicSpec(name, -1, -1)
	for i, r := range replicas {
		t.ReplicaAssignment = append(t.ReplicaAssignment, kmsg.CreateTopicsRequestTopicReplicaAssignment{Partition: int32(i), Replicas: r})
	}
	return t
}

func configured(name string, configs ...string) kmsg.CreateTopicsRequestTopic {
	t := topicSpec(name, 1, 1)
	for i := 0; i < len(configs); i += 2 {
		c := kmsg.CreateTopicsRequestTopicConfig{Name: configs[i]}
		if configs[i+1] != "null" {
			c.Value = &configs[i+1]
		}
		t.Configs = append(t.Configs, c)
	}
	return t
}

func TestCreateTopicErrors(t *testing.T) {
	r := startNode(t, t.TempDir(), map[string]string{"node.id": "1"})
	w := dial(t, r)
	createTopic(t, w, "taken.name", 1)
	shifted := assigned("t", []int32{1})
	shifted.ReplicaAssignment[0].Partition = 1
	twice := assigned("t", []int32{1}, []int32{1})
	twice.ReplicaAssignment[1].Partition = 0
	both := assigned("t", []int32{1})
	both.NumPartitions = 1
	factor := assigned("t", []int32{1})
	factor.ReplicationFactor = 1
	for name, tt := range map[string]struct {
		topic kmsg.CreateTopicsRequestTopic
		want  *kerr.Error
		says  string
	}{
		"exists":                {topicSpec("taken.name", 1, 1), kerr.TopicAlreadyExists, "Topic 'taken.name' already exists."},
		"collides":              {topicSpec("taken_name", 1, 1), kerr.InvalidTopicException, "collides with existing topic: taken.name"},
		"empty name":            {topicSpec("", 1, 1), kerr.InvalidTopicException, ""},
		"dots":                  {topicSpec("..", 1, 1), kerr.InvalidTopicException, ""},
		"bad character":         {topicSpec("a/b", 1, 1), kerr.InvalidTopicException, ""},
		"long name":             {topicSpec(strings.Repeat("x", 250), 1, 1), kerr.InvalidTopicException, "250"},
		"no partitions":         {topicSpec("t", 0, 1), kerr.InvalidPartitions, "non-positive"},
		"negative partitions":   {topicSpec("t", -2, 1), kerr.InvalidPartitions, "non-positive"},
		"very many partitions":  {topicSpec("t", 1<<30, 1), kerr.InvalidPartitions, ""},
		"no replicas":           {topicSpec("t", 1, 0), kerr.InvalidReplicationFactor, "larger than 0"},
		"too many replicas":     {topicSpec("t", 1, 2), kerr.InvalidReplicationFactor, "only 1 broker(s) are registered"},
		"unknown config":        {configured("t", "retention.mss", "1"), kerr.InvalidConfig, "retention.ms"},
		"bad value":             {configured("t", "retention.ms", "soon"), kerr.InvalidConfig, "soon"},
		"null value":            {configured("t", "retention.ms", "null"), kerr.InvalidConfig, "Null value not supported for topic configs: retention.ms"},
		"cannot be honoured":    {configured("t", "compression.type", "gzip"), kerr.InvalidConfig, "not supported"},
		"metadata topic":        {topicSpec("__cluster_metadata", 1, 1), kerr.InvalidRequest, "prohibited"},
		"assigned and counted":  {both, kerr.InvalidRequest, "numPartitions"},
		"assigned and factor":   {factor, kerr.InvalidRequest, "replication factor"},
		"assigned twice":        {twice, kerr.InvalidReplicaAssignment, "multiple manual partition assignments for partition 0"},
		"assigned with a hole":  {shifted, kerr.InvalidReplicaAssignment, "consecutive"},
		"assigned to nobody":    {assigned("t", []int32{}), kerr.InvalidReplicaAssignment, "empty replica list"},
		"assigned to a ghost":   {assigned("t", []int32{9}), kerr.InvalidReplicaAssignment, "no such broker"},
		"assigned to one twice": {assigned("t", []int32{1, 1}), kerr.InvalidReplicaAssignment, "more than once"},
		"assigned unevenly":     {assigned("t", []int32{1}, []int32{}), kerr.InvalidReplicaAssignment, "empty replica list"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, validateOnly := range []bool{true, false} {
				if validateOnly && name == "very many partitions" {
					continue // only the one who places them knows the bound
				}
				req := createRequest(7, tt.topic)
				req.ValidateOnly = validateOnly
				resp := w.do(req).(*kmsg.CreateTopicsResponse)
				if len(resp.Topics) != 1 {
					t.Fatalf("%+v", resp.Topics)
				}
				row := resp.Topics[0]
				if row.ErrorCode != tt.want.Code || row.ErrorMessage == nil || !strings.Contains(*row.ErrorMessage, tt.says) {
					t.Errorf("validate only %v: error %d %q, want %d saying %q", validateOnly, row.ErrorCode, str(row.ErrorMessage), tt.want.Code, tt.says)
				}
				if row.NumPartitions != -1 || row.ReplicationFactor != -1 || row.TopicID != [16]byte{} {
					t.Errorf("%+v", row)
				}
			}
		})
	}
	if n := r.b.meta.Image().NumTopics(); n != 1 {
		t.Errorf("%d topics, want only the first", n)
	}
}

func str(s *string) string {
	if s == nil {
		return "null"
	}
	return *s
}

func TestCreateTopicVersions(t *testing.T) {
	r := startNode(t, t.TempDir(), map[string]string{"num.partitions": "3"})
	w := dial(t, r)
	for version := int16(2); version <= 7; version++ {
		name := fmt.Sprintf("topic-%d", version)
		spec := configured(name, "retention.ms", "1234")
		spec.NumPartitions, spec.ReplicationFactor = -1, -1
		resp := w.do(createRequest(version, spec)).(*kmsg.CreateTopicsResponse)
		row := resp.Topics[0]
		if row.ErrorCode != 0 || row.ErrorMessage != nil {
			t.Fatalf("v%d: error %d %s", version, row.ErrorCode, str(row.ErrorMessage))
		}
		made := r.b.meta.Image().Topic(name)
		if made == nil || len(made.Partitions) != 3 || made.Configs["retention.ms"] != "1234" {
			t.Fatalf("v%d: %+v", version, made)
		}
		if version >= 7 && row.TopicID != made.ID {
			t.Errorf("v%d: id %x, want %x", version, row.TopicID, made.ID)
		}
		if version < 5 {
			continue
		}
		if row.NumPartitions != 3 || row.ReplicationFactor != 1 || row.ConfigErrorCode != 0 {
			t.Errorf("v%d: %+v", version, row)
		}
		found := false
		for _, c := range row.Configs {
			if c.Name == "retention.ms" {
				found = *c.Value == "1234" && kmsg.ConfigSource(c.Source) == kmsg.ConfigSourceDynamicTopicConfig && !c.ReadOnly
			}
		}
		if !found {
			t.Errorf("v%d: configs %+v", version, row.Configs)
		}
	}
}

func TestCreateTopicsValidateOnlyAndDuplicates(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	req := createRequest(7, topicSpec("once", 2, 1), topicSpec("twice", 1, 1), topicSpec("twice", 1, 1))
	req.ValidateOnly = true
	for _, validateOnly := range []bool{true, false} {
		req.ValidateOnly = validateOnly
		resp := w.do(req).(*kmsg.CreateTopicsResponse)
		if len(resp.Topics) != 2 {
			t.Fatalf("%+v", resp.Topics)
		}
		if row := resp.Topics[0]; row.Topic != "once" || row.ErrorCode != 0 || row.NumPartitions != 2 {
			t.Errorf("%+v", row)
		}
		if row := resp.Topics[1]; row.Topic != "twice" || row.ErrorCode != kerr.InvalidRequest.Code || str(row.ErrorMessage) != "Duplicate topic name." {
			t.Errorf("%+v", row)
		}
		if made := r.b.meta.Image().NumTopics(); (made == 0) != validateOnly {
			t.Errorf("%d topics after validate only %v", made, validateOnly)
		}
	}
}

// TestManyTopicsAreOneChange: creating N topics of M partitions is one entry of the metadata log and one wait.
func TestManyTopicsAreOneChange(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	createTopic(t, w, "first", 1)
	before := r.b.meta.Image().Version
	var specs []kmsg.CreateTopicsRequestTopic
	for i := range 50 {
		specs = append(specs, topicSpec(fmt.Sprintf("t%d", i), 4, 1))
	}
	for _, row := range w.do(createRequest(7, specs...)).(*kmsg.CreateTopicsResponse).Topics {
		if row.ErrorCode != 0 {
			t.Fatalf("%+v", row)
		}
	}
	if after := r.b.meta.Image().Version; after != before+1 {
		t.Errorf("%d entries of the metadata log for 50 topics", after-before)
	}
	for i := range 50 { // and each can be written at once
		name := fmt.Sprintf("t%d", i)
		resp := w.do(produceRequest(name, 3, -1, buildBatch(t, "x"))).(*kmsg.ProduceResponse)
		if code := resp.Topics[0].Partitions[0].ErrorCode; code != 0 {
			t.Fatalf("produce to %s: %d", name, code)
		}
	}
}
