package broker

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/record"
	"weir/netproto"
	"weir/raftmeta"
)

// fakeFollower speaks to a leader as a node that does not run.
type fakeFollower struct {
	t       *testing.T
	peers   *netproto.Peers
	cluster *testCluster
	leader  int32
	self    int32
	topic   [16]byte
}

// followed is a request of a fakeFollower: a session, and the position in partition 0 of the topic (-1: not named).
type followedAsk struct {
	session, epoch int32
	offset         int64
	last           int32
	wait           time.Duration
	topic          [16]byte
	forget         bool
}

func (f *fakeFollower) fetch(a followedAsk) netproto.FetchAnswer {
	f.t.Helper()
	answer, err := f.try(a)
	if err != nil {
		f.t.Fatal(err)
	}
	return answer
}

func (f *fakeFollower) try(a followedAsk) (answer netproto.FetchAnswer, err error) {
	req := netproto.FetchRequest{Version: followerFetchVersion, ReplicaID: f.self, ReplicaEpoch: -1, MaxWaitMs: int32(a.wait.Milliseconds()), MinBytes: 1, MaxBytes: 1 << 20,
		SessionID: a.session, SessionEpoch: a.epoch}
	if a.offset >= 0 {
		req.Topics = []netproto.FetchTopic{{ID: a.topic, Partitions: []netproto.FetchPartition{{
			CurrentLeaderEpoch: 0, FetchOffset: a.offset, LastFetchedEpoch: a.last, MaxBytes: 1 << 20, HighWatermark: 0}}}}
	}
	if a.forget {
		req.Forgotten = []netproto.ForgottenTopic{{ID: a.topic, Partitions: []int32{0}}}
	}
	ctx, cancel := context.WithTimeout(context.Background(), clusterWait)
	defer cancel()
	resp, err := f.peers.Call(ctx, f.leader, netproto.ClassFetch, fetchKey, followerFetchVersion, req.AppendTo(nil))
	if err != nil {
		return answer, err
	}
	body := slices.Clone(resp.Body)
	resp.Release()
	return answer, answer.Parse(followerFetchVersion, body)
}

// records counts the records of the only partition in an answer.
func records(t *testing.T, a netproto.FetchAnswer) (n int) {
	t.Helper()
	if len(a.Partitions) != 1 || a.Partitions[0].ErrorCode != 0 || a.ErrorCode != 0 {
		t.Fatalf("%+v", a)
	}
	for rest := a.Partitions[0].Records; len(rest) > 0; {
		b, more, err := record.Next(rest)
		if err != nil {
			t.Fatal(err)
		}
		n, rest = n+int(b.Count()), more
	}
	return n
}

// newFakeFollower takes the place of a node that follows orders-0 and has crashed. Three records are there.
func newFakeFollower(t *testing.T) (f *fakeFollower, produce func()) {
	c := startCluster(t, 3, nil)
	leader := c.controller()
	follower := leader%3 + 1
	id := c.assigned("orders", []int32{leader, follower})
	w := dial(t, c.node(leader))
	produce = func() {
		if code := w.do(produceRequest("orders", 0, 1, buildBatch(t, "x"))).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode; code != 0 {
			t.Fatal(kerr.ErrorForCode(code))
		}
	}
	for range 3 {
		produce()
	}
	c.crash(follower)
	c.await(c.node(leader), "one replica in sync", func(img *raftmeta.Image) bool { return inSync(img, "orders", 1) })
	peers, err := netproto.NewPeers(netproto.PeersOptions{
		NodeID: follower, ClusterID: func() string { return c.node(leader).b.meta.Image().ClusterID },
		Resolve: func(int32) (string, bool) { return c.nodes[leader].peer, true },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peers.Close() })
	return &fakeFollower{t: t, peers: peers, cluster: c, leader: leader, self: follower, topic: id}, produce
}

