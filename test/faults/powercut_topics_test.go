package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const cutTopicNames = 3 // of each client

// cutTopicOps creates and deletes topics under few names, writes a little into them, and remembers what was acknowledged.
type cutTopicOps struct {
	admin            *kadm.Client
	addr             string
	rng              *rand.Rand
	topics           []*cutTopic
	incarnation      int
	created, deleted atomic.Int64 // acknowledged
}

// cutTopic is what is known of a name.
type cutTopic struct {
	name string
	// is what the topic's configuration tells of it: which of its incarnations it is and how many partitions it has; "" for none.
	is   register
	sent int           // records tried on the incarnation settled
	held map[int64]int // which of them were acknowledged, by offset
}

func newCutTopicOps(index int, addr string, seed uint64) *cutTopicOps {
	o := &cutTopicOps{addr: addr, rng: rand.New(rand.NewPCG(seed, 0))}
	for i := range cutTopicNames {
		name := fmt.Sprintf("comes-and-goes-%d-%d", index, i)
		o.topics = append(o.topics, &cutTopic{name: name, is: register{name: "topic " + name}})
	}
	return o
}

// start works until stop.
func (o *cutTopicOps) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			topic := o.topics[o.rng.IntN(len(o.topics))]
			switch {
			case topic.is.settled == "":
				o.create(ctx, topic)
			case o.rng.IntN(2) == 0:
				o.produce(ctx, topic)
			default:
				o.remove(ctx, topic)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// describe names an incarnation. Its number is also its retention time, which is where it is read from again.
func describe(incarnation string, partitions int) string {
	return fmt.Sprintf("incarnation %s with %d partitions", incarnation, partitions)
}

const incarnationBase = 1_000_000_000 // ms, so that retention never comes into it

func (o *cutTopicOps) create(ctx context.Context, t *cutTopic) {
	o.incarnation++
	retention := strconv.Itoa(incarnationBase + o.incarnation)
	partitions := 1 + o.rng.IntN(3)
	t.is.begin(describe(retention, partitions))
	resp, err := o.admin.CreateTopic(ctx, int32(partitions), 1, map[string]*string{"retention.ms": &retention}, t.name)
	if err != nil || resp.Err != nil {
		return
	}
	t.is.settle(describe(retention, partitions))
	t.sent, t.held = 0, map[int64]int{}
	o.created.Add(1)
}

func (o *cutTopicOps) remove(ctx context.Context, t *cutTopic) {
	t.is.begin("")
	resp, err := o.admin.DeleteTopic(ctx, t.name)
	if err != nil || resp.Err != nil {
		return
	}
	t.is.settle("")
	o.deleted.Add(1)
}

// produce sends records to the topic's first partition, one after the other, each once.
func (o *cutTopicOps) produce(ctx context.Context, t *cutTopic) {
	if len(t.is.pending) > 0 {
		return // a deletion is under way, or was
	}
	// A client that knows an earlier topic of the name would ask for that one.
	cl, err := kgo.NewClient(quick(o.addr, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableIdempotentWrite(), kgo.RecordRetries(0))...)
	if err != nil {
		return
	}
	defer cl.Close()
	for range 3 {
		n := t.sent
		t.sent++
		results := cl.ProduceSync(ctx, &kgo.Record{Topic: t.name, Value: []byte(t.value(n))})
		if results.FirstErr() != nil {
			return
		}
		t.held[results[0].Record.Offset] = n
	}
}

func (t *cutTopic) value(n int) string { return fmt.Sprintf("%s, record %d", t.is.settled, n) }

func (o *cutTopicOps) verify(ctx context.Context) error {
	for _, t := range o.topics {
		is, err := o.look(ctx, t.name)
		if err != nil {
			return err
		}
		was := t.is.settled
		if err := t.is.see(is); err != nil {
			return err
		}
		if is != was {
			t.sent, t.held = 0, map[int64]int{}
		}
		if is != "" {
			if err := o.read(ctx, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// look describes the topic of a name as it is now.
func (o *cutTopicOps) look(ctx context.Context, name string) (string, error) {
	listed, err := o.admin.ListTopics(ctx)
	if err != nil {
		return "", fmt.Errorf("list topics: %w", err)
	}
	if !listed.Has(name) {
		return "", nil
	}
	partitions := 0
	for _, p := range listed[name].Partitions {
		if p.Err != nil || p.Leader < 0 {
			return "", fmt.Errorf("topic %s, partition %d: leader %d, %v", name, p.Partition, p.Leader, p.Err)
		}
		partitions++
	}
	configs, err := o.admin.DescribeTopicConfigs(ctx, name)
	if err == nil {
		err = configs[0].Err
	}
	if err != nil {
		return "", fmt.Errorf("configuration of %s: %w", name, err)
	}
	for _, c := range configs[0].Configs {
		if c.Key == "retention.ms" {
			return describe(c.MaybeValue(), partitions), nil
		}
	}
	return "", fmt.Errorf("configuration of %s lacks retention.ms", name)
}

// read checks that the topic's first partition has the records acknowledged, where they were acknowledged, none twice, and
// nothing of an earlier topic of its name.
func (o *cutTopicOps) read(ctx context.Context, t *cutTopic) error {
	ends, err := o.admin.ListEndOffsets(ctx, t.name)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("end offsets of %s: %w", t.name, err)
	}
	end, _ := ends.Lookup(t.name, 0)
	cl, err := kgo.NewClient(quick(o.addr, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{t.name: {0: kgo.NewOffset().At(0)}}))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	there, last := map[int64]int{}, -1
	for next := int64(0); next < end.Offset; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read %s at offset %d of %d: %w", t.name, next, end.Offset, err)
		}
		for iter := fetches.RecordIter(); !iter.Done(); next++ {
			r := iter.Next()
			n := last + 1
			for n < t.sent && string(r.Value) != t.value(n) {
				n++
			}
			if n == t.sent || r.Offset != next {
				return fmt.Errorf("DAMAGED: topic %s, offset %d where %d is next: %q, sent were %d records such as %q, the last seen is %d",
					t.name, r.Offset, next, r.Value, t.sent, t.value(0), last)
			}
			there[r.Offset], last = n, n
		}
	}
	for offset, n := range t.held {
		if got, ok := there[offset]; !ok || got != n {
			return fmt.Errorf("LOST: topic %s: record %d was acknowledged at offset %d; there is record %d (%v), the end is %d", t.name, n, offset, got, ok, end.Offset)
		}
	}
	return nil
}
