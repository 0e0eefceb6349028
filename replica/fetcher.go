package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"weir/internal/clock"
	"weir/internal/config"
	"weir/replica/machine"
)

const (
	fetchMargin     = 5 * time.Second       // for an answer, beyond what the leader may wait
	fetchPauseMin   = 20 * time.Millisecond // after a failure; doubled up to replica.fetch.backoff.ms
	catchUpPartMax  = 256 << 10             // bytes of a partition that is not in sync, in one answer
	cutWorkers      = 8                     // logs truncated at a time
	followerReserve = 2 * time.Second       // that the fetcher waits for room in the tail
)

// run asks, appends and waits until it is durable, over and over: the next ask tells the leader what is safe here.
func (f *fetcher) run() {
	defer f.m.background.leave()
	defer f.leave()
	for f.ctx.Err() == nil {
		f.takeChanges()
		if len(f.set) == 0 {
			if f.m.fetchers.ends(f) {
				return
			}
			continue
		}
		ask, wait := f.ask()
		if ask == nil {
			f.sleep(wait)
			continue
		}
		answer, err := f.fetch(ask)
		if err != nil {
			f.failed(err)
			continue
		}
		f.full, f.pause = false, 0
		f.take(answer)
		if answer.Release != nil {
			answer.Release()
		}
		f.settle()
	}
	f.m.fetchers.ends(f)
}

// leave takes back the registrations.
func (f *fetcher) leave() {
	f.takeChanges()
	for _, fl := range f.set {
		fl.wait.Stop()
	}
}

// sleep waits for an event, and at most for d if that is not 0.
func (f *fetcher) sleep(d time.Duration) {
	var timer clock.Timer
	if d > 0 {
		timer = f.m.clk.AfterFunc(d, f.poke)
		defer timer.Stop()
	}
	select {
	case <-f.woken:
	case <-f.ctx.Done():
	}
}

// ask puts together what to ask for now. nil: nothing can be asked for; wait is how long that is so at most, 0: until an event.
func (f *fetcher) ask() (ask *FetchAsk, wait time.Duration) {
	now := f.m.clk.Now()
	wait = f.wakeWaiting(now)
	if f.full {
		f.forget = nil
		for _, fl := range f.set {
			fl.named = false
			if !slices.Contains(f.waiting, fl) {
				f.requeue(fl)
			}
		}
	}
	ask = &FetchAsk{
		MaxWait: config.Millis(f.m.cfg.ReplicaFetchWaitMaxMs), MinBytes: f.m.cfg.ReplicaFetchMinBytes,
		MaxBytes: f.m.cfg.ReplicaFetchResponseMaxBytes, Full: f.full,
	}
	dirty := f.dirty
	f.dirty = nil
	var behind []AskPart
	for _, fl := range dirty {
		fl.queued = false
		if fl.gone {
			continue
		}
		part, later := f.part(fl, now)
		if later > 0 && (wait == 0 || later < wait) {
			wait = later
		}
		switch {
		case part == nil:
		case fl.catching:
			behind = append(behind, *part)
		default:
			ask.Parts = append(ask.Parts, *part)
		}
	}
	ask.Parts = append(ask.Parts, behind...) // the leader fills its answer in this order
	ask.Forget, f.forget = f.forget, nil
	if !f.anyNamed() {
		f.full = true
		return nil, wait
	}
	if wait > 0 {
		ask.MaxWait = min(ask.MaxWait, wait)
	}
	return ask, 0
}

func (f *fetcher) anyNamed() bool {
	for _, fl := range f.set {
		if fl.named {
			return true
		}
	}
	return false
}

// wakeWaiting queues those who need not wait any more, and says when the next one can be due.
func (f *fetcher) wakeWaiting(now time.Time) (wait time.Duration) {
	rest := f.waiting[:0]
	for _, fl := range f.waiting {
		switch {
		case fl.gone:
		case fl.settling.Load() && fl.p.durable.Load() < fl.p.log.End():
			rest = append(rest, fl)
		case fl.due.After(now):
			if d := fl.due.Sub(now); wait == 0 || d < wait {
				wait = d
			}
			rest = append(rest, fl)
		default:
			fl.settling.Store(false)
			f.requeue(fl)
		}
	}
	clear(f.waiting[len(rest):])
	f.waiting = rest
	return wait
}

