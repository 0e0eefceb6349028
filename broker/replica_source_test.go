package broker

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/internal/config"
	"weir/internal/iobuf"
	"weir/netproto"
	"weir/replica"
)

// fakeLeader answers a follower's fetches from a script, and notes what it was asked.
type fakeLeader struct {
	t       *testing.T
	asked   []netproto.FetchRequest
	answers []func(*netproto.FetchRequest) (*netproto.FetchResponse, error)
}

func (l *fakeLeader) Call(ctx context.Context, node int32, class netproto.Class, key, version int16, body []byte) (*netproto.PeerResponse, error) {
	if node != 2 || class != netproto.ClassFetch || key != fetchKey || version != followerFetchVersion {
		l.t.Errorf("a request to node %d in %v, key %d v%d", node, class, key, version)
	}
	req, err := netproto.ParseFetch(version, append([]byte(nil), body...))
	if err != nil {
		l.t.Fatal(err)
	}
	l.asked = append(l.asked, req)
	answer := l.answers[0]
	l.answers = l.answers[1:]
	resp, err := answer(&req)
	if err != nil {
		return nil, err
	}
	p := netproto.NewPayload()
	defer p.Discard()
	resp.AppendTo(p, version)
	b := p.Own()
	b = b[len(b)-p.Size():]
	buf := iobuf.Get(len(b))
	copy(buf.Bytes(), b)
	return &netproto.PeerResponse{Body: buf.Bytes(), Buf: buf}, nil
}

func newTestSource(t *testing.T) (*replicaSource, *fakeLeader) {
	l := &fakeLeader{t: t}
	r := startNode(t, t.TempDir(), nil)
	return newReplicaSource(l, &config.Broker{NodeID: 1}, r.b.meta, nil), l
}

func says(resp *netproto.FetchResponse) func(*netproto.FetchRequest) (*netproto.FetchResponse, error) {
	return func(*netproto.FetchRequest) (*netproto.FetchResponse, error) { return resp, nil }
}

// TestSourceSession: a full fetch opens a session, later ones name what changed, and any error ends it.
func TestSourceSession(t *testing.T) {
	s, l := newTestSource(t)
	ctx := context.Background()
	id := [16]byte{1}
	ask := func(full bool, parts ...int32) *replica.FetchAsk {
		a := &replica.FetchAsk{MaxWait: time.Millisecond, MinBytes: 1, MaxBytes: 100, Full: full}
		for _, p := range parts {
			a.Parts = append(a.Parts, replica.AskPart{TopicID: id, Index: p, CurrentEpoch: 3, LastEpoch: 2, Offset: 9, LogStart: 4, HighWatermark: 8, MaxBytes: 50})
		}
		return a
	}
	fetch := func(a *replica.FetchAsk) error {
		answer, err := s.Fetch(ctx, 2, a)
		if err == nil {
			answer.Release()
		}
		return err
	}
	if err := fetch(ask(false, 1)); !errors.Is(err, replica.ErrSessionLost) {
		t.Errorf("an incremental fetch without a session: %v", err)
	}
	down := &netproto.PeerError{Err: netproto.ErrPeerDown}
	l.answers = []func(*netproto.FetchRequest) (*netproto.FetchResponse, error){
		says(&netproto.FetchResponse{SessionID: 7}), says(&netproto.FetchResponse{SessionID: 7}),
		says(&netproto.FetchResponse{ErrorCode: kerr.InvalidFetchSessionEpoch.Code}),
		says(&netproto.FetchResponse{SessionID: 8}),
		func(*netproto.FetchRequest) (*netproto.FetchResponse, error) { return nil, down },
		says(&netproto.FetchResponse{SessionID: 9}), says(&netproto.FetchResponse{ErrorCode: kerr.BrokerNotAvailable.Code}),
	}
	forgetting := ask(false)
	forgetting.Forget = []replica.PartKey{{TopicID: id, Index: 1}, {TopicID: id, Index: 2}}
	for i, tt := range []struct {
		ask                 *replica.FetchAsk
		err                 error
		session, epoch      int32
		partitions, forgets int
	}{
		{ask(true, 1, 2), nil, 0, 0, 2, 0},
		{forgetting, nil, 7, 1, 0, 2},
		{ask(false, 1), replica.ErrSessionLost, 7, 2, 1, 0},
		{ask(true, 1), nil, 0, 0, 1, 0},
		{ask(false), netproto.ErrPeerDown, 8, 1, 0, 0},
		{ask(true), nil, 0, 0, 0, 0},
		{ask(false), kerr.BrokerNotAvailable, 9, 1, 0, 0},
	} {
		if err := fetch(tt.ask); !errors.Is(err, tt.err) {
			t.Errorf("fetch %d: %v, want %v", i, err, tt.err)
		}
		req := l.asked[i]
		partitions, forgets := 0, 0
		for _, topic := range req.Topics {
			partitions += len(topic.Partitions)
		}
		for _, topic := range req.Forgotten {
			forgets += len(topic.Partitions)
		}
		if req.SessionID != tt.session || req.SessionEpoch != tt.epoch || partitions != tt.partitions || forgets != tt.forgets || req.ReplicaID != 1 {
			t.Errorf("fetch %d asked %+v", i, req)
		}
	}
	want := netproto.FetchPartition{Index: 1, CurrentLeaderEpoch: 3, LastFetchedEpoch: 2, FetchOffset: 9, LogStartOffset: 4, HighWatermark: 8, MaxBytes: 50}
	if got := l.asked[0].Topics[0].Partitions[0]; got != want {
		t.Errorf("asked for %+v, want %+v", got, want)
	}
}

