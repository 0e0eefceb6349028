package verify

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// testBatch is a batch as far as SameLogs looks at one.
func testBatch(base, last int64, epoch int32, body byte) []byte {
	b := make([]byte, batchMin+3)
	binary.BigEndian.PutUint64(b, uint64(base))
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-batchHead))
	binary.BigEndian.PutUint32(b[atEpoch:], uint32(epoch))
	binary.BigEndian.PutUint32(b[atLastDelta:], uint32(last-base))
	b[len(b)-1] = body
	return b
}

// testReplica returns two and a half batches at a time, as a broker may.
func testReplica(name string, batches ...[]byte) Replica {
	return Replica{Name: name, Fetch: func(offset int64) (Fetched, error) {
		for i, b := range batches {
			if _, last := offsetsOf(b); last < offset {
				continue
			}
			answer := slices.Concat(batches[i:min(i+2, len(batches))]...)
			if i+2 < len(batches) {
				answer = append(answer, batches[i+2][:30]...)
			}
			return Fetched{Batches: answer}, nil
		}
		return Fetched{}, nil
	}}
}

// TestSameLogsSees: each kind of difference between replicas is found.
func TestSameLogsSees(t *testing.T) {
	good := [][]byte{testBatch(0, 4, 0, 1), testBatch(5, 5, 0, 2), testBatch(6, 9, 2, 3), testBatch(10, 19, 2, 4)}
	with := func(i int, b ...[]byte) [][]byte { return slices.Replace(slices.Clone(good), i, i+1, b...) }
	broken := Replica{Name: "broken", Fetch: func(int64) (Fetched, error) { return Fetched{}, errors.New("NO ANSWER") }}
	cases := map[string]struct {
		replicas []Replica
		from     int64
		want     string
	}{
		"the same":               {replicas: []Replica{testReplica("a", good...), testReplica("b", good...), testReplica("c", good...)}},
		"from inside a batch":    {replicas: []Replica{testReplica("a", good...), testReplica("b", good...)}, from: 2},
		"one ends early":         {replicas: []Replica{testReplica("a", good...), testReplica("b", good...), testReplica("c", good[:3]...)}, want: "MISSING"},
		"the first ends early":   {replicas: []Replica{testReplica("a", good[:3]...), testReplica("b", good...)}, want: "MISSING"},
		"another byte":           {replicas: []Replica{testReplica("a", good...), testReplica("b", with(3, testBatch(10, 19, 2, 5))...)}, want: "DIFFER at offset 10"},
		"another epoch":          {replicas: []Replica{testReplica("a", good...), testReplica("b", with(1, testBatch(5, 5, 1, 2))...)}, want: "DIFFER at offset 5"},
		"other borders":          {replicas: []Replica{testReplica("a", good...), testReplica("b", with(0, testBatch(0, 3, 0, 1), testBatch(4, 4, 0, 1))...)}, want: "DIFFER at offset 0"},
		"a gap in all":           {replicas: []Replica{testReplica("a", with(1)...), testReplica("b", with(1)...)}, want: "GAP"},
		"an overlap in all":      {replicas: []Replica{testReplica("a", with(1, testBatch(4, 5, 0, 9))...), testReplica("b", with(1, testBatch(4, 5, 0, 9))...)}, want: "OVERLAP"},
		"epochs fall in all":     {replicas: []Replica{testReplica("a", with(3, testBatch(10, 19, 1, 4))...), testReplica("b", with(3, testBatch(10, 19, 1, 4))...)}, want: "EPOCH GOES BACK"},
		"one that cannot be had": {replicas: []Replica{testReplica("a", good...), broken}, want: "NO ANSWER"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) { expect(t, SameLogs(c.replicas, c.from, 20), c.want) })
	}
}

// TestSameViewsSees: nodes whose metadata differs are found.
func TestSameViewsSees(t *testing.T) {
	view := func(change func(p *kmsg.MetadataResponseTopicPartition)) []kmsg.MetadataResponseTopicPartition {
		ps := []kmsg.MetadataResponseTopicPartition{{Partition: 0, Leader: 1, LeaderEpoch: 4, ISR: []int32{1, 2}}, {Partition: 1, Leader: 2, LeaderEpoch: 7, ISR: []int32{2, 1}}}
		change(&ps[1])
		return ps
	}
	addrs := []string{"a", "b"}
	for name, c := range map[string]struct {
		change func(p *kmsg.MetadataResponseTopicPartition)
		want   string
	}{
		"same":           {func(*kmsg.MetadataResponseTopicPartition) {}, ""},
		"another order":  {func(p *kmsg.MetadataResponseTopicPartition) { p.ISR = []int32{1, 2} }, ""},
		"another leader": {func(p *kmsg.MetadataResponseTopicPartition) { p.Leader = 1 }, "DISAGREE"},
		"another epoch":  {func(p *kmsg.MetadataResponseTopicPartition) { p.LeaderEpoch = 8 }, "DISAGREE"},
		"another ISR":    {func(p *kmsg.MetadataResponseTopicPartition) { p.ISR = []int32{2} }, "DISAGREE"},
	} {
		t.Run(name, func(t *testing.T) {
			expect(t, sameViews(addrs, [][]kmsg.MetadataResponseTopicPartition{view(func(*kmsg.MetadataResponseTopicPartition) {}), view(c.change)}), c.want)
		})
	}
	expect(t, sameViews(addrs, [][]kmsg.MetadataResponseTopicPartition{view(func(*kmsg.MetadataResponseTopicPartition) {}), nil}), "DISAGREE")
}
