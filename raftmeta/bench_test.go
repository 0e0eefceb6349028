package raftmeta

import (
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
)

// fenceOf is what a controller proposes when a broker of a cluster with so many partitions of factor 3 is gone: each loses it from its ISR, a third
// of them their leader.
func fenceOf(img *Image) []Command {
	cmds := []Command{SetBroker{ID: 1, Epoch: img.Broker(1).Epoch, Fenced: true}}
	for t := range img.Topics() {
		for i := range t.Partitions {
			c := ChangePartition{TopicID: t.ID, Partition: int32(i), PartitionEpoch: t.Partitions[i].PartitionEpoch, Leader: LeaderSame, ISR: []int32{2, 3}}
			if t.Partitions[i].Leader == 1 {
				c.Leader = 2
			}
			cmds = append(cmds, c)
		}
	}
	return cmds
}

func replicated(t testing.TB, topics, parts int) *Image {
	b := newBuilder(emptyImage())
	b.index = 1
	for id := range int32(3) {
		RegisterBroker{ID: id + 1, Host: "h", Port: 1}.apply(b)
	}
	assignment := make([][]int32, parts)
	for i := range assignment {
		assignment[i] = [][]int32{{1, 2, 3}, {2, 3, 1}, {3, 1, 2}}[i%3]
	}
	for i := range topics {
		if r := (CreateTopic{Name: fmt.Sprintf("t-%05d", i), ID: NewID(), Assignment: assignment}).apply(b); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	img, _ := b.finish()
	return img
}

// BenchmarkFence applies 10,000 changes of partitions in one entry: of one large topic, and of many small ones.
func BenchmarkFence(b *testing.B) {
	for _, shape := range [][2]int{{1, 10_000}, {3_333, 3}} {
		b.Run(fmt.Sprintf("%d topics of %d", shape[0], shape[1]), func(b *testing.B) {
			img := replicated(b, shape[0], shape[1])
			m := newMachine(b, img)
			data := encodeEntry(fenceOf(img))
			b.ReportAllocs()
			for b.Loop() {
				m.image = img
				m.ApplyBatch([]*raft.Log{{Index: 9, Type: raft.LogCommand, Data: data}})
			}
			b.ReportMetric(float64(len(data)), "entry-bytes")
		})
	}
}

// TestFenceOfManyPartitions: it fits an entry, and copies a topic's partitions once, not once a change.
func TestFenceOfManyPartitions(t *testing.T) {
	for _, shape := range [][2]int{{1, 10_000}, {3_333, 3}} {
		img := replicated(t, shape[0], shape[1])
		m := newMachine(t, img)
		cmds := fenceOf(img)
		data := encodeEntry(cmds)
		t.Logf("%d topics of %d: %d commands are %d bytes", shape[0], shape[1], len(cmds), len(data))
		if len(data) > entryBytesMax/2 {
			t.Errorf("%d commands are %d bytes, want at most %d", len(cmds), len(data), entryBytesMax/2)
		}
		m.index = 8
		allocs := testing.AllocsPerRun(1, func() {
			m.image = img
			for _, r := range m.ApplyBatch([]*raft.Log{{Index: 9, Type: raft.LogCommand, Data: data}})[0].([]Result) {
				if r.Err != nil {
					t.Fatal(r.Err)
				}
			}
		})
		each := 6.0 // 4 of one large topic, 10 where each topic is copied for three changes
		if shape[0] > 1 {
			each = 12
		}
		if most := each*float64(len(cmds)) + 1000; allocs > most {
			t.Errorf("%v allocations, want at most %v", allocs, most)
		}
		for topic := range m.image.Topics() {
			for i, p := range topic.Partitions {
				if p.Leader == 1 || len(p.ISR) != 2 || p.PartitionEpoch != 1 || p.LeaderEpoch != int32(b2i(i%3 == 0)) {
					t.Fatalf("%s-%d: %+v", topic.Name, i, p)
				}
			}
		}
		for topic := range img.Topics() {
			if topic.Partitions[0].Leader != 1 {
				t.Fatal("the image before it has changed")
			}
		}
		if d := m.deltas[len(m.deltas)-1]; len(d.Changed) != shape[0] || len(d.Brokers) != 1 {
			t.Errorf("delta of %d topics and %d brokers", len(d.Changed), len(d.Brokers))
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
