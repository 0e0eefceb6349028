package raftmeta

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestStalledLogOfTheLeader: the disk of the leader's log stands still, and hashicorp/raft by itself would go on sending heartbeats for
// ever. The leader says at its deadline that it is none, hands over, asks for no vote and gets none; another one commits; nothing
// that was acknowledged is lost; and after a restart on a good disk the node is one of them again.
func TestStalledLogOfTheLeader(t *testing.T) {
	faults := map[string]func(release <-chan struct{}) error{
		"hangs": func(release <-chan struct{}) error { <-release; return nil },
		"fails": func(<-chan struct{}) error { return syscall.EIO },
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			cluster(t, 3, func(t *testing.T, r *rig) {
				r.allReady()
				old := r.leader()
				r.create("acked")
				r.converged()
				release := make(chan struct{})
				old.fs.inject("wal-", func() error { return fault(release) })
				began := time.Now()
				asked := r.net.count(old.id, RPCRequestVote) + r.net.count(old.id, RPCPreVote)
				if _, err := old.Propose(t.Context(), CreateTopic{Name: "never-acked", Assignment: [][]int32{{1}}}); err == nil {
					t.Fatal("a change was acknowledged by a leader that cannot write it")
				}
				lead := r.leader(r.others(old.id)...)
				r.create("meanwhile")
				if took, most := time.Since(began), old.o.StoreTimeout+500*time.Millisecond; took > most {
					t.Errorf("another node commits after %s, want at most %s", took, most)
				}
				if old.Leading() || !errors.Is(old.Poisoned(), ErrPoisoned) || lead.id == old.id {
					t.Errorf("the stalled node: leading %v, poison %v", old.Leading(), old.Poisoned())
				}
				// The disk goes on, the process does not trust it any more.
				close(release)
				old.fs.heal()
				time.Sleep(time.Minute)
				if now := r.net.count(old.id, RPCRequestVote) + r.net.count(old.id, RPCPreVote); now != asked {
					t.Errorf("the poisoned node asked for %d votes", now-asked)
				}
				if _, err := old.HandleRPC(t.Context(), RPCHeartbeat, nil); !errors.Is(err, ErrPoisoned) {
					t.Errorf("a poisoned node answers: %v", err)
				}
				if old.raft().State() != raft.Shutdown || r.leader() != lead {
					t.Errorf("the stalled node's raft is %s; leader is node %d, was %d", old.raft().State(), r.leader().id, lead.id)
				}
				r.stop(old.id)
				r.start(old.id, nil)
				r.create("after")
				img := r.converged()
				for _, name := range []string{"acked", "meanwhile", "after"} {
					if img.Topic(name) == nil {
						t.Errorf("topic %s is lost", name)
					}
				}
				r.checkOffices()
			})
		})
	}
}

// TestStalledLogOfAFollower: the others do not notice.
func TestStalledLogOfAFollower(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		lead := r.leader()
		r.create("a")
		r.converged()
		term := lead.Quorum().Term
		victim := r.nodes[r.others(lead.id)[0]]
		release := make(chan struct{})
		victim.fs.inject("wal-", func() error { <-release; return nil })
		began := time.Now()
		r.create("b")
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("a change took %s", took)
		}
		r.until("it is poisoned", func() bool { return victim.Poisoned() != nil })
		time.Sleep(10 * time.Second)
		if q := lead.Quorum(); q.Term != term || !lead.Leading() {
			t.Errorf("the leader of term %d says %+v", term, q)
		}
		close(release)
		victim.fs.heal()
		r.stop(victim.id)
		r.start(victim.id, nil)
		r.create("c")
		r.converged()
	})
}

// TestStalledMajority: with two of three logs gone there is nobody to commit, and nobody says otherwise.
func TestStalledMajority(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		lead := r.leader()
		r.create("a")
		r.converged()
		release := make(chan struct{})
		for _, id := range r.others(lead.id) {
			r.nodes[id].fs.inject("wal-", func() error { <-release; return nil })
		}
		if _, err := lead.Propose(t.Context(), CreateTopic{Name: "b", Assignment: [][]int32{{1}}}); err == nil {
			t.Fatal("a change was acknowledged without a majority")
		}
		r.until("the leader gives up", func() bool { return !lead.Leading() })
		close(release)
		for _, id := range r.others(lead.id) {
			r.nodes[id].fs.heal()
		}
		for id := range int32(3) {
			if id+1 != lead.id {
				r.nodes[id+1].fs.heal()
				r.stop(id + 1)
				r.start(id+1, nil)
			}
		}
		r.create("c")
		if r.converged().Topic("a") == nil {
			t.Error("topic a is lost")
		}
	})
}
