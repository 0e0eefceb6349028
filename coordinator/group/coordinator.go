package group

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"sync/atomic"
	"time"
	"unicode/utf16"

	"weir/internal/clock"
	"weir/internal/faultlog"
	"weir/internal/lockmeter"
	"weir/internal/record"
)

// Errors that Storage wraps for the coordinator to tell them apart; anything else makes it CoordinatorNotAvailable,
// which clients retry.
var (
	// ErrNotLeader: the partition is not led by this broker in that epoch any more, or its disk failed.
	ErrNotLeader = errors.New("not the leader of the group's partition")
	// ErrTooLarge: the records can never be written.
	ErrTooLarge = errors.New("group records are too large")
)

// codeOf turns the end of an append into what clients are told.
func codeOf(err error) Code {
	switch {
	case err == nil:
		return OK
	case errors.Is(err, ErrNotLeader):
		return NotCoordinator
	case errors.Is(err, ErrTooLarge):
		return UnknownServerError
	}
	return CoordinatorNotAvailable
}

// Storage is __consumer_offsets.
type Storage interface {
	// Append writes records as one batch to partition p, which this broker must lead in this very epoch: what a former life of its decided
	// must not follow what another broker has written since. done is called once, from any goroutine and possibly before Append
	// returns, when they are durable on all in-sync replicas or with an error. Append is memory-only and does not block; the records are the
	// storage's from then on. Appends to one partition are in the log in the order of the calls; done may be called in any order.
	Append(p, epoch int32, records []record.Record, done func(err error))
	// Load calls fn with every record of partition p, in order, and returns when all of them are committed, or with an error, at the latest
	// when this broker does not lead p in this epoch any more. The record is valid during fn.
	Load(p, epoch int32, fn func(*record.Record) error) error
}

// Options configure a Coordinator. Zero values of limits mean Kafka's defaults.
type Options struct {
	Storage               Storage
	Partitions            int32         // of __consumer_offsets, offsets.topic.num.partitions; default 50
	SessionTimeoutMin     time.Duration // group.min.session.timeout.ms, default 6 s
	SessionTimeoutMax     time.Duration // group.max.session.timeout.ms, default 30 min
	InitialRebalanceDelay time.Duration // group.initial.rebalance.delay.ms; 0 means none, Kafka's default is 3 s
	GroupSizeMax          int           // group.max.size, members of one group; default 2^31-1
	// GroupBytesMax bounds the memory of one group's members (ids, metadata, assignments); default 32 MiB.
	GroupBytesMax          int
	OffsetMetadataMax      int           // offset.metadata.max.bytes, characters; default 4096
	OffsetsRetention       time.Duration // offsets.retention.minutes, default 7 days
	RetentionCheckInterval time.Duration // offsets.retention.check.interval.ms, default 10 min
	NewID                  func() string // the random part of member ids; default a random UUID
	Clock                  clock.Clock   // default the system's
	Logger                 *slog.Logger  // nil: discard
	Metrics                *Metrics      // nil: unregistered

	Locks *lockmeter.Meter // measures the locks; may be nil
}

// settings are what groups need of Options.
type settings struct {
	sessionTimeoutMin, sessionTimeoutMax time.Duration
	initialRebalanceDelay                time.Duration
	groupSizeMax, groupBytesMax          int
	offsetMetadataMax                    int
	offsetsRetention                     time.Duration
	retentionCheckInterval               time.Duration
	newID                                func() string
	log                                  *slog.Logger
	faults                               *faultlog.Log // what every request can meet
	metrics                              *Metrics
}

// Coordinator holds the groups of the partitions of __consumer_offsets that this broker leads. It is safe for concurrent
// use. Replies may run before a method returns, or later on another goroutine; they must not block.
type Coordinator struct {
	conf    settings
	clk     clock.Clock
	storage Storage
	shards  []*shard
	timers  *timerQueue
	closed  atomic.Bool
}

// New returns a coordinator that owns no partition yet: Claim gives it some.
func New(o Options) *Coordinator {
	c := &Coordinator{
		clk:     o.Clock,
		storage: o.Storage,
		conf: settings{
			sessionTimeoutMin:      or(o.SessionTimeoutMin, 6*time.Second),
			sessionTimeoutMax:      or(o.SessionTimeoutMax, 30*time.Minute),
			initialRebalanceDelay:  o.InitialRebalanceDelay,
			groupSizeMax:           or(o.GroupSizeMax, math.MaxInt32),
			groupBytesMax:          or(o.GroupBytesMax, 32<<20),
			offsetMetadataMax:      or(o.OffsetMetadataMax, 4096),
			offsetsRetention:       or(o.OffsetsRetention, 7*24*time.Hour),
			retentionCheckInterval: or(o.RetentionCheckInterval, 10*time.Minute),
			newID:                  o.NewID,
			log:                    o.Logger,
			metrics:                o.Metrics,
		},
	}
	if c.clk == nil {
		c.clk = clock.Real{}
	}
	if c.conf.newID == nil {
		c.conf.newID = randomUUID
	}
	if c.conf.log == nil {
		c.conf.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.conf.metrics == nil {
		c.conf.metrics = NewMetrics(nil)
	}
	c.conf.faults = faultlog.New(c.conf.log, c.clk)
	c.timers = newTimerQueue(c.clk, func(t *timer) { c.shardOf(t.group.id).fire(t) })
	c.timers.mu.MeterBy(o.Locks, lockmeter.GroupTimers)
	c.shards = make([]*shard, or(o.Partitions, 50))
	for i := range c.shards {
		c.shards[i] = &shard{c: c, partition: int32(i)}
		c.shards[i].mu.MeterBy(o.Locks, lockmeter.Group)
		c.shards[i].completions.MeterBy(o.Locks, lockmeter.Group)
		c.shards[i].mu.least = math.MinInt32
	}
	return c
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

func randomUUID() string {
	var b [16]byte
	rand.Read(b[:]) // does not fail
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// PartitionFor is the partition of __consumer_offsets whose leader coordinates the group: Java's String.hashCode, which is
// over UTF-16, modulo the number of partitions.
func (c *Coordinator) PartitionFor(group string) int32 {
	var h int32
	for _, u := range utf16.Encode([]rune(group)) {
		h = 31*h + int32(u)
	}
	return (h & math.MaxInt32) % int32(len(c.shards))
}

func (c *Coordinator) shardOf(group string) *shard { return c.shards[c.PartitionFor(group)] }

// Close answers all parked requests with NotCoordinator, stops the timers, and makes everything CoordinatorNotAvailable.
// It does not wait for appends in flight; their completions are still taken.
func (c *Coordinator) Close() {
	if c.closed.Swap(true) {
		return
	}
	c.timers.close()
	for _, s := range c.shards {
		s.transition(func(fx *effects) { s.letGoLocked(fx, NotCoordinator) })
	}
}
