package machine

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weir/raftmeta"
)

// settled comes to rest at once, keeps the rules whatever it is given, and leaves its argument's lists alone.
func TestSettledIsSettled(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := New(Config{NodeID: 1, SessionTimeout: sessionMax, Unclean: func(o map[string]string) bool { return o["unclean"] == "true" }})
		v := newView(m)
		for id := int32(1); id <= 5; id++ {
			if rapid.IntRange(0, 5).Draw(t, "known") > 0 {
				v.brokers[id] = &member{Broker: raftmeta.Broker{ID: id, Fenced: rapid.Bool().Draw(t, "fenced"), ShuttingDown: rapid.IntRange(0, 3).Draw(t, "leaving") == 0}}
			}
		}
		topic := &raftmeta.Topic{Name: "a"}
		unclean := rapid.Bool().Draw(t, "unclean")
		if unclean {
			topic.Configs = map[string]string{"unclean": "true"}
		}
		replicas := rapid.SliceOfNDistinct(rapid.Int32Range(1, 5), 1, 5, rapid.ID[int32]).Draw(t, "replicas")
		part := func(name string, least int) []int32 {
			n := rapid.IntRange(least, len(replicas)).Draw(t, name)
			return slices.Clone(rapid.Permutation(replicas).Draw(t, name)[:n])
		}
		p := raftmeta.Partition{Replicas: replicas, ISR: part("isr", 1), Leader: -1}
		if rapid.Bool().Draw(t, "led") {
			p.Leader = rapid.SampledFrom(p.ISR).Draw(t, "leader")
		}
		if moved := part("moved", 0); len(moved) < len(replicas) {
			at := rapid.IntRange(0, len(moved)).Draw(t, "at")
			p.Adding, p.Removing = moved[:at:at], moved[at:]
		}
		was := p
		was.Replicas, was.ISR, was.Adding, was.Removing = slices.Clone(p.Replicas), slices.Clone(p.ISR), slices.Clone(p.Adding), slices.Clone(p.Removing)

		got := v.settled(topic, p)
		if !samePartition(p, was) {
			t.Fatalf("the argument became %+v", p)
		}
		if again := v.settled(topic, got); !samePartition(again, got) {
			t.Fatalf("%+v became %+v, and then %+v", p, got, again)
		}
		some := slices.ContainsFunc(p.ISR, v.usable)
		switch {
		case len(got.ISR) == 0 || !within(got.ISR, got.Replicas):
			t.Fatalf("ISR of %+v", got)
		case got.Leader >= 0 && !slices.Contains(got.ISR, got.Leader):
			t.Fatalf("the leader of %+v", got)
		case got.Leader >= 0 && !v.alive(got.Leader):
			t.Fatalf("%+v is led by a dead broker", got)
		case some && (!v.usable(got.Leader) || !within(got.ISR, p.ISR) || slices.ContainsFunc(got.ISR, func(id int32) bool { return !v.usable(id) })):
			t.Fatalf("%+v became %+v although some in sync live", p, got)
		case !unclean && !within(got.ISR, p.ISR):
			t.Fatalf("%+v became %+v: somebody came into sync", p, got)
		case unclean && slices.ContainsFunc(got.Replicas, v.usable) && got.Leader < 0:
			t.Fatalf("%+v became %+v: somebody could lead", p, got)
		case v.usable(p.Leader) && !slices.Contains(p.Removing, p.Leader) && got.Leader != p.Leader:
			t.Fatalf("%+v became %+v: the leader could stay", p, got)
		}
	})
}

func samePartition(a, b raftmeta.Partition) bool {
	return a.Leader == b.Leader && slices.Equal(a.Replicas, b.Replicas) && slices.Equal(a.ISR, b.ISR) && slices.Equal(a.Adding, b.Adding) && slices.Equal(a.Removing, b.Removing)
}
