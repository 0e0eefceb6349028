// Package heartbeat measures how long the process stood still. A goroutine is due at a fixed interval; how late it is woken
// is how long no goroutine could be scheduled: a page fault on a stalled disk, a machine without CPU, a stopped process.
//
// It is the one ticker of the broker, and so the one cost of an idle one. Waking an idle Go process costs about 100 us of
// CPU (a thread, the scheduler's spinning and its monitor), whatever the goroutine does; measured on 2 cores, per cent of one: every
// 10 ms 0.96, 20 ms 0.53, 50 ms 0.21, 100 ms 0.11, 200 ms 0.07, 250 ms 0.06. So it beats every 10 ms only while there is something to
// stand still: from the moment that it is told of work (Touch) until none has come for a while and none is in flight. In between it
// beats slowly, misses stops shorter than that interval, and measures longer ones up to an interval too short; nobody waits then.
package heartbeat

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/internal/clock"
)

const (
	// DefaultInterval is the resolution while there is work: a stop shorter than this may go unseen.
	DefaultInterval = 10 * time.Millisecond
	// DefaultIdle is the interval while there is none.
	DefaultIdle = 200 * time.Millisecond
	// DefaultWarnAfter is the gap from which on a warning is logged.
	DefaultWarnAfter = 250 * time.Millisecond

	window    = time.Minute            // Worst looks back this far
	slots     = 6                      // in steps of window/slots
	warnEvery = 10 * time.Second       // at most one warning in this time
	linger    = 250 * time.Millisecond // the fast beat goes on for so long after the last work
)

// Options of a Heartbeat. The zero value works.
type Options struct {
	Interval  time.Duration         // while there is work; 0: DefaultInterval
	Idle      time.Duration         // while there is none; 0: DefaultIdle
	Busy      func() bool           // whether there is work that Touch has not been told of lately; nil: there never is
	WarnAfter time.Duration         // 0: DefaultWarnAfter
	Logger    *slog.Logger          // nil: discard
	Registry  prometheus.Registerer // nil: not exported
}

// Heartbeat is a running measurement.
type Heartbeat struct {
	interval  time.Duration
	idle      time.Duration
	busy      func() bool
	warnAfter time.Duration
	log       *slog.Logger
	seconds   prometheus.Histogram

	state atomic.Uint32
	wake  chan struct{} // capacity 1: Touch while it beat slowly
	stop  chan struct{}
	done  chan struct{}

	mu struct {
		sync.Mutex
		gaps gaps
	}
	lastWarning time.Time // the goroutine's own
}

// States of the beat. Only the step from slow to touched costs Touch more than a load.
const (
	slow    uint32 = iota // idle
	fast                  // no work since the last beat
	touched               // work since then
)

// Start begins measuring; Stop ends it.
func Start(o Options) *Heartbeat {
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	if o.Idle <= 0 {
		o.Idle = max(DefaultIdle, o.Interval)
	}
	if o.Busy == nil {
		o.Busy = func() bool { return false }
	}
	if o.WarnAfter <= 0 {
		o.WarnAfter = DefaultWarnAfter
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Heartbeat{
		interval: o.Interval, idle: o.Idle, busy: o.Busy, warnAfter: o.WarnAfter, log: o.Logger,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "weir_heartbeat_gap_seconds",
			Help:    "How late a goroutine that was due was woken: how long the process stood still.",
			Buckets: []float64{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
		}),
	}
	if o.Registry != nil {
		o.Registry.MustRegister(h.seconds, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weir_heartbeat_worst_gap_seconds",
			Help: "The longest such gap of the last minute.",
		}, func() float64 { return h.Worst().Seconds() }))
	}
	go h.run()
	return h
}

// Stop ends the measurement and waits for its goroutine.
func (h *Heartbeat) Stop() {
	close(h.stop)
	<-h.done
}

// Worst is the longest gap of the last minute.
func (h *Heartbeat) Worst() time.Duration {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.gaps.worst(now)
}

// Touch tells that there is work. It may be called from any goroutine, often: all but the first call between two beats are
// one load.
func (h *Heartbeat) Touch() {
	if h.state.Load() == touched {
		return
	}
	if h.state.Swap(touched) == slow {
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
}

func (h *Heartbeat) run() {
	defer close(h.done)
	interval := h.idle
	timer := time.NewTimer(interval)
	defer timer.Stop()
	due := time.Now().Add(interval)
	var worked time.Time // when work was last seen
	for {
		select {
		case <-h.stop:
			return
		case <-h.wake:
			// Not a beat: only the next one is due sooner.
		case <-timer.C:
			h.observe(time.Now(), time.Since(due))
		}
		now := time.Now()
		if h.pace(now, &worked) {
			interval = h.interval
		} else {
			interval = h.idle
		}
		// From now, not from due: after a long stop the missed beats must not be counted as further gaps.
		due = now.Add(interval)
		timer.Reset(interval)
	}
}

// pace decides whether the next beat is a fast one.
func (h *Heartbeat) pace(now time.Time, worked *time.Time) bool {
	if h.state.CompareAndSwap(touched, fast) {
		*worked = now
		return true
	}
	if h.state.Load() == slow {
		return false
	}
	if now.Sub(*worked) < linger {
		return true
	}
	if h.busy() {
		*worked = now
		return true
	}
	return !h.state.CompareAndSwap(fast, slow) // it was touched this very moment
}

// observe records one beat that came late by gap.
func (h *Heartbeat) observe(now time.Time, gap time.Duration) {
	gap = max(gap, 0)
	h.seconds.Observe(gap.Seconds())
	h.mu.Lock()
	h.mu.gaps.add(now, gap)
	h.mu.Unlock()
	if gap >= h.warnAfter && now.Sub(h.lastWarning) >= warnEvery {
		h.lastWarning = now
		h.log.Warn("the process stood still", "gap", gap.Round(time.Millisecond), "interval", h.interval)
	}
}

// gaps keeps the worst gap of each of the last slots of time, so that an old one is forgotten.
type gaps struct {
	slot [slots]struct {
		number int64 // of the slot of time, counted from the start of the process
		worst  time.Duration
	}
}

// slotNumber may be negative where a test has an early clock.
func slotNumber(now time.Time) int64 { return clock.Ticks(now) / int64(window/slots) }

func (g *gaps) add(now time.Time, gap time.Duration) {
	n := slotNumber(now)
	s := &g.slot[(n%slots+slots)%slots]
	if s.number != n {
		s.number, s.worst = n, 0
	}
	s.worst = max(s.worst, gap)
}

func (g *gaps) worst(now time.Time) time.Duration {
	oldest := slotNumber(now) - slots + 1
	var w time.Duration
	for _, s := range g.slot {
		if s.number >= oldest {
			w = max(w, s.worst)
		}
	}
	return w
}
