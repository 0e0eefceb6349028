package replica

import (
	"context"
	"time"

	"weir/internal/clock"
)

// retentionWorkers bounds how many logs delete old segments at a time.
const retentionWorkers = 2

// scheduleRetention arms the partition's timer for the next moment at which a segment can expire, and notes from which size on one is too much.
// It is called when something was appended to an empty log, when a segment is sealed, after a deletion, and when the configuration changed:
// between those nothing can become due earlier, unless the wall clock is set.
func (p *Partition) scheduleRetention() {
	now := p.m.clk.Now()
	at, ok := p.log.NextRetention(now)
	room, sized := p.log.RetentionRoom()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.sized, p.mu.left = sized, room; room <= 0 {
		p.mu.left = retentionStep // it could go and did not: the high watermark has not passed it
	}
	if p.mu.retention != nil {
		p.mu.retention.Stop()
		p.mu.retention = nil
	}
	if ok && !p.mu.closed {
		p.mu.retention = p.m.clk.AfterFunc(clock.UntilWall(at, now), p.retain)
	}
}

// retentionStep is how much is appended between two attempts to delete by size if the first did not succeed.
const retentionStep = 64 << 10

// grownLocked notes n bytes that were appended. It returns what retention has to do because of them, to be called without
// the lock; nil, nearly always, for nothing.
func (p *Partition) grownLocked(s *settings, n int64) (due func()) {
	if p.mu.sized {
		if p.mu.left -= n; p.mu.left <= 0 {
			p.mu.sized = false
			return func() { go p.retain() }
		}
	}
	if p.mu.retention == nil && s.expires() {
		return p.scheduleRetention
	}
	if s.lagging && !p.mu.lagKnown {
		p.mu.lagKnown = true
		return func() { p.m.cleaner.changed(p) }
	}
	return nil
}

// retain deletes what the topic's retention allows, then looks for the next moment. It does I/O, on its own goroutine.
func (p *Partition) retain() {
	if !p.m.background.enter() {
		return
	}
	defer p.m.background.leave()
	select {
	case p.m.retaining <- struct{}{}:
		defer func() { <-p.m.retaining }()
	case <-p.m.background.closing:
		return
	}
	if p.Closed() {
		return
	}
	deleted, err := p.log.EnforceRetention(p.m.clk.Now(), p.HighWatermark())
	if err != nil {
		p.m.log.Error("retention failed", "partition", p.name, "err", err)
		return
	}
	if deleted > 0 {
		p.m.log.Info("deleted old segments", "partition", p.name, "segments", deleted, "log_start", p.log.LogStart())
		p.m.space.changed()
	}
	p.scheduleRetention()
}

// rolled runs on the flusher's goroutine when a segment was sealed: time for a producer snapshot, retention by size, compaction.
// All do I/O, so they have goroutines of their own.
func (p *Partition) rolled(int64) {
	if !p.m.serving.Load() {
		return // replayed: the producers are not restored yet, a snapshot of them would be of none, and taken for the truth later
	}
	p.m.rolls.add(p)
	p.m.cleaner.changed(p)
}

// Unreserve gives back room taken by Reserve for a batch that was not appended.
func (m *Manager) Unreserve(n int) { m.store.Unreserve(n) }

// Reserve takes memory and disk room for n bytes of batches before they are appended. It blocks while unflushed data is
// at its limit, at most for wait: that is the backpressure on producers. Errors: ErrDiskFull, ErrOverloaded, ErrStorage.
func (m *Manager) Reserve(n int, wait time.Duration) error {
	_, err := m.ReserveTimed(n, wait)
	return err
}

// ReserveTimed is Reserve that also says how long it has waited, 0 where there was room at once.
func (m *Manager) ReserveTimed(n int, wait time.Duration) (waited time.Duration, err error) {
	if err := m.Down(); err != nil {
		return 0, err
	}
	if err := m.space.admit(n); err != nil {
		return 0, err
	}
	ok, err := m.store.TryReserve(n)
	if err != nil {
		return 0, wrapStorage(err)
	}
	if ok {
		return 0, nil
	}
	began := m.clk.Now()
	defer func() { waited = m.clk.Now().Sub(began) }()
	ctx, cancel := context.WithTimeout(m.UntilStalled(), wait)
	defer cancel()
	if err = m.store.Reserve(ctx, n); err != nil && m.Down() != nil {
		return 0, m.Down()
	}
	return 0, wrapStorage(err)
}
