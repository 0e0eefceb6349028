package machine

import (
	"errors"
	"testing"
	"time"

	"weir/raftmeta"
)

// TestUncleanElectionPrefersTheISR: broker 1, alone in sync, is back in service, but the entry with its elections was not committed. An unclean election that
// is asked for before the controller tries again must not take broker 2, which is not in sync.
func TestUncleanElectionPrefersTheISR(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.commit(raftmeta.CreateTopic{Name: "t", ID: [16]byte{9}, Assignment: [][]int32{{2, 1}}})
	set := func(id int32, fenced bool) {
		b := w.img.Broker(id)
		for _, r := range w.commit(raftmeta.SetBroker{ID: id, Epoch: b.Epoch, Fenced: fenced}) {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
	}
	part := func() raftmeta.Partition { return w.img.Topic("t").Partitions[0] }
	p := part()
	for _, r := range w.commit(raftmeta.ChangePartition{TopicID: [16]byte{9}, PartitionEpoch: p.PartitionEpoch, Leader: 1, ISR: []int32{1}}) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	set(1, true)
	p = part()
	w.commit(raftmeta.ChangePartition{TopicID: [16]byte{9}, PartitionEpoch: p.PartitionEpoch, Leader: -1})
	t.Logf("%+v", part())
	// Broker 1 asks to be unfenced. The plan has its SetBroker in the first entry and elections, of a large cluster, in the next, which fails.
	hb := &Heartbeat{Broker: 1, Epoch: w.img.Broker(1).Epoch, Applied: w.img.Version}
	w.m.Heard(hb, w.now)
	plan := w.m.Decide([]Request{{Op: hb, Token: hb}}, w.now)
	results := w.commit(plan.Entries[0][:1]...)
	w.m.Complete(plan, results, errors.New("no quorum for a moment"), w.now)
	t.Logf("%d commands; fenced now: %v", len(plan.Entries[0]), w.img.Broker(1).Fenced)
	w.now = w.now.Add(time.Millisecond)
	el := &ElectLeaders{Unclean: true, Partitions: []TopicPartition{{Topic: "t"}}}
	plan = w.m.Decide([]Request{{Op: el, Token: el}}, w.now)
	for _, e := range plan.Entries {
		w.m.Complete(plan, w.commit(e...), nil, w.now)
	}
	t.Logf("%+v", part())
	if l := part().Leader; l != 1 {
		t.Errorf("leader %d, in sync %v: broker 1 was in sync and there", l, part().ISR)
	}
}
