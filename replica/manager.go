package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/clock"
	"weir/internal/config"
	"weir/internal/faultlog"
	"weir/internal/lockmeter"
	"weir/internal/pace"
	"weir/internal/vfs"
	"weir/raftmeta"
	"weir/segment"
	"weir/uring"
	"weir/wal"
)

// Options is what a Manager needs.
type Options struct {
	FS       vfs.FS // without deadlines; the Manager and what is below it have their own
	Config   *config.Broker
	Meta     *raftmeta.Meta
	Clock    clock.Clock
	Logger   *slog.Logger
	Registry prometheus.Registerer // nil: metrics are not exported
	Locks    *lockmeter.Meter      // measures the locks; may be nil
	// Pace is that of all background writes to the data directory's device; nil: one of its own.
	Pace *pace.Pace
	// OnIO, if set, is called when disk operations go in flight or come back, from any thread; it must be quick.
	OnIO func()
	// OnLogThread, if set, is called on the OS thread of the write-ahead log's committer when that begins.
	OnLogThread func()
	// Source and Control reach the other nodes; nil on a single node.
	Source  Source
	Control Control
	// OnRole, if set, is called when this node becomes leader of a partition, with each new leader epoch, and when it stops being leader. The
	// calls for one partition come in order, on the goroutine that applies metadata: it must not block.
	OnRole func(p *Partition, leader bool, epoch int32)
}

// filesStuckMax is how many of the Manager's own file system operations may hang before further ones fail at once.
const filesStuckMax = 8

// Manager owns the partitions of a node and the storage they share: one write-ahead log, one segment store.
type Manager struct {
	cfg         *config.Broker
	files       *vfs.Watch // the file system, observed; without deadlines
	fs          vfs.FS     // files with deadlines
	watch       stallWatch
	stall       stallState
	meta        *raftmeta.Meta
	clk         clock.Clock
	log         *slog.Logger
	wal         *wal.WAL
	store       *segment.Store
	space       *spaceGuard
	cleaner     *cleaner
	topicsDir   string
	retaining   chan struct{} // one slot per retention worker
	background  background
	rolls       rollQueue
	pace        *pace.Pace
	ctx         context.Context // ends when the manager closes
	cancel      context.CancelFunc
	unsub       func()
	source      Source
	control     Control
	onRole      func(p *Partition, leader bool, epoch int32)
	fetchers    fetchers
	isr         isrKeeper
	epochFiles  epochQueue
	marks       highWatermarks
	repl        *replMetrics
	locks       *lockmeter.Meter
	roles       lockmeter.Mutex // held while a partition takes a role, so that roles and what is told of them come in order
	ioEvent     func()          // Options.OnIO
	onLogThread func()          // Options.OnLogThread
	failed      chan error      // the first storage failure
	failure     atomic.Pointer[error]

	touched  []*Partition  // the WAL committer's: partitions of the group at hand
	serving  atomic.Bool   // recovery is over: wal and space are set
	replayed atomic.Uint64 // end of what recovery replayed
	// strangers are the partitions that the WAL had at the start and this node had not, with the LSN of the record that ends them there. Constant then.
	strangers map[PartKey]uint64

	mu struct {
		lockmeter.RWMutex
		byID   map[[16]byte]*topicState
		byName map[string]*topicState
	}
}

// topicState is a topic with its partitions on this node; immutable but for the partitions' own state.
type topicState struct {
	name       string
	id         [16]byte
	configs    map[string]string // overrides, as in the metadata ...
	settings   *settings         // ... and what they come to
	partitions []*Partition      // nil where another node has it
}

// Open brings a node's partitions back: what the segments hold, and from the WAL what they do not hold yet. Meta must be ready.
// When it returns, every acknowledged record is readable and appends are taken.
func Open(o Options) (*Manager, error) {
	m := &Manager{
		cfg: o.Config, meta: o.Meta, clk: o.Clock, log: o.Logger,
		topicsDir:  filepath.Join(o.Config.DataDir, "topics"),
		retaining:  make(chan struct{}, retentionWorkers),
		background: background{closing: make(chan struct{})},
		failed:     make(chan error, 1),
	}
	m.rolls.m, m.epochFiles.m, m.marks.m, m.isr.m, m.fetchers.m = m, m, m, m, m
	m.source, m.control, m.onRole = o.Source, o.Control, o.OnRole
	m.meterLocks(o.Locks)
	m.fetchers.faults = faultlog.New(m.log, m.clk)
	m.fetchers.catchUp.perSecond = o.Config.ReplicaCatchupBytesPerSec
	m.fetchers.mu.byNode, m.fetchers.mu.of = map[int32]*fetcher{}, map[*Partition]*followed{}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.mu.byID, m.mu.byName = map[[16]byte]*topicState{}, map[string]*topicState{}
	m.files = &vfs.Watch{FS: o.FS, OnChange: m.ioChanged, OnError: m.lateError}
	m.fs = vfs.Bounded(m.files, m.stallTimeout(), filesStuckMax)
	m.ioEvent, m.onLogThread = o.OnIO, o.OnLogThread
	if m.pace = o.Pace; m.pace == nil {
		m.pace = pace.New(o.Clock, pace.NewMetrics(o.Registry))
	}
	m.openStall(o.Registry)
	if o.Registry != nil {
		o.Registry.MustRegister(newCollector(m))
	}
	m.repl = newReplMetrics(m, o.Registry)
	m.cleaner = newCleaner(m, newCleanerMetrics(o.Registry))
	if err := m.open(o.Registry); err != nil {
		m.watch.close()
		m.cancel()
		return nil, err
	}
	m.watch.look()
	return m, nil
}

