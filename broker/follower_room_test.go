package broker

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/netproto"
)

// TestNoRoomForTheNextBatch: a partition whose next batch has no room in an answer is in the next one, first and whole, without another append.
func TestNoRoomForTheNextBatch(t *testing.T) {
	f, _ := newFakeFollower(t)
	c := f.cluster
	w := dial(t, c.node(f.leader))
	both := []int32{f.leader, f.self}
	made := w.do(createRequest(7, assigned("wide", both, both, both))).(*kmsg.CreateTopicsResponse).Topics[0]
	if made.ErrorCode != 0 {
		t.Fatal(kerr.ErrorForCode(made.ErrorCode))
	}
	for partition := range int32(3) {
		if code, _ := w.produceCode(produceRequest("wide", partition, acksAll, buildBatch(t, strings.Repeat("x", 20_000)))); code != 0 {
			t.Fatalf("produce: code %d", code)
		}
	}
	session, seen := int32(0), []int32{}
	for epoch := range int32(3) {
		req := netproto.FetchRequest{Version: followerFetchVersion, ReplicaID: f.self, ReplicaEpoch: -1, MinBytes: 1, MaxBytes: 30_000, SessionID: session, SessionEpoch: epoch}
		if epoch == 0 {
			req.Topics = []netproto.FetchTopic{{ID: made.TopicID}}
			for p := range int32(3) {
				req.Topics[0].Partitions = append(req.Topics[0].Partitions, netproto.FetchPartition{Index: p, LastFetchedEpoch: -1, MaxBytes: 1 << 20})
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), clusterWait)
		resp, err := f.peers.Call(ctx, f.leader, netproto.ClassFetch, fetchKey, followerFetchVersion, req.AppendTo(nil))
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		var answer netproto.FetchAnswer
		if err := answer.Parse(followerFetchVersion, slices.Clone(resp.Body)); err != nil {
			t.Fatal(err)
		}
		resp.Release()
		session = answer.SessionID
		for _, p := range answer.Partitions {
			if p.ErrorCode != 0 {
				t.Fatalf("answer %d: %+v", epoch, p.ErrorCode)
			}
			if len(p.Records) > 0 {
				seen = append(seen, p.Index)
			}
		}
	}
	t.Logf("in this order: %v", seen)
	for p := range int32(3) {
		if !slices.Contains(seen, p) {
			t.Errorf("partition %d was left out: %v", p, seen)
		}
	}
}
