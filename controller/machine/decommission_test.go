package machine

import (
	"reflect"
	"slices"
	"testing"

	"weir/raftmeta"
)

func (w *world) decommission(d Decommission) DecommissionProgress {
	w.t.Helper()
	v, err := w.one(&d)
	if err != nil {
		w.t.Fatal(err)
	}
	return v.(DecommissionProgress)
}

// catchUp lets every replica that is being added to a topic get in sync.
func (w *world) catchUp(topic string) {
	w.t.Helper()
	for i := range w.img.Topic(topic).Partitions {
		if p := w.part(topic, i); len(p.Adding) > 0 {
			w.setISR(topic, int32(i), append(slices.Clone(p.ISR), p.Adding...)...)
		}
	}
}

func (w *world) left(broker int32) (n int) {
	for t := range w.img.Topics() {
		for _, p := range t.Partitions {
			if slices.Contains(p.Replicas, broker) {
				n++
			}
		}
	}
	return n
}

func TestDecommission(t *testing.T) {
	w := newWorld(t)
	w.join(map[int32]string{1: "x", 2: "y", 3: "z", 4: "z"}, 1, 2, 3, 4)
	var assignment [][]int32
	for range 10 {
		assignment = append(assignment, []int32{3, 1, 2}, []int32{1, 3}, []int32{1, 2})
	}
	w.topic("a", assignment...)
	_, err := w.one(&Decommission{Broker: 9})
	wantErr(t, err, ErrUnknownBroker)
	_, err = w.one(&Decommission{Broker: 3, Cancel: true})
	wantErr(t, err, ErrNotLeaving)
	before := w.img
	if p := w.decommission(Decommission{Broker: 3, Try: true}); p.Leaving || p.Started != 20 || p.Left != 20 || p.Moving != 20 || p.Heirs[3] != 0 || p.Heirs[4] < 10 {
		t.Fatalf("%+v", p)
	}
	if w.img != before {
		t.Fatal("a try changes something")
	}
	if p := w.decommission(Decommission{Broker: 3}); !p.Leaving || p.Started != 20 || p.Left != 20 || p.Moving != 20 || p.Stuck != 0 {
		t.Fatalf("%+v", p)
	}
	if p := w.decommission(Decommission{Broker: 3}); p.Started != 0 || p.Left != 20 || p.Moving != 20 {
		t.Fatalf("asked again: %+v", p)
	}
	want := []DecommissionProgress{{Broker: 3, Leaving: true, Left: 20, Moving: 20}}
	if got := Decommissions(w.img); !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v", got)
	}
	for i := range assignment {
		p := w.part("a", i)
		if len(p.Adding) == 0 {
			continue
		}
		if len(p.Removing) != 1 || p.Removing[0] != 3 || i%3 == 0 && p.Adding[0] != 4 {
			t.Fatalf("%d: %+v", i, p) // 4 is the only one that keeps the racks apart
		}
	}
	w.catchUp("a")
	if p := w.decommission(Decommission{Broker: 3}); p.Left != 0 || w.left(3) != 0 {
		t.Fatalf("%+v", p)
	}
	if _, err := w.one(&Unregister{Broker: 3}); err != nil {
		t.Fatal(err)
	}
	if Decommissions(w.img) != nil {
		t.Error("an unregistered broker still leaves")
	}
}

