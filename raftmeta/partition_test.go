package raftmeta

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

func TestRegisterBroker(t *testing.T) {
	one, two := testID(1), testID(2)
	first := RegisterBroker{ID: 9, Host: "a", Port: 1, PeerHost: "p", PeerPort: 2, Incarnation: one, Fenced: true}
	tests := []struct {
		name  string
		then  []Command
		again RegisterBroker
		want  Broker // Epoch 0: that of the first registration, 1: a new one
	}{
		{"same incarnation", nil, RegisterBroker{ID: 9, Host: "b", Port: 2, PeerHost: "q", PeerPort: 3, Incarnation: one, Rack: "r"},
			Broker{Host: "b", Port: 2, PeerHost: "q", PeerPort: 3, Incarnation: one, Rack: "r", Fenced: true}},
		{"same incarnation, unfenced meanwhile", []Command{SetBroker{ID: 9, Epoch: 6, ShuttingDown: true}}, first,
			Broker{Host: "a", Port: 1, PeerHost: "p", PeerPort: 2, Incarnation: one, ShuttingDown: true}},
		{"another incarnation", []Command{SetBroker{ID: 9, Epoch: 6, ShuttingDown: true}}, RegisterBroker{ID: 9, Host: "a", Port: 1, Incarnation: two, Fenced: true},
			Broker{Host: "a", Port: 1, Incarnation: two, Fenced: true, Epoch: 1}},
		{"no incarnation", nil, RegisterBroker{ID: 9, Host: "a", Port: 1}, Broker{Host: "a", Port: 1, Epoch: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, baseImage(t))
			if r := m.apply(first)[0]; r.Err != nil || r.BrokerEpoch != 6 {
				t.Fatalf("got %+v, want epoch 6", r)
			}
			if len(tt.then) > 0 {
				if r := m.apply(tt.then...)[0]; r.Err != nil {
					t.Fatal(r.Err)
				}
			}
			r := m.apply(tt.again)[0]
			want := tt.want
			want.ID = 9
			if want.Epoch == 0 {
				want.Epoch = 6
			} else {
				want.Epoch = int64(m.index)
			}
			if got := *m.image.Broker(9); r.Err != nil || got != want || r.BrokerEpoch != want.Epoch {
				t.Fatalf("got %+v, %+v, want %+v", got, r, want)
			}
		})
	}
	twice := RegisterBroker{ID: 9, Host: "a", Port: 1}
	m := newMachine(t, baseImage(t))
	if a, b := m.apply(twice)[0], m.apply(twice)[0]; a.BrokerEpoch == b.BrokerEpoch {
		t.Errorf("without an incarnation, epoch %d was given twice", a.BrokerEpoch)
	}
}

