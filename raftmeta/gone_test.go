package raftmeta

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestPeerGone: a leader whose process is gone is replaced at once, in one term; one that is only said to be gone keeps being led by.
func TestPeerGone(t *testing.T) {
	for _, n := range []int{3, 5} {
		cluster(t, n, func(t *testing.T, r *rig) {
			r.allReady()
			old := r.leader()
			r.create("a")
			r.converged()
			rest := r.others(old.id)
			term := old.Quorum().Term
			for _, id := range rest { // a word about somebody else changes nothing
				r.nodes[id].PeerGone(rest[0])
				r.nodes[id].PeerGone(77)
			}
			time.Sleep(time.Second)
			if old.Quorum().Term != term {
				t.Fatalf("term %d became %d", term, old.Quorum().Term)
			}
			r.net.isolate(old.id, true, rest...)
			began := time.Now()
			for _, id := range rest {
				r.nodes[id].PeerGone(old.id)
			}
			lead := r.leader(rest...)
			if took := time.Since(began); took > goneStep || lead.Quorum().Term != term+1 {
				t.Errorf("node %d took office after %s in term %d, want at most %s and term %d", lead.id, took, lead.Quorum().Term, goneStep, term+1)
			}
			r.create("b")
			time.Sleep(10 * time.Second)
			if q := lead.Quorum(); q.Term != term+1 || !lead.Leading() {
				t.Errorf("it did not last: %+v", q)
			}
			r.net.isolate(old.id, false, rest...)
			r.create("c")
			r.converged()
			r.checkOffices()
		})
	}
}

// TestPeerGoneAndTheFirstIsBehind: the node that stands first lacks an entry, so the next one is elected, whenever that one hears of it, and
// whatever of the leader is still on its way.
func TestPeerGoneAndTheFirstIsBehind(t *testing.T) {
	tests := map[string]struct {
		onItsWay time.Duration // a message
		told     time.Duration // how much later than the first the next one hears
		slow     time.Duration // each write of the next one's log
		most     time.Duration
	}{
		"at once":            {100 * time.Microsecond, 0, 0, 2 * goneStep},
		"a message arrives":  {10 * time.Millisecond, 0, 0, 2 * goneStep},
		"after its vote":     {100 * time.Microsecond, 20 * time.Millisecond, 0, 2 * goneStep},
		"while it writes":    {100 * time.Microsecond, 0, 80 * time.Millisecond, 2*goneStep + 400*time.Millisecond},
		"not until it looks": {100 * time.Microsecond, -1, 0, time.Second + 2*goneStep + 20*time.Millisecond},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cluster(t, 3, func(t *testing.T, r *rig) {
				r.allReady()
				old := r.leader()
				rest := r.others(old.id)
				first, next := r.nodes[rest[0]], r.nodes[rest[1]]
				r.net.slow(tt.onItsWay)
				r.net.cut(old.id, first.id, true)
				if tt.slow == 0 {
					r.create("a")
				} else {
					next.fs.inject("wal-", func() error { time.Sleep(tt.slow); return nil })
					go func() { _, _ = old.Propose(t.Context(), CreateTopic{Name: "a", Assignment: [][]int32{{1}}}) }()
					time.Sleep(tt.slow / 4)
				}
				time.Sleep(tt.onItsWay / 2)
				r.net.isolate(old.id, true, rest...)
				began := time.Now()
				first.PeerGone(old.id)
				if tt.told > 0 {
					time.Sleep(tt.told)
					if next.Image().ControllerID != -1 {
						t.Fatal("the next one was not asked for its vote: the test does not reach what it is for")
					}
				}
				if tt.told >= 0 {
					next.PeerGone(old.id)
				}
				lead := r.leader(rest...)
				if lead != next {
					t.Fatalf("node %d leads, which lacks an entry", lead.id)
				}
				if took := time.Since(began); took > tt.most+10*tt.onItsWay {
					t.Errorf("it took office after %s", took)
				}
				if lead.Image().Topic("a") == nil {
					t.Error("topic a is lost")
				}
			})
		})
	}
}