// part is what to ask for a partition; nil if that is as before, or if it has to wait, and then it is put there.
func (f *fetcher) part(fl *followed, now time.Time) (part *AskPart, wait time.Duration) {
	p := fl.p
	if fl.due.After(now) {
		return nil, f.defers(fl, now)
	}
	if err := p.loadEpochs(); err != nil {
		fl.due = now.Add(fl.nextPause(f.m))
		return nil, f.defers(fl, now)
	}
	p.mu.Lock()
	// Announced before the look, so that what becomes durable behind it is not missed.
	fl.settling.Store(true)
	a, ok := fl.machine.Ask(p.logStateLocked())
	inSync := slices.Contains(p.role.Load().isr, f.m.cfg.NodeID)
	p.mu.Unlock()
	if !ok {
		if fl.machine.Phase() == machine.Fenced {
			fl.settling.Store(false)
			f.drop(fl)
			return nil, 0
		}
		return nil, f.defers(fl, now)
	}
	fl.settling.Store(false)
	partMax := f.m.cfg.ReplicaFetchMaxBytes
	fl.catching = !inSync && fl.lag.Load() > 0
	if fl.catching && fl.credit == 0 {
		if wait := f.m.fetchers.catchUp.take(0, now); wait > 0 {
			fl.due = now.Add(wait)
			return nil, f.defers(fl, now)
		}
		partMax = min(partMax, catchUpPartMax)
	}
	next := AskPart{
		TopicID: p.id, Topic: p.topic, Index: p.index, CurrentEpoch: a.CurrentEpoch, LastEpoch: a.LastEpoch, Offset: a.Offset,
		LogStart: a.LogStart, HighWatermark: a.HighWatermark, MaxBytes: partMax,
	}
	if fl.named && fl.asked == next {
		return nil, 0
	}
	fl.named, fl.asked = true, next
	return &next, 0
}

// defers puts a partition aside.
func (f *fetcher) defers(fl *followed, now time.Time) (wait time.Duration) {
	f.drop(fl)
	f.waiting = append(f.waiting, fl)
	return max(fl.due.Sub(now), 0)
}

// nextPause is how long the partition waits after a failure.
func (fl *followed) nextPause(m *Manager) time.Duration {
	fl.pause = min(max(2*fl.pause, fetchPauseMin), max(config.Millis(m.cfg.ReplicaFetchBackoffMs), fetchPauseMin))
	return fl.pause
}

// fetch asks once. It ends early when the set changes.
func (f *fetcher) fetch(ask *FetchAsk) (*FetchAnswer, error) {
	ctx, cancel := context.WithTimeout(f.ctx, ask.MaxWait+fetchMargin)
	defer cancel()
	f.mu.Lock()
	changed := len(f.mu.added) > 0 || len(f.mu.removed) > 0
	f.mu.cancel = cancel
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.mu.cancel = nil
		f.mu.Unlock()
	}()
	if changed {
		return nil, context.Canceled // before anything was sent
	}
	return f.m.source.Fetch(ctx, f.leader, ask)
}

// failed is for an ask without an answer.
func (f *fetcher) failed(err error) {
	f.full = true
	if errors.Is(err, context.Canceled) || f.ctx.Err() != nil {
		return // interrupted: there is something else to ask for
	}
	f.m.repl.fetchFailures.Inc()
	if errors.Is(err, ErrSessionLost) && f.pause == 0 {
		f.pause = fetchPauseMin / 2 // at once, but not again and again
		return
	}
	f.pause = min(max(2*f.pause, fetchPauseMin), max(config.Millis(f.m.cfg.ReplicaFetchBackoffMs), fetchPauseMin))
	f.m.fetchers.faults.Warn("fetching from a leader failed, it is tried again", fmt.Sprint(f.leader), "leader", f.leader, "partitions", len(f.set), "err", err)
	f.rest(f.pause)
}

// rest waits, and is not ended by progress of the logs but by changes of the set.
func (f *fetcher) rest(d time.Duration) {
	over := f.m.clk.Now().Add(d)
	for f.ctx.Err() == nil {
		left := over.Sub(f.m.clk.Now())
		f.mu.Lock()
		changed := len(f.mu.added) > 0 || len(f.mu.removed) > 0
		f.mu.Unlock()
		if left <= 0 || changed {
			return
		}
		f.sleep(left)
	}
}

// settle waits until what the answer brought is durable here, then tells the partitions how far consumers may see.
func (f *fetcher) settle() {
	stalled := f.m.UntilStalled()
	for _, t := range f.written {
		for t.fl.p.durable.Load() < t.end && t.fl.current() && !t.fl.p.Closed() && f.m.Down() == nil {
			select {
			case <-f.woken:
				continue
			case <-stalled.Done():
			case <-f.ctx.Done():
			}
			break
		}
		t.fl.p.progress(t.fl, t.hw, t.logStart)
	}
	f.written = f.written[:0]
	f.poke() // an event of another kind may have been taken for one of these
}
