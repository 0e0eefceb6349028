package raftmeta

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"weir/internal/clock"
)

// machine is an fsm with a subscriber that keeps a second view, built from deltas alone.
type machine struct {
	*fsm
	index  uint64
	fatal  error
	deltas []*Delta
	topics map[[16]byte]*Topic
}

func newMachine(t testing.TB, img *Image) *machine {
	m := &machine{topics: make(map[[16]byte]*Topic), index: img.Version}
	pub := newPublisher()
	pub.image.Store(img)
	m.fsm = newFSM(pub, clock.Real{}, NewMetrics(nil), func(err error) { m.fatal = err })
	pub.subscribe(func(img *Image, d *Delta) {
		if pub.image.Load() != img {
			t.Error("subscriber called before the image is visible")
		}
		m.deltas = append(m.deltas, d)
		for _, x := range d.Deleted {
			if m.topics[x.ID] == nil {
				t.Errorf("deleted topic %s was not there", x.Name)
			}
			delete(m.topics, x.ID)
		}
		for _, x := range d.Created {
			if m.topics[x.ID] != nil {
				t.Errorf("created topic %s was there", x.Name)
			}
			m.topics[x.ID] = x
		}
		for _, x := range d.Changed {
			if m.topics[x.ID] == nil {
				t.Errorf("changed topic %s was not there", x.Name)
			}
			m.topics[x.ID] = x
		}
	})
	return m
}

func (m *machine) entry(cmds ...Command) *raft.Log {
	m.index++
	return &raft.Log{Index: m.index, Term: 1, Type: raft.LogCommand, Data: encodeEntry(cmds)}
}

// apply applies commands as one entry each, in one batch.
func (m *machine) apply(cmds ...Command) []Result {
	var logs []*raft.Log
	for _, c := range cmds {
		logs = append(logs, m.entry(c))
	}
	var results []Result
	for _, r := range m.ApplyBatch(logs) {
		results = append(results, r.([]Result)...)
	}
	return results
}

// TestEveryCommandNotifies is the law that a migration is whole: no command changes the image without waking those who wait for it.
func TestEveryCommandNotifies(t *testing.T) {
	written := 0
	for kind, typ := range commandTypes {
		if typ.old {
			continue // decoded, it is one of the others
		}
		written++
		t.Run(typ.name, func(t *testing.T) {
			c, ok := examples[kind]
			if !ok {
				t.Fatal("no example: add one to examples")
			}
			if c.kind() != kind {
				t.Fatalf("example has type %s", c.kind())
			}
			m := newMachine(t, baseImage(t))
			before := len(m.deltas)
			if r := m.apply(c); r[0].Err != nil {
				t.Fatal(r[0].Err)
			}
			if len(m.deltas) != before+1 || m.deltas[before].Empty() {
				t.Fatalf("subscriber was called %d times, want once with a change", len(m.deltas)-before)
			}
			if d := m.deltas[before]; d.From != 5 || d.To != 6 || m.image.Version != 6 {
				t.Fatalf("versions %d to %d, image %d, want 5 to 6", d.From, d.To, m.image.Version)
			}
		})
	}
	if len(examples) != written {
		t.Fatalf("%d examples of %d command types", len(examples), written)
	}
}

