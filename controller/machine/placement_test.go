package machine

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weir/raftmeta"
)

func (w *world) create(topics ...raftmeta.CreateTopic) []raftmeta.Result {
	w.t.Helper()
	v, err := w.one(&CreateTopics{Topics: topics})
	if err != nil {
		w.t.Fatal(err)
	}
	return v.([]raftmeta.Result)
}

// Within a topic leaders and replicas are even, and racks are apart; over topics the cluster is even.
func TestPlacement(t *testing.T) {
	for _, c := range []struct {
		name  string
		racks []string
	}{
		{"no racks", []string{"", "", "", "", ""}},
		{"one each", []string{"a", "b", "c"}},
		{"two each", []string{"a", "a", "b", "b", "c", "c"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			racks, ids := map[int32]string{}, []int32{}
			for i, r := range c.racks {
				ids = append(ids, int32(i+1))
				racks[int32(i+1)] = r
			}
			w.join(racks, ids...)
			var topics []raftmeta.CreateTopic
			for i, n := range []int32{1, 1, 1, 2, 7, 12, 30, 3, 3, 1} {
				topics = append(topics, raftmeta.CreateTopic{Name: fmt.Sprint("t", i), Partitions: n, ReplicationFactor: 3})
			}
			for _, r := range w.create(topics...) {
				if r.Err != nil {
					t.Fatal(r.Err)
				}
				leads, holds := map[int32]int{}, map[int32]int{}
				for _, p := range r.Topic.Partitions {
					leads[p.Leader]++
					seen := map[string]bool{}
					for _, id := range p.Replicas {
						holds[id]++
						seen[racks[id]] = true
					}
					if c.racks[0] != "" && len(seen) != 3 {
						t.Errorf("replicas %v lie in racks %v", p.Replicas, seen)
					}
				}
				even(t, r.Topic.Name+" leaders", leads, ids, 1)
				even(t, r.Topic.Name+" replicas", holds, ids, 2)
			}
			even(t, "preferred", w.m.tally.preferred, ids, 1)
			even(t, "replicas", w.m.tally.replicas, ids, 2)
		})
	}
}

func even(t *testing.T, what string, n map[int32]int, ids []int32, most int) {
	t.Helper()
	low, high := 1<<30, 0
	for _, id := range ids {
		low, high = min(low, n[id]), max(high, n[id])
	}
	if high-low > most {
		t.Errorf("%s: %v, want at most %d apart", what, n, most)
	}
}

// Whoever takes over from a dead leader is not always the same.
func TestFollowersOfALeaderDiffer(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3, 4, 5)
	next := map[int32]map[int32]int{}
	for _, p := range w.create(raftmeta.CreateTopic{Name: "a", Partitions: 40, ReplicationFactor: 2})[0].Topic.Partitions {
		if next[p.Leader] == nil {
			next[p.Leader] = map[int32]int{}
		}
		next[p.Leader][p.Replicas[1]]++
	}
	for leader, n := range next {
		if len(n) != 4 {
			t.Errorf("followers of %d: %v", leader, n)
		}
	}
}

func TestPlacementWithFencedBrokers(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3, 4)
	w.register(5, "", 1) // fenced so far
	for _, p := range w.create(raftmeta.CreateTopic{Name: "a", Partitions: 10, ReplicationFactor: 4})[0].Topic.Partitions {
		if slices.Contains(p.Replicas, 5) || len(p.ISR) != 4 {
			t.Fatalf("%+v", p)
		}
	}
	for _, p := range w.create(raftmeta.CreateTopic{Name: "b", Partitions: 10, ReplicationFactor: 5})[0].Topic.Partitions {
		if p.Replicas[4] != 5 || slices.Contains(p.ISR, 5) || len(p.ISR) != 4 {
			t.Fatalf("%+v", p)
		}
	}
	r := w.create(
		raftmeta.CreateTopic{Name: "c", Partitions: 1, ReplicationFactor: 6},
		raftmeta.CreateTopic{Name: "d", ReplicationFactor: 1},
		raftmeta.CreateTopic{Name: "a", Partitions: 1},
		raftmeta.CreateTopic{Name: "?", Partitions: 1},
		raftmeta.CreateTopic{Name: "e", Assignment: [][]int32{{5}}},
		raftmeta.CreateTopic{Name: "f", Assignment: [][]int32{{5, 1}}},
		raftmeta.CreateTopic{Name: "g", Assignment: [][]int32{{1, 9}}},
		raftmeta.CreateTopic{Name: "h", Partitions: 2},
	)
	for i, want := range []error{raftmeta.ErrInvalidReplication, raftmeta.ErrInvalidPartitions, raftmeta.ErrTopicExists, raftmeta.ErrInvalidTopic, ErrInvalidAssignment, nil, ErrInvalidAssignment, nil} {
		if want != nil {
			wantErr(t, r[i].Err, want)
		} else if r[i].Err != nil {
			t.Fatal(r[i].Err)
		}
	}
	w.is("f", 0, 1, 0, 1)
	w.silent[5] = true
	w.kill(1, 2, 3, 4)
	wantErr(t, w.create(raftmeta.CreateTopic{Name: "i", Partitions: 1})[0].Err, raftmeta.ErrInvalidReplication)
}

