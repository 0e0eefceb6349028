package raftmeta

import "github.com/hashicorp/raft"

// Followers apply an entry when they hear that it is committed. Raft tells them with the next entry, or after its CommitTimeout: a
// short one costs messages for ever, a long one makes every change wait on all nodes but the controller. So the leader says it
// itself: as soon as it has applied something, each follower that has the entries gets an AppendEntries without entries, with the
// commit index. It is a message that raft could have sent: of this term, with an entry before it on which both have agreed in this
// term, and with a commit index of this term. One herald per follower is under way; it goes on until there is nothing new.

// agreed notes that a node's log agrees with ours up to the end of args.
func (t *transport) agreed(node int32, addr string, args *raft.AppendEntriesRequest) {
	index, term := args.PrevLogEntry, args.PrevLogTerm
	if n := len(args.Entries); n > 0 {
		index, term = args.Entries[n-1].Index, args.Entries[n-1].Term
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peerLocked(node, addr)
	if args.Term < p.term {
		return
	}
	if args.Term > p.term {
		p.term, p.matched, p.matchedTerm, p.told = args.Term, 0, 0, 0
	}
	if index >= p.matched {
		p.matched, p.matchedTerm = index, term
	}
	p.told = max(p.told, min(args.LeaderCommitIndex, index))
	leads, commit := t.committed()
	t.tellLocked(p, leads, commit)
}

// disagreed forgets how far a node's log agrees with ours: it has less than it has said, as one that was emptied.
func (t *transport) disagreed(node int32, term uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.mu.peers[node]; p != nil && p.term == term {
		p.matched, p.matchedTerm, p.told = 0, 0, 0
	}
}

// committed returns the term in which this node leads, 0 if it does not, and the index that is committed in that term. The order of reads
// matters: a commit index that a later leader has told us belongs to a later term, which was noted before it.
func (t *transport) committed() (term, commit uint64) {
	r := t.raft.Load()
	if r == nil || r.State() != raft.Leader {
		return 0, 0
	}
	term = r.CurrentTerm()
	commit = r.CommitIndex()
	if r.CurrentTerm() != term || r.State() != raft.Leader {
		return 0, 0
	}
	return term, commit
}

// tellAll tells every follower what is committed, if it does not know.
func (t *transport) tellAll() {
	term, commit := t.committed()
	if term == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.mu.peers {
		t.tellLocked(p, term, commit)
	}
}

func (t *transport) tellLocked(p *peer, term, commit uint64) {
	if p.heard || t.mu.closed || t.mu.silent != nil || p.newsLocked(term, commit) == 0 {
		return
	}
	p.heard = true
	t.heralds.Add(1)
	go t.tell(p.id)
}

// newsLocked is the index that the node should be told is committed, 0 if it knows.
func (p *peer) newsLocked(term, commit uint64) uint64 {
	index := min(commit, p.matched)
	if term == 0 || p.term != term || p.revived != nil || index <= p.told {
		return 0
	}
	return index
}

// tell is a herald. It ends when the node knows everything, or cannot be told: then raft's own message comes a little later.
func (t *transport) tell(node int32) {
	defer t.heralds.Done()
	for {
		args, addr := t.message(node)
		if args == nil {
			return
		}
		var resp raft.AppendEntriesResponse
		err := t.call(serverID(node), raft.ServerAddress(addr), RPCAppendEntries, t.o.appendTimeout, encodeAppend(t.head(), args),
			func(d *decoder) { decodeAppendAnswer(d, &resp) })
		t.mu.Lock()
		p := t.mu.peers[node]
		if p == nil {
			t.mu.Unlock()
			return
		}
		if err != nil || !resp.Success {
			p.heard = false
			t.mu.Unlock()
			return
		}
		if p.term == args.Term {
			p.told = max(p.told, args.LeaderCommitIndex)
		}
		t.mu.Unlock()
		t.o.metrics.heralds.Inc()
	}
}

// message makes the next message of a herald, nil if there is none; then the herald has ended.
func (t *transport) message(node int32) (*raft.AppendEntriesRequest, string) {
	term, commit := t.committed()
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.mu.peers[node]
	if p == nil {
		return nil, ""
	}
	index := p.newsLocked(term, commit)
	if index == 0 {
		p.heard = false
		return nil, ""
	}
	return &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(serverID(t.self)), Addr: []byte(t.addr)},
		Term:      term, PrevLogEntry: p.matched, PrevLogTerm: p.matchedTerm, LeaderCommitIndex: index,
	}, p.addr
}
