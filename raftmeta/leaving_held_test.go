package raftmeta

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestNothingIsHeldForARemovedMember: a member is gone, and a message is held for it. When it is taken out nothing is known of it any more, whether somebody waits
// for that or not; raft's last attempt to reach it is not held anew.
func TestNothingIsHeldForARemovedMember(t *testing.T) {
	for _, patience := range []time.Duration{time.Minute, 10 * time.Millisecond} {
		t.Run(patience.String(), func(t *testing.T) {
			cluster(t, 3, func(t *testing.T, r *rig) {
				r.allReady()
				lead := r.leader()
				gone := r.others(lead.id)[0]
				r.stop(gone)
				r.create("held")
				r.until("a message is held", func() bool { return lead.held(gone) })

				r.net.slow(50 * time.Millisecond)
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				err := lead.RemoveMember(ctx, gone)
				if given := patience < time.Second; given != errors.Is(err, context.DeadlineExceeded) || !given && err != nil {
					t.Fatalf("with patience for %s: %v", patience, err)
				}
				r.net.slow(100 * time.Microsecond)
				r.until("it is out", func() bool { return len(lead.Quorum().Voters) == 2 })
				time.Sleep(10 * time.Minute) // longer than raft waits between attempts
				lead.trans.mu.Lock()
				p := lead.trans.mu.peers[gone]
				lead.trans.mu.Unlock()
				if p != nil {
					t.Errorf("node %d is known, a message is held for it: %v", gone, lead.held(gone))
				}

				if err := lead.AddVoter(t.Context(), gone, addrOf(gone)); err != nil { // it may come back
					t.Fatal(err)
				}
				r.start(gone, nil)
				r.create("after")
				r.converged()
			})
		})
	}
}
