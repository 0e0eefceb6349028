package raftmeta

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// bulk makes the image larger than a chunk and the log shorter than what a node that was away has missed.
func (r *rig) bulk(from, to int) {
	r.t.Helper()
	for i := from; i < to; i++ {
		c := SetConfigs{Resource: Resource{ResourceGroup, fmt.Sprint(i)}, Set: map[string]string{"k": strings.Repeat("x", 60<<10)}}
		r.until("a change", func() bool {
			_, err := r.leader().Propose(r.t.Context(), c)
			return err == nil
		})
	}
}

func (r *rig) snapshot(id int32) {
	r.t.Helper()
	if err := r.nodes[id].takeSnapshot(); err != nil {
		r.t.Fatal(err)
	}
}

// TestSnapshotIsInstalled: a node that is new, and one that was away for longer than the log reaches back, get a snapshot in chunks.
func TestSnapshotIsInstalled(t *testing.T) {
	clusterWith(t, 3, func(o *Options) { o.TrailingLogs = 2 }, func(t *testing.T, r *rig) {
		r.allReady()
		lead := r.leader()
		away := r.others(lead.id)[0]
		r.net.isolate(away, true, r.others(away)...)
		r.bulk(0, 30)
		r.snapshot(lead.id)
		r.net.isolate(away, false, r.others(away)...)
		r.until("it has everything", func() bool { return r.nodes[away].Image().Version == lead.Image().Version })
		if chunks := r.net.count(lead.id, RPCInstallSnapshot); chunks < 3 {
			t.Errorf("the snapshot came in %d chunks, want several", chunks)
		}
		x := r.observer(4)
		if err := lead.AddObserver(t.Context(), 4, addrOf(4)); err != nil {
			t.Fatal(err)
		}
		r.allReady()
		r.create("after")
		r.converged()
		if x.incoming() != 0 || r.nodes[away].incoming() != 0 {
			t.Error("a transfer is held after its end")
		}
		for _, id := range []int32{4, away} { // what was installed is on disk
			r.stop(id)
			r.start(id, nil)
		}
		r.converged()
	})
}

func (x *node) incoming() int64 {
	in := &x.trans.incoming
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.mu.got
}

// TestSnapshotThatIsGivenUp: what has arrived of it is let go when nothing comes any more.
func TestSnapshotThatIsGivenUp(t *testing.T) {
	clusterWith(t, 3, func(o *Options) { o.TrailingLogs = 2 }, func(t *testing.T, r *rig) {
		r.allReady()
		lead := r.leader()
		away := r.nodes[r.others(lead.id)[0]]
		r.net.isolate(away.id, true, r.others(away.id)...)
		r.bulk(0, 30)
		r.snapshot(lead.id)
		r.net.slow(100 * time.Millisecond)
		r.net.isolate(away.id, false, r.others(away.id)...)
		r.until("a part of it", func() bool { return away.incoming() > 0 })
		r.net.isolate(away.id, true, r.others(away.id)...)
		r.net.slow(time.Millisecond)
		time.Sleep(2 * transferIdle)
		if n := away.incoming(); n != 0 {
			t.Fatalf("%d bytes are held for a transfer that was given up", n)
		}
		r.net.isolate(away.id, false, r.others(away.id)...)
		r.create("after")
		r.converged()
	})
}

func (n *network) slow(delay time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.delay = delay
}

