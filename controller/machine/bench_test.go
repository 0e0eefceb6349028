package machine

import (
	"testing"
	"time"

	"weir/raftmeta"
)

var start = time.Unix(1000, 0)

// benchCluster is a cluster of so many brokers.
func benchCluster(brokers int32) (*Machine, *raftmeta.Image) {
	img := raftmeta.NewImage()
	for id := int32(1); id <= brokers; id++ {
		r := registration(id, "", 1)
		img, _, _ = raftmeta.Apply(img, img.Version+1, raftmeta.RegisterBroker{ID: id, Host: r.Host, Port: r.Port, PeerHost: r.PeerHost, PeerPort: r.PeerPort, Incarnation: r.Incarnation})
	}
	m := New(Config{NodeID: 1, SessionTimeout: sessionMax})
	m.Observe(img, nil, start)
	m.TakeOffice(start)
	return m, img
}

// BenchmarkFence fences one of three brokers that hold 10,000 partitions.
func BenchmarkFence(b *testing.B) {
	b.ReportAllocs()
	_, img := benchCluster(3)
	assignment := make([][]int32, 10_000)
	for i := range assignment {
		assignment[i] = [][]int32{{1, 2, 3}, {2, 3, 1}, {3, 1, 2}}[i%3]
	}
	img, _, _ = raftmeta.Apply(img, img.Version+1, raftmeta.CreateTopic{Name: "a", ID: [16]byte{1}, Assignment: assignment})
	for b.Loop() {
		m := New(Config{NodeID: 1, SessionTimeout: sessionMax})
		m.Observe(img, nil, start)
		m.TakeOffice(start)
		m.PeerGone(3, start.Add(1))
		p := m.Decide(nil, start.Add(2))
		if len(p.Fenced) != 1 || p.Elections[ElectFailover] != 3333 {
			b.Fatal(p.Fenced, p.Elections)
		}
	}
}
