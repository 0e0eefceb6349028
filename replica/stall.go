package replica

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/clock"
)

// Areas of the data directory whose oldest operation in flight is watched and exported. Only reads do not count for a stall: a read that
// hangs fails its own fetch, while what is acknowledged and what is in memory do not depend on it.
const (
	AreaWAL      = "wal"      // durable writes of the write-ahead log
	AreaSegments = "segments" // writes and syncs behind it
	AreaMeta     = "meta"     // durable writes of the metadata's log
	AreaFiles    = "files"    // creating, renaming, syncing of directories
)

// Area is a part of the data directory and the age of its oldest operation in flight, 0 if there is none.
type Area struct {
	Name   string
	Oldest time.Duration
}

// stallWatch decides when the data directory is stalled: once the oldest operation in flight is older than limit; and when it has
// recovered: once none is older than half of that. It has the last word because it looks from outside: it works even if the
// thread that owns an operation is held inside a system call.
//
// It is driven by events. changed is called when an area's first operation goes in flight and when operations have come back; then a timer is
// armed, for a slice of limit or the earliest moment at which anything in flight can be too old, and not again before that. With nothing in
// flight nothing is armed. A slice that ends much too late is time in which the process stood still: that does not count for an age, since
// the disk may have answered long ago. So a disk that hangs is found within limit after the process runs again.
type stallWatch struct {
	clk   clock.Clock
	limit time.Duration
	areas func() []Area
	// The outcomes, never concurrently: one stalled, then one healed for it. resume follows healed, and a late in between.
	stalled func(worst Area)
	healed  func(lasted time.Duration)
	resume  func()

	armed  atomic.Bool // the timer runs, or the stall's end is waited for
	wanted atomic.Bool // look at every change: stalled, or something waits for the disk to be quiet

	mu struct {
		sync.Mutex // held while the outcomes run: they touch memory only
		timer      clock.Timer
		due        time.Time // when it runs; zero: it is not armed
		absent     absences
		stalled    bool
		since      time.Time // when the operation began that was too old
		late       bool
		resumed    time.Time // when resume was last called
		closed     bool
	}
}

// worstLocked takes stock. It looks at the clock last, so that what the areas say is never older than it is thought to be.
func (w *stallWatch) worstLocked() (worst Area) {
	areas := w.areas()
	now := w.clk.Now()
	if due := w.mu.due; !due.IsZero() && clock.Stood(w.limit, now.Sub(due)) {
		// When in its slice it stopped is not known, and what came meanwhile must have its time to be taken.
		w.mu.absent.add(due.Add(-clock.Slice(w.limit)), now)
		w.mu.due = now
	}
	for _, a := range areas {
		if a.Oldest = w.mu.absent.without(a.Oldest, now); a.Oldest > worst.Oldest {
			worst = a
		}
	}
	return worst
}

// changed is called from the threads that do I/O, often: it must cost next to nothing.
func (w *stallWatch) changed() {
	if w.wanted.Load() {
		go w.look()
		return
	}
	if !w.armed.Load() && w.armed.CompareAndSwap(false, true) {
		w.arm(w.limit)
	}
}

func (w *stallWatch) arm(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armLocked(d)
}

func (w *stallWatch) armLocked(d time.Duration) {
	d = min(d, clock.Slice(w.limit))
	w.mu.due = w.clk.Now().Add(d)
	switch {
	case w.mu.closed:
	case w.mu.timer == nil:
		w.mu.timer = w.clk.AfterFunc(d, w.look)
	default:
		w.mu.timer.Reset(d)
	}
}

// late says that work was given up because of a slow disk, and is to be resumed when the disk is quiet.
func (w *stallWatch) late() {
	w.mu.Lock()
	w.mu.late = true
	w.wanted.Store(true)
	w.mu.Unlock()
	go w.look()
}

// look takes stock and decides when to look again.
func (w *stallWatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.closed {
		return
	}
	worst := w.worstLocked()
	w.mu.due = time.Time{}
	quiet := worst.Oldest < w.limit/2
	switch {
	case w.mu.stalled && quiet:
		w.mu.stalled, w.mu.late = false, false
		w.wanted.Store(false)
		w.healed(w.clk.Now().Sub(w.mu.since))
		w.mu.resumed = w.clk.Now()
		w.resume()
	case w.mu.stalled:
		return // the end of an operation brings us back
	case worst.Oldest >= w.limit:
		w.mu.stalled, w.mu.since = true, w.clk.Now().Add(-worst.Oldest)
		w.wanted.Store(true)
		w.stalled(worst)
		return
	case w.mu.late && quiet:
		// What fails at once although nothing is in flight must not be tried in a loop.
		if early := w.limit - w.clk.Now().Sub(w.mu.resumed); early > 0 {
			w.armed.Store(true)
			w.armLocked(max(min(early, w.limit-worst.Oldest), time.Millisecond))
			return
		}
		w.mu.late, w.mu.resumed = false, w.clk.Now()
		w.wanted.Store(false)
		w.resume()
	}
	w.againLocked(worst.Oldest)
}

