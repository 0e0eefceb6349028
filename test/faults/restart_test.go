package faults

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/weirproc"
)

// TestRestart: topics with their ids and configurations, offsets, data and groups outlive a clean stop and a kill.
func TestRestart(t *testing.T) {
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			broker := weirproc.Start(t, weirproc.Options{})
			admin := newAdmin(t, broker.Addr)
			prepareRestart(t, broker, admin)
			before := describeAll(t, broker, admin)
			for range 2 { // the second start finds what the first recovery left
				if clean {
					if err := broker.Stop(); err != nil && !weirproc.Reference() {
						t.Fatalf("stop: %v", err)
					}
				} else {
					broker.Kill()
				}
				if err := broker.Launch(); err != nil {
					t.Fatalf("restart: %v", err)
				}
				if after := describeAll(t, broker, newAdmin(t, broker.Addr)); after != before {
					t.Fatalf("before the restart:\n%s\nafter:\n%s", before, after)
				}
			}
		})
	}
}

func prepareRestart(t *testing.T, broker *weirproc.Broker, admin *kadm.Client) {
	t.Helper()
	createTopics(t, admin, 4, "kept")
	retention := "123456789"
	resp, err := admin.CreateTopics(limit(t, time.Minute), 2, 1, map[string]*string{"retention.ms": &retention}, "configured")
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		t.Fatalf("create topic: %v", err)
	}
	createTopics(t, admin, 1, "deleted")
	cl := newClient(t, broker.Addr, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for i := range 1000 {
		for _, topic := range []string{"kept", "configured"} {
			cl.Produce(context.Background(), &kgo.Record{
				Topic: topic, Partition: int32(i % 2), Key: fmt.Appendf(nil, "key-%d", i), Value: fmt.Appendf(nil, "value-%d", i),
			}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Errorf("produce: %v", err)
				}
			})
		}
	}
	if err := cl.Flush(limit(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	deleteTopic(t, admin, "deleted")
	consumeSome(t, broker, "readers", "kept", 400)
}

// consumeSome reads at least n records as a member of a group, commits what was read and leaves.
func consumeSome(t *testing.T, broker *weirproc.Broker, group, topic string, n int) {
	t.Helper()
	cl, err := kgo.NewClient(quick(broker.Addr, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx := limit(t, time.Minute)
	for got := 0; got < n; {
		fetches := cl.PollRecords(ctx, 100)
		if err := fetches.Err(); err != nil {
			t.Fatalf("consume in group %s: %v", group, err)
		}
		got += fetches.NumRecords()
	}
	if err := cl.CommitUncommittedOffsets(ctx); err != nil {
		t.Fatalf("commit in group %s: %v", group, err)
	}
}

// describeAll is everything a client can see, as text.
func describeAll(t *testing.T, broker *weirproc.Broker, admin *kadm.Client) string {
	t.Helper()
	ctx := limit(t, time.Minute)
	text := ""
	topics, err := admin.ListTopics(ctx)
	if err != nil {
		t.Fatalf("list topics: %v", err)
	}
	for _, topic := range topics.Sorted() {
		text += fmt.Sprintf("topic %s id %s, %d partitions, error %v\n", topic.Topic, topic.ID, len(topic.Partitions), topic.Err)
		ends := endOffsets(t, admin, topic.Topic)
		for p := range int32(len(topic.Partitions)) {
			text += fmt.Sprintf("  %d: end %d, leader epoch known %v\n", p, ends[p], topic.Partitions[p].LeaderEpoch >= 0)
			each(t, broker.Addr, topic.Topic, p, 0, ends[p], func(r *kgo.Record) error {
				if want := fmt.Sprintf("value-%s", r.Key[len("key-"):]); string(r.Value) != want {
					return fmt.Errorf("value %q of key %q", r.Value, r.Key)
				}
				return nil
			})
		}
	}
	configs, err := admin.DescribeTopicConfigs(ctx, "configured")
	if err != nil {
		t.Fatalf("describe configs: %v", err)
	}
	for _, c := range configs[0].Configs {
		if c.Key == "retention.ms" || c.Key == "segment.bytes" {
			text += fmt.Sprintf("config %s=%s\n", c.Key, c.MaybeValue())
		}
	}
	offsets, err := admin.FetchOffsets(ctx, "readers")
	if err != nil {
		t.Fatalf("fetch offsets: %v", err)
	}
	for _, o := range offsets.Sorted() {
		text += fmt.Sprintf("group offset %s-%d: %d\n", o.Topic, o.Partition, o.At)
	}
	groups, err := admin.DescribeGroups(ctx, "readers")
	if err != nil {
		t.Fatalf("describe groups: %v", err)
	}
	for _, g := range groups.Sorted() {
		text += fmt.Sprintf("group %s: %s, %d members, error %v\n", g.Group, g.State, len(g.Members), g.Err)
	}
	return text
}
