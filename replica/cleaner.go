package replica

import (
	"errors"
	"sync"
	"time"

	"weir/internal/clock"
	"weir/internal/config"
	"weir/segment"
)

// cleaner decides which log is compacted when, and has it done. A log is looked at when something has changed: a segment was sealed, its
// topic was configured, a lag or a tombstone's time is over, a run has ended. What is worth compacting waits for one of at most
// log.cleaner.threads workers, the dirtiest first; a worker ends when nothing waits, and one timer serves all deadlines: an idle cleaner does
// nothing.
//
// A log that cannot be compacted, because it is damaged, is left alone from then on, until the next start; the others go on. Whatever else goes
// wrong is tried again.
type cleaner struct {
	m        *Manager
	metrics  *cleanerMetrics
	throttle *throttle
	backoff  time.Duration

	mu struct {
		sync.Mutex
		logs    map[*Partition]*cleanLog
		looks   []*cleanLog // to be looked at
		ready   []*cleanLog // to be compacted
		workers int
		timer   clock.Timer
		at      time.Time // when the timer comes; zero: it is not set
		closed  bool
	}
}

// cleanLog is what the cleaner knows of one log. The cleaner's lock guards it.
type cleanLog struct {
	p      *Partition
	busy   bool      // it waits for a worker, or one has it
	again  bool      // something changed meanwhile
	looked time.Time // when it was last found to need nothing
	at     time.Time // the next look; zero: when something changes
	state  segment.CompactionState
	broken error // it is not compacted any more
}

func newCleaner(m *Manager, metrics *cleanerMetrics) *cleaner {
	c := &cleaner{
		m: m, metrics: metrics, throttle: newThrottle(m.clk, m.cfg.LogCleanerIOMaxBytesPerSecond),
		backoff: config.Millis(m.cfg.LogCleanerBackoffMs),
	}
	c.mu.logs = make(map[*Partition]*cleanLog)
	metrics.observe(c.dirtiest, c.uncleanable)
	return c
}

// changed tells that there may be something to compact in p. It touches memory only; p's lock must not be held.
func (c *cleaner) changed(p *Partition) { c.note(p, false) }

// configured is changed for a topic that got another configuration: it does not wait for log.cleaner.backoff.ms to pass.
func (c *cleaner) configured(p *Partition) { c.note(p, true) }

func (c *cleaner) note(p *Partition, now bool) {
	if !c.m.cfg.LogCleanerEnable || !c.m.serving.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.mu.logs[p]
	if !p.settings.Load().Segment.Compact {
		if l != nil && !l.busy && l.broken == nil {
			delete(c.mu.logs, p)
		}
		return
	}
	if l == nil {
		l = &cleanLog{p: p}
		c.mu.logs[p] = l
	}
	switch at := l.looked.Add(c.backoff); {
	case c.mu.closed || l.broken != nil:
	case l.busy:
		l.again = true
	case now || l.looked.IsZero() || !at.After(c.m.clk.Now()):
		c.lookLocked(l)
	case l.at.IsZero() || at.Before(l.at):
		l.at = at
		c.armLocked(at)
	}
}

// forget lets go of a partition that was deleted. A run that is under way ends by itself.
func (c *cleaner) forget(p *Partition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mu.logs, p)
}

// roomReturned has those tried again that a full disk has stopped.
func (c *cleaner) roomReturned() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.mu.logs {
		if !l.busy && l.broken == nil && !l.at.IsZero() {
			c.lookLocked(l)
		}
	}
}

// lookLocked puts l into the queue of those to be looked at.
func (c *cleaner) lookLocked(l *cleanLog) {
	l.busy, l.again, l.at = true, false, time.Time{}
	c.mu.looks = append(c.mu.looks, l)
	c.hireLocked()
}

// hireLocked starts a worker if there may be one more.
func (c *cleaner) hireLocked() {
	if c.mu.workers < c.m.cfg.LogCleanerThreads && !c.mu.closed && c.m.background.enter() {
		c.mu.workers++
		go c.work()
	}
}

