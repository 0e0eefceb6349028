package machine

import (
	"testing"

	"weir/raftmeta"
)

func (w *world) elect(unclean bool, parts ...TopicPartition) []ElectResult {
	w.t.Helper()
	v, err := w.one(&ElectLeaders{Unclean: unclean, Partitions: parts})
	if err != nil {
		w.t.Fatal(err)
	}
	return v.([]ElectResult)
}

func TestPreferredElection(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{3, 2}, []int32{2, 3}, []int32{3, 1})
	w.kill(3)
	a0, a1 := TopicPartition{"a", 0}, TopicPartition{"a", 1}
	r := w.elect(false, a0, a1, TopicPartition{"x", 0}, TopicPartition{"a", 9})
	wantErr(t, r[0].Err, ErrNoEligibleLeader)
	wantErr(t, r[1].Err, ErrElectionNotNeeded)
	wantErr(t, r[2].Err, raftmeta.ErrUnknownTopic)
	wantErr(t, r[3].Err, raftmeta.ErrUnknownTopic)
	w.revive(3)
	wantErr(t, w.elect(false, a0)[0].Err, ErrNoEligibleLeader) // there, but not in sync
	w.setISR("a", 0, 2, 3)
	r = w.elect(false)
	if len(r) != 2 || r[0].Err != nil || r[0].Partition != 0 {
		t.Fatalf("%+v", r)
	}
	wantErr(t, r[1].Err, ErrNoEligibleLeader)
	w.is("a", 0, 3, 2, 2, 3)
	if n := w.last.Elections; n[ElectPreferred] != 1 || n[ElectFailover] != 0 {
		t.Fatalf("elections %v", n)
	}
}

func TestUncleanElectionThatIsAskedFor(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{3, 2}, []int32{3})
	w.setISR("a", 0, 3)
	a0, a1 := TopicPartition{"a", 0}, TopicPartition{"a", 1}
	wantErr(t, w.elect(true, a0)[0].Err, ErrElectionNotNeeded)
	w.kill(3)
	r := w.elect(true, a0, a1)
	if r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
	wantErr(t, r[1].Err, ErrNoEligibleLeader)
	w.is("a", 0, 2, 2, 2)
	if n := w.last.Elections; n[ElectUnclean] != 1 {
		t.Fatalf("elections %v", n)
	}
	if r := w.elect(true); len(r) != 1 || r[0].Partition != 1 {
		t.Fatalf("%+v", r)
	}
}

func TestBalance(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	var assignment [][]int32
	for range 30 {
		assignment = append(assignment, []int32{3, 1}, []int32{1, 3})
	}
	w.topic("a", assignment...)
	if !w.m.balanceAt.IsZero() {
		t.Fatal("a timer although all is balanced")
	}
	w.kill(3)
	due := w.m.balanceAt
	if due.IsZero() {
		t.Fatal("no timer although leaders are not where they belong")
	}
	w.revive(3)
	for i := range 60 { // all but three of the thirty that prefer 3 are in sync again
		if i%2 == 1 || i >= 6 {
			w.setISR("a", int32(i), 1, 3)
		}
	}
	w.pass(due.Sub(w.now) - beat)
	w.is("a", 6, 1, 1, 1, 3)
	w.pass(beat)
	w.is("a", 6, 3, 2, 1, 3)
	w.is("a", 0, 1, 1, 1)
	if n := w.last.Elections; n[ElectBalance] != 27 {
		t.Fatalf("elections %v", n)
	}
	// 10 % is within what is allowed.
	w.setISR("a", 0, 1, 3)
	w.pass(balance + beat)
	w.is("a", 0, 1, 1, 1, 3)
	// More is not.
	w.elect(false)
	w.is("a", 0, 3, 2, 1, 3)
	w.pass(beat)
	if n := w.m.Stats().Imbalanced; n != 2 { // two more that are not in sync
		t.Fatalf("%d imbalanced", n)
	}
}

func TestBalanceMovesAFewAtATime(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2)
	n := 2*balanceMax + 5
	assignment := make([][]int32, n)
	for i := range assignment {
		assignment[i] = []int32{2, 1}
	}
	w.topic("a", assignment...)
	w.kill(2)
	w.revive(2)
	var changes []ISRChange
	for i := range n {
		changes = append(changes, w.change("a", int32(i), 1, 2))
	}
	if _, err := w.one(&AlterISR{Broker: 1, BrokerEpoch: w.img.Broker(1).Epoch, Changes: changes}); err != nil {
		t.Fatal(err)
	}
	due := w.m.balanceAt
	w.pass(due.Sub(w.now) - beat)
	for _, left := range []int{balanceMax + 5, 5, 0} {
		w.now = due
		w.m.Heard(w.heartbeat(1), w.now)
		w.m.Heard(w.heartbeat(2), w.now)
		w.round()
		if got := w.m.Stats().Imbalanced; got != left {
			t.Fatalf("%d imbalanced, want %d", got, left)
		}
	}
	w.round()
	if !w.m.balanceAt.IsZero() {
		t.Fatal("a timer although all is balanced")
	}
}
