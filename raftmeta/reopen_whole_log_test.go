package raftmeta

import "testing"

// TestOpenedAnewWithoutASnapshot: raft is opened anew when no snapshot was ever written, so all of the log is applied once more. It begins with an
// empty image: on top of the one that has it already each change would count twice.
func TestOpenedAnewWithoutASnapshot(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		r.allReady()
		lead := r.leader()
		x := r.nodes[r.others(lead.id)[0]]
		results, err := lead.Propose(t.Context(), AllocateProducerIDs{Broker: 1, Count: 1000})
		if err != nil || results[0].Err != nil {
			t.Fatal(results, err)
		}
		r.create("before")
		want := r.converged()
		if at, _ := x.snaps.anchor(); at != 0 {
			t.Fatalf("there is a snapshot up to %d: the test does not reach what it is for", at)
		}
		created := map[string]bool{}
		defer x.Subscribe(func(img *Image, d *Delta) {
			for _, topic := range d.Created {
				if created[topic.Name] {
					t.Errorf("subscribers heard twice that topic %s was created", topic.Name)
				}
				created[topic.Name] = true
			}
			if img.Version < want.Version || img.NextProducerID() != want.NextProducerID() {
				t.Errorf("shown an image of version %d with the next producer id %d, after %d with %d", img.Version, img.NextProducerID(), want.Version, want.NextProducerID())
			}
		})()
		before := x.raft()
		x.trans.mute()
		x.trans.onTorn()
		r.until("raft is opened anew", func() bool { return x.raft() != before })
		r.create("after")
		r.converged()
	})
}
