package raftmeta

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// lags is how long after Propose has returned at the leader each follower has the change, for single changes some way apart.
func (r *rig) lags(changes int) []time.Duration {
	r.t.Helper()
	lead := r.leader()
	var all []time.Duration
	for range changes {
		time.Sleep(777 * time.Millisecond)
		results, err := lead.Propose(r.t.Context(), AllocateProducerIDs{Broker: 1})
		if err != nil || results[0].Err != nil {
			r.t.Fatal(err, results)
		}
		began, version := time.Now(), lead.Image().Version
		for _, id := range r.others(lead.id) {
			if err := r.nodes[id].Await(r.t.Context(), version); err != nil {
				r.t.Fatal(err)
			}
			all = append(all, time.Since(began))
		}
	}
	slices.Sort(all)
	return all
}

// TestFollowersHearOfACommitAtOnce: in the time that two messages take, not with the next thing that raft has to say. The network of the
// rig takes 100 µs a message, the disk nothing, and this is simulated time.
func TestFollowersHearOfACommitAtOnce(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		r.allReady()
		with := r.lags(100)
		time.Sleep(time.Second) // the last heralds are home
		for _, x := range r.running() {
			x.trans.mu.Lock()
			for _, p := range x.trans.mu.peers {
				p.heard = true // as if a herald were on its way for ever
			}
			x.trans.mu.Unlock()
		}
		without := r.lags(100)
		median := func(all []time.Duration) time.Duration { return all[len(all)/2] }
		t.Logf("with heralds: median %s, max %s; without: median %s, max %s", median(with), with[len(with)-1], median(without), without[len(without)-1])
		if most := with[len(with)-1]; most > time.Millisecond {
			t.Errorf("a follower heard of a commit after %s", most)
		}
		if median(without) < commitTimeout/2 {
			t.Errorf("without heralds a follower hears of it after %s: they are not what makes it quick", median(without))
		}
	})
}

// TestIdleClusterIsQuiet counts what three nodes that have nothing to do say to each other.
func TestIdleClusterIsQuiet(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		r.allReady()
		r.create("a")
		r.converged()
		const span = time.Minute
		time.Sleep(time.Second)
		r.net.reset()
		time.Sleep(span)
		r.net.mu.Lock()
		defer r.net.mu.Unlock()
		total := 0
		for rpc, n := range r.net.mu.sent {
			total += n
			t.Logf("%s: %.1f/s", rpc, float64(n)/span.Seconds())
		}
		if perSecond := float64(total) / span.Seconds(); perSecond > 22 {
			t.Errorf("%.1f messages a second, want at most 22", perSecond)
		}
		if n := r.net.mu.sent[RPCPreVote] + r.net.mu.sent[RPCRequestVote]; n != 0 {
			t.Errorf("%d messages of elections", n)
		}
	})
}

type answerer func() []byte

func (a answerer) Send(context.Context, int32, string, RPC, []byte) ([]byte, error) { return a(), nil }

// TestNodeThatHasLess: one that has said that it agrees, and then that it does not, was emptied. What it had is no longer counted.
func TestNodeThatHasLess(t *testing.T) {
	agree := true
	o := Options{NodeID: 1, PeerAddr: addrOf(1), Sender: answerer(func() []byte {
		return encodeAnswer(&raft.AppendEntriesResponse{Term: 3, LastLog: 9, Success: agree}, nil)
	})}
	o.setDefaults()
	tr := newTransport(&o, func() string { return "" })
	defer tr.close()
	for _, want := range []uint64{9, 0} {
		var resp raft.AppendEntriesResponse
		if err := tr.AppendEntries("2", "b", &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 9, PrevLogTerm: 2}, &resp); err != nil {
			t.Fatal(err)
		}
		if got, _ := tr.progress(2, 3); got != want {
			t.Errorf("agrees %v: it is said to have %d entries, want %d", agree, got, want)
		}
		agree = false
	}
}