// TestPeerGoneAndTheElectionIsSlow: who has voted for the first one lets it win.
func TestPeerGoneAndTheElectionIsSlow(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		r.allReady()
		old := r.leader()
		rest := r.others(old.id)
		r.converged()
		term := old.Quorum().Term
		r.net.isolate(old.id, true, rest...)
		r.net.slow(goneStep * 2 / 3) // its request is there in time, the answer is not
		for _, id := range rest {
			r.nodes[id].PeerGone(old.id)
		}
		lead := r.leader(rest...)
		if lead.id != rest[0] || lead.Quorum().Term != term+1 {
			t.Errorf("node %d leads in term %d, want node %d in term %d", lead.id, lead.Quorum().Term, rest[0], term+1)
		}
	})
}

// TestSaidToBeGone: a leader that is there and heard keeps being led by.
func TestSaidToBeGone(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		r.allReady()
		lead := r.leader()
		term := lead.Quorum().Term
		last := r.nodes[slices.Max(r.others(lead.id))] // the first one would stand at once
		for range 10 {
			since := time.Now()
			r.until("a heartbeat", func() bool { return last.trans.lastHeard().at.After(since) })
			time.Sleep(time.Millisecond)
			last.PeerGone(lead.id)
			r.create(fmt.Sprint("t", time.Now().UnixNano()))
			time.Sleep(lateMax + time.Millisecond)
			r.create(fmt.Sprint("t", time.Now().UnixNano()))
			time.Sleep(time.Second)
			if q := last.Quorum(); q.Term != term {
				t.Fatalf("it stood for election: %+v", q)
			}
		}
	})
}

// TestSilentLeader: a leader that stands still, or is cut off, is replaced one timeout after its last message, and not up to three.
func TestSilentLeader(t *testing.T) {
	for _, n := range []int{3, 5} {
		cluster(t, n, func(t *testing.T, r *rig) {
			r.allReady()
			for range 3 {
				old := r.leader()
				r.create(fmt.Sprint("t", old.Quorum().Term))
				r.converged()
				rest := r.others(old.id)
				r.net.isolate(old.id, true, rest...)
				began := time.Now()
				lead := r.leader(rest...)
				if took, most := time.Since(began), old.o.HeartbeatTimeout+time.Duration(n-1)*goneStep; took > most {
					t.Errorf("node %d took office after %s, want at most %s", lead.id, took, most)
				}
				r.net.isolate(old.id, false, rest...)
				r.create(fmt.Sprint("u", lead.Quorum().Term))
				r.converged()
			}
			r.checkOffices()
		})
	}
}

// TestWhoMayDepose: only the leader may tell another node to take over, as far as it is known who that is.
func TestWhoMayDepose(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		r.allReady()
		r.create("a")
		r.converged()
		lead := r.leader()
		term := lead.Quorum().Term
		rest := r.others(lead.id)
		tell := func(from, to int32) error {
			return r.nodes[from].trans.TimeoutNow(serverID(to), raft.ServerAddress(addrOf(to)), nil, nil)
		}
		for _, to := range []int32{rest[0], lead.id} { // late, or of one that thinks it leads
			if err := tell(rest[1], to); err == nil || !strings.Contains(err.Error(), ErrNotLeader.Error()) {
				t.Errorf("from node %d to node %d: got %v, want ErrNotLeader", rest[1], to, err)
			}
		}
		time.Sleep(time.Second)
		if q := lead.Quorum(); q.Term != term || !lead.Leading() {
			t.Fatalf("node %d was deposed: %+v", lead.id, q)
		}
		if err := tell(lead.id, rest[0]); err != nil {
			t.Fatal(err)
		}
		r.until("it takes over", func() bool { return r.nodes[rest[0]].Leading() })
		r.checkOffices()
	})
}
