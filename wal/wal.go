// Package wal is Weir's write-ahead log: one per data directory, shared by everything in it that must be
// durable before it is acknowledged. Whatever was queued while the last write was in flight becomes one O_DIRECT|O_DSYNC
// write into a prewritten file, so one device flush serves all who waited.
//
// # Format
//
// The log is a sequence of files of FileBytes each, kept in slots wal-0000.log, wal-0001.log, ... that are prewritten with
// zeroes once and then recycled in place. An LSN is file sequence * FileBytes + offset; it names a byte for ever. A file begins
// with a header block, behind it follow groups: a group frame, entry frames, zeroes up to the next 4 KiB. Each frame carries a
// CRC32C, its own LSN and the generation, which is drawn anew (run counter and 32 random bits) each time the log is started.
// docs/format/wal.md has the bytes.
//
// # Why a crash loses nothing that was acknowledged
//
// Up to Depth groups are in flight, and a group is acknowledged when it and every group before it are durable. So after a crash
// the acknowledged groups are a prefix of what was submitted; behind it, in any order, whole groups, torn ones and holes of
// groups that nobody was told about. Recovery reads groups in order and stops at the first that is not whole:
//
//   - A group that is not whole is a torn tail, or an old block of the slot's last life (its LSN or generation tells), unless
//     something on disk proves that it had been durable. Then it is damage: ErrCorrupt, nothing is cut.
//   - Proof is a later group whose "durable" field lies beyond, or the "previous end" in the header of the next file. The latter
//     is proof because a file is begun only when all writes into the one before have completed, and because a restart syncs what it
//     recovered before it continues in a fresh file. Close writes an empty group as proof for the last one.
//   - A previous end also closes the file it speaks of: a write of a dying process that lands late, behind the cut, is not
//     taken for data.
//   - Generations are unguessable. A block left from another life, or bytes inside a record made to look like a
//     group, are not mistaken for one.
//   - A file is reused only when all in it was released, and each header names the oldest file still needed at that time. So a file
//     that is missing, or whose header is damaged, is noticed.
//
// What cannot be noticed: damage to the last acknowledged groups if the process ends within 100 ms after them, before the proof file
// (proof.go) covers them. It looks like a torn tail. The disk is trusted to write a 512-byte sector of a header wholly or not at all; groups need no such trust.
//
// # Limits
//
// An entry with its frame must fit one file less two blocks; a head has at most HeadBytesMax bytes. Disk use is at most
// FileBytes * FilesMax. FileBytes is fixed when the log is first written; later values are ignored, with a warning.
//
// # Threads and locks
//
// Two goroutines, from Start to Close: the committer owns the ring, all groups and the current file; the maker prewrites spare
// files. Two locks, never held together, memory only: queue.mu (entries waiting, state) and files.mu (which slot is live, which free).
package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"weir/internal/budget"
	"weir/internal/lockmeter"
	"weir/internal/pace"
	"weir/internal/vfs"
	"weir/uring"
)

// LSN is a logical byte position: file sequence * FileBytes + offset in the file. It strictly increases. 0 is before everything.
type LSN uint64

// Kind says what an entry's body is.
type Kind uint8

const (
	// KindInline entries carry their payload in the body.
	KindInline Kind = 1
	// KindExternal entries carry an External, which names data outside the log.
	KindExternal Kind = 2
)

// HeadBytesMax bounds Entry.Head.
const HeadBytesMax = 64

const (
	fileBytesMin = 4 * blockBytes
	fileBytesMax = 2 << 30
	seqMax       = 1 << 32
	depthMax     = 8
)

// Entry is one thing to make durable. From Append until OnCommit has returned for it, it belongs to the log.
type Entry struct {
	Kind  Kind
	Head  []byte // small header of the caller, at most HeadBytesMax
	Body  []byte // must neither change nor go away before OnCommit
	Owner any    // the caller's
	LSN   LSN    // where it is in the log; set before OnCommit. 0 if it failed before it got a place

	began int64 // budget.Mark of when its write was made up; atomic, as whoever gives up waiting for the entry asks meanwhile
	next  *Entry
}

