package raftmeta

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"weir/internal/clock"
	"weir/internal/lockmeter"
)

// transport is raft's transport over a Sender. It has no connections of its own, and no goroutines but heralds (herald.go).
//
// Heartbeats have a line of their own in both directions: a follower whose disk is slow answers them while its raft waits for
// the disk, and a leader sends them while entries wait. There is no pipeline: one request per follower is under way, so that a
// follower which cannot keep up costs a bounded amount of memory.
//
// Raft waits longer and longer between attempts to reach a follower, up to 10 s, and would leave one that is back alone for so
// long. So it does not hear of a failed attempt while the follower stays away: what could not be sent is sent once more when a
// heartbeat has reached it again (hold).
type transport struct {
	self    int32
	addr    raft.ServerAddress
	sender  Sender        // nil: there is nobody else
	cluster func() string // "": not known yet
	o       transportOptions

	consume   chan raft.RPC
	heartbeat atomic.Pointer[func(raft.RPC)]
	raft      atomic.Pointer[raft.Raft] // nil until NewRaft has returned
	incoming  incoming
	// snapshotting holds one: who makes a snapshot, takes one of its own or installs another node's.
	snapshotting chan struct{}
	onTorn       func() // raft has to be opened anew
	shorten      func(*raft.AppendEntriesRequest)

	ctx     context.Context // ends with close
	cancel  context.CancelFunc
	heralds sync.WaitGroup

	mu struct {
		lockmeter.Mutex
		peers  map[int32]*peer
		lapsed chan struct{} // closed when a term as leader is over
		silent error         // why nothing is said or answered any more
		muted  bool          // the same for a while: raft is torn and being opened anew
		torn   uint64        // how often that was; what raft answers across it is withheld
		closed bool
		wrong  error // the last message of another cluster
		heard  heard // the last leader that has spoken
	}
}

type transportOptions struct {
	heartbeatTimeout time.Duration // an answer to a heartbeat
	voteTimeout      time.Duration
	appendTimeout    time.Duration
	ioTimeout        time.Duration // a step of the follower's disk
	clk              clock.Clock
	log              *slog.Logger
	metrics          *Metrics
}

// peer is what is known of another node. It is guarded by transport.mu.
type peer struct {
	id   int32
	addr string
	// In this term as leader the node has said that its log agrees with ours up to matched, of term matchedTerm, and it was
	// told that told is committed, as far as it had that.
	term, matched, matchedTerm, told uint64

	contact time.Time     // of the last answer
	heard   bool          // a herald is under way
	revived chan struct{} // not nil: it did not answer; closed when it does
}

func newTransport(o *Options, cluster func() string) *transport {
	t := &transport{
		self: o.NodeID, addr: raft.ServerAddress(o.PeerAddr), sender: o.Sender, cluster: cluster, consume: make(chan raft.RPC),
		snapshotting: make(chan struct{}, 1),
		o: transportOptions{
			heartbeatTimeout: o.HeartbeatTimeout / 2,
			voteTimeout:      o.ElectionTimeout,
			appendTimeout:    o.StoreTimeout + o.HeartbeatTimeout,
			ioTimeout:        o.IOTimeout,
			clk:              o.Clock, log: o.Logger, metrics: o.Metrics,
		},
	}
	if o.Sender == nil {
		t.addr = raft.ServerAddress(serverID(o.NodeID))
	}
	t.mu.MeterBy(o.Locks, lockmeter.Raft)
	t.incoming.mu.MeterBy(o.Locks, lockmeter.Raft)
	t.incoming.o = t.o
	t.shorten = func(*raft.AppendEntriesRequest) {}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.mu.peers = make(map[int32]*peer)
	t.mu.lapsed = make(chan struct{})
	return t
}

// Consumer is where raft takes requests of others from.
func (t *transport) Consumer() <-chan raft.RPC { return t.consume }

// LocalAddr is this node's address for the others.
func (t *transport) LocalAddr() raft.ServerAddress { return t.addr }

// EncodePeer and DecodePeer: an address is its text.
func (t *transport) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte { return []byte(addr) }

