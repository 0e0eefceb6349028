package raftmeta

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"

	"weir/internal/vfs"
)

// TestVoteIsNotTorn cuts the power at every operation with which a node stores a vote for another candidate than the last time. Whatever is left of
// it, the node does not vote for the first one in the new term, which has less of the log than it has itself.
func TestVoteIsNotTorn(t *testing.T) {
	const operations = 24
	granted := 0
	for n := range operations {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &rig{t: t, net: newNetwork(1), nodes: make(map[int32]*node)}
				defer r.stopAll()
				voters := []Voter{{1, addrOf(1)}, {2, addrOf(2)}, {3, addrOf(3)}}
				x := r.start(1, voters)
				if !x.asked(t, 2, 2, 1, 1) {
					t.Fatal("no vote for node 2 in term 2")
				}
				x.given(t, 2, 2)
				p := &mains{}
				mem := x.fs.FS.(*vfs.MemFS)
				p.arm(mem, n, rand.New(rand.NewPCG(uint64(n), 5)))
				if x.asked(t, 3, 3, 2, 2) {
					granted++
				}
				if left := p.failed(); left != nil {
					mem = left
				}
				_ = x.Close()
				x.Meta = nil
				mem.SetHook(nil)
				x.fs = &faultFS{FS: mem}
				x = r.start(1, voters)
				if x.asked(t, 2, 3, 1, 1) {
					t.Error("it votes in term 3 for node 2, which lacks an entry that this node has")
				}
			})
		})
	}
	if granted == 0 || granted == operations {
		t.Errorf("the vote was given %d times of %d: the power does not fail while it is stored", granted, operations)
	}
}

// asked asks a node for its vote, and says whether it was given.
func (x *node) asked(t *testing.T, candidate int32, term, lastIndex, lastTerm uint64) bool {
	t.Helper()
	h := messageHead{node: candidate, addr: addrOf(candidate)}
	from := transport{self: candidate, addr: raft.ServerAddress(h.addr), cluster: func() string { return "" }}
	body := encodeVote(from.head(), &raft.RequestVoteRequest{RPCHeader: h.raft(), Term: term, LastLogIndex: lastIndex, LastLogTerm: lastTerm, LeadershipTransfer: true})
	answer, err := x.HandleRPC(t.Context(), RPCRequestVote, body)
	yes := false
	if err == nil {
		_ = decodeAnswer(answer, func(d *decoder) { d.uint(); yes = d.bool() })
	}
	return yes
}

// given gives a node an entry as the leader of a term, behind the first one.
func (x *node) given(t *testing.T, leader int32, term uint64) {
	t.Helper()
	h := messageHead{node: leader, addr: addrOf(leader)}
	from := transport{self: leader, addr: raft.ServerAddress(h.addr), cluster: func() string { return "" }}
	body := encodeAppend(from.head(), &raft.AppendEntriesRequest{Term: term, PrevLogEntry: 1, PrevLogTerm: 1,
		Entries: []*raft.Log{{Index: 2, Term: term, Type: raft.LogNoop}}})
	answer, err := x.HandleRPC(t.Context(), RPCAppendEntries, body)
	if err != nil {
		t.Fatal(err)
	}
	var resp raft.AppendEntriesResponse
	if err := decodeAnswer(answer, func(d *decoder) { decodeAppendAnswer(d, &resp) }); err != nil || !resp.Success {
		t.Fatalf("got %+v, %v", resp, err)
	}
}