func TestCommandErrors(t *testing.T) {
	many := map[string]string{strings.Repeat("k", configNameBytesMax+1): ""}
	tests := []struct {
		name string
		cmd  Command
		want error
	}{
		{"create existing", CreateTopic{Name: "base", ID: testID(3), Assignment: [][]int32{{1}}}, ErrTopicExists},
		{"create taken id", CreateTopic{Name: "other", ID: testID(1), Assignment: [][]int32{{1}}}, ErrInvalidCommand},
		{"create without id", CreateTopic{Name: "other", Assignment: [][]int32{{1}}}, ErrInvalidCommand},
		{"create bad name", CreateTopic{Name: "a b", ID: testID(3), Assignment: [][]int32{{1}}}, ErrInvalidTopic},
		{"create dots", CreateTopic{Name: "..", ID: testID(3), Assignment: [][]int32{{1}}}, ErrInvalidTopic},
		{"create long name", CreateTopic{Name: strings.Repeat("a", 250), ID: testID(3), Assignment: [][]int32{{1}}}, ErrInvalidTopic},
		{"create without partitions", CreateTopic{Name: "other", ID: testID(3)}, ErrInvalidPartitions},
		{"create without replicas", CreateTopic{Name: "other", ID: testID(3), Assignment: [][]int32{{1}, {}}}, ErrInvalidReplication},
		{"create double replica", CreateTopic{Name: "other", ID: testID(3), Assignment: [][]int32{{1, 1}}}, ErrInvalidReplication},
		{"create config", CreateTopic{Name: "other", ID: testID(3), Assignment: [][]int32{{1}}, Configs: many}, ErrInvalidConfig},
		{"delete unknown", DeleteTopic{Name: "nope"}, ErrUnknownTopic},
		{"delete unknown id", DeleteTopic{ID: testID(8)}, ErrUnknownTopic},
		{"delete nothing", DeleteTopic{}, ErrUnknownTopic},
		{"delete other id", DeleteTopic{Name: "base", ID: testID(8)}, ErrUnknownTopic},
		{"configs of unknown", SetTopicConfigs{Topic: "nope"}, ErrUnknownTopic},
		{"bad configs", SetTopicConfigs{Topic: "base", Set: many}, ErrInvalidConfig},
		{"configs of a topic", SetConfigs{Resource: Resource{ResourceTopic, "base"}}, ErrInvalidCommand},
		{"configs of what", SetConfigs{Resource: Resource{77, "base"}}, ErrInvalidCommand},
		{"add to unknown", AddPartitions{Topic: "nope", Total: 3, Assignment: [][]int32{{1}}}, ErrUnknownTopic},
		{"add none", AddPartitions{Topic: "base", Total: 2}, ErrInvalidPartitions},
		{"add too few", AddPartitions{Topic: "base", Total: 4, Assignment: [][]int32{{1}}}, ErrInvalidPartitions},
		{"broker without host", RegisterBroker{ID: 1, Port: 1}, ErrInvalidBroker},
		{"broker port", RegisterBroker{ID: 1, Host: "h", Port: 65536}, ErrInvalidBroker},
		{"unregister unknown", UnregisterBroker{ID: 9}, ErrInvalidBroker},
		{"unregister in use", UnregisterBroker{ID: 1}, ErrInvalidCommand},
		{"cluster id empty", SetClusterID{}, ErrInvalidCommand},
		{"producer ids", AllocateProducerIDs{Count: -1}, ErrInvalidCommand},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, baseImage(t))
			before := m.image
			if r := m.apply(tt.cmd); !errors.Is(r[0].Err, tt.want) {
				t.Fatalf("got %v, want %v", r[0].Err, tt.want)
			}
			if m.image != before || len(m.deltas) != 1 {
				t.Fatal("a failed command changed the image")
			}
		})
	}
}

func TestNamesThatCollideInMetrics(t *testing.T) {
	m := newMachine(t, emptyImage())
	mk := func(name string, id byte) error {
		return m.apply(CreateTopic{Name: name, ID: testID(id), Assignment: [][]int32{{1}}})[0].Err
	}
	if err := mk("a.b", 1); err != nil {
		t.Fatal(err)
	}
	if err := mk("a_b", 2); !errors.Is(err, ErrInvalidTopic) {
		t.Fatalf("got %v, want ErrInvalidTopic", err)
	}
	m.apply(DeleteTopic{Name: "a.b"})
	if err := mk("a_b", 2); err != nil {
		t.Fatalf("after the other was deleted: %v", err)
	}
}

func TestNetDeltaOfABatch(t *testing.T) {
	m := newMachine(t, baseImage(t))
	results := m.apply(
		CreateTopic{Name: "brief", ID: testID(2), Assignment: [][]int32{{1}}},
		DeleteTopic{Name: "brief"},
		DeleteTopic{ID: testID(1)},
		CreateTopic{Name: "base", ID: testID(3), Assignment: [][]int32{{1}}},
		SetTopicConfigs{Topic: "base", Set: map[string]string{"a": "b"}},
	)
	for i, r := range results {
		if r.Err != nil {
			t.Fatalf("command %d: %v", i, r.Err)
		}
	}
	d := m.deltas[len(m.deltas)-1]
	if len(m.deltas) != 2 || len(d.Created) != 1 || len(d.Deleted) != 1 || len(d.Changed) != 0 {
		t.Fatalf("got %d deltas, last %+v; want one with one created and one deleted", len(m.deltas), d)
	}
	if d.Created[0].ID != testID(3) || d.Created[0].Configs["a"] != "b" || d.Deleted[0].ID != testID(1) {
		t.Fatalf("created %+v, deleted %+v", d.Created[0], d.Deleted[0])
	}
}

