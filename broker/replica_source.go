package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/internal/config"
	"weir/internal/lockmeter"
	"weir/netproto"
	"weir/raftmeta"
	"weir/replica"
)

// replicaSource fetches from leaders for this node's followers (replica.Source): Fetch over the connection for that to the leader's node, in an
// incremental session (KIP-227), so that a partition without news costs nothing in either direction. The records of an answer are views of the buffer that
// it was received in.
type replicaSource struct {
	peers peerCaller
	node  int32
	meta  *raftmeta.Meta

	mu struct {
		lockmeter.Mutex
		sessions map[int32]*sourceSession
	}
}

// peerCaller is netproto.Peers for follower fetches.
type peerCaller interface {
	Call(ctx context.Context, node int32, class netproto.Class, key, version int16, body []byte) (*netproto.PeerResponse, error)
}

// sourceSession is this node's session at one leader. There is one fetch at a time in it.
type sourceSession struct {
	id, epoch int32 // of the next request
	busy      bool  // guarded by replicaSource.mu
	req       netproto.FetchRequest
	body      []byte
}

const followerFetchVersion = netproto.FetchVersionMax

var errFetchBusy = errors.New("a fetch from this leader is under way")

func newReplicaSource(peers peerCaller, cfg *config.Broker, meta *raftmeta.Meta, locks *lockmeter.Meter) *replicaSource {
	s := &replicaSource{peers: peers, node: cfg.NodeID, meta: meta}
	s.mu.MeterBy(locks, lockmeter.FetchSession)
	s.mu.sessions = map[int32]*sourceSession{}
	return s
}

// Fetch asks a leader's node once. After any error the session is over, and the next ask must be Full.
func (s *replicaSource) Fetch(ctx context.Context, leader int32, ask *replica.FetchAsk) (*replica.FetchAnswer, error) {
	session, err := s.take(leader, ask.Full)
	if err != nil {
		return nil, err
	}
	answer, err := s.fetch(ctx, leader, session, ask)
	if err != nil {
		session.id = 0
	}
	s.mu.Lock()
	session.busy = false
	s.mu.Unlock()
	return answer, err
}

// take returns the session for the next fetch.
func (s *replicaSource) take(leader int32, full bool) (*sourceSession, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session := s.mu.sessions[leader]
	if session == nil {
		session = &sourceSession{}
		s.mu.sessions[leader] = session
	}
	switch {
	case session.busy:
		return nil, fmt.Errorf("fetch from broker %d: %w", leader, errFetchBusy)
	case full:
		session.id, session.epoch = 0, sessionEpochInitial
	case session.id == 0:
		return nil, fmt.Errorf("fetch from broker %d: %w", leader, replica.ErrSessionLost)
	}
	session.busy = true
	return session, nil
}

func (s *replicaSource) fetch(ctx context.Context, leader int32, session *sourceSession, ask *replica.FetchAsk) (*replica.FetchAnswer, error) {
	session.encode(s.node, s.brokerEpoch(), ask)
	resp, err := s.peers.Call(ctx, leader, netproto.ClassFetch, fetchKey, followerFetchVersion, session.body)
	if err != nil {
		return nil, fmt.Errorf("fetch from broker %d: %w", leader, err)
	}
	answer, err := session.decode(resp)
	if err != nil {
		resp.Release()
		return nil, fmt.Errorf("fetch from broker %d: %w", leader, err)
	}
	return answer, nil
}

// brokerEpoch is the epoch of this node's registration, -1 if it has none.
func (s *replicaSource) brokerEpoch() int64 {
	if self := s.meta.Image().Broker(s.node); self != nil {
		return self.Epoch
	}
	return -1
}

