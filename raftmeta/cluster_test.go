package raftmeta

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"weir/internal/vfs"
)

func TestClusterForms(t *testing.T) {
	for _, n := range []int{3, 5} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			cluster(t, n, func(t *testing.T, r *rig) {
				r.allReady()
				lead := r.leader()
				r.create("t")
				img := r.converged()
				for _, x := range r.running() {
					if x.ClusterID() != img.ClusterID || x.Image().ControllerID != lead.id {
						t.Errorf("node %d: cluster %q, want %q; controller %d, want %d", x.id, x.ClusterID(), img.ClusterID, x.Image().ControllerID, lead.id)
					}
				}
			})
		})
	}
}

func TestFollowerRefusesProposals(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		lead := r.leader()
		for _, id := range r.others(lead.id) {
			began := time.Now()
			_, err := r.nodes[id].Propose(t.Context(), AllocateProducerIDs{Broker: 1})
			if !errors.Is(err, ErrNotLeader) || time.Since(began) != 0 {
				t.Errorf("node %d: got %v after %s, want ErrNotLeader at once", id, err, time.Since(began))
			}
			for _, err := range []error{
				r.nodes[id].AddVoter(t.Context(), 9, "a"), r.nodes[id].AddObserver(t.Context(), 9, "a"),
				r.nodes[id].RemoveMember(t.Context(), lead.id), r.nodes[id].TransferLeadership(t.Context()),
			} {
				if !errors.Is(err, ErrNotLeader) {
					t.Errorf("node %d: got %v, want ErrNotLeader", id, err)
				}
			}
		}
	})
}

// TestLeaderIsCutOff: the others elect a new one, the old one knows that it is none, and all that was acknowledged stays.
func TestLeaderIsCutOff(t *testing.T) {
	cuts := map[string]func(r *rig, id int32, cut bool){
		"both ways":          func(r *rig, id int32, cut bool) { r.net.isolate(id, cut, r.others(id)...) },
		"it cannot be heard": func(r *rig, id int32, cut bool) { r.oneWay(id, cut, true) },
		"it cannot hear":     func(r *rig, id int32, cut bool) { r.oneWay(id, cut, false) },
	}
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			cluster(t, 3, func(t *testing.T, r *rig) {
				r.allReady()
				old := r.leader()
				r.create("before")
				rest := r.others(old.id)
				cut(r, old.id, true)
				r.until("the old leader gives up", func() bool { return !old.Leading() })
				lead := r.leader(rest...)
				r.create("meanwhile")
				if lead.id == old.id || old.Image().Topic("meanwhile") != nil && name == "both ways" {
					t.Fatalf("node %d leads while it is cut off", lead.id)
				}
				cut(r, old.id, false)
				r.create("after")
				img := r.converged()
				for _, name := range []string{"before", "meanwhile", "after"} {
					if img.Topic(name) == nil {
						t.Errorf("topic %s is lost", name)
					}
				}
				r.checkOffices()
			})
		})
	}
}

func (r *rig) oneWay(id int32, cut, out bool) {
	for _, other := range r.others(id) {
		if out {
			r.net.cut(id, other, cut)
		} else {
			r.net.cut(other, id, cut)
		}
	}
}

// checkOffices: at every node, terms of office begin, end and follow each other; no term has two holders.
func (r *rig) checkOffices() {
	r.t.Helper()
	held := map[string]int32{}
	for _, x := range r.nodes {
		x.mu.Lock()
		office := slices.Clone(x.office)
		x.mu.Unlock()
		last := ""
		for i, o := range office {
			term, leading, _ := strings.Cut(o, " ")
			if want := fmt.Sprint(i%2 == 0); leading != want || i%2 == 1 && term != last {
				r.t.Errorf("node %d: office %v", x.id, office)
			}
			if other, taken := held[term]; taken && other != x.id {
				r.t.Errorf("nodes %d and %d both held office in term %s", other, x.id, term)
			}
			held[term], last = x.id, term
		}
	}
}

// TestCutOffFollowerDisturbsNobody: it asks before it stands for election, so the term stays and the leader stays when it is back.
func TestCutOffFollowerDisturbsNobody(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		lead := r.leader()
		r.create("a")
		term := lead.Quorum().Term
		victim := r.others(lead.id)[0]
		r.net.isolate(victim, true, r.others(victim)...)
		time.Sleep(time.Minute)
		if img := r.nodes[victim].Image(); img.ControllerID != -1 {
			t.Errorf("it knows of controller %d after a minute alone", img.ControllerID)
		}
		r.net.isolate(victim, false, r.others(victim)...)
		r.create("b")
		r.converged()
		if now := lead.Quorum(); now.Term != term || now.Leader != lead.id || !lead.Leading() {
			t.Errorf("quorum was of term %d with leader %d, now %+v", term, lead.id, now)
		}
	})
}

// TestFollowerComesBackAtOnce: however long a node was away, it gets what it has missed as soon as it can be reached.
func TestFollowerComesBackAtOnce(t *testing.T) {
	for _, away := range []time.Duration{time.Second, 10 * time.Minute} {
		t.Run(away.String(), func(t *testing.T) {
			cluster(t, 3, func(t *testing.T, r *rig) {
				lead := r.leader()
				victim := r.nodes[r.others(lead.id)[0]]
				r.net.isolate(victim.id, true, r.others(victim.id)...)
				r.create("missed")
				time.Sleep(away)
				r.net.isolate(victim.id, false, r.others(victim.id)...)
				began := time.Now()
				r.until("the topic", func() bool { return victim.Image().Topic("missed") != nil })
				if took := time.Since(began); took > 4*time.Second {
					t.Errorf("it has waited for %s", took)
				}
				if r.leader() != lead {
					t.Error("the leader has changed")
				}
			})
		})
	}
}