func TestProducerIDsAreConsecutive(t *testing.T) {
	m := newMachine(t, emptyImage())
	for i := range int64(3) {
		r := m.apply(AllocateProducerIDs{Broker: 1})[0]
		if r.Err != nil || r.FirstProducerID != i*ProducerIDBlock || r.ProducerIDs != ProducerIDBlock {
			t.Fatalf("block %d: got %+v", i, r)
		}
	}
	if got := m.image.NextProducerID(); got != 3*ProducerIDBlock {
		t.Fatalf("next is %d", got)
	}
}

func TestRegisterBrokerReplaces(t *testing.T) {
	m := newMachine(t, baseImage(t))
	r := m.apply(RegisterBroker{ID: 1, Host: "moved", Port: 9})[0]
	b := m.image.Broker(1)
	if r.Err != nil || b.Host != "moved" || b.Epoch != int64(m.index) || r.BrokerEpoch != b.Epoch || len(m.image.Brokers()) != 3 {
		t.Fatalf("got %+v, %+v", r, b)
	}
}

func TestUnknownCommandStopsTheMachine(t *testing.T) {
	m := newMachine(t, baseImage(t))
	bad := &raft.Log{Index: 6, Type: raft.LogCommand, Data: []byte{1, 1, 99, 0}}
	m.index = 6
	out := m.ApplyBatch([]*raft.Log{bad, m.entry(AllocateProducerIDs{})})
	for i, r := range out {
		if err, ok := r.(error); !ok || !errors.Is(err, ErrVersion) || !errors.Is(err, ErrPoisoned) {
			t.Fatalf("entry %d: got %v, want ErrVersion as poison", i, r)
		}
	}
	if m.fatal == nil || m.image.Version != 5 {
		t.Fatalf("fatal %v, image %d", m.fatal, m.image.Version)
	}
	if _, err := m.Snapshot(); err == nil {
		t.Fatal("a machine that missed an entry gave a snapshot")
	}
}

func TestRestoreTellsSubscribersTheDifference(t *testing.T) {
	src := newMachine(t, baseImage(t))
	src.apply(DeleteTopic{Name: "base"}, CreateTopic{Name: "n", ID: testID(4), Assignment: [][]int32{{1}}},
		SetConfigs{Resource: Resource{ResourceBroker, ""}, Replace: true}, UnregisterBroker{ID: 2})
	dst := newMachine(t, baseImage(t))
	if err := dst.Restore(io.NopCloser(strings.NewReader(string(encodeImage(src.image))))); err != nil {
		t.Fatal(err)
	}
	d := dst.deltas[len(dst.deltas)-1]
	if len(d.Created) != 1 || len(d.Deleted) != 1 || len(d.Changed) != 0 || !slices.Equal(d.RemovedBrokers, []int32{2}) || len(d.Configs) != 1 {
		t.Fatalf("got %+v", d)
	}
	if !dst.image.equal(src.image) {
		t.Fatal("images differ")
	}
}

