package replica

import (
	"fmt"
	"math"
	"sync/atomic"

	"weir/internal/clock"
	"weir/internal/config"
	"weir/internal/lockmeter"
	"weir/internal/record"
	"weir/raftmeta"
	"weir/replica/machine"
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
	log      *segment.Log

	settings       atomic.Pointer[settings]
	role           atomic.Pointer[role] // changed under mu, so that a batch is stamped with the epoch that it is appended in
	highWatermark  atomic.Int64
	durable        atomic.Int64 // the WAL has confirmed what is below
	epochStart     atomic.Int64 // log end when this node took the leadership; -1: it does not lead
	committedBytes atomic.Int64 // of batches that became visible since the start of the process; only differences mean something
	waiters        waiterList   // for the high watermark
	followers      waiterList   // for that, the log's end and the durable offset

	epochsLoaded    atomic.Bool // mu.epochs is complete: see epochs.go
	producersLoaded atomic.Bool // mu.producers is complete: see producerload.go

	inGroup groupState // the WAL committer's

	mu struct {
		lockmeter.Mutex
		closed    bool  // deleted or shut down
		failed    error // appends are refused with it
		producers producers
		loading   chan struct{} // closed when the load of producers under way ends; nil: none is

		truncation   *truncation   // under way; nil: none is
		cuts         uint64        // truncations so far
		snapshotting chan struct{} // closed when the producer snapshot being written is; nil: none is

		pending   pendingQueue    // batches that are not durable yet
		acks      ackQueue        // durable ones that wait for the other replicas
		unseen    unseen          // how many bytes consumers do not see yet
		retries   *Append         // retries of such batches
		lead      *machine.Leader // nil: this node does not lead, or the partition has no other replica
		epochs    machine.Epochs
		unsaved   bool                // an epoch began that their file does not have
		reading   chan struct{}       // closed when the load of epochs under way ends; nil: none is
		saving    chan struct{}       // closed when the write of their file ends
		cutting   bool                // the log is being truncated: no role but the present one's end
		roleNext  *raftmeta.Partition // the role to take when that has ended
		retention clock.Timer         // nil: nothing can expire
		sized     bool                // retention by size has something to do ...
		left      int64               // ... when this many more bytes were appended
		lagKnown  bool                // the cleaner knows when the active segment reaches max.compaction.lag.ms
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
	lagging       bool // compaction is bound by time
}

// newSettings derives settings from a topic's resolved configuration.
func (m *Manager) newSettings(t *config.Topic) *settings {
	s := &settings{
		Topic:         t,
		LogAppendTime: t.LogAppendTime(),
		Segment: segment.Config{
			SegmentBytes: int64(t.SegmentBytes), SegmentAge: config.Millis(t.SegmentMs), SegmentJitter: config.Millis(t.SegmentJitterMs),
			IndexBytes: int64(t.SegmentIndexBytes), IndexIntervalBytes: int(t.IndexIntervalBytes),
			RetentionBytes: t.RetentionBytes, RetentionAge: config.Millis(t.RetentionMs),
			RetentionCheck: config.Millis(m.cfg.LogRetentionCheckIntervalMs),
			Delete:         t.Delete, Compact: t.Compact,
			DeleteRetention: config.Millis(t.DeleteRetentionMs), MinDirtyRatio: t.MinCleanableDirtyRatio,
			MinCompactionLag: config.Millis(t.MinCompactionLagMs), MaxCompactionLag: config.Millis(t.MaxCompactionLagMs),
		},
	}
	if s.lagging = t.Compact && s.Segment.MaxCompactionLag < math.MaxInt64; s.lagging {
		// Only closed segments are compacted: one must not stay open for longer than its records may wait.
		s.Segment.SegmentAge = min(s.Segment.SegmentAge, s.Segment.MaxCompactionLag)
	}
	return s
}

// expires reports whether time alone can make records go.
func (s *settings) expires() bool {
	return s.Segment.Delete && (s.Segment.RetentionAge >= 0 || s.Segment.RetentionBytes == 0)
}

// check holds the size of a batch against the topic's limits.
func (s *settings) check(b record.Batch) error {
	if got, limit := len(b), int(s.Topic.MaxMessageBytes); got > limit {
		return fmt.Errorf("%w: %d bytes, max.message.bytes is %d", ErrTooLarge, got, limit)
	}
	if got, limit := len(b), s.Topic.SegmentBytes; got > limit {
		return fmt.Errorf("%w: %d bytes, segment.bytes is %d", ErrSegmentSize, got, limit)
	}
	return nil
}

// Validate holds a client's batch, which passed record.Batch.Check, against the topic's rules before it is appended: size, timestamps, keys,
// and whether its records are what its header says (see record.Batch.Validate, which may correct the header). Errors: ErrTooLarge,
// ErrSegmentSize, ErrTimestamp, and record's.
func (p *Partition) Validate(b record.Batch) error {
	s := p.settings.Load()
	if err := s.check(b); err != nil {
		return err
	}
	rules := record.NewRules(p.name)
	rules.NeedKeys, rules.Compressed = s.Topic.Compact, p.m.cfg.MessageValidateCompressed
	if !s.LogAppendTime {
		rules.TimestampRange(p.m.clk.Now().UnixMilli(), s.Topic.MessageTimestampBeforeMaxMs, s.Topic.MessageTimestampAfterMaxMs)
	}
	return b.Validate(&rules)
}

// Topic is the topic's name.
func (p *Partition) Topic() string { return p.topic }

// TopicID is the topic's id.
func (p *Partition) TopicID() [16]byte { return p.id }

// Index is the partition's number.
func (p *Partition) Index() int32 { return p.index }

// Internal reports whether the topic is the broker's own, not to be written by clients.
func (p *Partition) Internal() bool { return p.internal }

// LeaderEpoch is the partition's leader epoch as this node knows it.
func (p *Partition) LeaderEpoch() int32 { return p.role.Load().epoch }

// LogStart is the first offset still there.
func (p *Partition) LogStart() int64 { return p.log.LogStart() }

// LastStable is where a read_committed consumer stops.
func (p *Partition) LastStable() int64 { return p.highWatermark.Load() }

// HighWatermark is where a consumer stops.
func (p *Partition) HighWatermark() int64 { return p.highWatermark.Load() }

// Durable is the offset below which everything survives a crash of this node.
func (p *Partition) Durable() int64 { return p.durable.Load() }

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

// leaveLocked takes those whom nobody would answer any more. Who waits for a batch to be durable here is answered by the WAL's report.
func (p *Partition) leaveLocked() (waiting appends) {
	if p.mu.lead != nil {
		waiting = p.takeAcksAllLocked()
	}
	for p.mu.retries != nil {
		a := p.mu.retries
		p.mu.retries = a.next
		waiting.add(a)
	}
	return waiting
}

// close refuses further appends and wakes everyone who waits.
func (p *Partition) close() {
	p.mu.Lock()
	p.mu.closed = true
	if p.mu.retention != nil {
		p.mu.retention.Stop()
	}
	waiting := p.leaveLocked()
	p.mu.Unlock()
	waiting.done(fmt.Errorf("%w: %s", ErrNotHere, p.name))
	p.followers.wake()
	p.waiters.wake()
}