// meterLocks has the locks measured that are there from the start.
func (m *Manager) meterLocks(locks *lockmeter.Meter) {
	m.locks = locks
	m.mu.MeterBy(locks, lockmeter.Partitions)
	m.roles.MeterBy(locks, lockmeter.Roles)
	m.fetchers.mu.MeterBy(locks, lockmeter.Followers)
	m.fetchers.catchUp.mu.MeterBy(locks, lockmeter.Followers)
	m.isr.mu.MeterBy(locks, lockmeter.Followers)
	m.epochFiles.mu.MeterBy(locks, lockmeter.Followers)
	m.marks.mu.MeterBy(locks, lockmeter.Followers)
}

func (m *Manager) open(reg prometheus.Registerer) (err error) {
	for _, dir := range []string{m.topicsDir, m.walDir()} {
		if err := m.fs.MkdirAll(dir); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
	}
	if m.store, err = segment.NewStore(m.storeOptions(reg)); err != nil {
		return fmt.Errorf("segment store: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.store.Close(m.ctx))
		}
	}()
	m.space = newSpaceGuard(m.cfg.LogDirFullPercent, m.clk, m.roomLeft, m.roomReturned)
	walOptions, err := m.walOptions(reg)
	if err != nil {
		return err
	}
	if m.wal, err = wal.Open(walOptions); err != nil {
		return fmt.Errorf("write-ahead log: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.wal.Close())
		}
	}()
	if err := m.recover(); err != nil {
		return err
	}
	if err := m.wal.Start(); err != nil {
		return fmt.Errorf("write-ahead log: %w", err)
	}
	m.serving.Store(true)
	if err := m.forgetStrangers(); err != nil {
		return err
	}
	for _, p := range m.all() {
		p.begin(true)
	}
	m.removeOrphans() // before the metadata brings one of them back: it must not find the files of its former life
	m.unsub = m.meta.Subscribe(m.apply)
	for _, p := range m.all() {
		m.cleaner.changed(p)
	}
	m.flushRecovered()
	return nil
}

// flushRecovered writes what was replayed to the segments, in the background, and with that lets the WAL have its
// files back: a node that crashes again and again must not run out of them.
func (m *Manager) flushRecovered() {
	if !m.background.enter() {
		return
	}
	go func() {
		defer m.background.leave()
		if err := m.store.FlushAll(m.ctx); err != nil && m.ctx.Err() == nil {
			m.log.Warn("what was recovered is not in the segments yet; it stays in the write-ahead log", "err", err)
		}
		m.loadAllProducers()
	}()
}

func (m *Manager) walDir() string { return filepath.Join(m.cfg.DataDir, "wal") }

func (m *Manager) ring() uring.Options {
	o := RingOptions(m.cfg, m.log, m.ioChanged, m.lateError)
	o.Locks = m.locks
	return o
}

// RingOptions are those of a ring on the data directory: changed is called when operations go in flight or come back, late with the
// error of one that had been given up on.
func RingOptions(cfg *config.Broker, log *slog.Logger, changed func(), late func(error)) uring.Options {
	return uring.Options{Backend: cfg.IOBackend(), Logger: log, OnChange: changed, OnLate: late}
}

// ioChanged is called whenever the Manager's disk operations went in flight or came back.
func (m *Manager) ioChanged() {
	if m.ioEvent != nil {
		m.ioEvent()
	}
	m.IOChanged()
}

// IOChanged tells the Manager that disk operations of the metadata went in flight or came back, which it cannot see itself. It is
// quick and may be called from any thread.
func (m *Manager) IOChanged() { m.watch.changed() }

// lateError is the disk's last word on an operation that had been given up on. With that error it would not have been given up on but
// have ended everything; so it does now.
func (m *Manager) lateError(err error) {
	if !outOfSpace(err) {
		m.fail(fmt.Errorf("%w: %w", ErrStorage, err))
	}
}

