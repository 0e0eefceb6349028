package cluster

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/weirproc"
)

// TestRollingRestart stops and starts every node in turn while producers and a group work. An idempotent producer sees no error,
// nothing is reordered or doubled, and the group reads everything that was acknowledged.
func TestRollingRestart(t *testing.T) {
	const topic, n = "rolled", 6
	c := start(t, weirproc.ClusterOptions{})
	admin := newAdmin(t, c)
	createTopic(t, admin, topic, n, 3)
	createTopic(t, admin, "metered", 3, 3)
	l := newLoad(t, c, topic, n, 0, 1)
	l.start()
	m := startMeter(t, c, "metered", 3)
	g := startGroup(t, c, topic)
	for round := range 2 {
		for _, b := range c.Nodes {
			awaitInSync(t, c, admin, topic)
			awaitInSync(t, c, admin, "metered")
			l.await(100)
			m.reset(t)
			begun := time.Now()
			if err := b.Stop(); err != nil {
				t.Fatalf("stop: %v", err)
			}
			stopped := time.Since(begun)
			if err := b.Launch(); err != nil {
				t.Fatalf("start: %v", err)
			}
			gaps := m.worst(t)
			t.Logf("round %d: stopped in %v, ready in %v, not writable for at most %v", round, stopped.Round(time.Millisecond),
				b.ReadyTime().Round(time.Millisecond), longest(gaps))
			if longest(gaps) > gapMax {
				t.Errorf("a restart in order stopped writing for %v", longest(gaps))
			}
		}
	}
	l.await(100)
	m.stop(t)
	l.check(admin)
	acked, _ := l.ledger.Acknowledged()
	eventually(t, time.Minute, "the group reads everything", func() error { return g.behind(int64(acked)) })
}

// group counts what a consumer group reads for the first time.
type group struct{ distinct atomic.Int64 }

func startGroup(t *testing.T, c *weirproc.Cluster, topic string) *group {
	t.Helper()
	cl := newClient(t, c, kgo.ConsumerGroup("rolling"), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.AutoCommitInterval(200*time.Millisecond))
	g := &group{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		next := map[int32]int64{} // what was read again after a rebalance does not count
		for ctx.Err() == nil {
			fetches := cl.PollFetches(ctx)
			fetches.EachRecord(func(r *kgo.Record) {
				if r.Offset >= next[r.Partition] {
					g.distinct.Add(r.Offset + 1 - next[r.Partition])
					next[r.Partition] = r.Offset + 1
				}
			})
		}
	}()
	return g
}

func (g *group) behind(acked int64) error {
	if n := g.distinct.Load(); n < acked {
		return fmt.Errorf("%d of %d records so far", n, acked)
	}
	return nil
}