// DecodePeer is the reverse of EncodePeer.
func (t *transport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler gives raft's fast path for heartbeats.
func (t *transport) SetHeartbeatHandler(fn func(raft.RPC)) { t.heartbeat.Store(&fn) }

// AppendEntriesPipeline says that there is none.
func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// AppendEntries sends entries or a heartbeat. If the entries do not fit a message it sends the first of them, and takes the
// others out of args: raft goes on where args end.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	rpc, timeout := RPCAppendEntries, t.o.appendTimeout
	if isHeartbeat(args) {
		rpc, timeout = RPCHeartbeat, t.o.heartbeatTimeout
	}
	args.Entries = args.Entries[:fitting(args.Entries)]
	send := func() error {
		return t.call(id, target, rpc, timeout, encodeAppend(t.head(), args), func(d *decoder) { decodeAppendAnswer(d, resp) })
	}
	err := send()
	if rpc == RPCHeartbeat {
		return err
	}
	if err != nil {
		t.o.metrics.appendFailures.Inc()
		if t.hold(nodeID(id), string(target), args.Term, err) {
			err = send()
		}
	}
	if err != nil {
		return err
	}
	switch {
	case resp.Term > args.Term:
	case resp.Success:
		t.agreed(nodeID(id), string(target), args)
	default:
		t.disagreed(nodeID(id), args.Term)
	}
	return nil
}

// isHeartbeat recognizes what raft's heartbeat goroutine sends: it says nothing of the log.
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && len(a.Entries) == 0 && a.LeaderCommitIndex == 0
}

// RequestVote asks for a vote.
func (t *transport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.call(id, target, RPCRequestVote, t.o.voteTimeout, encodeVote(t.head(), args), func(d *decoder) {
		resp.Term, resp.Granted = d.uint(), d.bool()
	})
}

// RequestPreVote asks whether a vote would be given.
func (t *transport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.call(id, target, RPCPreVote, t.o.voteTimeout, encodePreVote(t.head(), args), func(d *decoder) {
		resp.Term, resp.Granted = d.uint(), d.bool()
	})
}

// TimeoutNow tells another node to stand for election at once.
func (t *transport) TimeoutNow(id raft.ServerID, target raft.ServerAddress, _ *raft.TimeoutNowRequest, _ *raft.TimeoutNowResponse) error {
	return t.call(id, target, RPCTimeoutNow, t.o.voteTimeout, t.head().b, func(*decoder) {})
}

// InstallSnapshot sends a snapshot in chunks.
func (t *transport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	err := t.sendSnapshot(id, target, args, resp, data)
	if err != nil {
		t.o.metrics.snapshotSends.WithLabelValues("failed").Inc()
		t.hold(nodeID(id), string(target), args.Term, err)
		return err
	}
	t.o.metrics.snapshotSends.WithLabelValues("sent").Inc()
	return nil
}

// call sends a message and decodes the answer.
func (t *transport) call(id raft.ServerID, target raft.ServerAddress, rpc RPC, timeout time.Duration, body []byte, decode func(*decoder)) error {
	node := nodeID(id)
	if err := t.mayTalk(rpc); err != nil {
		return fmt.Errorf("%s to node %d: %w", rpc, node, err)
	}
	ctx, cancel := context.WithTimeoutCause(t.ctx, timeout, &timeoutError{": no answer", timeout})
	defer cancel()
	b, err := t.sender.Send(ctx, node, string(target), rpc, body)
	if err == nil {
		err = decodeAnswer(b, decode)
	}
	if err != nil {
		if t.ctx.Err() == nil && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return fmt.Errorf("%s to node %d at %s: %w", rpc, node, target, err)
	}
	t.answered(node, string(target))
	return nil
}

// mayTalk is nil unless this node has to be silent. It may still hand over its office.
func (t *transport) mayTalk(rpc RPC) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.sender == nil:
		return ErrAlone
	case t.mu.silent != nil && (rpc != RPCTimeoutNow || t.mu.closed):
		return t.mu.silent
	case t.mu.closed:
		return ErrClosed
	case t.mu.muted:
		return errTorn
	}
	return nil
}

