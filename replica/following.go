package replica

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"weir/internal/iobuf"
	"weir/internal/record"
	"weir/replica/machine"
	"weir/wal"
)

// errMoved: the partition follows another leader, or epoch, or none, since it was asked for.
var errMoved = errors.New("the partition's role has changed")

// errNothing: the records of an answer are not even one batch, or none that is new.
var errNothing = errors.New("the leader's answer has no whole batch that continues the log")

func (p *Partition) logStateLocked() machine.LogState {
	return machine.LogState{Start: p.log.LogStart(), HW: p.highWatermark.Load(), Durable: p.durable.Load(), End: p.log.End(), Epochs: &p.mu.epochs}
}

// cut is a truncation that an answer demands.
type cut struct {
	fl     *followed
	offset int64
	reset  bool
}

// take does what an answer says: everything is appended first, and truncations run side by side; only then is waited.
func (f *fetcher) take(answer *FetchAnswer) {
	now := f.m.clk.Now()
	var cuts []cut
	caughtUp := 0
	for i := range answer.Parts {
		part := &answer.Parts[i]
		fl := f.set[PartKey{part.TopicID, part.Index}]
		if fl == nil || !fl.named {
			continue
		}
		p := fl.p
		p.mu.Lock()
		act := fl.machine.Answer(fl.answer(part), p.logStateLocked())
		p.mu.Unlock()
		switch act.Do {
		case machine.DoAsk:
			fl.pause = 0
			p.progress(fl, act.HW, act.LogStart)
		case machine.DoAppend:
			fl.pause = 0
			end, n, err := p.appendFetched(fl.epoch, part.Records, answer.Buf, f.m)
			f.m.repl.fetchedBytes.Add(float64(n))
			if cost := fl.cost(act.HW, end, n); fl.catching {
				caughtUp += cost
			}
			f.written = append(f.written, target{fl, end, act.HW, act.LogStart})
			if err == nil && n == 0 {
				err = errNothing
			}
			if err != nil && !errors.Is(err, errMoved) {
				f.refused(fl, err)
			}
		case machine.DoTruncate, machine.DoReset:
			cuts = append(cuts, cut{fl, act.Offset, act.Do == machine.DoReset})
			f.drop(fl)
		case machine.DoPause:
			f.refused(fl, part.Err)
		case machine.DoWait:
			f.drop(fl)
			continue // the metadata brings another followed for it
		}
		f.requeue(fl)
	}
	f.m.fetchers.catchUp.take(caughtUp, now)
	f.cut(cuts)
}

// refused has a partition wait after a failure of its own.
func (f *fetcher) refused(fl *followed, err error) {
	now := f.m.clk.Now()
	if fl.pause == 0 {
		fl.failing = now
	}
	fl.due = now.Add(fl.nextPause(f.m))
	f.drop(fl) // asked anew, whatever the leader remembers
	f.m.repl.fetchFailures.Inc()
	since := now.Sub(fl.failing)
	if behindMetadata(err) && since < behindQuiet {
		f.m.log.Debug("a leader does not know yet that it leads", "partition", fl.p.name, "leader", f.leader, "epoch", fl.epoch, "err", err)
		return
	}
	f.m.fetchers.faults.Warn("a partition cannot be fetched, it is tried again", fmt.Sprint(f.leader), "partition", fl.p.name, "leader", f.leader,
		"epoch", fl.epoch, "since", since, "err", err)
}

// behindQuiet is how long a leader may be behind with the metadata before it is worth a line. Followers learn of new partitions and leaders by the same
// entry as the leader does, and often before it.
const behindQuiet = 3 * time.Second

// behindMetadata says that a leader refuses because it or this node has not seen the newest metadata yet.
func behindMetadata(err error) bool {
	return errors.Is(err, ErrNotHere) || errors.Is(err, ErrUnknownEpoch) || errors.Is(err, ErrNotLeader) || errors.Is(err, ErrFencedEpoch) || errors.Is(err, ErrNotReplica)
}

