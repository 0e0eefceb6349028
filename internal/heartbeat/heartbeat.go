// Package heartbeat measures how long the process stood still. A goroutine is due at a fixed interval; how late it is woken
// is how long no goroutine could be scheduled: a page fault on a stalled disk, a machine without CPU, a stopped process.
//
// It is the one ticker of the broker, and so the one cost of an idle one. Waking an idle Go process costs about 100 us of
// CPU (a thread, the scheduler's spinning and its monitor), whatever the goroutine does; measured on 2 cores, per cent of one: every
// 10 ms 0.96, 20 ms 0.53, 50 ms 0.21, 100 ms 0.11, 200 ms 0.07, 250 ms 0.06. So the beat is slow. It misses stops
// shorter than the interval and measures longer ones up to an interval too short; the runtime's own histograms of
// scheduling latency and garbage collection pauses, which cost nothing, show the short ones.
package heartbeat

import (
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// DefaultInterval is the resolution: a stop shorter than this may go unseen.
	DefaultInterval = 200 * time.Millisecond
	// DefaultWarnAfter is the gap from which on a warning is logged.
	DefaultWarnAfter = 250 * time.Millisecond

	window    = time.Minute      // Worst looks back this far
	slots     = 6                // in steps of window/slots
	warnEvery = 10 * time.Second // at most one warning in this time
)

// Options of a Heartbeat. The zero value works.
type Options struct {
	Interval  time.Duration         // 0: DefaultInterval
	WarnAfter time.Duration         // 0: DefaultWarnAfter
	Logger    *slog.Logger          // nil: discard
	Registry  prometheus.Registerer // nil: not exported
}

// Heartbeat is a running measurement.
type Heartbeat struct {
	interval  time.Duration
	warnAfter time.Duration
	log       *slog.Logger
	seconds   prometheus.Histogram

	stop chan struct{}
	done chan struct{}

	mu struct {
		sync.Mutex
		gaps gaps
	}
	lastWarning time.Time // the goroutine's own
}

// Start begins measuring; Stop ends it.
func Start(o Options) *Heartbeat {
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	if o.WarnAfter <= 0 {
		o.WarnAfter = DefaultWarnAfter
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Heartbeat{
		interval: o.Interval, warnAfter: o.WarnAfter, log: o.Logger,
		stop: make(chan struct{}), done: make(chan struct{}),
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

func (h *Heartbeat) run() {
	defer close(h.done)
	timer := time.NewTimer(h.interval)
	defer timer.Stop()
	due := time.Now().Add(h.interval)
	for {
		select {
		case <-h.stop:
			return
		case <-timer.C:
		}
		now := time.Now()
		h.observe(now, now.Sub(due))
		// From now, not from due: after a long stop the missed beats must not be counted as further gaps.
		due = now.Add(h.interval)
		timer.Reset(h.interval)
	}
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
		number int64 // of the slot of time, counted from the epoch
		worst  time.Duration
	}
}

func slotNumber(now time.Time) int64 { return now.UnixNano() / int64(window/slots) }

func (g *gaps) add(now time.Time, gap time.Duration) {
	n := slotNumber(now)
	s := &g.slot[n%slots]
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
