package clients

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/weirproc"
)

// adminClient deletes records and looks at log directories.
type adminClient interface {
	name() string
	// deleteBefore returns the low watermark, or the name of the error.
	deleteBefore(ctx context.Context, addr, topic string, partition int32, offset int64) (string, error)
	// sizes returns the sizes of a topic's partitions.
	sizes(ctx context.Context, addr, topic string) (map[int32]int64, error)
}

func (franz) deleteBefore(ctx context.Context, addr, topic string, partition int32, offset int64) (string, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return "", err
	}
	defer cl.Close()
	at := kadm.Offsets{}
	at.AddOffset(topic, partition, offset, -1)
	deleted, err := kadm.NewClient(cl).DeleteRecords(ctx, at)
	if err != nil {
		return "", err
	}
	d, _ := deleted.Lookup(topic, partition)
	if known, ok := errors.AsType[*kerr.Error](d.Err); ok {
		return map[string]string{"OFFSET_OUT_OF_RANGE": "OffsetOutOfRangeException", "POLICY_VIOLATION": "PolicyViolationException"}[known.Message], nil
	}
	return fmt.Sprint(d.LowWatermark), d.Err
}

func (franz) sizes(ctx context.Context, addr, topic string) (map[int32]int64, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	dirs, err := kadm.NewClient(cl).DescribeAllLogDirs(ctx, nil)
	sizes := map[int32]int64{}
	for _, d := range dirs.Sorted() {
		for _, p := range d.Topics[topic] {
			sizes[p.Partition] = p.Size
		}
	}
	return sizes, err
}

func (j java) deleteBefore(ctx context.Context, addr, topic string, partition int32, offset int64) (string, error) {
	out, err := j.command(ctx, "delete-records", "topic="+topic, fmt.Sprintf("partition=%d", partition), fmt.Sprintf("before=%d", offset),
		"bootstrap.servers="+addr).Output()
	_, answer, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	return answer, err
}

func (j java) sizes(ctx context.Context, addr, topic string) (map[int32]int64, error) {
	out, err := j.command(ctx, "log-dirs", "topic="+topic, "bootstrap.servers="+addr).Output()
	if err != nil {
		return nil, err
	}
	sizes := map[int32]int64{}
	for line := range strings.Lines(string(out)) {
		var dir string
		var total, usable, size, lag int64
		var partition int32
		if _, err := fmt.Sscan(line, &dir, &total, &usable, &partition, &size, &lag); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		if total < usable || usable <= 0 || lag != 0 {
			return nil, fmt.Errorf("%q: volume of %d bytes with %d usable, lag %d", line, total, usable, lag)
		}
		sizes[partition] = size
	}
	return sizes, nil
}

// TestAdminClients deletes records and reads sizes with the clients that can. Deletions that were acknowledged stay after a kill of the broker; Apache Kafka
// may forget them, so the reference is not killed.
func TestAdminClients(t *testing.T) {
	broker := weirproc.Start(t, weirproc.Options{})
	admin := newAdmin(t, broker.Addr)
	createTopic(t, admin, "t", 2)
	createRuleTopic(t, admin, "compacted", map[string]string{"cleanup.policy": "compact"})
	produce := func() {
		cl, err := kgo.NewClient(kgo.SeedBrokers(broker.Addr), kgo.DefaultProduceTopic("t"), kgo.RecordPartitioner(kgo.ManualPartitioner()),
			kgo.ProducerBatchCompression(kgo.NoCompression()))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		var list []*kgo.Record
		for i := range 20 {
			list = append(list, &kgo.Record{Partition: int32(i % 2), Value: make([]byte, 100)})
		}
		if err := cl.ProduceSync(t.Context(), list...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	starts := func() string {
		listed, err := admin.ListStartOffsets(t.Context(), "t")
		if err != nil {
			t.Fatal(err)
		}
		a, _ := listed.Lookup("t", 0)
		b, _ := listed.Lookup("t", 1)
		return fmt.Sprintf("%d %d", a.Offset, b.Offset)
	}
	end := int64(0) // of both partitions
	for _, each := range clients(t) {
		c, ok := each.(adminClient)
		if !ok {
			continue // kcat has no such commands
		}
		produce()
		end += 10
		for _, step := range []struct {
			topic     string
			partition int32
			before    int64
			want      string
		}{
			{"t", 0, end - 3, fmt.Sprint(end - 3)},
			{"t", 0, end - 5, fmt.Sprint(end - 3)},
			{"t", 0, end + 1, "OffsetOutOfRangeException"},
			{"t", 1, -1, fmt.Sprint(end)},
			{"compacted", 0, -1, "PolicyViolationException"},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			got, err := c.deleteBefore(ctx, broker.Addr, step.topic, step.partition, step.before)
			cancel()
			if err != nil || got != step.want {
				t.Fatalf("%s: delete %s-%d before %d: %s, %v; want %s", c.name(), step.topic, step.partition, step.before, got, err, step.want)
			}
		}
		if !weirproc.Reference() {
			broker.Kill()
			if err := broker.Launch(); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := starts(), fmt.Sprintf("%d %d", end-3, end); got != want {
			t.Errorf("%s: log starts %s, want %s", c.name(), got, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		sizes, err := c.sizes(ctx, broker.Addr, "t")
		cancel()
		if err != nil || len(sizes) != 2 || sizes[0] < 1000 {
			t.Errorf("%s: sizes %v, %v; want two partitions, the first of more than ten records of 100 bytes", c.name(), sizes, err)
		}
	}
}
