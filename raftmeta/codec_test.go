package raftmeta

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/hashicorp/raft"
)

// examples has a valid command of every type, each of which changes the image that baseImage makes.
var examples = map[commandKind]Command{
	kindSetClusterID:        SetClusterID{ID: "abcdefghijklmnopqrstuv"},
	kindUnregisterBroker:    UnregisterBroker{ID: 3},
	kindDeleteTopic:         DeleteTopic{Name: "base"},
	kindSetTopicConfigs:     SetTopicConfigs{Topic: "base", Set: map[string]string{"retention.ms": "5"}, Remove: []string{"x"}, Replace: true},
	kindSetConfigs:          SetConfigs{Resource: Resource{ResourceBroker, "1"}, Set: map[string]string{"k": "v"}, Remove: []string{"y", "z"}},
	kindAllocateProducerIDs: AllocateProducerIDs{Broker: 1, Count: 1000},
	kindRegisterBroker:      RegisterBroker{ID: 7, Host: "b7", Port: 9092, Rack: "r", PeerHost: "p7", PeerPort: 9192, Incarnation: testID(7), Fenced: true},
	kindCreateTopic: CreateTopic{Name: "new.topic", ID: testID(9), Assignment: [][]int32{{1}, {1}, {1, 2}}, ISR: [][]int32{{1}, {1}, {2}},
		Configs: map[string]string{"a": "b", "c": ""}, Internal: true},
	kindAddPartitions: AddPartitions{Topic: "base", Total: 4, Assignment: [][]int32{{1}, {1, 2}}, ISR: [][]int32{{1}, {2}}},
	kindSetBroker:     SetBroker{ID: 2, Epoch: 5, Fenced: true, ShuttingDown: true},
	kindSetLeaving:    SetLeaving{ID: 2, Leaving: true},
	kindChangePartition: ChangePartition{TopicID: testID(1), Partition: 1, PartitionEpoch: 0, Leader: 2, NewEpoch: true,
		ISR: []int32{2}, Replicas: []int32{1, 2, 3}, Adding: []int32{3}, Removing: []int32{}},
}

// oldExamples has the values of those command types that are only read, with how they were written.
var oldExamples = map[commandKind]struct {
	cmd  Command
	body func(e *encoder)
}{
	kindRegisterBrokerV1: {RegisterBroker{ID: 7, Host: "b7", Port: 9092, Rack: "r"}, func(e *encoder) {
		e.int(7)
		e.string("b7")
		e.int(9092)
		e.string("r")
	}},
	kindCreateTopicV1: {CreateTopic{Name: "new", ID: testID(9), Assignment: [][]int32{{1}}, Configs: map[string]string{"a": "b"}, Internal: true}, func(e *encoder) {
		e.string("new")
		e.id(testID(9))
		e.lists([][]int32{{1}})
		e.pairs(map[string]string{"a": "b"})
		e.bool(true)
	}},
	kindAddPartitionsV1: {AddPartitions{Topic: "base", Total: 3, Assignment: [][]int32{{1}}}, func(e *encoder) {
		e.string("base")
		e.int(3)
		e.lists([][]int32{{1}})
	}},
}

// oldEntry is an entry with one command as an earlier version wrote it.
func oldEntry(kind commandKind) []byte {
	var body encoder
	oldExamples[kind].body(&body)
	e := encoder{}
	e.byte(entryVersion)
	e.uint(1)
	e.uint(uint64(kind))
	e.uint(uint64(len(body.b)))
	return append(e.b, body.b...)
}

func testID(n byte) [16]byte { return [16]byte{0: n, 6: 0x40, 8: 0x80} }

// baseImage has three brokers, a topic with two partitions, and a configuration.
func baseImage(t testing.TB) *Image {
	t.Helper()
	b := newBuilder(emptyImage())
	b.index = 5
	for _, c := range []Command{
		RegisterBroker{ID: 1, Host: "b1", Port: 1}, RegisterBroker{ID: 2, Host: "b2", Port: 2}, RegisterBroker{ID: 3, Host: "b3", Port: 3},
		CreateTopic{Name: "base", ID: testID(1), Assignment: [][]int32{{1}, {1}}, Configs: map[string]string{"x": "1"}},
		SetConfigs{Resource: Resource{ResourceBroker, ""}, Set: map[string]string{"d": "e"}},
		AllocateProducerIDs{Broker: 1, Count: 10},
	} {
		if r := c.apply(b); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	img, _ := b.finish()
	return img
}

func TestEntryRoundTrip(t *testing.T) {
	var cmds []Command
	for kind, typ := range commandTypes {
		if typ.old {
			continue
		}
		c, ok := examples[kind]
		if !ok {
			t.Fatalf("no example of %s", kind)
		}
		cmds = append(cmds, c)
	}
	got, err := decodeEntry(encodeEntry(cmds))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, cmds) {
		t.Fatalf("got  %#v\nwant %#v", got, cmds)
	}
}