func TestChangePartition(t *testing.T) {
	const part = 1
	// The partition before: led by 1, epochs 0, replicas and ISR 1, 2, 3.
	tests := []struct {
		name string
		c    ChangePartition
		want Partition
		err  error
	}{
		{"ISR shrinks", ChangePartition{Leader: LeaderSame, ISR: []int32{1, 2}},
			Partition{Leader: 1, PartitionEpoch: 1, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2}}, nil},
		{"another leader", ChangePartition{Leader: 2, ISR: []int32{2, 3}},
			Partition{Leader: 2, LeaderEpoch: 1, PartitionEpoch: 1, Replicas: []int32{1, 2, 3}, ISR: []int32{2, 3}}, nil},
		{"no leader", ChangePartition{Leader: -1},
			Partition{Leader: -1, LeaderEpoch: 1, PartitionEpoch: 1, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2, 3}}, nil},
		{"the same leader by name", ChangePartition{Leader: 1}, Partition{Leader: 1, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2, 3}}, nil},
		{"a new epoch of the same leader", ChangePartition{Leader: LeaderSame, NewEpoch: true},
			Partition{Leader: 1, LeaderEpoch: 1, PartitionEpoch: 1, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2, 3}}, nil},
		{"a new epoch of another leader is one epoch", ChangePartition{Leader: 3, NewEpoch: true},
			Partition{Leader: 3, LeaderEpoch: 1, PartitionEpoch: 1, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2, 3}}, nil},
		{"reassignment begins", ChangePartition{Leader: LeaderSame, Replicas: []int32{4, 2, 3, 1}, Adding: []int32{4}, Removing: []int32{1}},
			Partition{Leader: 1, PartitionEpoch: 1, Replicas: []int32{4, 2, 3, 1}, ISR: []int32{1, 2, 3}, Adding: []int32{4}, Removing: []int32{1}}, nil},
		{"nothing", ChangePartition{Leader: LeaderSame}, Partition{Leader: 1, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2, 3}}, nil},
		{"what is already", ChangePartition{Leader: LeaderSame, ISR: []int32{1, 2, 3}, Adding: []int32{}, Removing: []int32{}},
			Partition{Leader: 1, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2, 3}}, nil},

		{"stale", ChangePartition{Leader: LeaderSame, PartitionEpoch: 1, ISR: []int32{1}}, Partition{}, ErrStalePartition},
		{"leader out of sync", ChangePartition{Leader: 3, ISR: []int32{1, 2}}, Partition{}, ErrInvalidReplication},
		{"ISR without the leader", ChangePartition{Leader: LeaderSame, ISR: []int32{2, 3}}, Partition{}, ErrInvalidReplication},
		{"no ISR", ChangePartition{Leader: -1, ISR: []int32{}}, Partition{}, ErrInvalidReplication},
		{"ISR of others", ChangePartition{Leader: LeaderSame, ISR: []int32{1, 4}}, Partition{}, ErrInvalidReplication},
		{"double in the ISR", ChangePartition{Leader: LeaderSame, ISR: []int32{1, 1}}, Partition{}, ErrInvalidReplication},
		{"replica that is no broker", ChangePartition{Leader: LeaderSame, Replicas: []int32{1, 2, 3, 77}}, Partition{}, ErrInvalidReplication},
		{"no replicas", ChangePartition{Leader: LeaderSame, Replicas: []int32{}}, Partition{}, ErrInvalidReplication},
		{"replicas without the ISR", ChangePartition{Leader: LeaderSame, Replicas: []int32{1, 2}}, Partition{}, ErrInvalidReplication},
		{"adding what is no replica", ChangePartition{Leader: LeaderSame, Adding: []int32{4}}, Partition{}, ErrInvalidReplication},
		{"unknown topic", ChangePartition{TopicID: testID(99), Leader: LeaderSame}, Partition{}, ErrUnknownTopic},
		{"unknown partition", ChangePartition{Partition: 9, Leader: LeaderSame}, Partition{}, ErrInvalidPartitions},
		{"negative partition", ChangePartition{Partition: -9, Leader: LeaderSame}, Partition{}, ErrInvalidPartitions},
		{"leader below none", ChangePartition{Leader: -3}, Partition{}, ErrInvalidReplication},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, baseImage(t))
			m.apply(RegisterBroker{ID: 4, Host: "b4", Port: 4}, CreateTopic{Name: "r", ID: testID(5), Assignment: [][]int32{{1, 2, 3}, {1, 2, 3}}})
			before, version := m.image, m.image.Version
			c := tt.c
			if c.TopicID == [16]byte{} {
				c.TopicID = testID(5)
			}
			if c.Partition == 0 {
				c.Partition = part
			}
			r := m.apply(c)[0]
			if tt.err != nil {
				if !errors.Is(r.Err, tt.err) || m.image != before {
					t.Fatalf("got %v, want %v; image changed: %v", r.Err, tt.err, m.image != before)
				}
				return
			}
			topic := m.image.Topic("r")
			if got := topic.Partitions[part]; r.Err != nil || !got.equal(&tt.want) {
				t.Fatalf("got %+v, %v, want %+v", got, r.Err, tt.want)
			}
			if changed := tt.want.PartitionEpoch > 0; changed != (m.image.Version > version) {
				t.Fatalf("version %d after %d, changed %v", m.image.Version, version, changed)
			}
			other := Partition{Leader: 1, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2, 3}}
			if got := topic.Partitions[0]; !got.equal(&other) || !before.Topic("r").Partitions[part].equal(&other) {
				t.Fatalf("the partition next to it is %+v, the image before has %+v", got, before.Topic("r").Partitions[part])
			}
		})
	}
}