// armLocked makes sure that the timer comes at the given time or before.
func (c *cleaner) armLocked(at time.Time) {
	if at.IsZero() || c.mu.closed || !c.mu.at.IsZero() && !at.Before(c.mu.at) {
		return
	}
	if c.mu.timer != nil {
		c.mu.timer.Stop()
	}
	c.mu.at = at
	c.mu.timer = c.m.clk.AfterFunc(clock.UntilWall(at, c.m.clk.Now()), c.wake)
}

// wake has all those looked at whose time has come.
func (c *cleaner) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.at = time.Time{}
	if c.mu.closed {
		return
	}
	now := c.m.clk.Now()
	var next time.Time
	for _, l := range c.mu.logs {
		switch {
		case l.busy || l.at.IsZero():
		case !l.at.After(now):
			c.lookLocked(l)
		case next.IsZero() || l.at.Before(next):
			next = l.at
		}
	}
	c.armLocked(next)
}

// close lets nothing new begin. What runs ends with the manager's context.
func (c *cleaner) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.closed = true
	if c.mu.timer != nil {
		c.mu.timer.Stop()
	}
}

// work is a worker: it looks at what is to be looked at, then compacts the dirtiest of what is worth it, and so on.
func (c *cleaner) work() {
	defer c.m.background.leave()
	for {
		l, run := c.take()
		switch {
		case l == nil:
			return
		case run:
			c.run(l)
		default:
			c.look(l)
		}
	}
}

// take returns what to do next: a log to look at or, when none is left, one to compact; nil: nothing, and the worker is gone.
func (c *cleaner) take() (l *cleanLog, run bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.mu.closed || len(c.mu.looks)+len(c.mu.ready) == 0:
		c.mu.workers--
		return nil, false
	case len(c.mu.looks) > 0:
		l = c.mu.looks[0]
		c.mu.looks[0] = nil
		c.mu.looks = c.mu.looks[1:]
		return l, false
	}
	best := 0
	for i, l := range c.mu.ready {
		if l.state.Ratio() > c.mu.ready[best].state.Ratio() {
			best = i
		}
	}
	l = c.mu.ready[best]
	last := len(c.mu.ready) - 1
	c.mu.ready[best] = c.mu.ready[last]
	c.mu.ready[last] = nil
	c.mu.ready = c.mu.ready[:last]
	return l, true
}

