package broker

import (
	"math"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func metadataRequest(version int16, names ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = version
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, name := range names {
		req.Topics = append(req.Topics, kmsg.MetadataRequestTopic{Topic: &name})
	}
	return req
}

func topicNames(resp *kmsg.MetadataResponse) (names []string) {
	for i := range resp.Topics {
		if name := resp.Topics[i].Topic; name != nil {
			names = append(names, *name)
		}
	}
	return names
}

func TestMetadataOfAllVersions(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), map[string]string{"node.id": "7"}))
	id := createTopic(t, w, "orders", 3)
	for version := int16(0); version <= 13; version++ {
		resp := w.do(metadataRequest(version, "orders", "orders")).(*kmsg.MetadataResponse)
		if len(resp.Brokers) != 1 || resp.Brokers[0].NodeID != 7 || resp.Brokers[0].Host != "127.0.0.1" && resp.Brokers[0].Host != "localhost" || resp.Brokers[0].Port == 0 {
			t.Errorf("v%d: brokers %+v", version, resp.Brokers)
		}
		if version >= 1 && resp.ControllerID != 7 {
			t.Errorf("v%d: controller %d", version, resp.ControllerID)
		}
		if version >= 2 && (resp.ClusterID == nil || len(*resp.ClusterID) != 22) {
			t.Errorf("v%d: cluster id %v", version, resp.ClusterID)
		}
		if len(resp.Topics) != 1 {
			t.Fatalf("v%d: topics %v, want one for a name given twice", version, topicNames(resp))
		}
		topic := resp.Topics[0]
		if topic.ErrorCode != 0 || *topic.Topic != "orders" || topic.IsInternal || len(topic.Partitions) != 3 {
			t.Errorf("v%d: topic %+v", version, topic)
		}
		if version >= 10 && topic.TopicID != id {
			t.Errorf("v%d: topic id %x, want %x", version, topic.TopicID, id)
		}
		if version >= 8 && topic.AuthorizedOperations != math.MinInt32 {
			t.Errorf("v%d: operations %d without being asked", version, topic.AuthorizedOperations)
		}
		p := topic.Partitions[2]
		if p.ErrorCode != 0 || p.Partition != 2 || p.Leader != 7 || !slices.Equal(p.Replicas, []int32{7}) || !slices.Equal(p.ISR, []int32{7}) || len(p.OfflineReplicas) != 0 {
			t.Errorf("v%d: partition %+v", version, p)
		}
		if version >= 7 && p.LeaderEpoch != 0 {
			t.Errorf("v%d: leader epoch %d", version, p.LeaderEpoch)
		}
	}
}

func TestMetadataAllAndNone(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	createTopic(t, w, "b", 1)
	createTopic(t, w, "a", 1)
	null := metadataRequest(1)
	null.Topics = nil
	for name, tt := range map[string]struct {
		req  *kmsg.MetadataRequest
		want []string
	}{
		"v0 empty is all":  {metadataRequest(0), []string{"a", "b"}},
		"v1 empty is none": {metadataRequest(1), nil},
		"v1 null is all":   {null, []string{"a", "b"}},
		"v13 empty":        {metadataRequest(13), nil},
	} {
		if got := topicNames(w.do(tt.req).(*kmsg.MetadataResponse)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestMetadataById(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	id := createTopic(t, w, "orders", 1)
	req := metadataRequest(12)
	req.Topics = []kmsg.MetadataRequestTopic{{TopicID: id}, {TopicID: [16]byte{1}}}
	resp := w.do(req).(*kmsg.MetadataResponse)
	if len(resp.Topics) != 2 || resp.Topics[0].Topic == nil || *resp.Topics[0].Topic != "orders" || resp.Topics[0].ErrorCode != 0 {
		t.Fatalf("%+v", resp.Topics)
	}
	if u := resp.Topics[1]; u.ErrorCode != kerr.UnknownTopicID.Code || u.Topic != nil || u.TopicID != [16]byte{1} {
		t.Errorf("unknown id: %+v", u)
	}
	for _, version := range []int16{10, 11} { // the field is there, but must not be used
		req.Version = version
		resp := w.do(req).(*kmsg.MetadataResponse)
		if len(resp.Topics) != 2 || resp.Topics[0].ErrorCode != kerr.InvalidRequest.Code {
			t.Errorf("v%d: %+v", version, resp.Topics)
		}
	}
}

func TestMetadataAuthorizedOperations(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	createTopic(t, w, "orders", 1)
	req := metadataRequest(8, "orders")
	req.IncludeClusterAuthorizedOperations, req.IncludeTopicAuthorizedOperations = true, true
	resp := w.do(req).(*kmsg.MetadataResponse)
	if resp.AuthorizedOperations != 8096 || resp.Topics[0].AuthorizedOperations != 3576 { // what Kafka says without an authorizer
		t.Errorf("cluster %d, topic %d", resp.AuthorizedOperations, resp.Topics[0].AuthorizedOperations)
	}
}

func TestAutoCreation(t *testing.T) {
	for name, tt := range map[string]struct {
		config map[string]string
		allow  bool
		topic  string
		want   int16
	}{
		"allowed":        {nil, true, "new", 0},
		"client forbids": {nil, false, "new", kerr.UnknownTopicOrPartition.Code},
		"broker forbids": {map[string]string{"auto.create.topics.enable": "false"}, true, "new", kerr.UnknownTopicOrPartition.Code},
		"bad name":       {nil, true, "a b", kerr.InvalidTopicException.Code},
		"empty name":     {nil, true, "", kerr.InvalidTopicException.Code},
		"reserved":       {nil, true, "__transaction_state", kerr.UnknownTopicOrPartition.Code},
		"offsets":        {nil, true, offsetsTopic, 0},
	} {
		t.Run(name, func(t *testing.T) {
			config := map[string]string{"num.partitions": "2"}
			for k, v := range tt.config {
				config[k] = v
			}
			w := dial(t, startNode(t, t.TempDir(), config))
			req := metadataRequest(12, tt.topic)
			req.AllowAutoTopicCreation = tt.allow
			resp := w.do(req).(*kmsg.MetadataResponse)
			if len(resp.Topics) != 1 || resp.Topics[0].ErrorCode != tt.want || *resp.Topics[0].Topic != tt.topic {
				t.Fatalf("%+v, want error %d", resp.Topics, tt.want)
			}
			topic := resp.Topics[0]
			switch {
			case tt.want != 0:
				if len(topic.Partitions) != 0 || topic.TopicID != [16]byte{} {
					t.Errorf("%+v", topic)
				}
			case tt.topic == offsetsTopic:
				if !topic.IsInternal || len(topic.Partitions) != 4 {
					t.Errorf("%+v", topic)
				}
			case len(topic.Partitions) != 2 || topic.Partitions[0].Leader < 0:
				t.Errorf("%+v", topic)
			}
		})
	}
}

// TestAutoCreationBeforeVersion4 cannot be forbidden by the client.
func TestAutoCreationBeforeVersion4(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	resp := w.do(metadataRequest(1, "new")).(*kmsg.MetadataResponse)
	if resp.Topics[0].ErrorCode != 0 {
		t.Errorf("%+v", resp.Topics)
	}
}
