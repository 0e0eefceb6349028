// Package segment keeps partitions' logs: Kafka record batches, unchanged, in segment files with sparse offset and
// time indexes, behind a tail in memory.
//
// An append goes to the tail and touches memory only. The WAL (not known here) makes it durable and says so with Commit;
// then the flusher writes it behind, coalesced and synced, to its segment file, and OnFlushed tells how much of the WAL
// is still needed. Readers get Ranges: counted references to tail memory, or copies of file bytes that a bounded pool has read with a
// deadline and whose checksums were verified. Files are never mapped: a page fault on a stalled disk stops the whole process. What
// all ranges keep alive is bounded (readmem.go).
//
// The crash argument. (1) A file is created, and its directory entry synced, before bytes in it count as flushed, and segment
// N+1's file is created only after all of segment N was written and synced: so only the last file can be torn. (2) The recovery point in
// the checkpoint is raised after the sync, and the WAL is released after the checkpoint is durable: so what lies
// beyond the recovery point is in the WAL too, and an invalid end may be cut there. (3) Below the recovery point nothing is ever cut: damage is a
// *CorruptError. The files are described in docs/format/segment.md.
package segment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/clock"
	"weir/internal/lockmeter"
	"weir/internal/pace"
	"weir/internal/vfs"
	"weir/uring"
)

const (
	tailBytesDefault   = 256 << 20
	flushBytesDefault  = 1 << 20
	flushAgeDefault    = 5 * time.Second
	ioTimeoutDefault   = 2 * time.Second
	openFilesMin       = 32
	openFilesMax       = 16384
	indexBytesDefault  = 64 << 20
	flushersDefault    = 3
	readWorkersDefault = 32
	readBytesDefault   = 128 << 20
	metaWorkers        = 16
	deletedSuffix      = ".deleted"
	// indexWorth is from how many bytes on an active segment's index is saved at Close.
	indexWorth = 1 << 20
	// stallAfterMax: while the oldest operation is older than this nothing more is given to the disk. Steady submission into a
	// stalled file system would in the end block the engine's own thread.
	stallAfterMax = 250 * time.Millisecond
)

// StoreOptions say how a Store is made. FS and Dir are needed; the rest has defaults.
type StoreOptions struct {
	FS      vfs.FS
	Dir     string
	Engine  uring.Options
	Clock   clock.Clock
	Logger  *slog.Logger
	Metrics *Metrics
	Locks   *lockmeter.Meter // measures the locks; may be nil

	Pace              *pace.Pace    // of the background writes to the device; nil: one of its own
	TailBytesMax      int64         // bound of the unflushed bytes of all logs; default 256 MiB
	FlushBytes        int           // a log is flushed when it has this much to flush; default 1 MiB
	FlushAge          time.Duration // or when the oldest of it is this old; default 5 s
	IOTimeout         time.Duration // of each I/O; default 2 s
	OpenFilesMax      int           // segment files held open; default half of the process's limit, at most 16384
	IndexBytesMax     int64         // indexes of sealed segments held in memory; default 64 MiB
	Flushers          int           // logs flushed at once; default 3
	ReadWorkersMax    int           // cold reads in system calls at once; default 32
	ReadBytesMax      int64         // memory that ranges may keep alive; default 128 MiB
	FollowerReadBytes int64         // of it, kept for followers of other nodes; at most half
	WaitOutStalls     bool          // a flush that was late (IsLate) is tried again after Kick, like one that met a full disk

	// OnFlushed is called on a flusher's goroutine, never concurrently, after a checkpoint became durable: all data whose
	// WAL entries lie below minLSN, among those committed before, is in segment files, so the WAL may release it. any tells
	// whether some log still needs something; minLSN is a valid bound either way. It relies on Commits being made in
	// LSN order over all logs; a caller that delivers a group out of order bounds it by the group's first LSN until it is delivered.
	OnFlushed func(minLSN uint64, any bool)
	// OnError is called when a flush or checkpoint failed. dir is the log's directory, "" for the store's own files. With ErrNoSpace
	// the data is kept and flushed after Kick or a deletion; with ErrFailed the store is dead.
	OnError func(dir string, err error)
}

// Store is what all logs of a data directory share: the I/O engine, the flusher, the memory budget, open files and the
// checkpoint. Goroutines: Flushers workers; short-lived ones for blocking calls and background work, all bounded.
type Store struct {
	opt     StoreOptions
	fs      vfs.FS
	clock   clock.Clock
	log     *slog.Logger
	metrics *Metrics
	engine  *uring.Engine
	pace    *pace.Pace
	budget  budget
	memory  readMemory
	damaged damagedPlaces
	reads   *pool // preads
	meta    *pool // close, truncate, size
	handles *handleCache
	indexes *indexCache
	flusher *flusher
	whole   *wholeSync
	points  checkpointer
	// removals are directories to delete, closes files to close.
	removals workQueue[string]
	closes   workQueue[*handle]
	relief   chan struct{} // token of the one that closes files to be able to open one

	failed atomic.Pointer[error]

	bg struct {
		sync.Mutex
		n      int
		idle   chan struct{} // closed when n falls to 0 while closing
		closed bool
	}
	mu struct {
		lockmeter.Mutex
		logs   map[string]*Log
		dirs   map[string]bool      // directories that exist
		going  map[string]*goingDir // of removed logs, which still have their names
		left   map[string]uint64    // of logs removed with RemoveAsOf, whose names nobody has used since
		gather gather
		closed bool
	}
}

