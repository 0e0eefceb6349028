package broker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Groups commit again and again; __consumer_offsets shrinks to what they committed last, and after a restart that is what they find. What
// was deleted stays deleted.
func TestOffsetsTopicIsCompacted(t *testing.T) {
	const groups, partitions, rounds = 12, 100, 25
	dir := t.TempDir()
	extra := map[string]string{
		"offsets.topic.num.partitions": "1", "offsets.topic.segment.bytes": "1048576", "log.cleaner.backoff.ms": "10",
		"log.cleaner.min.cleanable.ratio": "0.1", "log.writeback.ms": "10",
	}
	r := startNode(t, dir, extra)
	w := dial(t, r)
	createTopic(t, w, "orders", partitions)
	id := func(g int) string { return fmt.Sprintf("group-%d", g) }
	groupsReady(t, w, id(0))
	metadata := strings.Repeat("m", 60)
	for round := range rounds {
		for g := range groups {
			req := kmsg.NewPtrOffsetCommitRequest()
			req.Version, req.Group, req.Generation = 8, id(g), -1
			topic := kmsg.NewOffsetCommitRequestTopic()
			topic.Topic = "orders"
			for p := range int32(partitions) {
				tp := kmsg.NewOffsetCommitRequestTopicPartition()
				tp.Partition, tp.Offset, tp.LeaderEpoch, tp.Metadata = p, int64(round*1000+g), -1, &metadata
				topic.Partitions = append(topic.Partitions, tp)
			}
			req.Topics = append(req.Topics, topic)
			for _, p := range w.do(req).(*kmsg.OffsetCommitResponse).Topics[0].Partitions {
				if p.ErrorCode != 0 {
					t.Fatalf("commit of %s: error %d", id(g), p.ErrorCode)
				}
			}
		}
	}
	del := kmsg.NewPtrDeleteGroupsRequest()
	del.Version, del.Groups = 2, []string{id(groups - 1)}
	if code := w.do(del).(*kmsg.DeleteGroupsResponse).Groups[0].ErrorCode; code != 0 {
		t.Fatalf("delete group: error %d", code)
	}
	log := r.b.parts.ByName(offsetsTopic, 0)
	written := log.End()
	if log.Size() == 0 || written != groups*partitions*rounds+partitions+1 {
		t.Fatalf("%d records in %d bytes, %d were committed", written, log.Size(), groups*partitions*rounds)
	}
	const most = 2 << 20 // what is compacted, and a segment that is not closed yet
	deadline := time.Now().Add(20 * time.Second)
	for log.Size() > most {
		if time.Now().After(deadline) {
			t.Fatalf("%s still has %d bytes, want at most %d", offsetsTopic, log.Size(), most)
		}
		time.Sleep(5 * time.Millisecond)
	}
	check := func(w *wire) {
		t.Helper()
		for g := range groups {
			req := kmsg.NewPtrOffsetFetchRequest()
			req.Version, req.Group = 7, id(g)
			resp := w.do(req).(*kmsg.OffsetFetchResponse)
			if g == groups-1 {
				if len(resp.Topics) != 0 {
					t.Errorf("%s was deleted, but has offsets", id(g))
				}
				continue
			}
			if resp.ErrorCode != 0 || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != partitions {
				t.Fatalf("offsets of %s: error %d, %d topics", id(g), resp.ErrorCode, len(resp.Topics))
			}
			for _, p := range resp.Topics[0].Partitions {
				if want := int64((rounds-1)*1000 + g); p.Offset != want || p.Metadata == nil || *p.Metadata != metadata {
					t.Fatalf("%s, partition %d: offset %d, want %d", id(g), p.Partition, p.Offset, want)
				}
			}
		}
	}
	check(w)
	stopNode(t, r)
	r = startNode(t, dir, extra)
	w = dial(t, r)
	groupsReady(t, w, id(0))
	check(w)
	if log = r.b.parts.ByName(offsetsTopic, 0); log.End() != written {
		t.Errorf("the log ends at %d, %d records were written", log.End(), written)
	}
}