func (c *cleaner) look(l *cleanLog) {
	p := l.p
	p.watchLag(false) // what is appended from here on reports itself
	now := c.m.clk.Now()
	state, err := p.log.CompactionState(now, p.LastStable())
	if err == nil && state.Watched {
		p.watchLag(true)
	}
	if err != nil {
		c.failed(l, err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.state = state; state.Due {
		c.mu.ready = append(c.mu.ready, l)
		c.hireLocked()
		return
	}
	l.looked = now
	c.restLocked(l, state.Next)
	if state.Blocked {
		c.laterLocked(l)
	}
}

// restLocked ends the work on l: it is looked at again at the given time, if any, or when something changes.
func (c *cleaner) restLocked(l *cleanLog, next time.Time) {
	l.busy, l.at = false, next
	switch {
	case c.mu.logs[l.p] != l: // deleted
		return
	case l.again && c.mu.closed:
	case l.again && c.backoff == 0:
		c.lookLocked(l)
	case l.again:
		l.again = false
		c.laterLocked(l)
	}
	c.armLocked(l.at)
}

// laterLocked has l looked at after log.cleaner.backoff.ms.
func (c *cleaner) laterLocked(l *cleanLog) {
	at := c.m.clk.Now().Add(max(c.backoff, time.Millisecond))
	if l.at.IsZero() || at.Before(l.at) {
		l.at = at
	}
	c.armLocked(l.at)
}

// run compacts l.
func (c *cleaner) run(l *cleanLog) {
	p, began := l.p, c.m.clk.Now()
	c.metrics.running.Inc()
	var stats segment.CompactStats
	err := p.loadProducers() // whose last batches must stay
	if err == nil {
		stats, err = p.log.Compact(c.m.ctx, c.options(p, began))
	}
	c.metrics.running.Dec()
	took := c.m.clk.Now().Sub(began)
	c.metrics.ran(stats, took, c.m.clk.Now(), err)
	if stats.Before > 0 {
		c.m.space.changed()
	}
	if err != nil {
		c.failed(l, err)
		return
	}
	c.m.log.Info("log compacted", "partition", p.name, "segments", stats.Before, "into", stats.After, "read_bytes", stats.BytesRead,
		"written_bytes", stats.BytesWritten, "records_dropped", stats.RecordsDropped, "first_dirty_offset", stats.FirstDirty, "took", took)
	c.mu.Lock()
	defer c.mu.Unlock()
	stuck := stats.Before == 0 && stats.FirstDirty == l.state.FirstDirty
	l.state = segment.CompactionState{FirstDirty: stats.FirstDirty}
	if stuck { // it waits for something that a look does not see, such as the end of a transaction
		l.looked = began
		c.restLocked(l, time.Time{})
		c.laterLocked(l)
		return
	}
	c.lookLocked(l)
}

func (c *cleaner) options(p *Partition, now time.Time) segment.CompactOptions {
	cfg := c.m.cfg
	threads := cfg.LogCleanerThreads
	return segment.CompactOptions{
		Limit: p.LastStable(), Now: now,
		MapBytes: cfg.LogCleanerDedupeBufferSize / int64(threads), MapLoad: cfg.LogCleanerIOBufferLoadFactor,
		ReadBytes: cfg.LogCleanerIOBufferSize / threads / 2, WriteBytes: cfg.LogCleanerIOBufferSize / threads / 2,
		Throttle: c.throttle.wait, Producers: p.lastBatches,
	}
}

// failed decides what becomes of a log after an error.
func (c *cleaner) failed(l *cleanLog, err error) {
	p := l.p
	if errors.Is(err, segment.ErrClosed) || errors.Is(err, segment.ErrFailed) || c.m.ctx.Err() != nil || p.Closed() {
		c.forget(p)
		return
	}
	c.metrics.errors.Inc()
	broken := false
	switch {
	case errors.Is(err, segment.ErrHalfSwapped): // whatever the cause
		broken = true
	case errors.Is(err, segment.ErrNoSpace):
		c.m.log.Warn("no room to compact a log; it is tried again", "partition", p.name, "err", err)
		c.m.space.changed()
	case segment.IsLate(err), errors.Is(err, segment.ErrTruncating):
		c.m.log.Warn("a log was not compacted; it is tried again", "partition", p.name, "err", err)
	default:
		broken = true
	}
	if broken {
		c.m.log.Error("a log cannot be compacted and is left as it is until the next start", "partition", p.name, "err", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if broken {
		l.busy, l.broken = false, err
		return
	}
	l.looked = c.m.clk.Now()
	c.restLocked(l, time.Time{})
	c.laterLocked(l)
}

// dirtiest is the greatest dirty ratio as of the last looks.
func (c *cleaner) dirtiest() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	ratio := 0.0
	for _, l := range c.mu.logs {
		ratio = max(ratio, l.state.Ratio())
	}
	return ratio
}

// uncleanable counts the logs that are not compacted any more.
func (c *cleaner) uncleanable() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, l := range c.mu.logs {
		if l.broken != nil {
			n++
		}
	}
	return float64(n)
}

// lastBatches returns the last batch of each producer that the partition remembers.
func (p *Partition) lastBatches() map[int64]segment.LastBatch {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expireProducersLocked()
	return p.mu.producers.last()
}

// watchLag notes whether the cleaner knows when the active segment reaches max.compaction.lag.ms. If it does not, the next append tells
// it to look.
func (p *Partition) watchLag(known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.lagKnown = known
}