func (o StoreOptions) withDefaults() (StoreOptions, error) {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	if o.FS == nil || o.Dir == "" {
		return o, fmt.Errorf("segment: StoreOptions need FS and Dir")
	}
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Pace == nil {
		o.Pace = pace.New(o.Clock, nil)
	}
	if o.OnFlushed == nil {
		o.OnFlushed = func(uint64, bool) {}
	}
	if o.OnError == nil {
		o.OnError = func(string, error) {}
	}
	if o.FlushBytes == 0 {
		o.FlushBytes = flushBytesDefault
	}
	if o.OpenFilesMax == 0 {
		o.OpenFilesMax = min(max(vfs.Descriptors()/2, openFilesMin), openFilesMax)
	}
	if o.Flushers == 0 {
		o.Flushers = flushersDefault
	}
	if o.ReadWorkersMax == 0 {
		o.ReadWorkersMax = readWorkersDefault
	}
	def(&o.TailBytesMax, tailBytesDefault)
	def(&o.IndexBytesMax, indexBytesDefault)
	def(&o.ReadBytesMax, readBytesDefault)
	def((*int64)(&o.FlushAge), int64(flushAgeDefault))
	def((*int64)(&o.IOTimeout), int64(ioTimeoutDefault))
	for name, v := range map[string]int64{
		"TailBytesMax": o.TailBytesMax, "FlushBytes": int64(o.FlushBytes), "FlushAge": int64(o.FlushAge),
		"IOTimeout": int64(o.IOTimeout), "OpenFilesMax": int64(o.OpenFilesMax), "Flushers": int64(o.Flushers),
		"IndexBytesMax": o.IndexBytesMax, "ReadWorkersMax": int64(o.ReadWorkersMax), "ReadBytesMax": o.ReadBytesMax,
	} {
		if v < 0 {
			return o, fmt.Errorf("segment: StoreOptions.%s is %d, want > 0", name, v)
		}
	}
	return o, nil
}

// NewStore opens a data directory, making it if it is missing, and starts the flusher.
func NewStore(o StoreOptions) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{
		opt: o, clock: o.Clock, log: o.Logger, metrics: o.Metrics, pace: o.Pace,
		fs:     vfs.Bounded(vfs.Unbounded(o.FS), o.IOTimeout, metaWorkers),
		reads:  newPool(o.Clock, o.IOTimeout, o.ReadWorkersMax),
		meta:   newPool(o.Clock, o.IOTimeout, metaWorkers),
		budget: budget{max: o.TailBytesMax},
		memory: readMemory{max: o.ReadBytesMax, reserve: min(o.FollowerReadBytes, o.ReadBytesMax/2), metrics: o.Metrics},
	}
	s.mu.MeterBy(o.Locks, lockmeter.SegmentFiles)
	s.budget.mu.MeterBy(o.Locks, lockmeter.SegmentFlush)
	s.memory.mu.MeterBy(o.Locks, lockmeter.ReadMemory)
	s.removals = workQueue[string]{s: s, workers: 1, batch: removeBatch, do: s.removeDirs}
	s.closes = workQueue[*handle]{s: s, workers: closeWorkers, batch: 1, do: s.closeFiles}
	s.relief = make(chan struct{}, 1)
	s.handles = newHandleCache(s, o.OpenFilesMax)
	s.indexes = newIndexCache(o.IndexBytesMax, o.Locks)
	s.mu.logs = make(map[string]*Log)
	s.mu.dirs = make(map[string]bool)
	s.mu.going, s.mu.left = make(map[string]*goingDir), make(map[string]uint64)
	if err := s.load(); err != nil {
		return nil, err
	}
	if o.Engine.Logger == nil {
		o.Engine.Logger = o.Logger
	}
	if o.Engine.StallAfter == 0 {
		o.Engine.StallAfter = min(o.IOTimeout/2, stallAfterMax)
	}
	if s.engine, err = uring.NewEngine(o.Engine); err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	if err := s.firstCheckpoint(); err != nil {
		return nil, errors.Join(fmt.Errorf("segment: first recovery points: %w", err), s.engine.Close())
	}
	s.whole = newWholeSync(s)
	s.flusher = newFlusher(s, o.Flushers)
	s.removeLeftovers()
	return s, nil
}

// load reads what the directory holds.
func (s *Store) load() error {
	if err := s.fs.MkdirAll(s.opt.Dir); err != nil {
		return fmt.Errorf("segment: data directory: %w", err)
	}
	list, err := s.fs.List(s.opt.Dir)
	if err != nil {
		return fmt.Errorf("segment: data directory: %w", err)
	}
	for _, e := range list {
		if e.IsDir() {
			s.mu.dirs[e.Name()] = true
		}
	}
	// A damaged checkpoint is LoadCheckpoint's to report; until then nothing is known.
	known, err := s.LoadCheckpoint()
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return err
	}
	s.points.mu.known = known
	if s.points.mu.known == nil {
		s.points.mu.known = make(map[string]Checkpoint)
	}
	return nil
}