// encode writes the request into session.body.
func (session *sourceSession) encode(node int32, epoch int64, ask *replica.FetchAsk) {
	req := &session.req
	req.Reset()
	req.Version, req.ReplicaID, req.ReplicaEpoch = followerFetchVersion, node, epoch
	req.MaxWaitMs, req.MinBytes, req.MaxBytes = int32(ask.MaxWait.Milliseconds()), int32(ask.MinBytes), int32(ask.MaxBytes)
	req.SessionID, req.SessionEpoch = session.id, session.epoch
	for i := range ask.Parts {
		in := &ask.Parts[i]
		last := len(req.Topics) - 1
		if last < 0 || req.Topics[last].ID != in.TopicID {
			req.Topics = append(req.Topics, netproto.FetchTopic{ID: in.TopicID})
			last++
		}
		req.Topics[last].Partitions = append(req.Topics[last].Partitions, netproto.FetchPartition{
			Index: in.Index, CurrentLeaderEpoch: in.CurrentEpoch, FetchOffset: in.Offset, LastFetchedEpoch: in.LastEpoch, LogStartOffset: in.LogStart,
			MaxBytes: int32(in.MaxBytes), HighWatermark: in.HighWatermark,
		})
	}
	for _, key := range ask.Forget {
		last := len(req.Forgotten) - 1
		if last < 0 || req.Forgotten[last].ID != key.TopicID {
			req.Forgotten = append(req.Forgotten, netproto.ForgottenTopic{ID: key.TopicID})
			last++
		}
		req.Forgotten[last].Partitions = append(req.Forgotten[last].Partitions, key.Index)
	}
	session.body = req.AppendTo(session.body[:0])
}

// decode takes the response apart. What it returns holds on to the response until it is released.
func (session *sourceSession) decode(resp *netproto.PeerResponse) (*replica.FetchAnswer, error) {
	var in netproto.FetchAnswer
	if err := in.Parse(followerFetchVersion, resp.Body); err != nil {
		return nil, err
	}
	switch in.ErrorCode {
	case 0:
	case kerr.FetchSessionIDNotFound.Code, kerr.InvalidFetchSessionEpoch.Code, kerr.FetchSessionTopicIDError.Code:
		return nil, fmt.Errorf("session %d, epoch %d: %w: %w", session.id, session.epoch, replica.ErrSessionLost, kerr.ErrorForCode(in.ErrorCode))
	default:
		return nil, fmt.Errorf("session %d, epoch %d: %w", session.id, session.epoch, kerr.ErrorForCode(in.ErrorCode))
	}
	session.id, session.epoch = in.SessionID, nextEpoch(session.epoch)
	answer := &replica.FetchAnswer{Buf: resp.Buf, Release: resp.Release, Parts: make([]replica.AnswerPart, len(in.Partitions))}
	for i := range in.Partitions {
		p := &in.Partitions[i]
		out := &answer.Parts[i]
		*out = replica.AnswerPart{
			TopicID: p.TopicID, Index: p.Index, Err: leaderError(p.ErrorCode), HighWatermark: p.HighWatermark, LogStart: p.LogStartOffset,
			Leader: p.CurrentLeader.LeaderID, LeaderEpoch: p.CurrentLeader.LeaderEpoch, Records: p.Records,
		}
		if p.Diverges {
			out.Diverging = &replica.EpochEnd{Epoch: p.Diverging.Epoch, End: p.Diverging.EndOffset}
		}
	}
	return answer, nil
}

// leaderErrors maps what a leader says of a partition. All but the first kinds pass by themselves, and are asked about again.
var leaderErrors = map[int16]error{
	kerr.OffsetOutOfRange.Code:        replica.ErrOffsetOutOfRange,
	kerr.NotLeaderForPartition.Code:   replica.ErrNotLeader,
	kerr.FencedLeaderEpoch.Code:       replica.ErrFencedEpoch,
	kerr.UnknownLeaderEpoch.Code:      replica.ErrUnknownEpoch,
	kerr.UnknownTopicOrPartition.Code: replica.ErrNotHere,
	kerr.UnknownTopicID.Code:          replica.ErrNotHere,
	kerr.InconsistentTopicID.Code:     replica.ErrNotHere,
}

// leaderError is one of package replica's sentinels for an error code, or, for one that says nothing about this node's log, the code's own error.
func leaderError(code int16) error {
	if code == 0 {
		return nil
	}
	cause := kerr.ErrorForCode(code)
	if known := leaderErrors[code]; known != nil {
		return fmt.Errorf("%w: the leader says %w", known, cause)
	}
	return fmt.Errorf("the leader says %w", cause)
}