// A broker that leaves gets nothing new, in no way, also when it restarts or another node becomes the controller.
func TestNothingIsPlacedOnABrokerThatLeaves(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3, 4)
	w.topic("a", []int32{1, 2})
	w.decommission(Decommission{Broker: 3})
	refused := func(when string) {
		t.Helper()
		create := func(c raftmeta.CreateTopic) (*raftmeta.Topic, error) {
			v, err := w.one(&CreateTopics{Topics: []raftmeta.CreateTopic{c}})
			if err != nil {
				t.Fatal(err)
			}
			r := v.([]raftmeta.Result)[0]
			return r.Topic, r.Err
		}
		if _, err := create(raftmeta.CreateTopic{Name: when, Partitions: 10, ReplicationFactor: 3}); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		_, err := create(raftmeta.CreateTopic{Name: when + "4", Partitions: 1, ReplicationFactor: 4})
		wantErr(t, err, raftmeta.ErrInvalidReplication)
		_, err = create(raftmeta.CreateTopic{Name: when + "m", Assignment: [][]int32{{1, 3}}})
		wantErr(t, err, ErrInvalidAssignment)
		have := len(w.img.Topic("a").Partitions)
		v, err := w.one(&AddPartitions{Topics: []raftmeta.AddPartitions{{Topic: "a", Total: int32(have) + 10}}})
		if err != nil || v.([]raftmeta.Result)[0].Err != nil {
			t.Fatalf("%s: %v, %v", when, v, err)
		}
		v, _ = w.one(&Reassign{Partitions: []Reassignment{{Topic: "a", Partition: 0, Replicas: []int32{3, 2}}}})
		wantErr(t, v.([]error)[0], ErrInvalidAssignment)
		if n := w.left(3); n != 0 {
			t.Fatalf("%s: broker 3 got %d replicas", when, n)
		}
	}
	refused("first")
	w.m.LeaveOffice()
	w.m.TakeOffice(w.now)
	refused("another-controller")
	w.kill(3)
	refused("dead")
	w.register(3, "", 2)
	w.revive(3)
	refused("restarted")
	w.decommission(Decommission{Broker: 3, Cancel: true})
	w.topic("b", []int32{3, 1})
}

// What cannot move because too few brokers are alive moves by itself when there are more.
func TestDecommissionGoesOnWhenABrokerComesBack(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{1, 2}, []int32{2})
	w.kill(3)
	if p := w.decommission(Decommission{Broker: 2}); p.Started != 1 || p.Left != 2 || p.Moving != 1 || p.Stuck != 1 || len(p.StuckAt) != 1 || p.StuckAt[0] != (TopicPartition{"a", 0}) {
		t.Fatalf("%+v", p)
	}
	w.revive(3)
	if got := Decommissions(w.img); len(got) != 1 || got[0].Stuck != 0 || got[0].Moving != 2 {
		t.Fatalf("%+v", got)
	}
	w.catchUp("a")
	if n := w.left(2); n != 0 {
		t.Fatalf("%d left", n)
	}
}

func TestDecommissionIsCancelled(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.topic("a", []int32{2, 1}, []int32{1, 2})
	w.topic("b", []int32{2})
	w.decommission(Decommission{Broker: 2})
	w.catchUp("b")
	v, _ := w.one(&Reassign{Partitions: []Reassignment{{Topic: "a", Partition: 0}}})
	wantErr(t, v.([]error)[0], ErrInvalidAssignment) // one by one it would only come again
	if p := w.decommission(Decommission{Broker: 2, Cancel: true, Try: true}); p.Started != 2 || w.part("a", 0).Removing == nil {
		t.Fatalf("%+v", p)
	}
	if p := w.decommission(Decommission{Broker: 2, Cancel: true}); p.Leaving || p.Started != 2 || p.Left != 2 || p.Moving != 0 {
		t.Fatalf("%+v", p)
	}
	for i, want := range [][]int32{{2, 1}, {1, 2}} {
		if p := w.part("a", i); !slices.Equal(p.Replicas, want) || len(p.Adding)+len(p.Removing) > 0 {
			t.Errorf("a-%d: %+v", i, p)
		}
	}
	if p := w.part("b", 0); slices.Contains(p.Replicas, 2) {
		t.Errorf("what had moved is moved back: %+v", p)
	}
	if w.img.Broker(2).Leaving || Decommissions(w.img) != nil {
		t.Error("it still leaves")
	}
}

// What could never end is refused, and nothing is done.
func TestDecommissionThatIsImpossible(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1)
	_, err := w.one(&Decommission{Broker: 1})
	wantErr(t, err, ErrCannotLeave)
	w.join(nil, 2, 3)
	w.topic("a", []int32{1, 2, 3})
	for _, try := range []bool{false, true} {
		before := w.img
		_, err = w.one(&Decommission{Broker: 3, Try: try})
		wantErr(t, err, ErrCannotLeave)
		if w.img != before {
			t.Error("something was done")
		}
	}
	w.join(nil, 4)
	w.decommission(Decommission{Broker: 3})
	_, err = w.one(&Decommission{Broker: 4}) // the two that stay are too few
	wantErr(t, err, ErrCannotLeave)
}