// answer is the leader's in the machine's words.
func (fl *followed) answer(part *AnswerPart) machine.Answer {
	a := machine.Answer{Epoch: fl.asked.CurrentEpoch, Offset: fl.asked.Offset, HW: part.HighWatermark, LogStart: part.LogStart, HasRecords: len(part.Records) > 0}
	switch {
	case part.Err == nil:
	case errors.Is(part.Err, ErrOffsetOutOfRange):
		a.Reply = machine.ReplyOutOfRange
	case errors.Is(part.Err, ErrFencedEpoch), errors.Is(part.Err, ErrNotLeader) && part.LeaderEpoch > fl.epoch:
		a.Reply = machine.ReplyFenced
	default:
		a.Reply = machine.ReplyUnknown
	}
	if d := part.Diverging; d != nil {
		a.Diverges, a.DivergingEpoch, a.DivergingEnd = true, d.Epoch, d.End
	}
	return a
}

// appendFetched appends the batches that records has, as the leader of the epoch wrote them. It returns the log's end, and how many bytes came in. After
// an error what came before it is in the log. Room in the tail is waited for: that is how a slow disk holds back fetching.
func (p *Partition) appendFetched(epoch int32, records []byte, src *iobuf.Buf, m *Manager) (end int64, bytes int, err error) {
	for rest := records; len(rest) > 0; {
		size, err := record.PeekSize(rest)
		if err != nil || size > len(rest) {
			break // cut off by the limit of the answer
		}
		b := record.Batch(rest[:size:size])
		rest = rest[size:]
		if err := b.Check(); err != nil {
			return p.log.End(), bytes, fmt.Errorf("%s: batch from the leader: %w", p.name, err)
		}
		if needsProducers(b) {
			if err := p.loadProducers(); err != nil {
				return p.log.End(), bytes, err
			}
		}
		if err := m.Reserve(size, followerReserve); err != nil {
			return p.log.End(), bytes, err
		}
		taken, err := p.appendFollower(epoch, b, src)
		if !taken {
			m.Unreserve(size)
		}
		if err != nil {
			return p.log.End(), bytes, err
		}
		bytes += size
	}
	return p.log.End(), bytes, nil
}

// appendFollower appends one batch; taken: the log has it now, or its room.
func (p *Partition) appendFollower(epoch int32, b record.Batch, src *iobuf.Buf) (taken bool, err error) {
	set := p.settings.Load()
	var wake func()
	p.mu.Lock()
	defer func() {
		p.mu.Unlock()
		if wake != nil {
			wake()
		}
	}()
	if err := p.refusedLocked(); err != nil {
		return false, err
	}
	if r := p.role.Load(); !r.follows || r.epoch != epoch || p.mu.cutting || needsProducers(b) && !p.producersLoaded.Load() {
		return false, fmt.Errorf("%w: %s", errMoved, p.name)
	}
	if got := b.LeaderEpoch(); got > epoch {
		return false, fmt.Errorf("%w: %s: a batch of epoch %d from the leader of epoch %d", record.ErrInvalid, p.name, got, epoch)
	}
	end := p.log.End()
	if b.LastOffset() < end {
		return false, nil // asked for again
	}
	latest, _, known := p.mu.epochs.Latest()
	if known && b.LeaderEpoch() < latest {
		return false, fmt.Errorf("%w: %s: a batch of epoch %d behind one of epoch %d", record.ErrInvalid, p.name, b.LeaderEpoch(), latest)
	}
	head := p.followerHead(end, b.BaseOffset())
	stable, err := p.log.AppendFollower(b, src)
	if err != nil {
		return false, fmt.Errorf("%w: %s: %w", ErrStorage, p.name, err)
	}
	batch := pendings.Get().(*pending)
	*batch = pending{p: p, last: b.LastOffset(), entry: wal.Entry{Kind: wal.KindInline, Head: head, Body: stable, Owner: batch}}
	if wake, err = p.m.wal.Enqueue(&batch.entry); err != nil {
		err = fmt.Errorf("%w: %s: %w", ErrStorage, p.name, err)
		p.mu.failed = err // as in append
		return true, err
	}
	p.mu.pending.add(batch)
	p.mu.producers.add(b, p.m.clk.Now().UnixMilli())
	if !known || latest < b.LeaderEpoch() {
		p.mu.epochs.Assign(b.LeaderEpoch(), min(end, b.BaseOffset())) // where the leader's log is compacted the epoch may have begun before
		p.mu.unsaved = true
	}
	if due := p.grownLocked(set, int64(len(b))); due != nil {
		go due()
	}
	return true, nil
}

