package lockmeter

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Lock is a class of locks: those that guard the same kind of thing, in the metrics one label.
type Lock uint8

// The classes. docs/ARCHITECTURE.md says for each lock what it guards.
const (
	Partition    Lock = iota // replica.Partition
	Partitions               // replica.Manager: the maps of partitions
	Roles                    // replica: partitions that take their roles, one after another
	Waiters                  // replica: who waits for a partition
	Followers                // replica: who follows whom, changes of the in-sync replicas
	SegmentLog               // segment.Log
	SegmentFiles             // segment: open logs, files, indexes
	SegmentFlush             // segment: which logs are to be flushed, the budget of the tails
	ReadMemory               // segment: the memory that reads hold
	WALQueue                 // wal: entries that wait for the committer
	WALFiles                 // wal: the files' slots
	DiskQueue                // uring: operations handed over
	Metadata                 // raftmeta: who waits for a version of the metadata
	Raft                     // raftmeta: the log in memory, what is under way, the other nodes
	Controller               // controller: its mailbox
	Group                    // coordinator/group: the groups of one partition of __consumer_offsets
	GroupTimers              // coordinator/group: their timers
	FetchSession             // broker: fetch sessions of consumers and followers
	Purgatory                // broker: requests that wait
	Connection               // netproto: the requests of a connection
	Server                   // netproto: the connections, the memory of their requests
	Peers                    // netproto: the links to other nodes
	lockCount
)

// locks has each class's label and how many of its holds there are for one that is measured.
var locks = [lockCount]struct {
	label string
	every uint64
}{
	Partition: {"partition", sampled}, Partitions: {"partitions", all}, Roles: {"roles", all}, Waiters: {"waiters", sampled}, Followers: {"followers", sampled},
	SegmentLog: {"segment_log", sampled}, SegmentFiles: {"segment_files", sampled}, SegmentFlush: {"segment_flush", sampled}, ReadMemory: {"read_memory", sampled},
	WALQueue: {"wal_queue", sampled}, WALFiles: {"wal_files", all}, DiskQueue: {"disk_queue", sampled},
	Metadata: {"metadata", all}, Raft: {"raft", all}, Controller: {"controller", all}, Group: {"group", all}, GroupTimers: {"group_timers", all},
	FetchSession: {"fetch_session", sampled}, Purgatory: {"purgatory", sampled}, Connection: {"connection", sampled}, Server: {"server", sampled}, Peers: {"peers", sampled},
}

const (
	all     = 1
	sampled = 8
)

func (l Lock) String() string { return locks[l].label }

// Locks are all classes.
func Locks() []Lock {
	ls := make([]Lock, lockCount)
	for i := range ls {
		ls[i] = Lock(i)
	}
	return ls
}

// Options of a Meter. The zero value works.
type Options struct {
	Registry prometheus.Registerer // nil: not exported
	Logger   *slog.Logger          // nil: discard
}

// Meter measures the locks of a node. A nil Meter measures nothing.
type Meter struct {
	classes [lockCount]class
	slow    slowLog

	holdDesc, waitDesc, longestDesc *prometheus.Desc
}

// class is what is known of a class's locks. The holds are counted in shards, a lock always in the same one, so that the CPUs do not pass one
// cache line around for locks that have nothing to do with each other.
type class struct {
	lock   Lock
	every  uint64
	now    func() int64 // ns from any point in time
	slow   *slowLog
	shards [8]shard
	next   atomic.Uint32 // shard, for the next lock
	wait   histogram
	warned slowNote
}

type shard struct {
	class *class
	hold  histogram
	_     [64]byte
}

var base = time.Now()

func nanotime() int64 { return int64(time.Since(base)) }

// New makes a meter. It must be closed.
func New(o Options) *Meter {
	m := &Meter{
		holdDesc:    prometheus.NewDesc("weir_lock_hold_seconds", "How long locks were held. Of the locks that are taken per batch one hold in eight is measured, and every one that somebody waits for.", []string{"lock"}, nil),
		waitDesc:    prometheus.NewDesc("weir_lock_wait_seconds", "How long those waited that found a lock taken.", []string{"lock"}, nil),
		longestDesc: prometheus.NewDesc("weir_lock_hold_longest_seconds", "The longest hold that was measured since the start.", []string{"lock"}, nil),
	}
	m.slow.log = o.Logger
	if m.slow.log == nil {
		m.slow.log = slog.New(slog.DiscardHandler)
	}
	for i := range m.classes {
		c := &m.classes[i]
		c.lock, c.every, c.now, c.slow = Lock(i), locks[i].every, nanotime, &m.slow
		for j := range c.shards {
			c.shards[j].class = c
		}
	}
	if o.Registry != nil {
		o.Registry.MustRegister(m)
	}
	return m
}

// Close waits for what is being logged. The locks go on being measured.
func (m *Meter) Close() {
	if m != nil {
		m.slow.close()
	}
}

// shard is where the next lock of a class is counted.
func (m *Meter) shard(l Lock) *shard {
	if m == nil {
		return nil
	}
	c := &m.classes[l]
	return &c.shards[c.next.Add(1)%uint32(len(c.shards))]
}

// distance is how many holds from one that is measured to the next: at random, so that nothing that goes in step with it is always missed, and every on average.
func (c *class) distance(now int64) uint32 {
	const mix = 0x9e3779b97f4a7c15 // spreads the clock's low bits, which are as good as random, over the high ones
	return 1 + uint32((uint64(now)*mix>>32)*(2*c.every-1)>>32)
}

// held counts a hold of so many ns.
func (s *shard) held(ns int64, weight uint64) {
	s.hold.add(ns, weight)
	if ns >= int64(slowAfter) {
		s.class.slow.note(s.class, time.Duration(ns))
	}
}

// Describe implements prometheus.Collector.
func (m *Meter) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.holdDesc
	ch <- m.waitDesc
	ch <- m.longestDesc
}

// Collect implements prometheus.Collector. A class of which this node has no lock is left out.
func (m *Meter) Collect(ch chan<- prometheus.Metric) {
	for i := range m.classes {
		c := &m.classes[i]
		if c.next.Load() == 0 {
			continue
		}
		hold, wait := c.holds(), sum(&c.wait)
		label := c.lock.String()
		ch <- prometheus.MustNewConstHistogram(m.holdDesc, hold.count, hold.seconds, hold.cumulative, label)
		ch <- prometheus.MustNewConstHistogram(m.waitDesc, wait.count, wait.seconds, wait.cumulative, label)
		ch <- prometheus.MustNewConstMetric(m.longestDesc, prometheus.GaugeValue, hold.longest.Seconds(), label)
	}
}

func (c *class) holds() totals {
	var hs [len(c.shards)]*histogram
	for i := range c.shards {
		hs[i] = &c.shards[i].hold
	}
	return sum(hs[:]...)
}