func (m *Manager) stallTimeout() time.Duration { return config.Millis(m.cfg.LogDirStallMs) }

// patience is the deadline of durable writes where stalls are waited out. It is not what bounds a wait: the stallWatch does.
const patience = 10 * 365 * 24 * time.Hour

// writeTimeout is the deadline of a write to the WAL. Where stalls are waited out it has none to speak of: the writes in flight stay in
// flight, in order, and complete when the disk answers, so that the log goes on without a hole. Only those who wait for them are told.
func (m *Manager) writeTimeout() time.Duration { return StoreTimeout(m.cfg) }

// StoreTimeout is the deadline of a durable write, to the WAL or the metadata's log.
func StoreTimeout(cfg *config.Broker) time.Duration {
	if cfg.LogDirStallAction == "wait" {
		return patience
	}
	return config.Millis(cfg.LogDirStallMs)
}

func (m *Manager) storeOptions(reg prometheus.Registerer) segment.StoreOptions {
	return segment.StoreOptions{
		FS: m.files, Dir: m.topicsDir, Engine: m.ring(), Clock: m.clk, Logger: m.log, Metrics: segment.NewMetrics(reg), Locks: m.locks,
		TailBytesMax: m.cfg.LogTailMaxBytes, FlushBytes: m.cfg.LogWritebackBytes, FlushAge: config.Millis(m.cfg.LogWritebackMs),
		ReadBytesMax: m.cfg.FetchMemoryMaxBytes, FollowerReadBytes: m.followerReadBytes(),
		IOTimeout: m.stallTimeout(), WaitOutStalls: m.waitsOutStalls(), Pace: m.pace,
		OnFlushed: m.release,
		OnError:   m.storageError,
	}
}

// walOptions sizes the WAL; on a small file system it takes at most an eighth of it.
func (m *Manager) walOptions(reg prometheus.Registerer) (wal.Options, error) {
	space, err := m.fs.Space(m.cfg.DataDir)
	if err != nil {
		return wal.Options{}, fmt.Errorf("write-ahead log: size of the file system: %w", err)
	}
	files := min(m.cfg.WALMaxBytes, int64(space.Total/8)) / m.cfg.WALFileBytes
	return wal.Options{
		FS: m.files, Dir: m.walDir(), Ring: m.ring(), LockThread: true, OnThread: m.onLogThread,
		FileBytes: m.cfg.WALFileBytes, FilesMax: int(max(files, 3)), SpareFiles: 1,
		GroupBytesMax: m.cfg.WALGroupMaxBytes, Depth: m.cfg.WALInflightWritesMax, PipelineBytes: m.cfg.WALPipelineBytes,
		// What the tails may hold the queue must take, so that an append with a reservation is never refused.
		QueueBytesMax: max(m.cfg.WALQueueMaxBytes, 2*m.cfg.LogTailMaxBytes),
		WriteTimeout:  m.writeTimeout(), CloseTimeout: m.stallTimeout(), Pace: m.pace,
		OnCommit: m.committed, OnPoison: func(err error) { m.fail(fmt.Errorf("%w: %w", ErrStorage, err)) },
		OnPressure: func(oldest wal.LSN) { m.store.FlushBelow(uint64(oldest)) },
		Logger:     m.log, Metrics: wal.NewMetrics(reg), Locks: m.locks,
	}, nil
}

// release lets the WAL recycle what all logs have in their segments, durably: entries below oldest. If no log needs anything, that
// includes all that was replayed at the start, also what no log took because it had it already or its topic is gone.
func (m *Manager) release(oldest uint64, any bool) {
	if !m.serving.Load() {
		return // flushed during recovery; flushRecovered releases
	}
	if !any {
		oldest = max(oldest, m.replayed.Load())
	}
	m.wal.Release(wal.LSN(oldest))
	m.space.changed()
	m.marks.changed()
}

// storageError is the segment store's: a full disk and, if stalls are waited out, a slow one pass, and then work goes on where it stopped.
// Anything else ends the node's service of the data directory.
func (m *Manager) storageError(dir string, err error) {
	switch {
	case outOfSpace(err):
		m.log.Warn("file system is full; produce is refused until there is room", "dir", dir, "err", err)
		m.space.ranOut()
	case m.waitsOutStalls() && segment.IsLate(err):
		m.log.Warn("the disk is slow; what was not written is tried again when it answers", "dir", dir, "err", err)
		m.watch.late()
	case dir != "":
		m.fail(fmt.Errorf("%w: %s: %w", ErrStorage, dir, err))
	default:
		m.fail(fmt.Errorf("%w: %w", ErrStorage, err))
	}
}

