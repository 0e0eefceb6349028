package replica

import (
	"context"
	"errors"
	"time"

	"weir/internal/clock"
	"weir/internal/config"
	"weir/internal/lockmeter"
	"weir/replica/machine"
)

const (
	alterBatchMax   = 1000            // ISR changes in one request to the controller
	alterTimeout    = 5 * time.Second // for its answer
	alterBackoffMin = 50 * time.Millisecond
	alterBackoffMax = 2 * time.Second
)

// isrKeeper carries the ISR changes that leaderships of this node propose to the controller, and looks for followers that lag. One goroutine sends,
// only while there are proposals; what comes meanwhile goes with the next request. The queue is bounded by the number of partitions: each has
// one proposal at a time. After a failure everything waits for one timer.
type isrKeeper struct {
	m  *Manager
	mu struct {
		lockmeter.Mutex
		queue   []*Partition
		change  map[*Partition]*machine.ISRChange // what is queued
		running bool
		retry   clock.Timer // armed: nothing is sent before it fires
		pausing bool
		backoff time.Duration
		ticker  clock.Timer // looks for laggards
		armed   bool
		again   bool // a leadership began while the ticker looked
		closed  bool
	}
}

func (m *Manager) lagMax() time.Duration { return config.Millis(m.cfg.ReplicaLagTimeMaxMs) }

// propose queues a change; an older one of the partition is replaced, it is void.
func (k *isrKeeper) propose(p *Partition, c *machine.ISRChange) {
	if k.m.control == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.queueLocked(p, c)
	k.startLocked()
}

func (k *isrKeeper) queueLocked(p *Partition, c *machine.ISRChange) {
	if k.mu.change == nil {
		k.mu.change = map[*Partition]*machine.ISRChange{}
	}
	if k.mu.change[p] == nil {
		k.mu.queue = append(k.mu.queue, p)
	}
	k.mu.change[p] = c
}

func (k *isrKeeper) startLocked() {
	if k.mu.running || k.mu.pausing || k.mu.closed || len(k.mu.queue) == 0 || !k.m.background.enter() {
		return
	}
	k.mu.running = true
	go k.run()
}

func (k *isrKeeper) run() {
	defer k.m.background.leave()
	for {
		parts, changes := k.take()
		if len(parts) == 0 {
			return
		}
		k.send(parts, changes)
	}
}

// take returns what is to be sent now; nothing ends the goroutine.
func (k *isrKeeper) take() (parts []*Partition, changes []*machine.ISRChange) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mu.closed || k.mu.pausing {
		k.mu.running = false
		return nil, nil
	}
	n := min(len(k.mu.queue), alterBatchMax)
	for _, p := range k.mu.queue[:n] {
		parts, changes = append(parts, p), append(changes, k.mu.change[p])
		delete(k.mu.change, p)
	}
	if k.mu.queue = k.mu.queue[n:]; n == 0 {
		k.mu.queue, k.mu.running = nil, false
	}
	return parts, changes
}

// send asks the controller once and hands out its answers.
func (k *isrKeeper) send(parts []*Partition, changes []*machine.ISRChange) {
	asked := make([]ISRChange, 0, len(parts))
	sent := 0
	for i, p := range parts {
		if !p.proposes(changes[i]) {
			continue // a newer epoch, or the outcome came with the metadata
		}
		parts[sent], changes[sent] = p, changes[i]
		sent++
		asked = append(asked, k.request(p, changes[i]))
	}
	if sent == 0 {
		return
	}
	parts, changes = parts[:sent], changes[:sent]
	began := k.m.clk.Now()
	ctx, cancel := context.WithTimeout(k.m.ctx, alterTimeout)
	results, err := k.m.control.AlterISR(ctx, asked)
	cancel()
	k.m.repl.alterSeconds.Observe(k.m.clk.Now().Sub(began).Seconds())
	if err == nil && len(results) != len(asked) {
		err = errors.New("the controller's answer does not fit the request")
	}
	failed := 0
	for i, p := range parts {
		var result ISRResult
		if result.Err = err; err == nil {
			result = results[i]
		}
		if p.altered(changes[i], result) {
			failed++
		}
	}
	if failed > 0 && k.m.ctx.Err() == nil {
		k.m.repl.alterFailures.Add(float64(failed))
		k.m.log.Warn("ISR changes were not taken; tried again", "changes", failed, "err", err)
	}
	k.pause(failed > 0)
}

func (k *isrKeeper) request(p *Partition, c *machine.ISRChange) ISRChange {
	r := ISRChange{TopicID: p.id, Partition: p.index, LeaderEpoch: c.Epoch, PartitionEpoch: c.PartitionEpoch, ISR: make([]ISRMember, len(c.ISR))}
	for i, member := range c.ISR {
		if r.ISR[i] = ISRMember(member); member.ID == k.m.cfg.NodeID {
			r.ISR[i].BrokerEpoch = k.m.control.BrokerEpoch(member.ID)
		}
	}
	return r
}