func TestRestarts(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		r.allReady()
		r.create("a")
		id := r.converged().ClusterID
		for round := range 3 { // one after another, the leader among them
			for n := range int32(3) {
				r.stop(n + 1)
				r.create(fmt.Sprintf("r-%d-%d", round, n))
				r.start(n+1, nil) // the list is of no account any more
				r.allReady()
			}
			r.converged()
		}
		for n := range int32(3) { // all at once
			r.stop(n + 1)
		}
		for n := range int32(3) {
			r.start(n+1, []Voter{{n + 1, addrOf(n + 1)}})
		}
		r.allReady()
		r.create("z")
		if img := r.converged(); img.NumTopics() != 11 || img.ClusterID != id {
			t.Errorf("%d topics, want 11; cluster %s, want %s", img.NumTopics(), img.ClusterID, id)
		}
		r.checkOffices()
	})
}

// TestEmptiedNode: a voter comes back with an empty disk and gets everything from the others.
func TestEmptiedNode(t *testing.T) {
	clusterWith(t, 3, func(o *Options) { o.TrailingLogs = 2 }, func(t *testing.T, r *rig) {
		r.allReady()
		r.bulk(0, 20)
		victim := r.leader().id
		for _, id := range r.others(victim) {
			r.snapshot(id)
		}
		r.stop(victim)
		r.nodes[victim].fs = &faultFS{FS: vfs.NewMem()}
		r.start(victim, []Voter{{1, addrOf(1)}, {2, addrOf(2)}, {3, addrOf(3)}})
		r.allReady()
		r.create("after")
		r.converged()
		r.checkOffices()
	})
}

// TestCloseHandsOver: a leader that is closed in order leaves no gap of a timeout.
func TestCloseHandsOver(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		lead := r.leader()
		r.create("a")
		r.converged()
		began := time.Now()
		r.stop(lead.id)
		next := r.leader()
		if took := time.Since(began); took >= next.o.HeartbeatTimeout {
			t.Errorf("the next leader took office after %s, want less than a timeout of %s", took, next.o.HeartbeatTimeout)
		}
		r.create("b")
		r.start(lead.id, nil)
		r.converged()
		r.checkOffices()
	})
}

// TestCloseWithoutAnybody: nobody is there to take over; Close is bounded all the same.
func TestCloseWithoutAnybody(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		lead := r.leader()
		r.net.isolate(lead.id, true, r.others(lead.id)...)
		r.stop(lead.id)
		for _, id := range r.others(lead.id) {
			r.stop(id)
		}
	})
}

func TestTransferLeadership(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		old := r.leader()
		r.create("a")
		if err := old.TransferLeadership(t.Context()); err != nil {
			t.Fatal(err)
		}
		if lead := r.leader(r.others(old.id)...); lead.id == old.id {
			t.Fatal("it still leads")
		}
		r.create("b")
		r.converged()
		r.checkOffices()
	})
}

func TestLossyNetwork(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		r.allReady()
		r.net.lose(0.15)
		for i := range 30 {
			r.create(fmt.Sprint("t", i))
		}
		r.net.lose(0)
		if img := r.converged(); img.NumTopics() != 30 {
			t.Errorf("%d topics, want 30", img.NumTopics())
		}
		r.checkOffices()
	})
}

func (n *network) lose(loss float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.loss = loss
}

func TestAwait(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		lead := r.leader()
		r.create("a")
		version := r.converged().Version
		follower := r.nodes[r.others(lead.id)[0]]
		if err := follower.Await(t.Context(), version); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := follower.Await(ctx, version+1); !errors.Is(err, context.DeadlineExceeded) || follower.waiting() != 0 {
			t.Fatalf("got %v, want a timeout; %d wait", err, follower.waiting())
		}
		ended := make(chan error, 1)
		go func() { ended <- follower.Await(t.Context(), version+1) }()
		results, err := lead.Propose(t.Context(), CreateTopic{Name: "b", Assignment: [][]int32{{1}}})
		if err != nil || results[0].Err != nil {
			t.Fatal(err, results)
		}
		if err := <-ended; err != nil || follower.Image().Topic("b") == nil {
			t.Fatalf("got %v, topic %v", err, follower.Image().Topic("b"))
		}
		meta := follower.Meta // stop takes it away
		go func() { ended <- meta.Await(t.Context(), version+100) }()
		time.Sleep(time.Millisecond)
		r.stop(follower.id)
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Fatalf("got %v, want ErrClosed", err)
		}
	})
}

func TestQuorum(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		lead := r.leader()
		r.create("a")
		r.converged()
		time.Sleep(time.Second)
		q := lead.Quorum()
		if q.Leader != lead.id || len(q.Voters) != 3 || len(q.Observers) != 0 || q.Commit != lead.raft().LastIndex() {
			t.Fatalf("got %+v", q)
		}
		for i, v := range q.Voters {
			if v.ID != int32(i)+1 || v.Addr != addrOf(v.ID) || v.LastIndex != q.Commit || time.Since(v.LastContact) > time.Second {
				t.Errorf("voter %d: %+v, commit %d", i, v, q.Commit)
			}
		}
		follower := r.nodes[r.others(lead.id)[0]]
		if f := follower.Quorum(); f.Leader != lead.id || f.Term != q.Term || len(f.Voters) != 3 {
			t.Errorf("a follower says %+v", f)
		}
		if follower.raft().State() != raft.Follower {
			t.Errorf("it is %s", follower.raft().State())
		}
	})
}

func (x *node) waiting() int {
	x.pub.mu.Lock()
	defer x.pub.mu.Unlock()
	return len(x.pub.mu.waiters)
}
