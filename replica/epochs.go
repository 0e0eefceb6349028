package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"weir/internal/lockmeter"
	"weir/internal/record"
	"weir/replica/machine"
)

// A partition's history of leader epochs is in its batches: each carries the epoch that wrote it. The file only saves the reading of them. So
// it may be behind, and is held against the log's last batch when it is read; it must never be ahead or say what is not so, or else a follower
// would be told to keep what differs. Hence two rules:
//
//   - An epoch is written to the file only when a batch of it is durable. What a crash takes from the log was never in the file.
//   - Before the log is truncated the file is, durably (truncateEpochs). A crash between the two leaves a file that is behind.
//
// It is read when it is needed first - a follower asks, this node begins to follow - and, for partitions with other replicas, in the background after
// the start. Until then memory has the epochs that began since; reading puts the older ones in front of them.
const epochsFile = "leader-epoch-checkpoint"

// loadEpochs makes sure that the history is in memory. The first caller reads it, others wait for that one. After an error the next
// caller tries again. It does I/O.
func (p *Partition) loadEpochs() error {
	for !p.epochsLoaded.Load() {
		p.mu.Lock()
		if p.epochsLoaded.Load() {
			p.mu.Unlock()
			return nil
		}
		reading := p.mu.reading
		if reading == nil {
			reading = make(chan struct{})
			p.mu.reading = reading
			limit := p.log.End()
			if all := p.mu.epochs.All(); len(all) > 0 {
				limit = all[0].Start
			}
			p.mu.Unlock()
			return p.readEpochs(limit, reading)
		}
		p.mu.Unlock()
		select {
		case <-reading:
		case <-p.m.background.closing:
			return fmt.Errorf("%w: %s: shutting down", ErrNotHere, p.name)
		}
	}
	return nil
}

// readEpochs reads the history below limit and puts what memory has behind it.
func (p *Partition) readEpochs(limit int64, done chan struct{}) error {
	older, behind, err := p.storedEpochs(limit)
	if err != nil {
		err = fmt.Errorf("%w: %s: leader epochs: %w", ErrStorage, p.name, err)
		p.m.log.Error("leader epochs cannot be read; followers are refused", "partition", p.name, "err", err)
	}
	p.mu.Lock()
	p.mu.reading = nil
	if err == nil {
		for _, e := range p.mu.epochs.All() {
			older.Assign(e.Epoch, e.Start)
		}
		p.mu.epochs = older
		p.epochsLoaded.Store(true)
	}
	p.mu.Unlock()
	close(done)
	if err == nil && behind && p.role.Load().replicated {
		p.m.epochFiles.add(p)
	}
	return err
}

// storedEpochs is the history below limit as the file and, where that is behind, the batches have it.
func (p *Partition) storedEpochs(limit int64) (e machine.Epochs, behind bool, err error) {
	start := p.log.LogStart()
	if limit <= start {
		return e, false, nil
	}
	data, err := p.log.ReadSide(epochsFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return e, false, err
	default:
		if e, err = machine.Decode(data); err != nil {
			p.m.log.Warn("leader epochs are read from the log instead", "partition", p.name, "file", epochsFile, "err", err)
			e = machine.Epochs{}
		}
	}
	e.TruncateEnd(limit)
	e.TruncateStart(start)
	if limit == p.log.End() {
		last, err := p.log.LastEpoch()
		if err != nil {
			return e, false, err
		}
		epoch, _, ok := e.Latest()
		if ok && epoch == last {
			return e, false, nil
		}
		if !ok { // no file: a log that one epoch wrote need not be read
			if epoch, err = p.firstEpoch(start); err != nil {
				return e, false, err
			}
			if epoch == last {
				e.Assign(epoch, start)
				return e, true, nil
			}
		}
	}
	from := start
	if _, at, ok := e.Latest(); ok {
		from = max(at, start)
	}
	err = p.log.Scan(from, func(h record.Batch) error {
		if h.BaseOffset() >= limit {
			return errScanned
		}
		if epoch, _, ok := e.Latest(); !ok || h.LeaderEpoch() > epoch {
			behind = e.Assign(h.LeaderEpoch(), max(h.BaseOffset(), start)) || behind
		}
		return nil
	})
	if errors.Is(err, errScanned) {
		err = nil
	}
	return e, behind, err
}

