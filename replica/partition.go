package replica

import (
	"fmt"
	"sync"
	"sync/atomic"

	"weir/internal/clock"
	"weir/internal/config"
	"weir/internal/record"
	"weir/segment"
)

// Partition is one partition's log with what surrounds it: offsets, producer state, waiting readers.
// All methods are safe for concurrent use.
type Partition struct {
	m        *Manager
	topic    string
	id       [16]byte
	index    int32
	name     string // topic-partition, for messages
	internal bool
	head     []byte // in front of each of its batches in the WAL; never changes
	epoch    int32  // leader epoch stamped into batches
	log      *segment.Log

	settings       atomic.Pointer[settings]
	highWatermark  atomic.Int64
	committedBytes atomic.Int64 // of batches since the start of the process; only differences mean something
	waiters        waiterList

	inGroup groupState // the WAL committer's

	mu struct {
		sync.Mutex
		closed    bool  // deleted or shut down
		failed    error // appends are refused with it
		producers producers
		retries   *Append     // retries of batches that are not durable yet
		retention clock.Timer // nil: nothing can expire
	}
}

// groupState gathers what one WAL group holds of a partition.
type groupState struct {
	touched  bool
	firstLSN uint64
	next     int64 // offset after the last batch
	bytes    int64
}

// settings is a topic's configuration in the form that appends and the log need.
type settings struct {
	Topic         *config.Topic
	LogAppendTime bool
	Segment       segment.Config
}

// newSettings derives settings from a topic's resolved configuration.
func newSettings(t *config.Topic) *settings {
	return &settings{
		Topic:         t,
		LogAppendTime: t.LogAppendTime(),
		Segment: segment.Config{
			SegmentBytes: int64(t.SegmentBytes), SegmentAge: config.Millis(t.SegmentMs),
			RetentionBytes: t.RetentionBytes, RetentionAge: config.Millis(t.RetentionMs),
			IndexIntervalBytes: int(t.IndexIntervalBytes),
			Delete:             t.Delete,
		},
	}
}

// check holds a batch against the topic's limits. now is in ms.
func (s *settings) check(b record.Batch, now int64) error {
	if got, limit := len(b), int(s.Topic.MaxMessageBytes); got > limit {
		return fmt.Errorf("%w: %d bytes, max.message.bytes is %d", ErrTooLarge, got, limit)
	}
	if s.LogAppendTime {
		return nil
	}
	// Producers may send records without a timestamp (-1), as Kafka allows.
	if ts := b.MaxTimestamp(); ts >= 0 && ts-now > s.Topic.MessageTimestampAfterMaxMs {
		return fmt.Errorf("%w: %d is %d ms after the broker's clock, message.timestamp.after.max.ms is %d", ErrTimestamp, ts, ts-now, s.Topic.MessageTimestampAfterMaxMs)
	}
	if ts := b.BaseTimestamp(); ts >= 0 && now-ts > s.Topic.MessageTimestampBeforeMaxMs {
		return fmt.Errorf("%w: %d is %d ms before the broker's clock, message.timestamp.before.max.ms is %d", ErrTimestamp, ts, now-ts, s.Topic.MessageTimestampBeforeMaxMs)
	}
	return nil
}

// Topic is the topic's name.
func (p *Partition) Topic() string { return p.topic }

// TopicID is the topic's id.
func (p *Partition) TopicID() [16]byte { return p.id }

// Index is the partition's number.
func (p *Partition) Index() int32 { return p.index }

// Internal reports whether the topic is the broker's own, not to be written by clients.
func (p *Partition) Internal() bool { return p.internal }

// LeaderEpoch is the epoch stamped into new batches.
func (p *Partition) LeaderEpoch() int32 { return p.epoch }

// LogStart is the first offset still there.
func (p *Partition) LogStart() int64 { return p.log.LogStart() }

// LastStable is where a read_committed consumer stops.
func (p *Partition) LastStable() int64 { return p.highWatermark.Load() }

// HighWatermark is where a consumer stops.
func (p *Partition) HighWatermark() int64 { return p.highWatermark.Load() }

// End is the offset the next batch gets.
func (p *Partition) End() int64 { return p.log.End() }

// Size is the log's size in bytes, tail included.
func (p *Partition) Size() int64 { return p.log.Size() }

// CommittedBytes counts the bytes that became visible since the process started: the difference of two calls says
// how much came in between.
func (p *Partition) CommittedBytes() int64 { return p.committedBytes.Load() }

// FindByTimestamp returns the first visible record whose timestamp (ms) is at least ts.
func (p *Partition) FindByTimestamp(ts int64) (offset, timestamp int64, ok bool, err error) {
	offset, timestamp, ok, err = p.log.FindByTimestamp(ts)
	if err != nil {
		return 0, 0, false, fmt.Errorf("%w: %s: %w", ErrStorage, p.name, err)
	}
	if ok && offset >= p.HighWatermark() {
		ok = false
	}
	return offset, timestamp, ok, nil
}

// MaxTimestamp returns the record with the greatest timestamp (ms); ok is false for an empty log.
func (p *Partition) MaxTimestamp() (offset, timestamp int64, ok bool, err error) {
	offset, timestamp, ok, err = p.log.MaxTimestamp()
	if err != nil {
		return 0, 0, false, fmt.Errorf("%w: %s: %w", ErrStorage, p.name, err)
	}
	return offset, timestamp, ok, nil
}

// Read returns whole batches from offset on, below limit (a high watermark or last stable offset that the caller took
// from p). The range must be released. With minOneBatch the first batch is returned even if it is larger than
// maxBytes. An offset that is not in [LogStart, limit] gives ErrOffsetOutOfRange; offset == limit gives nil.
func (p *Partition) Read(offset, limit int64, maxBytes int, minOneBatch bool) (*segment.Range, error) {
	if start, end := p.log.LogStart(), p.log.End(); offset < start || offset > end {
		return nil, fmt.Errorf("%w: %s: %d is not in %d to %d", ErrOffsetOutOfRange, p.name, offset, start, end)
	}
	if offset >= limit || (maxBytes <= 0 && !minOneBatch) {
		return nil, nil
	}
	return p.log.Read(offset, limit, maxBytes, minOneBatch)
}

// ReadAll hands out every batch from the log start on, verified, as heap copies.
func (p *Partition) ReadAll(fn func(record.Batch) error) error {
	return p.log.ReadAll(p.log.LogStart(), fn)
}

// Wait registers w to be notified when the high watermark rises or the partition goes away. The
// caller looks at the partition after registering, so that nothing is missed in between.
func (p *Partition) Wait(w *Waiter) { p.waiters.add(w) }

// Closed reports whether the partition was deleted or shut down.
func (p *Partition) Closed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.closed
}

// close refuses further appends and wakes everyone who waits.
func (p *Partition) close() {
	p.mu.Lock()
	p.mu.closed = true
	if p.mu.retention != nil {
		p.mu.retention.Stop()
	}
	waiting := p.mu.retries
	p.mu.retries = nil
	p.mu.Unlock()
	for waiting != nil {
		a := waiting
		waiting, a.next = a.next, nil
		a.fail(fmt.Errorf("%w: %s", ErrNotHere, p.name))
	}
	p.waiters.wake()
}