// outOfSpace tells the one failure of a write after which the disk is as good as before: nothing was half done.
func outOfSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, segment.ErrNoSpace)
}

// Fail ends the node's service of the data directory because of a failure elsewhere in it.
func (m *Manager) Fail(err error) { m.fail(err) }

// fail ends the node's service of the data directory for good. Only the first failure counts, and is said: the others follow from it.
func (m *Manager) fail(failure error) {
	if !m.failure.CompareAndSwap(nil, &failure) {
		return
	}
	m.log.Error("the data directory failed; nothing more is taken", "dir", m.cfg.DataDir, "err", failure)
	m.stall.down.Store(&failure)
	m.refuse(failure) // before the node ends by it: whoever waits should still hear why
	m.failed <- failure
}

// Failure is the failure of the data directory, nil if there is none.
func (m *Manager) Failure() error {
	if err := m.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// roomLeft is the file system's room less what is in memory and will need some. The memory is looked at first: what is flushed
// in between counts twice, which errs on the safe side.
func (m *Manager) roomLeft() (vfs.Space, error) {
	unflushed := uint64(m.store.TailBytes())
	s, err := m.fs.Space(m.topicsDir)
	s.Available -= min(unflushed, s.Available)
	return s, err
}

// roomReturned lets go on what stopped for lack of room.
func (m *Manager) roomReturned() {
	if !m.serving.Load() {
		return
	}
	m.log.Info("the file system has room again")
	m.store.Kick()
	m.wal.Kick()
	m.cleaner.roomReturned()
}

// Failed yields the failure of the data directory, at most once.
func (m *Manager) Failed() <-chan error { return m.failed }

// OldestIO is the age of the oldest disk operation in flight, 0 if there is none.
func (m *Manager) OldestIO() (oldest time.Duration) {
	for _, a := range m.Areas() {
		oldest = max(oldest, a.Oldest)
	}
	return oldest
}

// DiskFull reports whether produce is refused because the file system is nearly full.
func (m *Manager) DiskFull() bool { return m.space.full() }

// ByNameBytes is ByName for a name that is a view of a request; it does not allocate.
func (m *Manager) ByNameBytes(topic []byte, partition int32) *Partition {
	m.mu.RLock()
	t := m.mu.byName[string(topic)]
	m.mu.RUnlock()
	return t.partition(partition)
}

// ByName returns a partition, nil if it is not here.
func (m *Manager) ByName(topic string, partition int32) *Partition {
	m.mu.RLock()
	t := m.mu.byName[topic]
	m.mu.RUnlock()
	return t.partition(partition)
}

// Partition returns a partition by its topic's id, nil if it is not here.
func (m *Manager) Partition(id [16]byte, partition int32) *Partition {
	m.mu.RLock()
	t := m.mu.byID[id]
	m.mu.RUnlock()
	return t.partition(partition)
}

func (t *topicState) partition(i int32) *Partition {
	if t == nil || i < 0 || int(i) >= len(t.partitions) {
		return nil
	}
	return t.partitions[i]
}

// TryReserveKept is Reserve for the node's own batches, small ones, whose appender cannot wait: producers that fill the memory for tails do not take the part that is kept for
// these.
func (m *Manager) TryReserveKept(n int) error {
	if err := m.Down(); err != nil {
		return err
	}
	if err := m.space.admit(n); err != nil {
		return err
	}
	ok, err := m.store.TryReserveKept(n)
	if err == nil && !ok {
		err = segment.ErrTailFull
	}
	return wrapStorage(err)
}

// all returns the partitions as they are now.
func (m *Manager) all() []*Partition {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var all []*Partition
	for _, t := range m.mu.byID {
		for _, p := range t.partitions {
			if p != nil {
				all = append(all, p)
			}
		}
	}
	return all
}

// WakeReaders calls every registered Waiter's Wake.
func (m *Manager) WakeReaders() {
	for _, p := range m.all() {
		p.waiters.wake()
	}
}

// Close refuses appends, writes what is in memory to the segments, and lets go of the storage. What was
// acknowledged is on disk before and after; a deadline in ctx only makes the next start replay more.
func (m *Manager) Close(ctx context.Context) error {
	if m.unsub != nil {
		m.unsub()
	}
	for _, p := range m.all() {
		p.close()
	}
	m.cancel()
	m.isr.close()
	m.marks.close()
	m.cleaner.close()
	m.background.close()
	err := m.wal.Close()
	m.watch.close()
	m.space.close()
	_ = inParallel(m.all(), func(p *Partition) error { // never fails
		if ctx.Err() == nil && err == nil && p.producersLoaded.Load() {
			p.writeSnapshot()
		}
		return nil
	})
	if ctx.Err() == nil && err == nil {
		m.marks.write()
	}
	return errors.Join(err, m.store.Close(ctx))
}