// TestSourceAnswer: records are views of what was received, and every error code is one that the follower knows what to do with.
func TestSourceAnswer(t *testing.T) {
	s, l := newTestSource(t)
	id := [16]byte{5}
	codes := []int16{0, kerr.OffsetOutOfRange.Code, kerr.NotLeaderForPartition.Code, kerr.FencedLeaderEpoch.Code, kerr.UnknownLeaderEpoch.Code,
		kerr.UnknownTopicID.Code, kerr.KafkaStorageError.Code}
	wants := []error{nil, replica.ErrOffsetOutOfRange, replica.ErrNotLeader, replica.ErrFencedEpoch, replica.ErrUnknownEpoch, replica.ErrNotHere, kerr.KafkaStorageError}
	resp := &netproto.FetchResponse{SessionID: 1, Topics: []netproto.FetchTopicResult{{ID: id}}}
	for i, code := range codes {
		resp.Topics[0].Partitions = append(resp.Topics[0].Partitions, netproto.FetchPartitionResult{
			Index: int32(i), ErrorCode: code, HighWatermark: 10, LogStartOffset: 2, CurrentLeader: &netproto.LeaderAndEpoch{LeaderID: 3, LeaderEpoch: 4},
		})
	}
	rows := resp.Topics[0].Partitions
	rows[0].CurrentLeader, rows[1].DivergingEpoch = nil, &netproto.EpochEndOffset{Epoch: -1, EndOffset: -1}
	l.answers = []func(*netproto.FetchRequest) (*netproto.FetchResponse, error){says(resp)}
	answer, err := s.Fetch(context.Background(), 2, &replica.FetchAsk{Full: true})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Release()
	for i, part := range answer.Parts {
		if part.TopicID != id || part.Index != int32(i) || (wants[i] == nil) != (part.Err == nil) || !errors.Is(part.Err, wants[i]) || part.HighWatermark != 10 || part.LogStart != 2 {
			t.Errorf("%+v, want %v", part, wants[i])
		}
		if leader := part.Leader; (leader == 3) != (i > 0) || (part.Diverging != nil) != (i == 1) {
			t.Errorf("partition %d: leader %d, diverging %v", i, leader, part.Diverging)
		}
		if errors.Is(part.Err, replica.ErrStorage) {
			t.Error("a failure of the leader's disk is taken for one of this node's")
		}
	}
}

// TestSourceOneAtATime: a leader's session is not for two fetches at once.
func TestSourceOneAtATime(t *testing.T) {
	s, l := newTestSource(t)
	began, end := make(chan struct{}), make(chan struct{})
	l.answers = []func(*netproto.FetchRequest) (*netproto.FetchResponse, error){func(*netproto.FetchRequest) (*netproto.FetchResponse, error) {
		close(began)
		<-end
		return &netproto.FetchResponse{SessionID: 1}, nil
	}}
	var first sync.WaitGroup
	first.Go(func() {
		answer, err := s.Fetch(context.Background(), 2, &replica.FetchAsk{Full: true})
		if err != nil {
			t.Error(err)
			return
		}
		answer.Release()
	})
	<-began
	if _, err := s.Fetch(context.Background(), 2, &replica.FetchAsk{Full: true}); !errors.Is(err, errFetchBusy) {
		t.Errorf("a second fetch: %v", err)
	}
	close(end)
	first.Wait()
}