// TestFollowerSession takes a follower's session through its life.
func TestFollowerSession(t *testing.T) {
	f, produce := newFakeFollower(t)
	first := f.fetch(followedAsk{offset: 0, last: -1, topic: f.topic})
	id := first.SessionID
	if n := records(t, first); n != 3 || id == 0 {
		t.Fatalf("first: %d records, session %d", n, id)
	}
	if n := records(t, f.fetch(followedAsk{session: id, epoch: 1, offset: -1})); n != 3 {
		t.Errorf("what was not taken: %d records", n)
	}
	if got := f.fetch(followedAsk{session: id, epoch: 2, offset: 3, last: 0, topic: f.topic}); len(got.Partitions) > 0 && records(t, got) != 0 || got.SessionID != id {
		t.Errorf("nothing new: %+v", got)
	}
	if got := f.fetch(followedAsk{session: id, epoch: 3, offset: -1, wait: time.Millisecond}); len(got.Partitions) != 0 {
		t.Errorf("nothing new after a wait: %+v", got)
	}

	// A fetch that waits is answered by an append.
	waiting := make(chan netproto.FetchAnswer, 1)
	wait := func(epoch int32, id int32) {
		answer, err := f.try(followedAsk{session: id, epoch: epoch, offset: -1, wait: clusterWait})
		if err != nil {
			t.Error(err)
		}
		waiting <- answer
	}
	go wait(4, id)
	produce()
	if n := records(t, <-waiting); n != 1 {
		t.Errorf("the append: %d records", n)
	}
	// A new session ends the wait of the old one at once.
	at := followedAsk{session: id, epoch: 5, offset: 4, last: 0, topic: f.topic}
	f.fetch(at)
	go wait(6, id)
	next := f.fetch(followedAsk{offset: 4, last: 0, topic: f.topic})
	if next.SessionID == id || next.SessionID == 0 {
		t.Errorf("the session after %d is %d", id, next.SessionID)
	}
	<-waiting // whichever came first: it was answered, or its session was not known any more
	f.refusals(next.SessionID, id)
}

// refusals asks what has no good answer.
func (f *fakeFollower) refusals(id, old int32) {
	t := f.t
	for _, tt := range []struct {
		name string
		ask  followedAsk
		code int16
	}{
		{"an old session", followedAsk{session: old, epoch: 7, offset: -1}, kerr.FetchSessionIDNotFound.Code},
		{"a wrong epoch", followedAsk{session: id, epoch: 9, offset: -1}, kerr.InvalidFetchSessionEpoch.Code},
	} {
		if got := f.fetch(tt.ask); got.ErrorCode != tt.code || len(got.Partitions) > 0 {
			t.Errorf("%s: %+v, want code %d", tt.name, got, tt.code)
		}
	}
	ahead := f.fetch(followedAsk{offset: 4, last: 6, topic: f.topic})
	if len(ahead.Partitions) != 1 || !ahead.Partitions[0].Diverges || len(ahead.Partitions[0].Records) > 0 {
		t.Errorf("an epoch that nobody had: %+v", ahead)
	}
	beyond := f.fetch(followedAsk{offset: 99, last: -1, topic: f.topic})
	if len(beyond.Partitions) != 1 || beyond.Partitions[0].ErrorCode != kerr.OffsetOutOfRange.Code {
		t.Errorf("beyond the end: %+v", beyond)
	}
	absent := f.fetch(followedAsk{offset: 0, last: -1, topic: [16]byte{9}})
	if len(absent.Partitions) != 1 || absent.Partitions[0].ErrorCode != kerr.UnknownTopicID.Code {
		t.Errorf("an unknown topic: %+v", absent)
	}
	// It is the follower's turn now: it is not told again and again.
	if again := f.fetch(followedAsk{session: absent.SessionID, epoch: 1, offset: -1}); len(again.Partitions) != 0 {
		t.Errorf("told again: %+v", again)
	}
	single := f.fetch(followedAsk{epoch: sessionEpochFinal, offset: 0, last: -1, topic: f.topic})
	if n := records(t, single); n != 4 || single.SessionID != 0 {
		t.Errorf("without a session: %d records, session %d", n, single.SessionID)
	}
	self := f.self
	f.self = f.leader
	if _, err := f.try(followedAsk{offset: 0, last: -1, topic: f.topic}); err == nil {
		t.Error("a node fetches as another one")
	}
	f.self = self
}

// TestLargeBatchesAreReplicated: batches that are each larger than a follower's whole answer may be, in many partitions, all get there.
func TestLargeBatchesAreReplicated(t *testing.T) {
	c := startCluster(t, 3, map[string]string{"replica.fetch.response.max.bytes": "4096", "replica.fetch.max.bytes": "2048", "min.insync.replicas": "3"})
	c.createReplicated("orders", 6)
	ctx, cancel := context.WithTimeout(context.Background(), clusterWait)
	defer cancel()
	cl := c.client(kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.DefaultProduceTopic("orders"), kgo.ProducerBatchCompression(kgo.NoCompression()))
	const count = 60
	for range count {
		cl.Produce(ctx, kgo.StringRecord(strings.Repeat("x", 20_000)), func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for id := int32(1); id <= 3; id++ {
		total := int64(0)
		for p := range int32(6) {
			total += c.node(id).b.parts.ByName("orders", p).End()
		}
		if total != count {
			t.Errorf("node %d has %d of %d records", id, total, count)
		}
	}
}
