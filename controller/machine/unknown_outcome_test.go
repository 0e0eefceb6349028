package machine

import (
	"slices"
	"testing"
	"time"

	"weir/raftmeta"
)

// givenUp decides on op in a plan of which nothing is heard in time. What it returns may be committed later.
func (w *world) givenUp(op Op) []raftmeta.Command {
	w.t.Helper()
	p := w.m.Decide([]Request{{Op: op, Token: op}}, w.now)
	if len(p.Entries) != 1 {
		w.t.Fatalf("%d entries: %+v", len(p.Entries), p.Answers)
	}
	w.m.Complete(p, nil, raftmeta.ErrTimeout, w.now)
	return p.Entries[0]
}

// hears lets time go by with heartbeats of these brokers, while nothing is decided.
func (w *world) hears(beats int, ids ...int32) {
	w.t.Helper()
	for range beats {
		w.now = w.now.Add(beat)
		for _, id := range ids {
			if _, err, wait := w.m.Heard(w.heartbeat(id), w.now); wait || err != nil {
				w.t.Fatalf("heartbeat of %d: %v, has to wait: %v", id, err, wait)
			}
		}
	}
}

// commitLate commits a plan that was given up, and behind it the one that ops make now, which does not know of it.
func (w *world) commitLate(late []raftmeta.Command, ops ...Op) {
	w.t.Helper()
	var requests []Request
	for _, op := range ops {
		requests = append(requests, Request{Op: op, Token: op})
	}
	p := w.m.Decide(requests, w.now)
	if len(p.Entries) != 1 {
		w.t.Fatalf("%d entries: %+v", len(p.Entries), p.Answers)
	}
	w.commit(late...)
	w.m.Complete(p, w.commit(p.Entries[0]...), nil, w.now)
	w.round()
}

// TestLateTopicOfAFencedLeader: a change that was given up is in the log all the same, and behind it a fencing that was decided without it. Once both are there,
// the partitions that came late are settled, too.
func TestLateTopicOfAFencedLeader(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	late := w.givenUp(&CreateTopics{Topics: []raftmeta.CreateTopic{{Name: "t", Assignment: [][]int32{{3, 2, 1}}}}})
	w.silent[3] = true
	w.hears(7, 1, 2)
	w.commitLate(late)
	w.pass(time.Minute)
	if !w.img.Broker(3).Fenced {
		t.Fatal("broker 3 is not fenced")
	}
	w.is("t", 0, 2, 1, 2, 1)
}

// TestLateISRChangeMeetsANewLife: an ISR change that was given up brings a replica in; behind it in the log is the registration of that replica's next life, which
// may have less, and which nobody proposed. It leaves the ISR again.
func TestLateISRChangeMeetsANewLife(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("t", []int32{1, 2, 3})
	w.setISR("t", 0, 1, 2)
	late := w.givenUp(&AlterISR{Broker: 1, BrokerEpoch: w.img.Broker(1).Epoch, Changes: []ISRChange{w.change("t", 0, 1, 2, 3)}})
	w.hears(3, 1, 2)
	w.commitLate(late, registration(3, "", 2))
	w.beat(3)
	w.pass(10 * sessionMax)
	if p := w.part("t", 0); slices.Contains(p.ISR, 3) {
		t.Fatalf("3 is in the ISR in a life that nobody proposed: %+v, %+v", p, w.img.Broker(3))
	}
}
