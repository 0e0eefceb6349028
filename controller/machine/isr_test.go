package machine

import (
	"testing"

	"weir/raftmeta"
)

func TestAlterISR(t *testing.T) {
	start := func(t *testing.T) *world {
		w := newWorld(t)
		w.join(nil, 1, 2, 3, 4)
		w.topic("a", []int32{1, 2, 3})
		return w
	}
	for name, c := range map[string]struct {
		alter func(w *world, c *ISRChange) (broker int32)
		isr   []int32
		want  error
	}{
		"shrinks":               {func(w *world, c *ISRChange) int32 { return 1 }, []int32{1, 2}, nil},
		"another leader epoch":  {func(w *world, c *ISRChange) int32 { c.LeaderEpoch--; return 1 }, []int32{1, 2}, ErrFencedLeaderEpoch},
		"leader epoch to come":  {func(w *world, c *ISRChange) int32 { c.LeaderEpoch++; return 1 }, []int32{1, 2}, ErrNotController},
		"not the leader":        {func(w *world, c *ISRChange) int32 { return 2 }, []int32{1, 2}, ErrInvalidRequest},
		"old partition epoch":   {func(w *world, c *ISRChange) int32 { c.PartitionEpoch--; return 1 }, []int32{1, 2}, ErrInvalidUpdate},
		"partition epoch ahead": {func(w *world, c *ISRChange) int32 { c.PartitionEpoch++; return 1 }, []int32{1, 2}, ErrNotController},
		"without the leader":    {func(w *world, c *ISRChange) int32 { return 1 }, []int32{2, 3}, ErrInvalidRequest},
		"empty":                 {func(w *world, c *ISRChange) int32 { return 1 }, nil, ErrInvalidRequest},
		"twice":                 {func(w *world, c *ISRChange) int32 { return 1 }, []int32{1, 1}, ErrInvalidRequest},
		"not a replica":         {func(w *world, c *ISRChange) int32 { return 1 }, []int32{1, 4}, ErrInvalidRequest},
		"no such topic":         {func(w *world, c *ISRChange) int32 { c.TopicID[0]++; return 1 }, []int32{1}, raftmeta.ErrUnknownTopic},
		"no such partition":     {func(w *world, c *ISRChange) int32 { c.Partition = 1; return 1 }, []int32{1}, raftmeta.ErrUnknownTopic},
		"another broker epoch":  {func(w *world, c *ISRChange) int32 { c.ISR[1].BrokerEpoch++; return 1 }, []int32{1, 2}, ErrIneligibleReplica},
		"broker epoch unknown":  {func(w *world, c *ISRChange) int32 { c.ISR[1].BrokerEpoch = -1; return 1 }, []int32{1, 2}, nil},
		// What the leader knows comes before what it wants.
		"old, and ineligible": {func(w *world, c *ISRChange) int32 { c.PartitionEpoch--; c.ISR[1].BrokerEpoch++; return 1 }, []int32{1, 2}, ErrInvalidUpdate},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			w.setISR("a", 0, 1, 3)
			w.setISR("a", 0, 1, 2, 3) // epochs that are not 0
			change := w.change("a", 0, c.isr...)
			broker := c.alter(w, &change)
			before := w.part("a", 0)
			r := w.alter(broker, change)
			after := w.part("a", 0)
			if c.want != nil {
				wantErr(t, r.Err, c.want)
				if after.PartitionEpoch != before.PartitionEpoch {
					t.Fatalf("changed: %+v", after)
				}
				return
			}
			if r.Err != nil || r.PartitionEpoch != before.PartitionEpoch+1 || r.PartitionEpoch != after.PartitionEpoch || r.Leader != 1 || r.LeaderEpoch != after.LeaderEpoch {
				t.Fatalf("result %+v, partition %+v", r, after)
			}
			w.is("a", 0, 1, before.LeaderEpoch, c.isr...)
		})
	}
}

func TestAlterISRAgainIsAnsweredWithoutAChange(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{1, 2, 3})
	c := w.change("a", 0, 1, 2)
	first := w.alter(1, c)
	entries := w.entries
	again := w.alter(1, c)
	if again.Err != nil || again.PartitionEpoch != first.PartitionEpoch || w.entries != entries {
		t.Fatalf("%+v after %+v, %d entries", again, first, w.entries-entries)
	}
	_, err := w.one(&AlterISR{Broker: 1, BrokerEpoch: w.img.Broker(1).Epoch + 1, Changes: []ISRChange{c}})
	wantErr(t, err, ErrStaleBrokerEpoch)
	_, err = w.one(&AlterISR{Broker: 9, BrokerEpoch: 1})
	wantErr(t, err, ErrUnknownBroker)
}

func TestAlterISRIneligible(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{1, 2, 3})
	w.setISR("a", 0, 1)
	w.kill(2)
	r := w.setISR("a", 0, 1, 2)
	wantErr(t, r.Err, ErrIneligibleReplica)
	w.revive(2)
	if r = w.setISR("a", 0, 1, 2); r.Err != nil {
		t.Fatal(r.Err)
	}
	// A leader that shuts down may shrink its ISR, so that producers do not wait for the dead.
	w.kill(3)
	h := w.heartbeat(1)
	h.WantShutdown = true
	if _, err := w.one(h); err != nil {
		t.Fatal(err)
	}
	w.is("a", 0, 2, 1, 2)
}

// Two leaders' changes in one round, one of which the other makes impossible: the second sees the first.
func TestChangesOfOneRoundSeeEachOther(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{1, 2, 3})
	ask := func(isr ...int32) *AlterISR {
		return &AlterISR{Broker: 1, BrokerEpoch: w.img.Broker(1).Epoch, Changes: []ISRChange{w.change("a", 0, isr...)}}
	}
	first, second := ask(1, 2), ask(1, 3)
	answers := w.round(first, second)
	if r := answers[first].Value.([]ISRResult)[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	wantErr(t, answers[second].Value.([]ISRResult)[0].Err, ErrInvalidUpdate)
	w.is("a", 0, 1, 0, 1, 2)
	// A change and the fencing of a member it names: the member is not in sync afterwards.
	fence := w.heartbeat(2)
	fence.WantFence = true
	w.round(ask(1, 2), fence)
	w.is("a", 0, 1, 0, 1)
}