// progress takes over what the leader said of its high watermark and its log start, as far as it goes for this log.
func (p *Partition) progress(fl *followed, hw, logStart int64) {
	if hw < 0 {
		return
	}
	p.mu.Lock()
	if r := p.role.Load(); !r.follows || r.epoch != fl.epoch || p.mu.closed {
		p.mu.Unlock()
		return
	}
	rose := p.raiseLocked(machine.SafeHW(hw, p.logStateLocked()))
	state := p.logStateLocked()
	p.mu.Unlock()
	fl.lag.Store(max(hw-state.End, 0))
	if rose {
		p.waiters.wake()
		p.followers.wake()
	}
	if start := machine.SafeStart(logStart, state); start > state.Start {
		if err := p.log.AdvanceLogStart(start); err != nil && !p.Closed() {
			p.m.log.Warn("log start does not follow the leader's", "partition", p.name, "to", start, "err", err)
		}
	}
}

// cut truncates logs, several at a time, and waits for all of them.
func (f *fetcher) cut(cuts []cut) {
	if len(cuts) == 0 {
		return
	}
	slots := make(chan struct{}, cutWorkers)
	errs := make([]error, len(cuts))
	var done sync.WaitGroup
	for i, c := range cuts {
		slots <- struct{}{}
		done.Go(func() {
			defer func() { <-slots }()
			errs[i] = c.fl.p.cut(c)
		})
	}
	done.Wait()
	for i, c := range cuts {
		c.fl.machine.Truncated()
		if err := errs[i]; err != nil && !errors.Is(err, errMoved) {
			f.refused(c.fl, err)
		}
	}
}

// cut truncates the log. Roles wait meanwhile.
func (p *Partition) cut(c cut) error {
	p.mu.Lock()
	if r := p.role.Load(); !r.follows || r.epoch != c.fl.epoch || p.mu.closed {
		p.mu.Unlock()
		return fmt.Errorf("%w: %s", errMoved, p.name)
	}
	p.mu.cutting = true
	end, hw := p.log.End(), p.highWatermark.Load()
	p.mu.Unlock()
	err := p.truncateTo(p.m.ctx, c.offset, c.reset)
	if err != nil {
		err = p.outcome(err)
	}
	p.m.repl.truncations.Inc()
	if err == nil {
		level := p.m.log.Info
		if c.offset < hw && !c.reset {
			level = p.m.log.Warn // only after an unclean election
		}
		level("log truncated to the leader's history", "partition", p.name, "from", end, "to", p.log.End(), "asked", c.offset, "high_watermark", hw,
			"reset", c.reset, "leader", c.fl.f.leader, "epoch", c.fl.epoch)
	}
	p.endCut(err == nil, c.reset)
	return err
}

// outcome waits for a truncation that was given up on but is under way still: as long as it may take effect this node must not lead.
func (p *Partition) outcome(err error) error {
	p.mu.Lock()
	t := p.mu.truncation
	p.mu.Unlock()
	if t == nil {
		return err
	}
	select {
	case <-t.done:
		return t.err
	case <-p.m.ctx.Done():
		return err
	}
}

// endCut lets the role that came meanwhile take effect.
func (p *Partition) endCut(done, reset bool) {
	p.m.roles.Lock()
	defer p.m.roles.Unlock()
	p.mu.Lock()
	p.mu.cutting = false
	if end := p.log.End(); done {
		p.durable.Store(end)
		if p.highWatermark.Load() > end || reset {
			p.highWatermark.Store(end)
		}
	}
	next := p.mu.roleNext
	p.mu.roleNext = nil
	if next == nil || p.mu.closed {
		p.mu.Unlock()
		return
	}
	p.takeRoleLocked(next, false)
}
