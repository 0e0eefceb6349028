package broker

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func deleteRequest(version int16) *kmsg.DeleteTopicsRequest {
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.Version, req.TimeoutMillis = version, 10000
	return req
}

func TestDeleteTopicsByName(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	for version := int16(1); version <= 5; version++ {
		createTopic(t, w, "a", 2)
		createTopic(t, w, "b", 1)
		req := deleteRequest(version)
		req.TopicNames = []string{"a", "unknown", "b", "b"}
		got := map[string]int16{}
		for _, row := range w.do(req).(*kmsg.DeleteTopicsResponse).Topics {
			got[*row.Topic] = row.ErrorCode
		}
		if len(got) != 3 || got["a"] != 0 || got["unknown"] != kerr.UnknownTopicOrPartition.Code || got["b"] != kerr.InvalidRequest.Code {
			t.Fatalf("v%d: %v", version, got)
		}
		if img := r.b.meta.Image(); img.Topic("a") != nil || img.Topic("b") == nil {
			t.Fatalf("v%d: the wrong topics are gone", version)
		}
		req.TopicNames = []string{"b"}
		w.do(req)
		resp := w.do(produceRequest("b", 0, -1, buildBatch(t, "x"))).(*kmsg.ProduceResponse)
		if code := resp.Topics[0].Partitions[0].ErrorCode; code != kerr.UnknownTopicOrPartition.Code {
			t.Fatalf("v%d: produce to a deleted topic: %d", version, code)
		}
	}
}

func TestDeleteTopicsByID(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	w := dial(t, r)
	a, b, c := createTopic(t, w, "a", 1), createTopic(t, w, "b", 1), createTopic(t, w, "c", 1)
	name := func(s string) *string { return &s }
	req := deleteRequest(6)
	req.Topics = []kmsg.DeleteTopicsRequestTopic{
		{TopicID: a},
		{TopicID: [16]byte{9}},
		{},
		{Topic: name("b"), TopicID: b},
		{TopicID: c}, {Topic: name("c")},
		{TopicID: [16]byte{8}}, {TopicID: [16]byte{8}},
	}
	type row struct {
		name string
		id   [16]byte
		code int16
	}
	got := map[row]bool{}
	for _, r := range w.do(req).(*kmsg.DeleteTopicsResponse).Topics {
		got[row{str(r.Topic), r.TopicID, r.ErrorCode}] = true
		if (r.ErrorMessage == nil) != (r.ErrorCode == 0) {
			t.Errorf("%+v", r)
		}
	}
	want := []row{
		{"a", a, 0},
		{"null", [16]byte{9}, kerr.UnknownTopicID.Code},
		{"null", [16]byte{}, kerr.InvalidRequest.Code},
		{"b", b, kerr.InvalidRequest.Code},
		{"c", c, kerr.InvalidRequest.Code},
		{"null", [16]byte{8}, kerr.InvalidRequest.Code},
	}
	for _, w := range want {
		if !got[w] {
			t.Errorf("no row %+v", w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("rows %+v", got)
	}
	if img := r.b.meta.Image(); img.Topic("a") != nil || img.Topic("b") == nil || img.Topic("c") == nil {
		t.Error("the wrong topics are gone")
	}
}

func TestDeleteTopicsDisabled(t *testing.T) {
	r := startNode(t, t.TempDir(), map[string]string{"delete.topic.enable": "false"})
	w := dial(t, r)
	createTopic(t, w, "a", 1)
	for version, want := range map[int16]int16{2: kerr.InvalidRequest.Code, 3: kerr.TopicDeletionDisabled.Code, 5: kerr.TopicDeletionDisabled.Code} {
		req := deleteRequest(version)
		req.TopicNames = []string{"a"}
		if rows := w.do(req).(*kmsg.DeleteTopicsResponse).Topics; len(rows) != 1 || rows[0].ErrorCode != want {
			t.Errorf("v%d: %+v, want error %d", version, rows, want)
		}
	}
	if r.b.meta.Image().Topic("a") == nil {
		t.Error("deleted")
	}
}

func TestTopicMadeAgainIsEmptyAndAnother(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	first := createTopic(t, w, "a", 1)
	mustProduce(t, w, "a", "x", "y")
	req := deleteRequest(5)
	req.TopicNames = []string{"a"}
	w.do(req)
	if second := createTopic(t, w, "a", 1); second == first {
		t.Error("the same id again")
	}
	if row := listOffset(t, w, 7, "a", latestOffset, -1); row.Offset != 0 {
		t.Errorf("end %d", row.Offset)
	}
}
