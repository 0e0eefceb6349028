package machine

import (
	"slices"
	"testing"

	"weir/raftmeta"
)

func (w *world) reassign(replicas ...int32) error {
	w.t.Helper()
	v, err := w.one(&Reassign{Partitions: []Reassignment{{Topic: "a", Partition: 0, Replicas: replicas}}})
	if err != nil {
		w.t.Fatal(err)
	}
	return v.([]error)[0]
}

// moving checks the replicas of a-0 and what is adding and removing.
func (w *world) moving(replicas, adding, removing []int32) {
	w.t.Helper()
	p := w.part("a", 0)
	if !slices.Equal(p.Replicas, replicas) || !slices.Equal(p.Adding, adding) || !slices.Equal(p.Removing, removing) {
		w.t.Fatalf("replicas %v, adding %v, removing %v; want %v, %v, %v", p.Replicas, p.Adding, p.Removing, replicas, adding, removing)
	}
	want := 0
	if len(adding)+len(removing) > 0 {
		want = 1
	}
	if n := w.m.Stats().Reassigning; n != want || len(Reassignments(w.img)) != want {
		w.t.Fatalf("%d reassigning, %v; want %d", n, Reassignments(w.img), want)
	}
}

func reassigning(t *testing.T) *world {
	w := newWorld(t)
	w.join(nil, 1, 2, 3, 4, 5)
	w.topic("a", []int32{1, 2})
	return w
}

func TestReassignment(t *testing.T) {
	w := reassigning(t)
	if err := w.reassign(3, 2); err != nil {
		t.Fatal(err)
	}
	w.moving([]int32{3, 2, 1}, []int32{3}, []int32{1})
	w.is("a", 0, 1, 0, 1, 2)
	r := w.setISR("a", 0, 1, 2, 3)
	w.moving([]int32{3, 2}, nil, nil)
	w.is("a", 0, 3, 1, 2, 3)
	if r.Err != nil || r.Leader != 3 || r.LeaderEpoch != 1 || !slices.Equal(r.ISR, []int32{2, 3}) {
		t.Fatalf("the old leader is told %+v", r)
	}
	if n := w.last.Elections; n[ElectReassigned] != 1 {
		t.Fatalf("elections %v", n)
	}
}

func TestReassignmentThatIsCompleteAtOnce(t *testing.T) {
	w := reassigning(t)
	for _, replicas := range [][]int32{{2, 1}, {2}} { // another order, one less
		if err := w.reassign(replicas...); err != nil {
			t.Fatal(err)
		}
		w.moving(replicas, nil, nil)
	}
	w.is("a", 0, 2, 1, 2)
	entries := w.entries
	if err := w.reassign(2); err != nil || w.entries != entries {
		t.Fatalf("%v, %d entries for nothing", err, w.entries-entries)
	}
}

func TestReassignmentWaitsForAllThatItLeadsTo(t *testing.T) {
	w := reassigning(t)
	w.kill(2)
	if err := w.reassign(2, 3); err != nil {
		t.Fatal(err)
	}
	w.setISR("a", 0, 1, 3)
	w.moving([]int32{2, 3, 1}, []int32{3}, []int32{1}) // 2 is not back
	w.revive(2)
	w.setISR("a", 0, 1, 3, 2)
	w.moving([]int32{2, 3}, nil, nil)
	w.is("a", 0, 2, 1, 3, 2)
}

// Nobody whom it leads to could lead: whoever comes back first still may.
func TestReassignmentOfWhatIsOffline(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{3, 2})
	w.kill(2, 3)
	w.is("a", 0, -1, 1, 3, 2)
	if err := w.reassign(3); err != nil {
		t.Fatal(err)
	}
	w.moving([]int32{3, 2}, nil, []int32{2})
	w.revive(2)
	w.is("a", 0, 2, 2, 2)
	w.revive(3)
	w.setISR("a", 0, 2, 3)
	w.moving([]int32{3}, nil, nil)
	w.is("a", 0, 3, 3, 3)
}