// Dirs returns the names of the log directories that exist, opened or not.
func (s *Store) Dirs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]string, 0, len(s.mu.dirs))
	for d := range s.mu.dirs {
		out = append(out, d)
	}
	return out
}

// Reserve takes n bytes of the tail budget for a later Append, waiting while it is exhausted until ctx ends (ErrTailFull). What is
// not appended must be given back with Unreserve.
func (s *Store) Reserve(ctx context.Context, n int) error {
	ok, err := s.budget.tryReserve(int64(n))
	if err != nil {
		return err
	}
	if !ok {
		s.metrics.ReserveBlocked.Inc()
		if err := s.budget.reserve(ctx, int64(n), s.flusher.press); err != nil {
			return err
		}
	}
	s.metrics.TailBytes.Add(float64(n))
	if s.budget.pressed() {
		s.flusher.press()
	}
	return nil
}

// Unreserve gives back a reservation that no Append has consumed.
func (s *Store) Unreserve(n int) { s.giveBack(int64(n)) }

func (s *Store) giveBack(n int64) {
	if n == 0 {
		return
	}
	s.metrics.TailBytes.Sub(float64(n))
	s.budget.release(n)
}

// FlushBelow makes the flusher flush every log that needs WAL entries below lsn. It does not wait.
func (s *Store) FlushBelow(lsn uint64) { s.flusher.flushBelow(lsn) }

// FlushAll flushes everything that is committed now, writes the checkpoint, and waits for that.
func (s *Store) FlushAll(ctx context.Context) error {
	if err := s.flusher.flushAll(ctx); err != nil {
		return err
	}
	return s.checkpoint()
}

// Kick makes the flusher try again after the disk was full. It does not wait.
func (s *Store) Kick() { s.flusher.kick() }

// Failed returns the error that made the store unusable for appends, nil if there is none.
func (s *Store) Failed() error {
	if p := s.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// fail latches the first fatal error.
func (s *Store) fail(dir string, cause error) {
	err := fmt.Errorf("%w: %w", ErrFailed, cause)
	if !s.failed.CompareAndSwap(nil, &err) {
		return
	}
	s.budget.fail(err)
	s.log.Error("segment store failed, no more data is taken", "dir", dir, "error", cause)
	s.opt.OnError(dir, err)
}

// background runs fn on a goroutine that Close waits for.
func (s *Store) background(fn func()) {
	s.bg.Lock()
	s.bg.n++
	s.bg.Unlock()
	go func() {
		defer func() {
			s.bg.Lock()
			if s.bg.n--; s.bg.n == 0 && s.bg.idle != nil {
				close(s.bg.idle)
				s.bg.idle = nil
			}
			s.bg.Unlock()
		}()
		fn()
	}()
}

// waitBackground waits until no background work runs.
func (s *Store) waitBackground(ctx context.Context) error {
	s.bg.Lock()
	if s.bg.n == 0 {
		s.bg.Unlock()
		return nil
	}
	if s.bg.idle == nil {
		s.bg.idle = make(chan struct{})
	}
	idle := s.bg.idle
	s.bg.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("segment: waiting for background work: %w", context.Cause(ctx))
	}
}

// Close flushes what is committed, saves indexes and the checkpoint, and stops. Logs must not be appended to any more. Ranges still out
// stay valid and must still be released.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.mu.closed = true
	logs := make([]*Log, 0, len(s.mu.logs))
	for _, l := range s.mu.logs {
		logs = append(logs, l)
	}
	s.mu.Unlock()
	err := s.FlushAll(ctx)
	if err == nil {
		s.saveActiveIndexes(ctx, logs)
	}
	s.flusher.stop()
	s.budget.fail(ErrClosed)
	for _, l := range logs {
		l.close()
	}
	s.handles.close()
	return errors.Join(err, s.waitBackground(ctx), s.engine.Close(), s.whole.close())
}

// saveActiveIndexes spares the next start the walk through segments that are large enough to matter. A
// failure costs only that.
func (s *Store) saveActiveIndexes(ctx context.Context, logs []*Log) {
	for _, l := range logs {
		l.mu.Lock()
		g := l.activeLocked()
		worth := !l.mu.removed && g.flushed-g.indexed >= indexWorth
		l.mu.Unlock()
		if !worth || ctx.Err() != nil {
			continue
		}
		if err := s.saveIndex(l, g); err != nil {
			s.log.Warn("saving an index failed", "file", g.name, "error", err)
		}
	}
}

// close makes the log refuse everything. The tail's memory goes except for what a WAL may still read.
func (l *Log) close() {
	l.mu.Lock()
	l.mu.closed = true
	free := l.freeTailLocked()
	l.mu.Unlock()
	release(free)
}
