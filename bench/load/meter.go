// Package load generates load on a Kafka-compatible broker and measures what was acknowledged or received, and when.
//
// A load runs from before the measured window until after it, so that the window sees neither its start nor its end;
// only what completes within the window counts.
package load

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latencies are recorded in microseconds, up to a minute, to three digits.
const (
	latencyMaxUs  = 60_000_000
	latencyDigits = 3
)

// Meter counts what a load completes. Count and Record are for any number of goroutines; each should have its own Shard.
type Meter struct {
	open     atomic.Bool
	messages atomic.Int64
	bytes    atomic.Int64
	total    atomic.Int64 // messages ever, for the progress line

	mu     sync.Mutex
	shards []*Shard
	began  time.Time
	ended  time.Time
	apart  *Meter // of the producers, where the load's own figures are those of consumers
}

// Shard is one goroutine's part of a meter.
type Shard struct {
	meter *Meter
	mu    sync.Mutex
	hist  *hdrhistogram.Histogram
	acked []Acknowledged // by partition
}

// Acknowledged is what a server has promised to keep of a partition, since the load began and not only within the window.
type Acknowledged struct {
	Messages int64
	Next     int64 // after the highest offset that was told
}

// Shard adds a part.
func (m *Meter) Shard() *Shard {
	s := &Shard{meter: m, hist: newHistogram()}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shards = append(m.shards, s)
	return s
}

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, latencyMaxUs, latencyDigits) }

// Begin opens the window.
func (m *Meter) Begin() {
	m.mu.Lock()
	m.began = time.Now()
	m.mu.Unlock()
	m.open.Store(true)
}

// End closes the window.
func (m *Meter) End() {
	m.open.Store(false)
	m.mu.Lock()
	m.ended = time.Now()
	m.mu.Unlock()
}

// Total is how many messages were completed so far, within the window or not.
func (m *Meter) Total() int64 { return m.total.Load() }

// Count notes messages without a latency.
func (s *Shard) Count(messages, bytes int64) {
	s.meter.total.Add(messages)
	if s.meter.open.Load() {
		s.meter.messages.Add(messages)
		s.meter.bytes.Add(bytes)
	}
}

// Record notes messages that completed together after a time.
func (s *Shard) Record(latency time.Duration, messages, bytes int64) {
	s.Count(messages, bytes)
	s.Latency(latency)
}

// Acked notes messages that were acknowledged together, the last of them with an offset.
func (s *Shard) Acked(latency time.Duration, partition int32, last, messages, bytes int64) {
	s.Record(latency, messages, bytes)
	s.mu.Lock()
	defer s.mu.Unlock()
	for int(partition) >= len(s.acked) {
		s.acked = append(s.acked, Acknowledged{})
	}
	a := &s.acked[partition]
	a.Messages, a.Next = a.Messages+messages, max(a.Next, last+1)
}

// Producers is the meter for the producing half of a load that measures consumers.
func (m *Meter) Producers() *Meter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.apart == nil {
		m.apart = &Meter{}
	}
	return m.apart
}

// Acknowledged sums up what producers were told, by partition. To be called when the load has ended.
func (m *Meter) Acknowledged(partitions int32) []Acknowledged {
	m.mu.Lock()
	shards, apart := m.shards, m.apart
	m.mu.Unlock()
	sum := make([]Acknowledged, partitions)
	if apart != nil {
		sum = apart.Acknowledged(partitions)
	}
	for _, s := range shards {
		s.mu.Lock()
		for p, a := range s.acked {
			sum[p].Messages, sum[p].Next = sum[p].Messages+a.Messages, max(sum[p].Next, a.Next)
		}
		s.mu.Unlock()
	}
	return sum
}

// Latency notes a latency alone.
func (s *Shard) Latency(latency time.Duration) {
	if !s.meter.open.Load() {
		return
	}
	us := min(max(latency.Microseconds(), 1), latencyMaxUs)
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.hist.RecordValue(us) // within the range
}

// Outcome is what a window saw.
type Outcome struct {
	Messages, Bytes int64
	Elapsed         time.Duration
	Latency         *hdrhistogram.Histogram // microseconds; empty where the load has none
}

// Outcome sums up the shards, after End.
func (m *Meter) Outcome() Outcome {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := Outcome{Messages: m.messages.Load(), Bytes: m.bytes.Load(), Elapsed: m.ended.Sub(m.began), Latency: newHistogram()}
	for _, s := range m.shards {
		s.mu.Lock()
		o.Latency.Merge(s.hist)
		s.mu.Unlock()
	}
	return o
}