// Began is when the write that carries the entry was made up, 0 if that has not happened yet.
func (e *Entry) Began() budget.Mark { return budget.Mark(atomic.LoadInt64(&e.began)) }

func (e *Entry) frameSize() int { return frameBytes + len(e.Head) + len(e.Body) }

// Options configure a log. FS, Dir and OnCommit are required.
type Options struct {
	FS   vfs.FS
	Dir  string
	Ring uring.Options // Depth is raised to what the log needs

	FileBytes     int64         // size of a file; multiple of 4096; default 64 MiB
	FilesMax      int           // files at most, at least 2; default 16
	SpareFiles    int           // prewritten ahead of need; default 1
	GroupBytesMax int           // largest write made of several entries; default 1 MiB. Less on a slow device
	Depth         int           // writes in flight; default 4, at most 8
	PipelineBytes int           // while a write is in flight, the next starts when this much waits; default 256 KiB
	QueueBytesMax int64         // appended and not yet committed; default 128 MiB
	WriteTimeout  time.Duration // deadline of one write; default 2 s
	CloseTimeout  time.Duration // Close gives up once a write is in flight for so long; default WriteTimeout
	LockThread    bool          // lock the committer to an OS thread
	OnThread      func()        // with LockThread: called on that thread first of all; the thread ends with the committer

	// OnCommit is called on the committer's goroutine with entries in LSN order: with a nil error for the contiguous durable
	// prefix only, else for entries whose fate is unknown or which were never written; the log is poisoned or closed then. Each
	// appended entry is reported exactly once. It must be fast and do no I/O. The slice is reused after return.
	OnCommit func(group []*Entry, err error)
	// OnPoison is called once, before the entries that fail by it are reported.
	OnPoison func(err error)
	// OnPressure says that files run out: what lies below oldest should be moved elsewhere and released soon. It is called on
	// the committer's goroutine and must not block.
	OnPressure func(oldest LSN)

	Logger  *slog.Logger     // nil: silent
	Metrics *Metrics         // nil: unregistered ones
	Locks   *lockmeter.Meter // measures the locks; may be nil

	// Pace is that of the background writes to the device, of which making files is one; nil: one of its own.
	Pace *pace.Pace

	newRing func(uring.Options) (uring.Ring, error) // tests watch the committer's ring
	now     func() time.Time                        // when writes begin and end; tests have slow devices
}

