package faults

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/weirproc"
)

const rebalancePartitions = 9

// TestRebalance: three members join a group one after the other while records arrive; each partition has one owner, what
// a member commits when it loses a partition is where the next goes on, and nobody reads a record twice or misses one.
func TestRebalance(t *testing.T) {
	balancers := map[string]kgo.GroupBalancer{"range": kgo.RangeBalancer(), "cooperative-sticky": kgo.CooperativeStickyBalancer()}
	for name, balancer := range balancers {
		t.Run(name, func(t *testing.T) {
			broker := weirproc.Start(t, weirproc.Options{})
			createTopics(t, newAdmin(t, broker.Addr), rebalancePartitions, "shared")
			r := &rebalance{t: t, addr: broker.Addr, balancer: balancer, seen: map[string]int{}, owned: map[int]map[int32]bool{}}
			producing, stopProducing := context.WithCancel(context.Background())
			produced := make(chan int)
			go func() { produced <- produceSteadily(producing, t, broker.Addr) }()
			members := make([]*member, 3)
			for i := range members {
				members[i] = r.join(i)
				eventually(t, time.Minute, fmt.Sprintf("%d members share the partitions evenly", i+1), func() bool { return r.even(i + 1) })
			}
			members[0].leave() // commits and leaves
			eventually(t, time.Minute, "the other two share its partitions", func() bool { return r.ownedBy(1)+r.ownedBy(2) == rebalancePartitions })
			stopProducing()
			sent := <-produced
			eventually(t, time.Minute, "every record is read", func() bool { return r.distinct() == sent })
			members[1].leave()
			members[2].leave()
			r.requireOnce()
			t.Logf("%d records, each read once over 4 rebalances", sent)
		})
	}
}

func produceSteadily(ctx context.Context, t *testing.T, addr string) int {
	cl, err := kgo.NewClient(quick(addr, kgo.DefaultProduceTopic("shared"), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Errorf("producer: %v", err)
		return 0
	}
	defer cl.Close()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			if err := cl.Flush(context.Background()); err != nil {
				t.Errorf("flush: %v", err)
			}
			return n
		case <-tick.C:
			record := &kgo.Record{Partition: int32(n % rebalancePartitions), Value: fmt.Appendf(nil, "%d", n)}
			cl.Produce(context.Background(), record, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Errorf("produce: %v", err)
				}
			})
		}
	}
}

type rebalance struct {
	t        *testing.T
	addr     string
	balancer kgo.GroupBalancer

	mu    sync.Mutex
	seen  map[string]int // how often each record was read
	owned map[int]map[int32]bool
}

type member struct {
	leave func()
}

func (r *rebalance) join(index int) *member {
	r.mu.Lock()
	r.owned[index] = map[int32]bool{}
	r.mu.Unlock()
	note := func(have bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(ctx context.Context, cl *kgo.Client, moved map[string][]int32) {
			if !have {
				if err := cl.CommitMarkedOffsets(ctx); err != nil && ctx.Err() == nil {
					r.t.Errorf("member %d: commit of revoked partitions: %v", index, err)
				}
			}
			r.move(index, moved["shared"], have)
		}
	}
	cl, err := kgo.NewClient(quick(r.addr, kgo.ConsumerGroup("sharers"), kgo.ConsumeTopics("shared"), kgo.Balancers(r.balancer),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitMarks(), kgo.BlockRebalanceOnPoll(),
		kgo.HeartbeatInterval(200*time.Millisecond), kgo.SessionTimeout(10*time.Second),
		kgo.OnPartitionsAssigned(note(true)), kgo.OnPartitionsRevoked(note(false)), kgo.OnPartitionsLost(note(false)))...)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.poll(ctx, cl)
	}()
	leave := sync.OnceFunc(func() {
		cancel()
		<-done
		cl.CloseAllowingRebalance()
	})
	r.t.Cleanup(leave)
	return &member{leave: leave}
}

func (r *rebalance) poll(ctx context.Context, cl *kgo.Client) {
	for ctx.Err() == nil {
		fetches := cl.PollRecords(ctx, 100)
		records := fetches.Records()
		r.mu.Lock()
		for _, record := range records {
			r.seen[string(record.Value)]++
		}
		r.mu.Unlock()
		cl.MarkCommitRecords(records...)
		cl.AllowRebalance()
	}
}

// move notes that a member got or lost partitions, and that no partition has two owners.
func (r *rebalance) move(index int, partitions []int32, have bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range partitions {
		if !have {
			delete(r.owned[index], p)
			continue
		}
		for other, owned := range r.owned {
			if other != index && owned[p] {
				r.t.Errorf("partition %d was given to member %d while member %d had it", p, index, other)
			}
		}
		r.owned[index][p] = true
	}
}

// even reports whether n members own all partitions, none more than its share.
func (r *rebalance) even(n int) bool {
	total, most := 0, 0
	for i := range n {
		owned := r.ownedBy(i)
		total, most = total+owned, max(most, owned)
	}
	return total == rebalancePartitions && most <= (rebalancePartitions+n-1)/n
}

func (r *rebalance) ownedBy(index int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.owned[index])
}

func (r *rebalance) distinct() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

func (r *rebalance) requireOnce() {
	r.mu.Lock()
	defer r.mu.Unlock()
	twice := 0
	for _, n := range r.seen {
		if n > 1 {
			twice++
		}
	}
	if twice > 0 {
		r.t.Errorf("%d of %d records were read more than once", twice, len(r.seen))
	}
}
