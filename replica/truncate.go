package replica

import (
	"context"
	"errors"
	"fmt"

	"weir/replica/machine"
	"weir/segment"
	"weir/wal"
)

// A follower whose log differs from its leader's cuts it. The cut is an entry of the write-ahead log like a batch, and takes effect, in
// memory, where the log reports it durable: in its place among all that was appended before and after. The files follow when the log is
// flushed (segment/cut.go). While it is under way the log takes no appends.

// truncationWaits is how many times log.dir.stall.ms a truncation waits at most: for a deletion of files, reads, side files, the WAL.
const truncationWaits = 4

// truncation is a cut on its way through the WAL. It outlives its caller's patience.
type truncation struct {
	p      *Partition
	cut    *segment.Cut
	epochs machine.Epochs // then
	entry  wal.Entry
	done   chan struct{} // closed when it took effect, or failed
	err    error         // valid then
}

// truncateTo takes everything at or beyond offset out of the partition, and the batch that contains it, or, with reset, empties it and lets it
// begin at offset. It is for a follower, on its fetcher's goroutine, with no append of the partition in flight. When it returns nil a crash
// cannot undo it. After an error it may still take effect, later, or not; it can be tried again, which first waits for the outcome; until
// that is known the partition takes no appends. Errors: ErrStorage, ErrNotHere.
func (p *Partition) truncateTo(ctx context.Context, offset int64, reset bool) error {
	ctx, cancel := context.WithTimeout(ctx, truncationWaits*p.m.stallTimeout())
	defer cancel()
	t, err := p.beginTruncation(ctx)
	if err == nil {
		if err = t.prepare(ctx, offset, reset); err != nil || t.cut == nil {
			t.end(err)
		} else {
			err = t.submit(ctx)
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, segment.ErrClosed), errors.Is(err, ErrNotHere):
		return fmt.Errorf("%w: truncate %s to offset %d: %w", ErrNotHere, p.name, offset, err)
	default:
		return fmt.Errorf("%w: truncate %s to offset %d (reset %t): %w", ErrStorage, p.name, offset, reset, err)
	}
	if t.cut != nil {
		p.scheduleRetention()
		p.m.cleaner.changed(p)
	}
	return nil
}

// beginTruncation waits for the one before, and for a snapshot of what will be gone.
func (p *Partition) beginTruncation(ctx context.Context) (*truncation, error) {
	t := &truncation{p: p, done: make(chan struct{})}
	for {
		p.mu.Lock()
		if err := p.refusedLocked(); err != nil {
			p.mu.Unlock()
			return nil, err
		}
		var wait chan struct{}
		switch {
		case p.mu.truncation != nil:
			wait = p.mu.truncation.done
		case p.mu.snapshotting != nil:
			wait = p.mu.snapshotting
		default:
			p.mu.truncation = t
			p.mu.Unlock()
			return t, nil
		}
		p.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the write before: %w", context.Cause(ctx))
		}
	}
}

// end is the last of a truncation.
func (t *truncation) end(err error) {
	t.p.mu.Lock()
	if t.p.mu.truncation == t {
		t.p.mu.truncation = nil
	}
	t.p.mu.Unlock()
	t.err = err
	close(t.done)
}

// prepare does what may be done before the cut is decided: finding the place, and deleting what speaks of records behind it. No cut: there is
// nothing to take away.
func (t *truncation) prepare(ctx context.Context, offset int64, reset bool) (err error) {
	p := t.p
	if reset {
		t.cut, err = p.log.PrepareReset(ctx, offset)
	} else {
		t.cut, err = p.log.PrepareTruncate(ctx, offset)
	}
	if err != nil || t.cut == nil {
		return err
	}
	if t.epochs, err = p.truncateEpochs(ctx, t.cut.End(), t.cut.Reset()); err == nil {
		err = p.dropSnapshots(t.cut)
	}
	if err != nil {
		t.cut.Abort()
	}
	return err
}

// dropSnapshots deletes the producer snapshots of records that will be gone, durably: others will have their offsets.
func (p *Partition) dropSnapshots(cut *segment.Cut) error {
	names, err := p.log.ListSide(snapshotSuffix)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !cut.Reset() && name <= snapshotName(cut.End()) { // names have a fixed width
			continue
		}
		if err := p.log.RemoveSide(name); err != nil {
			return err
		}
	}
	return nil
}

// submit makes the cut durable and waits until it has taken effect.
func (t *truncation) submit(ctx context.Context) error {
	p := t.p
	op := opTruncate
	if t.cut.Reset() {
		op = opReset
	}
	t.entry = wal.Entry{Kind: wal.KindInline, Head: recordHead(p.head, op, t.cut.End()), Owner: t}
	if err := p.m.wal.Append(&t.entry); err != nil {
		t.cut.Abort()
		t.end(err)
		return err
	}
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the write-ahead log: %w", context.Cause(ctx))
	}
}

// committed is the WAL's report of the record, in the order of all entries. It runs on the committer's thread.
func (t *truncation) committed(err error) {
	p := t.p
	if err != nil {
		waiting := p.fail(err)
		waiting.done(err)
		t.end(err)
		return
	}
	end := t.cut.End()
	p.mu.Lock()
	p.durable.Store(end)
	if p.highWatermark.Load() > end || t.cut.Reset() {
		p.highWatermark.Store(end)
	}
	t.cut.Apply(uint64(t.entry.LSN))
	p.mu.epochs = t.epochs
	p.mu.cuts++
	switch {
	case t.cut.Reset():
		p.mu.producers = producers{}
		p.producersLoaded.Store(true)
	case !p.mu.producers.truncate(end):
		p.mu.producers = producers{}
		p.producersLoaded.Store(false)
	}
	p.mu.Unlock()
	t.end(nil)
	p.followers.wake()
}

// leave makes the WAL forget a replica that this node is to hold no longer, and then deletes its log: the node may be given the replica again, and
// what the WAL has of its former life must not come back then. The partition is closed.
func (p *Partition) leave() {
	l := &leaving{}
	l.entry = wal.Entry{Kind: wal.KindInline, Head: recordHead(p.head, opReset, 0), Owner: l}
	l.removed = p.m.store.RemoveHeld(p.log)
	if err := p.m.wal.Append(&l.entry); err != nil {
		l.removed(0)
		p.m.log.Warn("the log of a replica that has left stays until the next start", "partition", p.name, "err", err)
	}
}

// leaving is the end of a replica on this node, on its way through the WAL.
type leaving struct {
	entry   wal.Entry
	removed func(lsn uint64)
}

// committed is the WAL's report, as for a truncation.
func (l *leaving) committed(err error) {
	if err != nil { // the storage has failed, or the node stops: the next start sees to the directory
		l.removed(0)
		return
	}
	l.removed(uint64(l.entry.LSN))
}

// walRecord is the owner of an entry of the WAL that is no batch.
type walRecord interface{ committed(err error) }