// firstEpoch is that of the first batch, -1 if there is none.
func (p *Partition) firstEpoch(start int64) (epoch int32, err error) {
	epoch = machine.None
	err = p.log.Scan(start, func(h record.Batch) error {
		epoch = h.LeaderEpoch()
		return errScanned
	})
	if errors.Is(err, errScanned) {
		err = nil
	}
	return epoch, err
}

var errScanned = errors.New("scanned")

// writeEpochs saves what is known of the part of the log that is durable. One write of a partition is under way at a time.
func (p *Partition) writeEpochs() error {
	if err := p.loadEpochs(); err != nil {
		return err
	}
	start := p.log.LogStart()
	p.mu.Lock()
	if p.mu.cutting || p.mu.closed || p.mu.saving != nil {
		p.mu.Unlock()
		return nil // the truncation writes it, or another who came first
	}
	p.mu.epochs.TruncateStart(start)
	e := p.mu.epochs.Below(p.durable.Load())
	if e.Len() == 0 {
		p.mu.Unlock()
		return nil
	}
	saving := make(chan struct{})
	p.mu.saving = saving
	p.mu.Unlock()
	err := p.log.WriteSide(epochsFile, e.Encode())
	p.mu.Lock()
	p.mu.saving = nil
	p.mu.Unlock()
	close(saving)
	return err
}

// truncateEpochs is called before the log is cut at offset, or, with reset, emptied: it takes out of the file, durably, what will not be so any more,
// and returns what memory has to know when the log is cut. Until then it knows more: the cut may fail, and the leader must be told of the log as it is.
func (p *Partition) truncateEpochs(ctx context.Context, offset int64, reset bool) (e machine.Epochs, err error) {
	if err := p.loadEpochs(); err != nil {
		return e, err
	}
	p.mu.Lock()
	for p.mu.saving != nil { // a write under way is of before; no other begins, because the log is being cut
		saving := p.mu.saving
		p.mu.Unlock()
		select {
		case <-saving:
		case <-ctx.Done():
			return e, fmt.Errorf("%w: %s: leader epochs: %w", ErrStorage, p.name, context.Cause(ctx))
		}
		p.mu.Lock()
	}
	e = p.mu.epochs.Below(min(offset, p.durable.Load()))
	if reset {
		e = machine.Epochs{}
	}
	p.mu.Unlock()
	if err := p.log.WriteSide(epochsFile, e.Encode()); err != nil {
		return e, fmt.Errorf("%w: %s: leader epochs: %w", ErrStorage, p.name, err)
	}
	return e, nil
}

// epochWorkers is how many partitions' epochs are written at once.
const epochWorkers = 2

// epochQueue has the partitions of which an epoch began: their files are written in the background, off the way of an election. A partition is queued once.
// Goroutines exist only while there is work.
type epochQueue struct {
	m  *Manager
	mu struct {
		lockmeter.Mutex
		queue   []*Partition
		queued  map[*Partition]bool
		running int
	}
}

// unsavedLocked reports, once, that a batch of a new epoch is durable, so that the file may have the epoch.
func (p *Partition) unsavedLocked() bool {
	if !p.mu.unsaved {
		return false
	}
	_, start, ok := p.mu.epochs.Latest()
	if !ok || start >= p.durable.Load() {
		return false
	}
	p.mu.unsaved = false
	return true
}

func (q *epochQueue) add(p *Partition) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mu.queued[p] {
		return
	}
	if q.mu.running < epochWorkers {
		if !q.m.background.enter() {
			return // closing: the log says it again
		}
		q.mu.running++
		go q.run()
	}
	if q.mu.queued == nil {
		q.mu.queued = map[*Partition]bool{}
	}
	q.mu.queued[p] = true
	q.mu.queue = append(q.mu.queue, p)
}

func (q *epochQueue) run() {
	defer q.m.background.leave()
	for p := q.take(); p != nil; p = q.take() {
		if err := p.writeEpochs(); err != nil && q.m.ctx.Err() == nil && !p.Closed() {
			q.m.log.Warn("leader epochs not written; they are read from the log when they are needed", "partition", p.name, "err", err)
		}
	}
}

func (q *epochQueue) take() *Partition {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.m.ctx.Err() != nil {
		q.mu.queue = nil
	}
	if len(q.mu.queue) == 0 {
		q.mu.running--
		return nil
	}
	p := q.mu.queue[0]
	q.mu.queue = q.mu.queue[1:]
	delete(q.mu.queued, p)
	return p
}