func TestOldEntriesAreRead(t *testing.T) {
	for kind, typ := range commandTypes {
		if !typ.old {
			continue
		}
		old, ok := oldExamples[kind]
		if !ok {
			t.Fatalf("no example of command type %d", kind)
		}
		got, err := decodeEntry(oldEntry(kind))
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], old.cmd) {
			t.Errorf("command type %d: got %#v, %v, want %#v", kind, got, err, old.cmd)
		}
		if again := encodeEntry(got); bytes.Equal(again, oldEntry(kind)) {
			t.Errorf("command type %d is still written", kind)
		}
	}
}

// TestOldImageIsRead: an image as it was written before there were several nodes.
func TestOldImageIsRead(t *testing.T) {
	e := encoder{}
	e.byte(1)
	e.uint(17)
	e.string("cluster")
	e.int(1000)
	e.uint(1)
	e.int(1)
	e.string("h")
	e.int(9092)
	e.string("rack")
	e.int(3)
	e.uint(0)
	e.uint(1)
	e.string("t")
	e.id(testID(4))
	e.bool(false)
	e.pairs(nil)
	e.uint(1)
	for _, v := range []int64{1, 2, 3} {
		e.int(v)
	}
	e.ints([]int32{1})
	e.ints([]int32{1})
	img, err := decodeImage(e.b)
	if err != nil {
		t.Fatal(err)
	}
	want := Partition{Leader: 1, LeaderEpoch: 2, PartitionEpoch: 3, Replicas: []int32{1}, ISR: []int32{1}}
	if p := img.Topic("t").Partitions[0]; !p.equal(&want) || *img.Broker(1) != (Broker{ID: 1, Host: "h", Port: 9092, Rack: "rack", Epoch: 3}) {
		t.Fatalf("got %+v, %+v", p, img.Broker(1))
	}
	again, err := decodeImage(encodeImage(img))
	if err != nil || !again.equal(img) {
		t.Fatalf("written anew: %+v, %v", again, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	entry := encodeEntry([]Command{examples[kindCreateTopic]})
	image := encodeImage(baseImage(t))
	tests := []struct {
		name   string
		decode func() error
		want   error
	}{
		{"entry version", func() error { _, err := decodeEntry([]byte{2, 0}); return err }, ErrVersion},
		{"entry command", func() error { _, err := decodeEntry([]byte{1, 1, 99, 0}); return err }, ErrVersion},
		{"entry command beyond 16 bits", func() error { _, err := decodeEntry([]byte{1, 1, 0x81, 0x80, 0x04, 0}); return err }, ErrVersion},
		{"entry empty", func() error { _, err := decodeEntry(nil); return err }, ErrCorrupt},
		{"entry truncated", func() error { _, err := decodeEntry(entry[:len(entry)-1]); return err }, ErrCorrupt},
		{"entry trailing", func() error { _, err := decodeEntry(append(entry[:len(entry):len(entry)], 0)); return err }, ErrCorrupt},
		{"entry count", func() error { _, err := decodeEntry([]byte{1, 0xff, 0xff, 0xff, 0x7f}); return err }, ErrCorrupt},
		{"image version", func() error { _, err := decodeImage([]byte{9}); return err }, ErrVersion},
		{"image truncated", func() error { _, err := decodeImage(image[:len(image)-1]); return err }, ErrCorrupt},
		{"image trailing", func() error { _, err := decodeImage(append(image[:len(image):len(image)], 0)); return err }, ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.decode(); !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestImageRoundTrip(t *testing.T) {
	img := baseImage(t)
	b := encodeImage(img)
	got, err := decodeImage(b)
	if err != nil {
		t.Fatal(err)
	}
	if !img.equal(got) || got.NumPartitions() != img.NumPartitions() || got.Config(ResourceTopic, "base")["x"] != "1" {
		t.Fatalf("got %+v, want %+v", got, img)
	}
	if again := encodeImage(got); !bytes.Equal(again, b) {
		t.Fatal("the same image has two encodings")
	}
}

func TestSnapshotFileDetectsEveryFlippedByte(t *testing.T) {
	meta := raft.SnapshotMeta{Index: 3, Term: 2, ConfigurationIndex: 1, Configuration: raft.Configuration{Servers: []raft.Server{{ID: "1", Address: "1"}}}}
	b := append(appendSnapshotHead(nil, &meta), "payload"...)
	finishSnapshot(b)
	m, data, err := decodeSnapshot(b)
	if err != nil || string(data) != "payload" || m.Index != 3 || m.Term != 2 || !reflect.DeepEqual(m.Configuration, meta.Configuration) {
		t.Fatalf("got %+v, %q, %v", m, data, err)
	}
	for i := range b {
		b[i] ^= 1
		if _, _, err := decodeSnapshot(b); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			t.Fatalf("flipped byte %d: got %v", i, err)
		}
		b[i] ^= 1
	}
}

func FuzzDecodeEntry(f *testing.F) {
	for kind, typ := range commandTypes {
		if typ.old {
			f.Add(oldEntry(kind))
		} else {
			f.Add(encodeEntry([]Command{examples[kind], examples[kind]}))
		}
	}
	f.Add([]byte{1, 1, 4, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		cmds, err := decodeEntry(b)
		if err != nil {
			return
		}
		again, err := decodeEntry(encodeEntry(cmds))
		if err != nil || fmt.Sprintf("%#v", again) != fmt.Sprintf("%#v", cmds) {
			t.Fatalf("%#v became %#v, %v", cmds, again, err)
		}
		bl := newBuilder(emptyImage()) // whatever was decoded can be applied
		for _, c := range cmds {
			c.apply(bl)
		}
		img, _ := bl.finish()
		if _, err := decodeImage(encodeImage(img)); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzDecodeImage(f *testing.F) {
	f.Add(encodeImage(emptyImage()))
	f.Add(encodeImage(baseImage(f)))
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := decodeImage(b)
		if err != nil {
			return
		}
		again, err := decodeImage(encodeImage(img))
		if err != nil || !again.equal(img) {
			t.Fatalf("%+v became %+v, %v", img, again, err)
		}
	})
}

func FuzzDecodeSnapshot(f *testing.F) {
	meta := raft.SnapshotMeta{Index: 3, Term: 2, Configuration: raft.Configuration{Servers: []raft.Server{{ID: "1", Address: "a"}}}}
	b := append(appendSnapshotHead(nil, &meta), encodeImage(baseImage(f))...)
	finishSnapshot(b)
	f.Add(b)
	f.Add(b[:snapshotFixedBytes])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= snapshotFixedBytes {
			finishSnapshot(b) // or the CRC keeps the fuzzer out
		}
		if m, data, err := decodeSnapshot(b); err == nil && (m.Size != int64(len(data)) || len(data) > len(b)) {
			t.Fatalf("%+v with %d bytes of %d", m, len(data), len(b))
		}
	})
}

func FuzzRecords(f *testing.F) {
	l := logRecord(&raft.Log{Index: 1, Term: 2, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte("ext")})
	f.Add(l.Head, l.Body)
	s := stableRecord("key", []byte("value"))
	f.Add(s.Head, s.Body)
	f.Add(deleteRecord(recordDeletePrefix, 9).Head, []byte{})
	f.Add([]byte{recordStable, 200}, []byte("short"))
	f.Fuzz(func(t *testing.T, head, body []byte) {
		if l, err := parseLog(head, body); err == nil {
			if e := logRecord(l); !bytes.Equal(e.Body, body) || !bytes.Equal(e.Head[1:], head[1:]) {
				t.Fatalf("log record %x %x became %x %x", head, body, e.Head, e.Body)
			}
		}
		if k, v, err := parseStable(head, body); err == nil && k+string(v) != string(body) {
			t.Fatalf("stable record %x %x became %q %x", head, body, k, v)
		}
		if _, err := parseDelete(head, body); err == nil && len(head) != deleteHeadBytes {
			t.Fatalf("delete record %x", head)
		}
	})
}

func FuzzProperties(f *testing.F) {
	f.Add(properties{nodeID: 1, clusterID: "abc"}.String())
	f.Add("# comment\nversion = 1\nnode.id=2147483648\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseProperties(text)
		if err != nil {
			return
		}
		if again, err := parseProperties(p.String()); err != nil || again != p {
			t.Fatalf("%+v became %+v, %v", p, again, err)
		}
	})
}
