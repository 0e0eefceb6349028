package replica

import (
	"errors"
	"fmt"
	"time"

	"weir/internal/budget"
	"weir/internal/iobuf"
	"weir/internal/record"
	"weir/replica/machine"
	"weir/wal"
)

// Append is one batch on its way into a partition. The caller fills Batch, Src and Done, calls
// Partition.Append, and owns the Append again when Done has been called; it may then be reused.
type Append struct {
	// Batch is one batch that passed record.Batch.Check. Its offset, leader epoch and, for LogAppendTime, its timestamp
	// are stamped in place. It belongs to the partition until Done.
	Batch record.Batch
	// AcksAll: Done is called when the batch is on every in-sync replica's disk (the high watermark has passed it), not when it is on this node's.
	// There must be min.insync.replicas of them, before and after.
	AcksAll bool
	// Fenced: only if the leader epoch is Epoch; else ErrNotLeader.
	Fenced bool
	Epoch  int32
	// Src is the buffer that Batch lies in, if any; the log may retain it instead of copying.
	Src *iobuf.Buf
	// Done is called exactly once: from inside Append for an error, or later on the WAL's thread, where it must
	// neither block nor do I/O.
	Done func(*Append)
	// Ctx is the caller's.
	Ctx any

	// Results, valid in Done. After an error only Err is.
	BaseOffset    int64 // offset of the first record (of the original batch, for a retry)
	LogAppendTime int64 // ms, -1 with CreateTime
	LogStart      int64
	Err           error
	Times         Times // also after an error

	last  int64    // last offset, for the wait of a retry
	batch *pending // while it waits for its own batch; guarded by the partition's lock, like all below
	next  *Append  // among those that wait
	prev  *Append  // in the ackQueue
	acks  bool     // it is in the ackQueue
}

func (a *Append) fail(err error) {
	a.Err = err
	a.Done(a)
}

// Append gives the batch its offset and queues it for the WAL. The result comes through a.Done when the batch is
// durable. Room must have been reserved before with Manager.Reserve. It touches memory only, but for the first batch of an idempotent
// producer after a start, which waits until the partition's producers have been read. Errors: ErrNotHere, ErrNotLeader, ErrNotEnoughReplicas,
// ErrNotEnoughReplicasAfterAppend, ErrStaleEpoch, ErrOutOfOrder, ErrTimestamp, ErrTooLarge, ErrStorage.
func (p *Partition) Append(a *Append) {
	if err := p.append(a); err != nil {
		p.m.Unreserve(len(a.Batch))
		a.fail(err)
	}
}

// append returns an error if nothing was queued. A retry of an older batch that is already durable is answered here.
func (p *Partition) append(a *Append) error {
	settings := p.settings.Load()
	if err := settings.check(a.Batch); err != nil {
		return err
	}
	if limit := p.m.wal.EntryBytesMax() - headSize; len(a.Batch) > limit {
		return fmt.Errorf("%w: %d bytes, wal.file.bytes has room for %d", ErrTooLarge, len(a.Batch), limit)
	}
	asked := p.m.clk.Now()
	now := asked.UnixMilli()
	a.Times = Times{Asked: budget.At(asked), Last: machine.None}
	a.Err, a.LogAppendTime, a.LogStart = nil, -1, p.log.LogStart()
	if settings.LogAppendTime {
		a.Batch.SetLogAppendTime(now)
		a.LogAppendTime = now
	}

	if err := p.lockWithProducers(a.Batch); err != nil {
		return err
	}
	a.Times.Locked = budget.At(p.m.clk.Now())
	role, err := p.acceptLocked(a)
	if err != nil {
		p.mu.Unlock()
		return err
	}
	dup, err := p.mu.producers.check(a.Batch)
	if err != nil {
		p.mu.Unlock()
		return fmt.Errorf("%s: %w", p.name, err)
	}
	if dup != nil {
		answered := p.repeatLocked(a, dup)
		p.mu.Unlock()
		p.m.Unreserve(len(a.Batch))
		if answered {
			a.Done(a)
		}
		return nil
	}
	wake, taken, err := p.queueLocked(a, role)
	if err != nil {
		p.mu.Unlock()
		if taken {
			a.fail(err)
			return nil
		}
		return err
	}
	p.mu.producers.add(a.Batch, now)
	due := p.grownLocked(settings, int64(len(a.Batch)))
	p.mu.Unlock() // from here on a may be another's
	if wake != nil {
		wake()
	}
	if due != nil {
		due()
	}
	if role.replicated {
		p.followers.wake()
	}
	return nil
}

// queueLocked gives the batch its offset and hands it to the log and to the WAL; wake is to be called without the lock. taken: it fails with the log having it, so its room
// stays taken.
func (p *Partition) queueLocked(a *Append, role *role) (wake func(), taken bool, err error) {
	a.BaseOffset = p.log.End()
	a.Batch.SetBaseOffset(a.BaseOffset)
	a.Batch.SetLeaderEpoch(role.epoch)
	a.last = a.Batch.LastOffset()
	stable, err := p.log.Append(a.Batch, a.Src)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %s: %w", ErrStorage, p.name, err)
	}
	batch := pendings.Get().(*pending)
	*batch = pending{p: p, last: a.last, a: a, entry: wal.Entry{Kind: wal.KindInline, Head: p.head, Body: stable, Owner: batch}}
	if wake, err = p.m.wal.Enqueue(&batch.entry); err != nil {
		// The tail holds a batch that will never be durable: nothing may follow it.
		p.mu.failed = fmt.Errorf("%w: %s: %w", ErrStorage, p.name, err)
		return nil, true, p.mu.failed
	}
	a.batch = batch
	p.mu.pending.add(batch)
	return wake, true, nil
}