// TestMachineMatchesModel runs random commands in random batches and compares with a plain map; the view that the subscriber
// built from deltas, and a snapshot's round trip, must agree too. Older images must not change under their readers.
func TestMachineMatchesModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newMachine(t, emptyImage())
		model := make(map[string][16]byte)
		parts := make(map[string]int)
		next := byte(0)
		type seen struct {
			img *Image
			enc string
		}
		var old []seen
		for range rapid.IntRange(1, 8).Draw(rt, "batches") {
			var cmds []Command
			for range rapid.IntRange(1, 6).Draw(rt, "commands") {
				name := fmt.Sprintf("t%d", rapid.IntRange(0, 5).Draw(rt, "topic"))
				switch rapid.IntRange(0, 3).Draw(rt, "what") {
				case 0:
					next++
					cmds = append(cmds, CreateTopic{Name: name, ID: testID(next), Assignment: [][]int32{{1}, {1}}})
					if _, taken := model[name]; !taken {
						model[name], parts[name] = testID(next), 2
					}
				case 1:
					cmds = append(cmds, DeleteTopic{Name: name})
					delete(model, name)
					delete(parts, name)
				case 2:
					cmds = append(cmds, SetTopicConfigs{Topic: name, Set: map[string]string{"k": fmt.Sprint(len(cmds))}})
				case 3:
					total := parts[name] + 1
					cmds = append(cmds, AddPartitions{Topic: name, Total: int32(total), Assignment: [][]int32{{1}}})
					if total > 1 {
						parts[name] = total
					}
				}
			}
			m.apply(cmds...)
			old = append(old, seen{m.image, string(encodeImage(m.image))})
		}
		sum := 0
		var names []string
		for x := range m.image.Topics() {
			names = append(names, x.Name)
			if model[x.Name] != x.ID || parts[x.Name] != len(x.Partitions) || m.image.TopicByID(x.ID) != x || m.image.Topic(x.Name) != x || m.topics[x.ID] != x {
				rt.Fatalf("topic %+v: model has %v with %d partitions, subscriber %+v", x, model[x.Name], parts[x.Name], m.topics[x.ID])
			}
			sum += len(x.Partitions)
		}
		if !slices.Equal(names, slices.Sorted(maps.Keys(model))) || len(m.topics) != len(model) || m.image.NumTopics() != len(model) || m.image.NumPartitions() != sum {
			rt.Fatalf("topics %v, want %v", names, slices.Sorted(maps.Keys(model)))
		}
		for _, s := range old {
			if string(encodeImage(s.img)) != s.enc {
				rt.Fatalf("image %d changed after it was published", s.img.Version)
			}
		}
		back, err := decodeImage(encodeImage(m.image))
		if err != nil || !back.equal(m.image) {
			rt.Fatalf("round trip: %v", err)
		}
	})
}

// TestOneTopicAmongManyIsCheap: a change copies the paths to it, not the map. 10,000 topics of 10 partitions are some 7 MB.
func TestOneTopicAmongManyIsCheap(t *testing.T) {
	m := newMachine(t, manyTopics(t, 10_000, 10))
	entry := m.entry(CreateTopic{Name: "t-one", ID: NewID(), Assignment: [][]int32{{1}}})
	drop := m.entry(DeleteTopic{Name: "t-one"})
	allocs := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			m.ApplyBatch([]*raft.Log{entry})
			m.ApplyBatch([]*raft.Log{drop})
		}
	})
	t.Logf("create and delete: %s %s", allocs.String(), allocs.MemString())
	if got := allocs.AllocedBytesPerOp(); got > 256<<10 {
		t.Fatalf("creating and deleting one topic among 10,000 allocates %d bytes, want at most 256 KiB", got)
	}
}

func manyTopics(t testing.TB, topics, parts int) *Image {
	b := newBuilder(emptyImage())
	b.index = 1
	assignment := make([][]int32, parts)
	for i := range assignment {
		assignment[i] = []int32{1}
	}
	for i := range topics {
		if r := (CreateTopic{Name: fmt.Sprintf("t-%05d", i), ID: NewID(), Assignment: assignment}).apply(b); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	img, _ := b.finish()
	return img
}

// TestOpenedAnewOverThePast: what was published stays so while it is applied again, and what comes next is told as one change.
func TestOpenedAnewOverThePast(t *testing.T) {
	m := newMachine(t, emptyImage())
	topic := func(name string) CreateTopic {
		return CreateTopic{Name: name, ID: NewID(), Assignment: [][]int32{{1}}}
	}
	m.Apply(m.entry(topic("a")))
	old := m.fsm.image
	lost := []*raft.Log{m.entry(topic("b")), m.entry(DeleteTopic{Name: "a"})}
	m.ApplyBatch(lost)
	shown := m.pub.image.Load()
	told := len(m.deltas)
	if err := m.Restore(io.NopCloser(bytes.NewReader(encodeImage(old)))); err != nil {
		t.Fatal(err)
	}
	m.Apply(lost[0])
	if got := m.pub.image.Load(); got != shown || len(m.deltas) != told {
		t.Fatalf("the past is shown: version %d after %d, %d deltas after %d", got.Version, shown.Version, len(m.deltas), told)
	}
	m.ApplyBatch([]*raft.Log{lost[1], m.entry(topic("c"))})
	img := m.pub.image.Load()
	if img.NumTopics() != 2 || len(m.topics) != 2 || img.Topic("a") != nil || img.Topic("c") == nil || len(m.deltas) != told+1 {
		t.Fatalf("%d topics, %d by the deltas, %d deltas", img.NumTopics(), len(m.topics), len(m.deltas))
	}
	m.Apply(m.entry(topic("d")))
	if len(m.topics) != 3 || m.pub.image.Load() != m.fsm.image {
		t.Fatal("it does not go on")
	}
}
