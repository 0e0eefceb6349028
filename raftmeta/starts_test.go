package raftmeta

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestFollowerIsStartedOften: a start begins a new file of a follower's log when there is anything in the last one. The log does not become full by that, however little is
// written between the starts.
func TestFollowerIsStartedOften(t *testing.T) {
	for _, how := range []string{"stopped", "power cut"} {
		t.Run(how, func(t *testing.T) {
			cluster(t, 3, func(t *testing.T, r *rig) {
				r.allReady()
				r.create("before")
				r.converged()
				lead := r.leader()
				id := r.others(lead.id)[0]
				rng := rand.New(rand.NewPCG(1, 1))
				for i := range 4 * logFilesMin {
					if how == "stopped" {
						r.stop(id)
						r.start(id, nil)
					} else {
						r.crash(id, rng)
					}
					// At the leader only: a follower that is asked for a change looks at its log, too.
					results, err := lead.Propose(t.Context(), CreateTopic{Name: fmt.Sprint("t", i), Assignment: [][]int32{{1}}})
					if err != nil || results[0].Err != nil {
						t.Fatal(results, err)
					}
					r.until("it follows", func() bool { return r.nodes[id].Image().Version == lead.Image().Version })
				}
				if err := r.nodes[id].Poisoned(); err != nil {
					t.Fatal(err)
				}
				r.create("after")
				r.converged()
			})
		})
	}
}