// acceptLocked returns the role in which the partition takes a, or why it does not.
func (p *Partition) acceptLocked(a *Append) (*role, error) {
	if err := p.refusedLocked(); err != nil {
		return nil, err
	}
	r := p.role.Load()
	switch {
	case !r.leads:
		return nil, p.notLeader(r)
	case a.Fenced && a.Epoch != r.epoch:
		return nil, fmt.Errorf("%w: %s: the leader epoch is %d, not %d", ErrNotLeader, p.name, r.epoch, a.Epoch)
	case a.AcksAll && p.mu.lead != nil && !p.mu.lead.Enough():
		return nil, p.notEnough(ErrNotEnoughReplicas)
	}
	return r, nil
}

// refusedLocked says why the partition takes no appends, nil if it does.
func (p *Partition) refusedLocked() error {
	if p.mu.closed {
		return fmt.Errorf("%w: %s", ErrNotHere, p.name)
	}
	if p.mu.failed != nil {
		return p.mu.failed
	}
	return p.m.Down()
}

// repeatLocked answers a retry with the offsets of the original, at once if that is durable (with AcksAll: on all in-sync replicas), else when it is.
func (p *Partition) repeatLocked(a *Append, dup *batchRef) (answered bool) {
	a.BaseOffset, a.last = dup.baseOffset, dup.lastOffset
	if a.LogAppendTime >= 0 {
		a.LogAppendTime = dup.timestamp
	}
	if p.reachedLocked(a) {
		return true
	}
	if p.durable.Load() > a.last {
		a.Times.Durable = a.Times.Locked
	}
	a.next, p.mu.retries = p.mu.retries, a
	return false
}

// reachedLocked reports whether a's batch is where its producer wants it.
func (p *Partition) reachedLocked(a *Append) bool {
	if a.AcksAll {
		return p.highWatermark.Load() > a.last
	}
	return p.durable.Load() > a.last
}

// committed is the WAL's report of a group, in order and contiguous. It runs on the committer's thread.
func (m *Manager) committed(group []*wal.Entry, err error) {
	if err != nil {
		m.notCommitted(group, err)
		return
	}
	for _, e := range group {
		b, ok := e.Owner.(*pending)
		if !ok {
			e.Owner.(walRecord).committed(nil)
			continue
		}
		p := b.p
		if !p.inGroup.touched {
			p.inGroup.touched, p.inGroup.firstLSN = true, uint64(e.LSN)
			m.touched = append(m.touched, p)
		}
		p.inGroup.next = b.last + 1
		p.inGroup.bytes += int64(len(e.Body))
	}
	now := m.clk.Now()
	for i, p := range m.touched {
		p.advance(now)
		m.touched[i] = nil
	}
	m.touched = m.touched[:0]
	for _, e := range group {
		if b, ok := e.Owner.(*pending); ok {
			b.recycle()
		}
	}
}

// advance publishes what this group made durable: to the log, which may now flush it, then to readers.
func (p *Partition) advance(now time.Time) {
	g := p.inGroup
	p.inGroup = groupState{}
	p.log.Commit(g.next, g.firstLSN)

	var ready appends
	p.mu.Lock()
	p.durable.Store(g.next)
	p.mu.unseen.add(g.next, g.bytes)
	rose := p.raiseLocked(p.watermarkLocked(g.next))
	p.takeBelowLocked(g.next, now, &ready)
	p.takeAckedLocked(p.m.cfg.NodeID, &ready)
	unsaved := p.unsavedLocked()
	p.mu.Unlock()
	ready.done(nil)
	if rose {
		p.waiters.wake()
	}
	p.followers.wake()
	if unsaved {
		p.m.epochFiles.add(p)
	}
}

// notCommitted fails a group's producers, and those whose retries waited for it. The partitions take no more.
func (m *Manager) notCommitted(group []*wal.Entry, cause error) {
	err := fmt.Errorf("%w: %w", ErrStorage, cause)
	if errors.Is(cause, wal.ErrClosed) {
		err = fmt.Errorf("%w: shutting down: %w", ErrNotHere, cause)
	}
	for _, e := range group {
		b, ok := e.Owner.(*pending)
		if !ok {
			e.Owner.(walRecord).committed(err)
			continue
		}
		waiting := b.p.fail(err)
		waiting.done(err)
		b.recycle()
	}
}

// fail stops the partition's appends and hands out who waits for one. The WAL will report the batches one by one.
func (p *Partition) fail(err error) (waiting appends) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.failed == nil {
		p.mu.failed = err
	}
	waiting = p.waitersLocked()
	p.mu.pending = pendingQueue{}
	return waiting
}
