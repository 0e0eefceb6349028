package raftmeta

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// observer starts a node that is on nobody's list.
func (r *rig) observer(id int32) *node {
	r.t.Helper()
	return r.start(id, []Voter{{1, addrOf(1)}, {2, addrOf(2)}, {3, addrOf(3)}})
}

func TestObserverJoins(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		r.allReady()
		r.create("a")
		x := r.observer(4)
		time.Sleep(time.Minute)
		if x.Image().ControllerID != -1 || x.ClusterID() != "" || x.Quorum().Term != 0 {
			t.Fatalf("a node that nobody knows: image %+v, cluster %q, quorum %+v", x.Image(), x.ClusterID(), x.Quorum())
		}
		lead := r.leader()
		for range 2 { // again is no error and no change
			if err := lead.AddObserver(t.Context(), 4, addrOf(4)); err != nil {
				t.Fatal(err)
			}
		}
		r.allReady()
		r.create("b")
		img := r.converged()
		q := lead.Quorum()
		if len(q.Voters) != 3 || len(q.Observers) != 1 || q.Observers[0].ID != 4 || x.ClusterID() != img.ClusterID {
			t.Fatalf("quorum %+v, its cluster %q", q, x.ClusterID())
		}
		// It does not count, and does not stand for election.
		for _, id := range r.others(lead.id) {
			if id != 4 {
				r.stop(id)
			}
		}
		r.until("the leader gives up", func() bool { return !lead.Leading() })
		time.Sleep(30 * time.Second)
		if x.Leading() || lead.Leading() {
			t.Fatal("somebody leads with one voter of three")
		}
		for id := range int32(3) {
			r.start2(id + 1)
		}
		r.create("c")
		r.converged()
		if err := r.leader().AddVoter(t.Context(), 4, addrOf(4)); err != nil {
			t.Fatal(err)
		}
		if q := r.leader().Quorum(); len(q.Voters) != 4 || len(q.Observers) != 0 {
			t.Fatalf("quorum %+v", q)
		}
	})
}

// start2 starts a node if it is not up.
func (r *rig) start2(id int32) {
	if r.nodes[id].Meta == nil {
		r.start(id, nil)
	}
}

func TestMembersLeave(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		r.allReady()
		r.create("a")
		lead := r.leader()
		if err := lead.RemoveMember(t.Context(), 9); !errors.Is(err, ErrUnknownMember) {
			t.Fatalf("got %v, want ErrUnknownMember", err)
		}
		gone := r.others(lead.id)[0]
		r.net.isolate(gone, true, r.others(gone)...) // it is dead, and the leader holds back what it has for it
		r.create("b")
		if err := lead.RemoveMember(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
		r.stop(gone)
		// A leader takes itself out: the last one takes over.
		if err := lead.RemoveMember(t.Context(), lead.id); err != nil {
			t.Fatal(err)
		}
		last := r.leader(r.others(lead.id)...)
		r.create("c")
		if q := last.Quorum(); len(q.Voters) != 1 || q.Voters[0].ID != last.id {
			t.Fatalf("quorum %+v", q)
		}
		if err := last.RemoveMember(t.Context(), last.id); !errors.Is(err, ErrInvalidCommand) {
			t.Fatalf("the last voter: got %v, want ErrInvalidCommand", err)
		}
		for range 2 { // it elects itself at once when it is started again
			began := time.Now()
			r.stop(last.id)
			last = r.start(last.id, nil)
			r.leader(last.id)
			if took := time.Since(began); took > 500*time.Millisecond {
				t.Errorf("the only voter led after %s", took)
			}
		}
	})
}

func TestAddressOfAnother(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		lead := r.leader()
		for _, err := range []error{
			lead.AddVoter(t.Context(), 7, addrOf(1)), lead.AddObserver(t.Context(), -1, "x:1"), lead.AddVoter(t.Context(), 7, ""),
		} {
			if !errors.Is(err, ErrInvalidCommand) {
				t.Errorf("got %v, want ErrInvalidCommand", err)
			}
		}
		if q := lead.Quorum(); len(q.Voters)+len(q.Observers) != 3 {
			t.Errorf("quorum %+v", q)
		}
	})
}

// TestMemberMoves: a node comes back under another address. What its broker registers becomes its address in the quorum.
func TestMemberMoves(t *testing.T) {
	moved := map[int32]bool{}
	clusterWith(t, 3, func(o *Options) {
		if moved[o.NodeID] {
			o.PeerAddr = fmt.Sprintf("moved%d:9192", o.NodeID)
		}
	}, func(t *testing.T, r *rig) {
		r.allReady()
		lead := r.leader()
		follower := r.others(lead.id)[0]
		for _, id := range []int32{follower, lead.id} {
			r.stop(id)
			moved[id] = true
			r.start(id, nil)
			r.until("its registration", func() bool {
				host, _, _ := strings.Cut(r.nodes[id].o.PeerAddr, ":")
				_, err := r.leader().Propose(t.Context(), RegisterBroker{ID: id, Host: "h", Port: 9092, PeerHost: host, PeerPort: 9192})
				return err == nil
			})
			r.until("its address in the quorum", func() bool {
				for _, v := range r.leader().Quorum().Voters {
					if v.ID == id {
						return v.Addr == r.nodes[id].o.PeerAddr
					}
				}
				return false
			})
			r.until("it hears", func() bool { return r.nodes[id].Image().Version == r.leader().Image().Version })
		}
		for i := range 5 {
			results, err := r.leader().Propose(t.Context(), CreateTopic{Name: fmt.Sprint("t", i), Assignment: [][]int32{{follower}}})
			if err != nil || results[0].Err != nil {
				t.Fatal(err, results)
			}
		}
		r.converged()
	})
}