func TestSetBroker(t *testing.T) {
	m := newMachine(t, baseImage(t))
	for _, tt := range []struct {
		c    SetBroker
		want error
	}{
		{SetBroker{ID: 9}, ErrInvalidBroker}, {SetBroker{ID: 2, Epoch: 4}, ErrStaleBroker}, {SetBroker{ID: 2, Epoch: 5, Fenced: true}, nil},
	} {
		if r := m.apply(tt.c)[0]; !errors.Is(r.Err, tt.want) {
			t.Errorf("%+v: got %v, want %v", tt.c, r.Err, tt.want)
		}
	}
	if b := m.image.Broker(2); !b.Fenced || b.ShuttingDown || b.Epoch != 5 {
		t.Errorf("got %+v", b)
	}
}

// TestBatchesDoNotMatter: the same entries give the same images, versions and results, however many of them raft applies at once. Nodes depend
// on it: one waits for the version that another has named.
func TestBatchesDoNotMatter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var entries [][]Command
		for range rapid.IntRange(1, 12).Draw(rt, "entries") {
			var cmds []Command
			for range rapid.IntRange(1, 3).Draw(rt, "commands") {
				cmds = append(cmds, drawCommand(rt))
			}
			entries = append(entries, cmds)
		}
		run := func(cuts func() bool) (*Image, []any) {
			m := newMachine(t, baseImage(t))
			var out []any
			var batch []*raft.Log
			for i, cmds := range entries {
				batch = append(batch, m.entry(cmds...))
				if i == len(entries)-1 || cuts() {
					for _, r := range m.ApplyBatch(batch) {
						for _, x := range r.([]Result) {
							x.Topic = nil
							out = append(out, fmt.Sprint(x))
						}
					}
					batch = nil
				}
			}
			return m.image, out
		}
		one, r1 := run(func() bool { return true })
		all, r2 := run(func() bool { return false })
		some, r3 := run(func() bool { return rapid.Bool().Draw(rt, "cut") })
		for _, img := range []*Image{all, some} {
			if img.Version != one.Version || string(encodeImage(img)) != string(encodeImage(one)) {
				rt.Fatalf("version %d and %d, images %+v and %+v", img.Version, one.Version, img, one)
			}
		}
		if !reflect.DeepEqual(r1, r2) || !reflect.DeepEqual(r1, r3) {
			rt.Fatalf("results differ:\n%v\n%v\n%v", r1, r2, r3)
		}
	})
}

func drawCommand(rt *rapid.T) Command {
	id := rapid.Int32Range(1, 4).Draw(rt, "broker")
	topic := testID(byte(rapid.IntRange(1, 3).Draw(rt, "topic")))
	name := fmt.Sprint("t", topic[0])
	switch rapid.IntRange(0, 9).Draw(rt, "what") {
	case 0:
		return RegisterBroker{ID: id, Host: "h", Port: 1, Incarnation: topic}
	case 1:
		return SetBroker{ID: id, Epoch: 5, Fenced: rapid.Bool().Draw(rt, "fenced")}
	case 2:
		return UnregisterBroker{ID: id}
	case 3:
		return CreateTopic{Name: name, ID: topic, Assignment: [][]int32{{1, 2}, {2, 1}}, ISR: [][]int32{{2}, {2, 1}}}
	case 4:
		return DeleteTopic{Name: name}
	case 5:
		return SetTopicConfigs{Topic: name, Set: map[string]string{"k": name}}
	case 6:
		return AllocateProducerIDs{Broker: id, Count: id}
	case 7:
		return AddPartitions{Topic: name, Total: 3, Assignment: [][]int32{{1}}}
	}
	return ChangePartition{TopicID: topic, Partition: rapid.Int32Range(0, 2).Draw(rt, "partition"), PartitionEpoch: rapid.Int32Range(0, 2).Draw(rt, "epoch"),
		Leader: rapid.Int32Range(-2, 3).Draw(rt, "leader"), ISR: [][]int32{nil, {1}, {1, 2}}[rapid.IntRange(0, 2).Draw(rt, "isr")], NewEpoch: rapid.Bool().Draw(rt, "new epoch")}
}
