package machine

import (
	"testing"
	"time"

	"weir/raftmeta"
)

// large is a cluster in which a fencing takes several entries.
func large(t *testing.T) *world {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	assignment := make([][]int32, 45_000)
	for i := range assignment {
		assignment[i] = []int32{3, 2, 1}
		if i%2 == 1 {
			assignment[i] = []int32{1, 2, 3}
		}
	}
	w.topic("a", assignment...)
	return w
}

// A plan of which only the beginning was committed: the fence is in the metadata, so what follows from it must not depend on anybody
// remembering that.
func TestHalfAPlan(t *testing.T) {
	w := large(t)
	w.m.PeerGone(3, w.now)
	p := w.m.Decide(nil, w.now)
	if len(p.Entries) < 2 {
		t.Fatalf("%d entries", len(p.Entries))
	}
	for _, e := range p.Entries {
		if n := raftmeta.EntryBytes(e...); n > raftmeta.EntryBytesMax {
			t.Fatalf("an entry of %d bytes", n)
		}
	}
	if answers := w.m.Complete(p, w.commit(p.Entries[0]...), raftmeta.ErrTimeout, w.now); len(answers) != 0 {
		t.Fatalf("%v", answers)
	}
	if !w.img.Broker(3).Fenced {
		t.Fatal("the first entry does not begin with the fence")
	}
	w.is("a", 0, 2, 1, 2, 1)
	w.is("a", 44_999, 1, 0, 1, 2, 3)
	due, ok := w.m.Deadline()
	if !ok || !due.Equal(w.now.Add(retryMin)) {
		t.Fatalf("deadline %v %v, want %v", due, ok, w.now.Add(retryMin))
	}
	if p := w.m.Decide(nil, w.now); len(p.Entries) != 0 {
		t.Fatal("tried again at once")
	}
	w.now = due
	w.round()
	w.is("a", 0, 2, 1, 2, 1)
	w.is("a", 44_998, 2, 1, 2, 1)
	w.is("a", 44_999, 1, 0, 1, 2)
}

func TestRefusedCommandIsNoticed(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{3, 2}, []int32{3, 2})
	w.m.PeerGone(3, w.now)
	p := w.m.Decide(nil, w.now)
	// An earlier change that was given up came through after all.
	part := w.part("a", 1)
	w.commit(raftmeta.ChangePartition{TopicID: w.img.Topic("a").ID, Partition: 1, PartitionEpoch: part.PartitionEpoch, Leader: raftmeta.LeaderSame, ISR: []int32{2, 3}})
	w.m.Complete(p, w.commit(p.Entries[0]...), nil, w.now)
	w.is("a", 0, 2, 1, 2)
	w.is("a", 1, 3, 0, 2, 3)
	w.now = w.now.Add(retryMin)
	w.round()
	w.is("a", 1, 2, 1, 2)
}

func TestFailuresBackOff(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.m.PeerGone(3, w.now)
	for _, want := range []time.Duration{retryMin, 2 * retryMin, 4 * retryMin} {
		p := w.m.Decide(nil, w.now)
		if len(p.Entries) != 1 {
			t.Fatalf("%d entries", len(p.Entries))
		}
		w.m.Complete(p, nil, raftmeta.ErrBackpressure, w.now)
		due, ok := w.m.Deadline()
		if !ok || due.Sub(w.now) != want {
			t.Fatalf("tried again after %s, want %s", due.Sub(w.now), want)
		}
		w.now = due
	}
	w.round()
	if !w.img.Broker(3).Fenced || w.m.failures != 0 {
		t.Fatalf("%+v, %d failures", w.img.Broker(3), w.m.failures)
	}
}

func TestRequestsOfAFailedPlanGetItsError(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2)
	p := w.m.Decide([]Request{{&CreateTopics{Topics: []raftmeta.CreateTopic{{Name: "a", Partitions: 1}}}, 1}, {registration(3, "", 1), 2}}, w.now)
	answers := w.m.Complete(p, nil, raftmeta.ErrLeadershipLost, w.now)
	if len(answers) != 2 {
		t.Fatalf("%v", answers)
	}
	for _, a := range answers {
		wantErr(t, a.Err, raftmeta.ErrLeadershipLost)
	}
}

// The term ends while a plan is under way: what came of it is told, but means nothing for the next term.
func TestPlanOfAnEarlierTerm(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2)
	p := w.m.Decide([]Request{{registration(3, "", 1), 1}}, w.now)
	w.m.LeaveOffice()
	w.m.TakeOffice(w.now)
	rs := w.commit(p.Entries[0]...)
	answers := w.m.Complete(p, rs, nil, w.now)
	if len(answers) != 1 || answers[0].Err != nil || answers[0].Value.(int64) != w.img.Broker(3).Epoch {
		t.Fatalf("%+v", answers)
	}
	p = w.m.Decide([]Request{{registration(4, "", 1), 1}}, w.now)
	w.m.LeaveOffice()
	answers = w.m.Complete(p, nil, raftmeta.ErrNotLeader, w.now)
	if len(answers) != 1 {
		t.Fatalf("%+v", answers)
	}
	if _, ok := w.m.Deadline(); ok {
		t.Fatal("a deadline out of office")
	}
}

func TestNewsOfADeathGetsOld(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.m.LeaveOffice()
	w.m.PeerGone(3, w.now)
	w.now = w.now.Add(goneMax + 1)
	w.m.TakeOffice(w.now)
	w.round()
	if w.img.Broker(3).Fenced {
		t.Fatal("fenced for what was seen long ago")
	}
}

// Nobody may count on a broker that is being forgotten.
func TestUnregisterHasAPlanOfItsOwn(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2)
	before := &CreateTopics{Topics: []raftmeta.CreateTopic{{Name: "a", Assignment: [][]int32{{1}}}}}
	unregister := &Unregister{Broker: 2}
	after := &CreateTopics{Topics: []raftmeta.CreateTopic{{Name: "b", Partitions: 2}}}
	entries := w.entries
	answers := w.round(before, unregister, after)
	if w.entries-entries != 3 || answers[unregister].Err != nil {
		t.Fatalf("%d entries, %v", w.entries-entries, answers[unregister].Err)
	}
	if r := answers[after].Value.([]raftmeta.Result)[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
}