func TestAddPartitions(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	w.create(raftmeta.CreateTopic{Name: "a", Partitions: 4, ReplicationFactor: 2})
	w.topic("b", []int32{1, 2}, []int32{1, 2})
	v, err := w.one(&AddPartitions{Topics: []raftmeta.AddPartitions{
		{Topic: "a", Total: 12}, {Topic: "b", Total: 2}, {Topic: "c", Total: 2}, {Topic: "b", Total: 3, Assignment: [][]int32{{3, 7}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := v.([]raftmeta.Result)
	wantErr(t, r[1].Err, raftmeta.ErrInvalidPartitions)
	wantErr(t, r[2].Err, raftmeta.ErrUnknownTopic)
	wantErr(t, r[3].Err, ErrInvalidAssignment)
	leads := map[int32]int{}
	for _, p := range w.img.Topic("a").Partitions {
		leads[p.Leader]++
		if len(p.Replicas) != 2 {
			t.Fatalf("%+v", p)
		}
	}
	even(t, "leaders", leads, []int32{1, 2, 3}, 0) // 12 over 3, with the four that were there
}

// Requests about one topic do not see each other's commands, so the second waits for the first.
func TestRequestsAboutOneTopicTakeTurns(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2)
	create := &CreateTopics{Topics: []raftmeta.CreateTopic{{Name: "a", Partitions: 1}}}
	twice := &CreateTopics{Topics: []raftmeta.CreateTopic{{Name: "a", Partitions: 2}}}
	grow := &AddPartitions{Topics: []raftmeta.AddPartitions{{Topic: "a", Total: 3}}}
	drop := &DeleteTopics{Topics: []raftmeta.DeleteTopic{{Name: "a"}}}
	other := &CreateTopics{Topics: []raftmeta.CreateTopic{{Name: "b", Partitions: 1}}}
	answers := w.round(create, twice, grow, drop, other)
	for op, want := range map[Op]error{create: nil, twice: raftmeta.ErrTopicExists, grow: nil, drop: nil, other: nil} {
		if r := answers[op].Value.([]raftmeta.Result); want == nil && r[0].Err != nil {
			t.Fatalf("%T: %v", op, r[0].Err)
		} else if want != nil {
			wantErr(t, r[0].Err, want)
		}
	}
	if w.img.Topic("a") != nil || w.img.Topic("b") == nil {
		t.Fatal("wrong topics are left")
	}
}

func TestAThousandTopicsAreOneEntry(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	entries := w.entries
	for i, r := range w.create(thousand()...) {
		if r.Err != nil {
			t.Fatalf("%d: %v", i, r.Err)
		}
	}
	if w.entries != entries+1 || w.img.NumPartitions() != 3000 {
		t.Fatalf("%d entries, %d partitions", w.entries-entries, w.img.NumPartitions())
	}
}

func thousand() []raftmeta.CreateTopic {
	topics := make([]raftmeta.CreateTopic, 1000)
	for i := range topics {
		topics[i] = raftmeta.CreateTopic{Name: fmt.Sprintf("a-topic-of-some-length-%d", i), Partitions: 3, ReplicationFactor: 3, Configs: map[string]string{"min.insync.replicas": "2"}}
	}
	return topics
}

// What does not fit an entry is in several, and a topic that fits none is refused alone.
func TestLargeRequestsAreCut(t *testing.T) {
	w := newWorld(t)
	w.join(nil, 1, 2, 3)
	value := make([]byte, 60<<10)
	for i := range value {
		value[i] = 'x'
	}
	var topics []raftmeta.CreateTopic
	for i := range 40 {
		topics = append(topics, raftmeta.CreateTopic{Name: fmt.Sprint("t", i), Partitions: 1, Configs: map[string]string{"k": string(value)}})
	}
	huge := raftmeta.CreateTopic{Name: "huge", Partitions: 1, Configs: map[string]string{}}
	for i := range 20 {
		huge.Configs[fmt.Sprint("k", i)] = string(value)
	}
	entries := w.entries
	r := w.create(append(topics, huge)...)
	wantErr(t, r[40].Err, raftmeta.ErrTooLarge)
	for i := range 40 {
		if r[i].Err != nil {
			t.Fatal(r[i].Err)
		}
	}
	if w.entries-entries != 3 {
		t.Fatalf("%d entries", w.entries-entries)
	}
}

// A command never takes more than was reckoned.
func TestBytesOfAChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.Int32Range(0, 1<<31-1), 0, 32)
		c := raftmeta.ChangePartition{
			TopicID: [16]byte{1}, Partition: rapid.Int32().Draw(t, "partition"), PartitionEpoch: rapid.Int32().Draw(t, "epoch"), Leader: rapid.Int32().Draw(t, "leader"),
			NewEpoch: true, ISR: ids.Draw(t, "isr"), Replicas: ids.Draw(t, "replicas"), Adding: ids.Draw(t, "adding"), Removing: ids.Draw(t, "removing"),
		}
		n := rapid.IntRange(1, 3).Draw(t, "times")
		var cmds []raftmeta.Command
		for range n {
			cmds = append(cmds, c)
		}
		if got, most := raftmeta.EntryBytes(cmds...), n*bytesOfChange(&c)+entryHead; got > most {
			t.Fatalf("%d bytes, reckoned with %d", got, most)
		}
	})
}

func BenchmarkCreateThousandTopics(b *testing.B) {
	b.ReportAllocs()
	topics := thousand()
	for b.Loop() {
		m, img := benchCluster(3)
		p := m.Decide([]Request{{Op: &CreateTopics{Topics: topics}}}, start)
		next, _, _ := raftmeta.Apply(img, img.Version+1, p.Entries[0]...)
		if next.NumPartitions() != 3000 {
			b.Fatal(next.NumPartitions())
		}
	}
}
