package cluster

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/verify"
	"weir/test/internal/weirproc"
)

// meter measures how long each partition of a topic cannot be written to: a record at a time, acks=all.
type meter struct {
	cancel context.CancelFunc
	wait   sync.WaitGroup
	mu     struct {
		sync.Mutex
		last  map[int32]time.Time // acknowledgement
		worst map[int32]time.Duration
		err   error
	}
}

func startMeter(t *testing.T, c *weirproc.Cluster, topic string, partitions int32) *meter {
	t.Helper()
	m := &meter{}
	m.mu.last, m.mu.worst = map[int32]time.Time{}, map[int32]time.Duration{}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	for p := range partitions {
		cl, err := kgo.NewClient(verify.Quick(c.Addrs(), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.DialTimeout(time.Second))...)
		if err != nil {
			t.Fatal(err)
		}
		// A record that nobody takes ends with the meter, so that a test that failed ends, too.
		context.AfterFunc(ctx, cl.Close)
		m.wait.Go(func() {
			for ctx.Err() == nil {
				// Not the meter's context: a record that is given up would be a gap of the producer's own making.
				err := cl.ProduceSync(context.Background(), &kgo.Record{Topic: topic, Partition: p, Value: []byte("beat")}).FirstErr()
				if ctx.Err() == nil {
					m.acked(p, err)
				}
			}
		})
	}
	t.Cleanup(func() { m.stop(t) })
	return m
}

func (m *meter) acked(p int32, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil && m.mu.err == nil {
		m.mu.err = fmt.Errorf("partition %d: %w", p, err)
	}
	now := time.Now()
	if last, ok := m.mu.last[p]; ok {
		m.mu.worst[p] = max(m.mu.worst[p], now.Sub(last))
	}
	m.mu.last[p] = now
}

// reset begins a new measurement. It waits until every partition was written to since, so that no old gap is counted.
func (m *meter) reset(t *testing.T) {
	t.Helper()
	m.awaitBeat(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.worst = map[int32]time.Duration{}
}

// awaitBeat waits until every partition was written to after now.
func (m *meter) awaitBeat(t *testing.T) {
	t.Helper()
	now := time.Now()
	eventually(t, time.Minute, "every partition is written to", func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.mu.last) == 0 {
			return fmt.Errorf("none was, yet")
		}
		for p, last := range m.mu.last {
			if !last.After(now) {
				return fmt.Errorf("partition %d was last %v ago", p, time.Since(last))
			}
		}
		return m.mu.err
	})
}

// worst is the longest gap per partition since reset, after every partition was written to again.
func (m *meter) worst(t *testing.T) map[int32]time.Duration {
	t.Helper()
	m.awaitBeat(t)
	m.awaitBeat(t) // the one before may have been under way when it was called
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[int32]time.Duration{}
	for p, d := range m.mu.worst {
		out[p] = d.Round(time.Millisecond)
	}
	return out
}

func (m *meter) stop(t *testing.T) {
	t.Helper()
	m.cancel()
	m.wait.Wait()
}

func longest(gaps map[int32]time.Duration) time.Duration {
	var d time.Duration
	for _, g := range gaps {
		d = max(d, g)
	}
	return d
}