func (o *Options) setDefaults() {
	setDefault(&o.FileBytes, 64<<20)
	setDefault(&o.FilesMax, 16)
	setDefault(&o.SpareFiles, 1)
	setDefault(&o.GroupBytesMax, 1<<20)
	setDefault(&o.Depth, 4)
	setDefault(&o.PipelineBytes, 256<<10)
	setDefault(&o.QueueBytesMax, 128<<20)
	setDefault(&o.WriteTimeout, 2*time.Second)
	setDefault(&o.CloseTimeout, o.WriteTimeout)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.OnPoison == nil {
		o.OnPoison = func(error) {}
	}
	if o.OnPressure == nil {
		o.OnPressure = func(LSN) {}
	}
	if o.newRing == nil {
		o.newRing = uring.New
	}
	if o.now == nil {
		o.now = time.Now
	}
	if o.Pace == nil {
		o.Pace = pace.New(nil, nil)
	}
	o.Ring.Depth = max(o.Ring.Depth, 2*o.Depth)
	if o.Ring.Logger == nil {
		o.Ring.Logger = o.Logger
	}
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (o *Options) validate() error {
	bad := func(name string, got any, want string) error {
		return fmt.Errorf("%w: option %s is %v, want %s", ErrMisuse, name, got, want)
	}
	switch {
	case o.FS == nil || o.Dir == "" || o.OnCommit == nil:
		return fmt.Errorf("%w: options FS, Dir and OnCommit are required", ErrMisuse)
	case o.FileBytes < fileBytesMin || o.FileBytes > fileBytesMax || o.FileBytes%blockBytes != 0:
		return bad("FileBytes", o.FileBytes, fmt.Sprintf("a multiple of %d from %d to %d", blockBytes, fileBytesMin, fileBytesMax))
	case o.FilesMax < 2 || o.FilesMax > slotsMax:
		return bad("FilesMax", o.FilesMax, fmt.Sprintf("2 to %d", slotsMax))
	case o.SpareFiles < 0 || o.SpareFiles >= o.FilesMax:
		return bad("SpareFiles", o.SpareFiles, "less than FilesMax")
	case o.GroupBytesMax < blockBytes || o.GroupBytesMax > 64<<20:
		return bad("GroupBytesMax", o.GroupBytesMax, "4 KiB to 64 MiB")
	case o.Depth < 1 || o.Depth > depthMax:
		return bad("Depth", o.Depth, fmt.Sprintf("1 to %d", depthMax))
	case o.PipelineBytes < 0 || o.QueueBytesMax < 0 || o.WriteTimeout < 0 || o.CloseTimeout < 0:
		return fmt.Errorf("%w: options PipelineBytes, QueueBytesMax, WriteTimeout and CloseTimeout must not be negative", ErrMisuse)
	}
	return nil
}

// WAL is a write-ahead log. Open, Replay, Start and Close are called from one goroutine, everything else from any.
type WAL struct {
	o     Options
	fs    vfs.FS // o.FS with deadlines
	files files
	queue queue

	phase      phase // of Open, Replay, Start, Close; their caller's
	io         *engineIO
	recovered  LSN // where the recovered log ends
	generation uint64
	proof      vfs.File // the committer's, see proof.go

	ring    atomic.Pointer[uring.Ring] // the committer's, for OldestIO
	durable atomic.Uint64
	end     atomic.Uint64
	stats   counters

	committer chan struct{} // closed when the committer has ended; nil before Start
	ringErr   error         // of the ring's Close; valid when committer is closed
	maker     chan struct{}
}

type phase uint8

const (
	phaseOpen phase = iota
	phaseReplayed
	phaseStarted
	phaseClosed
)

// Open reads the headers of the files in o.Dir, which it creates if need be. It takes no lock: the caller makes sure that it is the
// only one. It fails with ErrCorrupt if a file that is needed is missing or damaged.
func Open(o Options) (*WAL, error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	w := &WAL{o: o, fs: vfs.Bounded(o.FS, metadataTimeout, metadataStuckMax)}
	o.Metrics.inFlightMax.Set(startBytes)
	w.queue.mu.MeterBy(o.Locks, lockmeter.WALQueue)
	w.files.mu.MeterBy(o.Locks, lockmeter.WALFiles)
	w.files.init(w)
	io, err := newEngineIO(o.Ring)
	if err != nil {
		return nil, fmt.Errorf("open wal %s: %w", o.Dir, err)
	}
	w.io = io
	if err := w.files.load(); err != nil {
		w.files.closeAll()
		w.io.close()
		return nil, fmt.Errorf("open wal %s: %w", o.Dir, err)
	}
	w.queue.init(o.QueueBytesMax, int(w.files.bytes)-2*blockBytes)
	return w, nil
}

// Start begins a new generation: what was recovered is closed for good, and Append is accepted from now on. Without a Replay before, it
// verifies the log as Replay does. A log that has no files yet gets its first one here, and the room for the second; ErrNoSpace if
// there is none.
func (w *WAL) Start() error {
	if w.phase == phaseOpen {
		if err := w.Replay(func(LSN, Kind, []byte, []byte) error { return nil }); err != nil {
			return err
		}
	}
	if w.phase != phaseReplayed {
		return fmt.Errorf("%w: Start of a log that was started or closed before", ErrMisuse)
	}
	reserved, err := w.files.makeFirst()
	if err != nil {
		return fmt.Errorf("start wal %s: %w", w.o.Dir, err)
	}
	giveUp := func(err error) error {
		if reserved != nil {
			reserved.discard(err)
		}
		if w.proof != nil {
			w.proof.Close() //nolint:errcheck // nothing was written
		}
		return fmt.Errorf("start wal %s: %w", w.o.Dir, err)
	}
	w.io.close()
	w.io = nil
	w.generation = newGeneration(w.files.generation)
	if w.proof, err = w.openProof(); err != nil {
		return giveUp(err)
	}
	c := newCommitter(w, w.proof)
	ready := make(chan error)
	w.committer = make(chan struct{})
	go c.run(ready)
	if err := <-ready; err != nil {
		<-w.committer
		w.committer = nil
		return giveUp(err)
	}
	w.maker = make(chan struct{})
	go w.files.makeSpares(reserved)
	w.phase = phaseStarted
	all, _ := w.files.count()
	w.o.Metrics.files.Set(float64(all))
	w.files.kick()
	return nil
}

// Release says that everything below upTo is safely elsewhere, for good. Files that lie wholly below are recycled.
func (w *WAL) Release(upTo LSN) {
	if w.files.release(upTo) {
		w.queue.wake()
	}
	w.files.kick()
}

// Kick retries to make a file after ErrNoSpace; to be called when room has returned. Release does it, too.
func (w *WAL) Kick() { w.files.kick() }

// Durable is the position up to which everything is on disk.
func (w *WAL) Durable() LSN { return LSN(w.durable.Load()) }

// End is the position up to which everything was handed to the disk. Entries still queued will lie behind.
func (w *WAL) End() LSN { return LSN(w.end.Load()) }

// OldestIO is the age of the oldest write in flight, 0 if there is none.
func (w *WAL) OldestIO() time.Duration {
	if r := w.ring.Load(); r != nil {
		return (*r).OldestAge()
	}
	return 0
}

// Close commits what is queued, marks the end as clean, and frees everything. Entries that cannot be written, because the log is poisoned
// or no file is free, are reported to OnCommit with the reason. Everything in it has a deadline. It returns the poison, if
// there is one, and what the ring could not give back.
func (w *WAL) Close() error {
	if w.phase == phaseClosed {
		return nil
	}
	started := w.phase == phaseStarted
	w.phase = phaseClosed
	if w.io != nil {
		w.io.close()
	}
	if !started {
		w.files.closeAll()
		return nil
	}
	w.queue.close()
	stuck := w.awaitCommitter()
	w.files.stopMaking()
	if stuck != nil {
		return fmt.Errorf("close wal %s: %w", w.o.Dir, errors.Join(w.queue.poison(), stuck))
	}
	<-w.maker
	if w.ringErr != nil {
		// The kernel still holds a write into one of the files; the descriptors stay open with it.
		return fmt.Errorf("close wal %s: %w", w.o.Dir, errors.Join(w.queue.poison(), w.ringErr))
	}
	w.files.closeAll()
	w.proof.Close() //nolint:errcheck // every write was durable by itself
	if err := w.queue.poison(); err != nil {
		return fmt.Errorf("close wal %s: %w", w.o.Dir, err)
	}
	return nil
}

// counters of Stats, written by the committer only.
type counters struct {
	mu struct {
		sync.Mutex
		Stats
	}
}

// Stats is what a log did since Start.
type Stats struct {
	Groups      uint64 // writes, each with its own flush of the device
	Entries     uint64
	Bytes       uint64 // heads and bodies of durable entries
	DeviceBytes uint64 // what was written for them, frames and padding included; prewriting excluded
	Blocked     uint64 // times the committer had to wait for a free file
	Files       int    // slots that exist
	FilesFree   int    // of these, ready to be written
	QueueBytes  int64  // appended and not yet committed
	Ring        string // name of the ring
}

// Stats returns the current numbers.
func (w *WAL) Stats() Stats {
	w.stats.mu.Lock()
	s := w.stats.mu.Stats
	w.stats.mu.Unlock()
	s.Files, s.FilesFree = w.files.count()
	s.QueueBytes = w.queue.bytesPending()
	if r := w.ring.Load(); r != nil {
		s.Ring = (*r).Name()
	}
	return s
}