// pause notes how a request went: after a failure the next one waits.
func (k *isrKeeper) pause(failed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !failed {
		k.mu.backoff = 0
		return
	}
	k.mu.backoff = min(max(2*k.mu.backoff, alterBackoffMin), alterBackoffMax)
	if k.mu.closed {
		return
	}
	k.mu.pausing = true
	if k.mu.retry == nil {
		k.mu.retry = k.m.clk.AfterFunc(k.mu.backoff, k.resume)
	} else {
		k.mu.retry.Reset(k.mu.backoff)
	}
}

func (k *isrKeeper) resume() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.pausing = false
	k.startLocked()
}

// watch arms the ticker because a leadership with followers began.
func (k *isrKeeper) watch() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mu.again = true; !k.mu.armed {
		k.armLocked(k.m.lagMax() / 2)
	}
}

func (k *isrKeeper) armLocked(d time.Duration) {
	if k.mu.closed {
		return
	}
	k.mu.armed = true
	if k.mu.ticker == nil {
		k.mu.ticker = k.m.clk.AfterFunc(d, k.tick)
	} else {
		k.mu.ticker.Reset(d)
	}
}

// tick looks at every leadership with followers, and then sleeps until one of them can have a laggard. Without any it is not armed.
func (k *isrKeeper) tick() {
	k.mu.Lock()
	k.mu.again = false
	k.mu.Unlock()
	var next time.Time
	any := false
	for _, p := range k.m.all() {
		if at, ok := p.lookForLaggards(); ok && (!any || at.Before(next)) {
			next, any = at, true
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch limit := k.m.lagMax() / 2; {
	case any:
		// Each look is one for all, so one partition after another must not cause one each.
		k.armLocked(max(min(next.Sub(k.m.clk.Now()), limit), limit/10))
	case k.mu.again:
		k.armLocked(limit)
	default:
		k.mu.armed = false
	}
}

func (k *isrKeeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.closed = true
	for _, t := range []clock.Timer{k.mu.retry, k.mu.ticker} {
		if t != nil {
			t.Stop()
		}
	}
}

// lookForLaggards is the ticker's: it also tells when to look again, ok is false if never.
func (p *Partition) lookForLaggards() (next time.Time, ok bool) {
	var c change
	p.mu.Lock()
	if p.mu.lead != nil && !p.mu.closed {
		p.outcomeLocked(p.mu.lead.Tick(p.m.clk.Now(), p.log.End()), &c)
		next, ok = p.mu.lead.Deadline()
	}
	p.mu.Unlock()
	p.settle(&c)
	return next, ok
}

// proposes reports whether c is what the partition's leadership waits for.
func (p *Partition) proposes(c *machine.ISRChange) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.lead != nil && !p.mu.closed && p.mu.lead.Proposed() == c
}

// altered takes the controller's answer to a proposal. It reports whether the same is to be tried again, after a pause; then it is queued.
func (p *Partition) altered(c *machine.ISRChange, result ISRResult) (again bool) {
	var done change
	p.mu.Lock()
	if p.mu.lead == nil || p.mu.lead.Proposed() != c {
		p.mu.Unlock()
		return false
	}
	switch {
	case result.Err == nil && result.LeaderEpoch == c.Epoch && result.PartitionEpoch == c.PartitionEpoch:
		p.outcomeLocked(p.mu.lead.Confirmed(c), &done)
	case result.Err == nil:
		p.m.repl.resized(c.Grows) // it comes with the metadata, with all that changed; until then both ISRs count
	default:
		why := refusal(result.Err)
		p.outcomeLocked(p.mu.lead.Refused(c, why, p.m.clk.Now()), &done)
		if why == machine.RefusedRetry {
			again, done.propose = true, nil
		}
	}
	p.mu.Unlock()
	p.settle(&done)
	if again {
		p.m.isr.mu.Lock()
		if p.m.isr.mu.change[p] == nil { // else a newer one was proposed since
			p.m.isr.queueLocked(p, c)
		}
		p.m.isr.mu.Unlock()
	}
	return again
}

// refusal sorts the controller's errors.
func refusal(err error) machine.Refusal {
	for _, stale := range []error{ErrFencedEpoch, ErrStalePartition, ErrNotLeader, ErrNotHere} {
		if errors.Is(err, stale) {
			return machine.RefusedStale
		}
	}
	if errors.Is(err, ErrNotReplica) {
		return machine.RefusedIneligible
	}
	return machine.RefusedRetry
}
