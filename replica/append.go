package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"weir/internal/iobuf"
	"weir/internal/record"
	"weir/wal"
)

// headSize is the size of the header in front of each batch in the WAL: topic id and partition.
const headSize = 16 + 4

// Append is one batch on its way into a partition. The caller fills Batch, Src and Done, calls
// Partition.Append, and owns the Append again when Done has been called; it may then be reused.
type Append struct {
	// Batch is one batch that passed record.Batch.Check. Its offset, leader epoch and, for LogAppendTime, its timestamp
	// are stamped in place. It belongs to the partition until Done.
	Batch record.Batch
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

	last  int64    // last offset, for the wait of a retry
	batch *pending // while it waits for its own batch; guarded by the partition's lock
	next  *Append  // among retries that wait
}

func (a *Append) fail(err error) {
	a.Err = err
	a.Done(a)
}

// walHead is the header in front of the partition's batches in the WAL.
func walHead(id [16]byte, partition int32) []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, headSize), id[:]...), uint32(partition))
}

// parseWALHead is the inverse of walHead.
func parseWALHead(head []byte) (id [16]byte, partition int32, err error) {
	if len(head) != headSize {
		return id, 0, fmt.Errorf("WAL entry header of %d bytes, %d expected", len(head), headSize)
	}
	copy(id[:], head)
	return id, int32(binary.BigEndian.Uint32(head[16:])), nil
}

// Append gives the batch its offset and queues it for the WAL. The result comes through a.Done when the batch is
// durable. Room must have been reserved before with Manager.Reserve. It touches memory only, but for the first batch of an idempotent
// producer after a start, which waits until the partition's producers have been read. Errors: ErrNotHere, ErrStaleEpoch,
// ErrOutOfOrder, ErrTimestamp, ErrTooLarge, ErrStorage.
func (p *Partition) Append(a *Append) {
	if err := p.append(a); err != nil {
		p.m.Unreserve(len(a.Batch))
		a.fail(err)
	}
}

// append returns an error if nothing was queued. A retry of an older batch that is already durable is answered here.
func (p *Partition) append(a *Append) error {
	settings, now := p.settings.Load(), p.m.clk.Now().UnixMilli()
	if err := settings.check(a.Batch); err != nil {
		return err
	}
	if limit := p.m.wal.EntryBytesMax() - headSize; len(a.Batch) > limit {
		return fmt.Errorf("%w: %d bytes, wal.file.bytes has room for %d", ErrTooLarge, len(a.Batch), limit)
	}
	if needsProducers(a.Batch) {
		if err := p.loadProducers(); err != nil {
			return err
		}
	}
	a.Err, a.LogAppendTime, a.LogStart = nil, -1, p.log.LogStart()
	if settings.LogAppendTime {
		a.Batch.SetLogAppendTime(now)
		a.LogAppendTime = now
	}

	p.mu.Lock()
	if err := p.refusedLocked(); err != nil {
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
	a.BaseOffset = p.log.End()
	a.Batch.SetBaseOffset(a.BaseOffset)
	a.Batch.SetLeaderEpoch(p.epoch)
	a.last = a.Batch.LastOffset()
	stable, err := p.log.Append(a.Batch, a.Src)
	if err != nil {
		p.mu.Unlock()
		return fmt.Errorf("%w: %s: %w", ErrStorage, p.name, err)
	}
	batch := pendings.Get().(*pending)
	*batch = pending{p: p, last: a.last, a: a, entry: wal.Entry{Kind: wal.KindInline, Head: p.head, Body: stable, Owner: batch}}
	if err := p.m.wal.Append(&batch.entry); err != nil {
		// The tail holds a batch that will never be durable: nothing may follow it. Its room stays taken with it.
		err = fmt.Errorf("%w: %s: %w", ErrStorage, p.name, err)
		p.mu.failed = err
		p.mu.Unlock()
		a.fail(err)
		return nil
	}
	a.batch = batch
	p.mu.pending.add(batch)
	p.mu.producers.add(a.Batch, now)
	due := p.grownLocked(settings, int64(len(a.Batch)))
	p.mu.Unlock() // from here on a may be another's
	if due != nil {
		due()
	}
	return nil
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

// repeatLocked answers a retry with the offsets of the original, at once if that is durable, else when it is.
func (p *Partition) repeatLocked(a *Append, dup *batchRef) (answered bool) {
	a.BaseOffset, a.last = dup.baseOffset, dup.lastOffset
	if a.LogAppendTime >= 0 {
		a.LogAppendTime = dup.timestamp
	}
	if p.highWatermark.Load() > a.last {
		return true
	}
	a.next, p.mu.retries = p.mu.retries, a
	return false
}

// committed is the WAL's report of a group, in order and contiguous. It runs on the committer's thread.
func (m *Manager) committed(group []*wal.Entry, err error) {
	if err != nil {
		m.notCommitted(group, err)
		return
	}
	for _, e := range group {
		b := e.Owner.(*pending)
		p := b.p
		if !p.inGroup.touched {
			p.inGroup.touched, p.inGroup.firstLSN = true, uint64(e.LSN)
			m.touched = append(m.touched, p)
		}
		p.inGroup.next = b.last + 1
		p.inGroup.bytes += int64(len(e.Body))
	}
	for i, p := range m.touched {
		p.advance()
		m.touched[i] = nil
	}
	m.touched = m.touched[:0]
	for _, e := range group {
		e.Owner.(*pending).recycle()
	}
}

// advance publishes what this group made durable: to the log, which may now flush it, then to readers.
func (p *Partition) advance() {
	g := p.inGroup
	p.inGroup = groupState{}
	p.log.Commit(g.next, g.firstLSN)
	p.committedBytes.Add(g.bytes)
	p.highWatermark.Store(g.next)

	var ready appends
	p.mu.Lock()
	p.takeBelowLocked(g.next, &ready)
	for link := &p.mu.retries; *link != nil; {
		a := *link
		if a.last >= g.next {
			link = &a.next
			continue
		}
		*link = a.next
		ready.add(a)
	}
	p.mu.Unlock()
	ready.done(nil)
	p.waiters.wake()
}

// notCommitted fails a group's producers, and those whose retries waited for it. The partitions take no more.
func (m *Manager) notCommitted(group []*wal.Entry, cause error) {
	err := fmt.Errorf("%w: %w", ErrStorage, cause)
	if errors.Is(cause, wal.ErrClosed) {
		err = fmt.Errorf("%w: shutting down: %w", ErrNotHere, cause)
	}
	for _, e := range group {
		b := e.Owner.(*pending)
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