// againLocked arms the timer for when the oldest operation could be too old.
func (w *stallWatch) againLocked(oldest time.Duration) {
	if oldest == 0 {
		w.armed.Store(false)
		// An operation that began just now may have seen armed still set.
		if oldest = w.worstLocked().Oldest; oldest == 0 || !w.armed.CompareAndSwap(false, true) {
			return
		}
	}
	w.armLocked(max(w.limit-oldest, time.Millisecond))
}

func (w *stallWatch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.closed = true
	if w.mu.timer != nil {
		w.mu.timer.Stop()
	}
}

// stallState is what a stall means to the manager's callers.
type stallState struct {
	down  atomic.Pointer[error]  // why nothing is taken: stalled or failed
	epoch atomic.Pointer[waiter] // ends when the disk stalls
	count prometheus.Counter
	total prometheus.Counter // seconds
}

// waiter is a context for those who wait for the disk in other ways than for a batch.
type waiter struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func newWaiter(parent context.Context) *waiter {
	w := &waiter{}
	w.ctx, w.cancel = context.WithCancelCause(parent)
	return w
}

// Down says why the data directory takes nothing at present: it has failed for good, or it is stalled and waited for. nil: it does. The error is an
// ErrStorage; one that may pass is an ErrStalled, too.
func (m *Manager) Down() error {
	if err := m.stall.down.Load(); err != nil {
		return *err
	}
	return nil
}

// UntilStalled is a context that ends when the disk stalls, with ErrStalled as its cause, or when the manager closes.
func (m *Manager) UntilStalled() context.Context { return m.stall.epoch.Load().ctx }

// Areas tells the age of the oldest operation in flight for each area of the data directory.
func (m *Manager) Areas() []Area {
	areas := []Area{{AreaMeta, m.meta.OldestIO()}, {AreaFiles, m.files.OldestAge()}}
	if m.serving.Load() {
		areas = append(areas, Area{AreaSegments, m.store.OldestIO()}, Area{AreaWAL, m.wal.OldestIO()})
	}
	return areas
}

// diskStalled is the watch's: everybody who waits for the disk is told so. With log.dir.stall.action=exit that is the end of the node's service.
func (m *Manager) diskStalled(worst Area) {
	m.stall.count.Inc()
	err := fmt.Errorf("%w: %w: an operation (%s) is in flight for %s, log.dir.stall.ms is %d", ErrStorage, ErrStalled, worst.Name,
		worst.Oldest.Round(time.Millisecond), m.cfg.LogDirStallMs)
	if !m.waitsOutStalls() {
		m.fail(err)
		return
	}
	m.refuse(err)
	m.log.Error("the disk is stalled; produce is refused until it answers", "area", worst.Name, "in_flight", worst.Oldest.Round(time.Millisecond))
}

// refuse makes everybody who waits for the disk fail with err, and all who come.
func (m *Manager) refuse(err error) {
	m.stall.down.CompareAndSwap(nil, &err)
	m.stall.epoch.Load().cancel(err)
	m.giveUpAll(err)
}

func (m *Manager) diskHealed(lasted time.Duration) {
	m.stall.total.Add(lasted.Seconds())
	if m.Failure() != nil {
		return
	}
	m.log.Info("the disk answers again; produce is taken", "stalled_for", lasted.Round(time.Millisecond))
	m.stall.epoch.Store(newWaiter(m.ctx))
	m.stall.down.Store(nil)
	if err := m.Failure(); err != nil {
		m.refuse(err) // it came between
	}
}

// resumeWork lets go on what gave up on the slow disk.
func (m *Manager) resumeWork() {
	if !m.serving.Load() || m.Failure() != nil {
		return
	}
	m.store.Kick()
	m.store.FlushBelow(0) // writes a checkpoint that is overdue
	m.wal.Kick()
}

// waitsOutStalls: a stall is waited out instead of ending the process.
func (m *Manager) waitsOutStalls() bool { return m.cfg.LogDirStallAction == "wait" }

func (m *Manager) openStall(reg prometheus.Registerer) {
	m.stall.count = prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_replica_stalls_total", Help: "Times the data directory was declared stalled."})
	m.stall.total = prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_replica_stalled_seconds_total", Help: "Time of stalls that were waited out."})
	m.stall.epoch.Store(newWaiter(m.ctx))
	m.watch.clk, m.watch.limit, m.watch.areas = m.clk, m.stallTimeout(), m.Areas
	m.watch.stalled, m.watch.healed, m.watch.resume = m.diskStalled, m.diskHealed, m.resumeWork
	m.watch.armed.Store(true) // until serving: a start that meets a stall fails by the deadlines of its own operations
	if reg == nil {
		return
	}
	reg.MustRegister(m.stall.count, m.stall.total, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weir_replica_down", Help: "1 while the data directory takes nothing, because it is stalled or has failed.",
	}, func() float64 {
		if m.Down() != nil {
			return 1
		}
		return 0
	}))
	for _, name := range []string{AreaWAL, AreaSegments, AreaMeta, AreaFiles} {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_replica_oldest_io_seconds", Help: "Age of the oldest disk operation in flight.", ConstLabels: prometheus.Labels{"area": name},
		}, func() float64 {
			for _, a := range m.Areas() {
				if a.Name == name {
					return a.Oldest.Seconds()
				}
			}
			return 0
		}))
	}
}
