package broker

import (
	"context"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/netproto"
	"weir/raftmeta"
)

// TestDivergenceIsToldWithTheNextAnswer: a follower whose log goes another way is told so also if the answer to the request in which it said
// where it is was full before its partition's turn came. It must never get records instead.
func TestDivergenceIsToldWithTheNextAnswer(t *testing.T) {
	c := startCluster(t, 3, nil)
	leader := c.controller()
	follower := leader%3 + 1
	full, parted := c.assigned("orders", []int32{leader, follower}), c.assigned("others", []int32{leader, follower})
	w := dial(t, c.node(leader))
	for _, topic := range []string{"orders", "others"} {
		for range 3 {
			if code := w.do(produceRequest(topic, 0, 1, buildBatch(t, "x"))).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode; code != 0 {
				t.Fatal(kerr.ErrorForCode(code))
			}
		}
	}
	c.crash(follower)
	c.await(c.node(leader), "one replica in sync", func(img *raftmeta.Image) bool { return inSync(img, "orders", 1) && inSync(img, "others", 1) })
	peers, err := netproto.NewPeers(netproto.PeersOptions{
		NodeID: follower, ClusterID: func() string { return c.node(leader).b.meta.Image().ClusterID },
		Resolve: func(int32) (string, bool) { return c.nodes[leader].peer, true },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peers.Close() })
	ask := func(session, epoch int32, topics ...netproto.FetchTopic) (answer netproto.FetchAnswer) {
		t.Helper()
		req := netproto.FetchRequest{Version: followerFetchVersion, ReplicaID: follower, ReplicaEpoch: -1, MinBytes: 1, MaxBytes: 1, SessionID: session, SessionEpoch: epoch}
		req.Topics = topics
		ctx, cancel := context.WithTimeout(context.Background(), clusterWait)
		defer cancel()
		resp, err := peers.Call(ctx, leader, netproto.ClassFetch, fetchKey, followerFetchVersion, req.AppendTo(nil))
		if err != nil {
			t.Fatal(err)
		}
		body := slices.Clone(resp.Body)
		resp.Release()
		if err := answer.Parse(followerFetchVersion, body); err != nil || answer.ErrorCode != 0 {
			t.Fatal(err, answer.ErrorCode)
		}
		return answer
	}
	at := func(topic [16]byte, offset int64, last int32) netproto.FetchTopic {
		return netproto.FetchTopic{ID: topic, Partitions: []netproto.FetchPartition{{FetchOffset: offset, LastFetchedEpoch: last, MaxBytes: 1 << 20}}}
	}
	// One topic fills the answer. The follower's log of the other ends with a batch of an epoch that the leader's does not have.
	first := ask(0, 0, at(full, 0, -1), at(parted, 2, 6))
	if len(first.Partitions) != 1 || first.Partitions[0].TopicID != full {
		t.Fatalf("the first answer: %+v", first)
	}
	next := ask(first.SessionID, 1, at(full, 1, 0))
	if len(next.Partitions) == 0 || next.Partitions[0].TopicID != parted {
		t.Fatalf("the second answer: %+v", next)
	}
	if p := next.Partitions[0]; !p.Diverges || len(p.Records) > 0 {
		t.Errorf("diverges: %v, and %d bytes of records, which the follower appends behind what the leader does not have", p.Diverges, len(p.Records))
	}
}
