package raftmeta

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"weir/internal/vfs"
	"weir/uring"
)

// foreign makes a directory that says it is of another cluster.
func foreign(t *testing.T, id int32) *faultFS {
	t.Helper()
	fs := &faultFS{FS: vfs.NewMem()}
	d := newDisk(fs, uring.Options{Backend: uring.BackendPortable}, time.Second)
	if err := d.makeDir("/data/meta"); err != nil {
		t.Fatal(err)
	}
	if err := d.write("/data/meta/"+propertiesName, []byte(properties{id, "other"}.String())); err != nil {
		t.Fatal(err)
	}
	return fs
}

// TestAnotherClustersDirectory: its node hears nothing and is heard by nobody, and says why.
func TestAnotherClustersDirectory(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		r.allReady()
		r.create("a")
		img := r.converged()
		victim := r.others(r.leader().id)[0]
		r.stop(victim)
		r.nodes[victim].fs = foreign(t, victim)
		x := r.start(victim, []Voter{{1, addrOf(1)}, {2, addrOf(2)}, {3, addrOf(3)}})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := x.Ready(ctx); !errors.Is(err, ErrWrongCluster) {
			t.Errorf("got %v, want ErrWrongCluster", err)
		}
		if x.Image().ClusterID != "" || x.ClusterID() != "other" || r.leader().Image().ClusterID != img.ClusterID {
			t.Errorf("it is of cluster %q, its image of %q", x.ClusterID(), x.Image().ClusterID)
		}
		if x.Leading() || x.Poisoned() != nil {
			t.Errorf("leading %v, poison %v", x.Leading(), x.Poisoned())
		}
		// The last guard: should the other cluster's id ever be applied here, this node stops.
		x.watch(img, &Delta{ClusterID: true})
		if err := x.Poisoned(); !errors.Is(err, ErrPoisoned) || !errors.Is(err, ErrWrongCluster) {
			t.Errorf("poison is %v", err)
		}
	})
}

// TestClusterIDIsWrittenBeforeReady: whatever a crash leaves after Ready knows the cluster; a failing write ends the node.
func TestClusterIDIsWrittenBeforeReady(t *testing.T) {
	cluster(t, 3, func(t *testing.T, r *rig) {
		r.allReady()
		id := r.converged().ClusterID
		for _, x := range r.running() {
			left := x.fs.FS.(*vfs.MemFS).CrashClone(rand.New(rand.NewPCG(1, 2)), 0)
			p, err := loadProperties(newDisk(left, uring.Options{Backend: uring.BackendPortable}, time.Second), &x.o)
			if err != nil || p.clusterID != id {
				t.Errorf("node %d: a crash leaves %+v, %v", x.id, p, err)
			}
		}
		x := r.observer(4)
		x.fs.inject(propertiesName, func() error { return errors.New("no") })
		if err := r.leader().AddObserver(t.Context(), 4, addrOf(4)); err != nil {
			t.Fatal(err)
		}
		r.until("it ends", func() bool { return errors.Is(x.Poisoned(), ErrPoisoned) })
		if err := x.Ready(t.Context()); !errors.Is(err, ErrPoisoned) {
			t.Errorf("got %v, want ErrPoisoned", err)
		}
	})
}

// TestBootstrapSurvivesCrashes: the power goes at any moment of the first start, again and again; then the cluster forms.
func TestBootstrapSurvivesCrashes(t *testing.T) {
	for range 10 {
		cluster(t, 3, func(t *testing.T, r *rig) {
			seed := rand.Uint64()
			t.Logf("seed of the crashes %d", seed)
			rng := rand.New(rand.NewPCG(seed, 3))
			voters := []Voter{{3, addrOf(3)}, {1, addrOf(1)}, {2, addrOf(2)}} // in any order
			for range 5 {
				for id := range int32(3) {
					time.Sleep(time.Duration(rng.IntN(int(500 * time.Millisecond))))
					r.crashTo(id+1, rng, voters)
				}
			}
			r.allReady()
			r.create("a")
			r.converged()
			if q := r.leader().Quorum(); len(q.Voters) != 3 {
				t.Errorf("quorum %+v", q)
			}
		})
	}
}