func TestReassignmentIsCancelled(t *testing.T) {
	w := reassigning(t)
	wantErr(t, w.reassign(), ErrNoReassignment)
	if err := w.reassign(3, 4); err != nil {
		t.Fatal(err)
	}
	w.setISR("a", 0, 1, 2, 3)
	w.moving([]int32{3, 4, 1, 2}, []int32{3, 4}, []int32{1, 2})
	if err := w.reassign(); err != nil {
		t.Fatal(err)
	}
	w.moving([]int32{1, 2}, nil, nil)
	w.is("a", 0, 1, 1, 1, 2)
}

// A replica that goes and comes back must not be spoken for by a fetch that it sent before it went: it comes back in another epoch.
// The simulation found it.
func TestReplicaThatGoesEndsTheEpoch(t *testing.T) {
	w := reassigning(t)
	epoch := func() int32 { return w.img.Topic("a").Partitions[0].LeaderEpoch }
	for i, step := range []struct {
		replicas []int32 // nil: cancel
		ends     bool
	}{
		{[]int32{2, 1}, false}, // another order
		{[]int32{1, 2, 3}, false},
		{nil, true},         // 3 goes, which was never in sync
		{[]int32{1}, true},  // 2 goes, which was
		{[]int32{1}, false}, // nothing
	} {
		was := epoch()
		if err := w.reassign(step.replicas...); err != nil {
			t.Fatal(err)
		}
		if ended := epoch() != was; ended != step.ends {
			t.Errorf("step %d, to %v: epoch %d, then %d", i, step.replicas, was, epoch())
		}
	}
	w.is("a", 0, 1, 2, 1)
}

func TestCancelThatWouldLoseRecords(t *testing.T) {
	w := reassigning(t)
	if err := w.reassign(3, 4); err != nil {
		t.Fatal(err)
	}
	w.setISR("a", 0, 1, 3)
	w.kill(1)
	w.is("a", 0, 3, 1, 3)
	wantErr(t, w.reassign(), ErrInvalidAssignment)
	wantErr(t, w.reassign(2, 5), ErrInvalidAssignment)
	w.moving([]int32{3, 4, 1, 2}, []int32{3, 4}, []int32{1, 2})
	w.commit(raftmeta.SetTopicConfigs{Topic: "a", Set: map[string]string{"unclean": "true"}})
	if err := w.reassign(); err != nil {
		t.Fatal(err)
	}
	w.moving([]int32{1, 2}, nil, nil)
	w.is("a", 0, 2, 2, 2)
}

func TestReassignmentTakesThePlaceOfAnother(t *testing.T) {
	w := reassigning(t)
	if err := w.reassign(3, 4); err != nil {
		t.Fatal(err)
	}
	w.setISR("a", 0, 1, 2, 3)
	if err := w.reassign(3, 5); err != nil {
		t.Fatal(err)
	}
	w.moving([]int32{3, 5, 1, 2}, []int32{3, 5}, []int32{1, 2})
	w.is("a", 0, 1, 1, 1, 2, 3) // 3 stays in sync, 4 goes
	w.setISR("a", 0, 1, 2, 3, 5)
	w.moving([]int32{3, 5}, nil, nil)
	w.is("a", 0, 3, 2, 3, 5)
}

func TestReassignmentThatIsImpossible(t *testing.T) {
	w := reassigning(t)
	wantErr(t, w.reassign(1, 1), ErrInvalidAssignment)
	wantErr(t, w.reassign(1, 9), ErrInvalidAssignment)
	v, _ := w.one(&Reassign{Partitions: []Reassignment{{"b", 0, []int32{1}}, {"a", 1, []int32{1}}, {"a", 0, []int32{}}}})
	errs := v.([]error)
	wantErr(t, errs[0], raftmeta.ErrUnknownTopic)
	wantErr(t, errs[1], raftmeta.ErrUnknownTopic)
	wantErr(t, errs[2], ErrInvalidAssignment)
}