// TestChunks is the receiver alone.
func TestChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Options{}
		o.setDefaults()
		in := &newTransport(&o, func() string { return "" }).incoming
		chunk := func(transfer uint64, offset, size int64, n int) *snapshotChunk {
			c := &snapshotChunk{transfer: transfer, offset: offset, data: make([]byte, n)}
			c.req.Size = size
			return c
		}
		steps := []struct {
			name  string
			c     *snapshotChunk
			whole bool
			err   error
			held  int64
		}{
			{"the middle of nothing", chunk(1, 10, 30, 10), false, ErrInvalidCommand, 0},
			{"begin", chunk(1, 0, 30, 10), false, nil, 10},
			{"the same again", chunk(1, 0, 30, 10), false, ErrInvalidCommand, 10},
			{"a gap", chunk(1, 20, 30, 10), false, ErrInvalidCommand, 10},
			{"another transfer's", chunk(2, 10, 30, 10), false, ErrInvalidCommand, 10},
			{"next", chunk(1, 10, 30, 10), false, nil, 20},
			{"another one begins", chunk(2, 0, 15, 10), false, nil, 10},
			{"the first goes on", chunk(1, 20, 30, 10), false, ErrInvalidCommand, 10},
			{"the end", chunk(2, 10, 15, 5), true, nil, 0},
			{"after the end", chunk(2, 10, 15, 5), false, ErrInvalidCommand, 0},
			{"all at once", chunk(3, 0, 7, 7), true, nil, 0},
			{"a last one", chunk(4, 0, 30, 10), false, nil, 10},
		}
		for _, s := range steps {
			whole, err := in.add(s.c)
			in.mu.Lock()
			got := in.mu.got
			in.mu.Unlock()
			if !errors.Is(err, s.err) || (whole != nil) != s.whole || got != s.held {
				t.Fatalf("%s: got %v, %v with %d bytes held", s.name, whole != nil, err, got)
			}
		}
		time.Sleep(transferIdle + time.Second)
		in.mu.Lock()
		defer in.mu.Unlock()
		if in.mu.got != 0 || in.mu.timer != nil || in.mu.chunks != nil {
			t.Fatalf("%d bytes are held", in.mu.got)
		}
	})
}

// TestImagesAgree does random things to a cluster: changes, cuts, losses, restarts, power cuts, snapshots. At every moment, nodes that have an image of
// the same version have the same image; and at the end everything that was acknowledged is there, once.
func TestImagesAgree(t *testing.T) {
	for range 8 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) { imagesAgree(t, seed) })
	}
}

func imagesAgree(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	clusterWith(t, 3, func(o *Options) { o.TrailingLogs, o.SnapshotBytes = 4, 512<<10 }, func(t *testing.T, r *rig) {
		acked := map[string][16]byte{}
		seen := map[uint64]*Image{}
		nextID := int64(0)
		look := func() {
			for _, x := range r.running() {
				img := x.Image()
				if before := seen[img.Version]; before == nil {
					seen[img.Version] = img
				} else if !before.equal(img) {
					t.Fatalf("two images of version %d", img.Version)
				}
			}
		}
		for step := range 60 {
			id := rng.Int32N(3) + 1
			switch rng.IntN(10) {
			case 0:
				r.net.isolate(id, true, 1, 2, 3)
			case 1, 2:
				r.net.isolate(id, false, 1, 2, 3)
			case 3:
				r.net.cut(id, rng.Int32N(3)+1, rng.IntN(2) == 0)
			case 4:
				r.net.lose(rng.Float64() * 0.2)
			case 5:
				if r.nodes[id].Meta != nil {
					r.crash(id, rng)
				}
			case 6:
				r.start2(id)
			case 7:
				if r.nodes[id].Meta != nil {
					_ = r.nodes[id].takeSnapshot() // may meet a restart of raft's own
				}
			}
			for i := range rng.IntN(4) {
				name := fmt.Sprintf("t-%d-%d", step, i)
				for _, x := range r.running() {
					results, err := x.Propose(t.Context(), CreateTopic{Name: name, Assignment: [][]int32{{1}}}, AllocateProducerIDs{Broker: 1})
					if err != nil {
						continue
					}
					if r := results[1]; r.FirstProducerID < nextID {
						t.Fatalf("producer id %d was handed out before", r.FirstProducerID)
					} else {
						nextID = r.FirstProducerID + r.ProducerIDs
					}
					if results[0].Err == nil {
						acked[name] = results[0].Topic.ID
					}
				}
			}
			time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
			look()
		}
		r.net.lose(0)
		for id := range int32(3) {
			r.start2(id + 1)
			for other := range int32(3) {
				r.net.cut(id+1, other+1, false)
			}
		}
		r.create("end")
		img := r.converged()
		look()
		for name, id := range acked {
			if got := img.Topic(name); got == nil || got.ID != id {
				t.Errorf("topic %s with id %s was acknowledged, got %+v", name, FormatID(id), got)
			}
		}
		r.checkOffices()
		t.Logf("%d topics acknowledged, %d there, %d versions seen, term %d", len(acked), img.NumTopics(), len(seen), r.leader().Quorum().Term)
	})
}
