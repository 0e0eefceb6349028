package replica

import (
	"context"
	"time"
)

// retentionWorkers bounds how many logs delete old segments at a time.
const retentionWorkers = 2

// scheduleRetention arms the partition's timer for the next moment at which a segment can expire. It is called
// when a segment is sealed, after a deletion, and when the configuration changed: between those nothing can become due earlier.
func (p *Partition) scheduleRetention() {
	now := p.m.clk.Now()
	at, ok := p.log.NextRetention(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.retention != nil {
		p.mu.retention.Stop()
		p.mu.retention = nil
	}
	if ok && !p.mu.closed {
		p.mu.retention = p.m.clk.AfterFunc(max(at.Sub(now), 0), p.retain)
	}
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

// rolled runs on the flusher's goroutine when a segment was sealed: time for a producer snapshot and for retention by size.
// Both do I/O of their own, so they get a goroutine.
func (p *Partition) rolled(int64) {
	go func() {
		if p.m.background.enter() {
			defer p.m.background.leave()
			p.writeSnapshot()
		}
	}()
	go p.retain()
}

// Unreserve gives back room taken by Reserve for a batch that was not appended.
func (m *Manager) Unreserve(n int) { m.store.Unreserve(n) }

// Reserve takes memory and disk room for n bytes of batches before they are appended. It blocks while unflushed data is
// at its limit, at most for wait: that is the backpressure on producers. Errors: ErrDiskFull, ErrOverloaded, ErrStorage.
func (m *Manager) Reserve(n int, wait time.Duration) error {
	if err := m.space.admit(n); err != nil {
		return err
	}
	ok, err := m.store.TryReserve(n)
	if err != nil {
		return wrapStorage(err)
	}
	if ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(m.ctx, wait)
	defer cancel()
	return wrapStorage(m.store.Reserve(ctx, n))
}