func (t *transport) peerLocked(node int32, addr string) *peer {
	p := t.mu.peers[node]
	if p == nil {
		p = &peer{id: node}
		t.mu.peers[node] = p
	}
	p.addr = addr
	return p
}

// answered notes that a node is there.
func (t *transport) answered(node int32, addr string) {
	now := t.o.clk.Now()
	t.o.metrics.contact(node, now)
	t.mu.Lock()
	p := t.peerLocked(node, addr)
	p.contact = now
	back := p.revived != nil
	if back {
		close(p.revived)
		p.revived = nil
	}
	t.mu.Unlock()
	if back {
		t.o.log.Info("a node answers metadata messages again", "node", node, "address", addr)
	}
}

// hold waits until a node that could not be reached answers again, and says whether it does. It ends with the term of this node
// as leader, and when the node is taken out.
func (t *transport) hold(node int32, addr string, term uint64, cause error) bool {
	t.mu.Lock()
	if !t.leads(term) || t.mu.closed || t.mu.silent != nil || !t.member(node) {
		t.mu.Unlock()
		return false
	}
	p := t.peerLocked(node, addr)
	first := p.revived == nil
	if first {
		p.revived = make(chan struct{})
	}
	revived, lapsed := p.revived, t.mu.lapsed
	t.mu.Unlock()
	if first {
		t.o.log.Warn("a node does not take the metadata", "node", node, "address", addr, "error", cause)
	}
	select {
	case <-revived:
		return true
	case <-lapsed:
	case <-t.ctx.Done():
	}
	return false
}

// leads says whether this node leads in this term. The lapse of the term comes after the answer has changed.
func (t *transport) leads(term uint64) bool {
	r := t.raft.Load()
	return r != nil && r.State() == raft.Leader && r.CurrentTerm() == term
}

// member says whether a node is part of the quorum. It leaves that before forget wakes who is held for it.
func (t *transport) member(node int32) bool {
	return slices.ContainsFunc(configuration(t.raft.Load()).Servers, func(s raft.Server) bool { return nodeID(s.ID) == node })
}

// lapse ends what was held back for a term as leader that may be over.
func (t *transport) lapse() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.mu.lapsed)
	t.mu.lapsed = make(chan struct{})
}

// forget drops what is known of a node that was taken out.
func (t *transport) forget(node int32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.mu.peers[node]; p != nil && p.revived != nil {
		close(p.revived)
	}
	delete(t.mu.peers, node)
	t.o.metrics.lastContact.DeleteLabelValues(metricNode(node))
}

// silence makes this node say and answer nothing any more, but hand over its office.
func (t *transport) silence(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.silent == nil {
		t.mu.silent = why
	}
}

// close ends everything under way. Raft waits for that when it shuts down, so it comes first.
func (t *transport) close() {
	t.mu.Lock()
	t.mu.closed = true
	t.mu.Unlock()
	t.cancel()
	t.heralds.Wait()
	t.incoming.drop()
}

// handOver tells the voter that knows the most to stand for election: a leader that cannot write says so at once, rather
// than to be missed after a timeout.
func (t *transport) handOver() {
	r := t.raft.Load()
	if r == nil || t.sender == nil {
		return
	}
	term := r.CurrentTerm()
	var best peer
	for _, s := range configuration(r).Servers {
		t.mu.Lock()
		p := t.mu.peers[nodeID(s.ID)]
		if s.Suffrage == raft.Voter && p != nil && p.term == term && p.revived == nil && p.matched > best.matched {
			best = *p
		}
		t.mu.Unlock()
	}
	if best.matched == 0 {
		return
	}
	t.o.log.Warn("metadata office is handed over", "to", best.id, "term", term)
	if err := t.TimeoutNow(serverID(best.id), raft.ServerAddress(best.addr), nil, nil); err != nil {
		t.o.log.Warn("metadata office could not be handed over, an election will follow", "to", best.id, "error", err)
	}
}
