package machine

import (
	"slices"
	"testing"
)

// TestFetchOfAFormerLife: what a follower's process had that has ended says nothing of what its successor has. A fetch of it that arrives late moves no high
// watermark and brings nobody into the ISR.
func TestFetchOfAFormerLife(t *testing.T) {
	const former, present = 10, 20
	l := leaderOf([]int32{1}, 1, 0)
	l.Durable(100)
	o := l.Fetched(Fetched{Replica: 2, BrokerEpoch: present, Offset: 100, LogEnd: 200}, at(0))
	if !slices.Equal(ids(o.Propose), []int32{1, 2}) {
		t.Fatalf("proposal %+v, want 1 and 2", o.Propose)
	}
	l.Updated(10, []int32{1, 2, 3}, []int32{1, 2}, at(0))
	l.Durable(200)
	// Sent before its restart, in which replica 2 lost what was above 100.
	if o := l.Fetched(Fetched{Replica: 2, BrokerEpoch: former, Offset: 200, LogEnd: 200}, at(1)); o.HW != 100 || o.Rose {
		t.Errorf("%+v on the word of a life that is over, want 100", o)
	}
	if o := l.Fetched(Fetched{Replica: 2, BrokerEpoch: present, Offset: 150, LogEnd: 200}, at(2)); o.HW != 150 || !o.Rose {
		t.Errorf("%+v, want 150: what the present life has", o)
	}
	l.Fetched(Fetched{Replica: 3, BrokerEpoch: present, Offset: 0, LogEnd: 200}, at(3))
	if o := l.Fetched(Fetched{Replica: 3, BrokerEpoch: former, Offset: 200, LogEnd: 200}, at(4)); o.Propose != nil {
		t.Errorf("proposal %+v on the word of a life that is over", o.Propose)
	}
}
