// Package pace keeps background writes small enough for the device that they go to, so that a durable write which somebody waits for never
// queues behind much of them.
//
// A device serves what it was given more or less in order. Eight mebibytes behind the log are nothing to a device of 1 GB/s; on one that does 1 MB/s
// they are eight seconds, and the next durable write, of 4 KiB, looks like one to a stalled disk. How fast a device is can change at any
// time (burst credits, a neighbour, a rebuild), so nobody is asked to configure it: every background write is a Step, how long steps took says how
// many bytes the device does in Target, and so much may be in flight, for all that write behind the logs of one data directory together.
//
//	step, ok := p.Begin(bytes, stop)  // may wait; step.Bytes are granted, perhaps fewer
//	... write step.Bytes and sync them ...
//	step.End(err)
//
// What a step must cover is everything until the device has the bytes: a write through the page cache ends with its sync. Never begin a step
// within a step.
//
// Pace is for many who wait for each other, Estimate the same judgement for one who does not: the write-ahead log asks it how large its groups may be.
//
// One lock, memory only. It is no lock on the disk: who has waited WaitMax goes on with Floor bytes whatever the others do.
package pace

import (
	"sync"
	"time"

	"weir/internal/clock"
)

const (
	// BytesMax is what may be in flight on a fast device: room for the largest step of everybody at once.
	BytesMax = 32 << 20
	// Start is what may be in flight before anything is known of the device, or after Rest. A fast device is at full speed a few steps later.
	Start = 256 << 10
	// Rest: nothing was in flight for so long. Whoever slows the device down may have come meanwhile, so it is tried anew, with Start. Under a load that needs
	// all the device has there is no such pause.
	Rest = 25 * time.Millisecond
	// WaitMax is the longest that a step waits for others to end.
	WaitMax = 10 * time.Second
	// blockBytes: a step that gets less than it asked for gets a multiple of it, as direct I/O needs.
	blockBytes = 4096
	// shareOf the limit is the least that a step is begun for beside others: a sliver would cost a sync of its own.
	shareOf = 4
)

// Pace is shared by everybody who writes in the background to one device.
type Pace struct {
	clk     clock.Clock
	metrics *Metrics

	mu struct {
		sync.Mutex
		est      Estimate
		inFlight int64
		waiting  []*waiter // first come, first served
	}
}

type waiter struct {
	want    int64
	granted chan Step // holds one: who grants does not wait
}

// Step is a background write. The zero Step is none.
type Step struct {
	Bytes int64 // that may be written
	// Limit is what may be in flight now, this step included. Who collects what it syncs later syncs at the latest then.
	Limit int64
	p     *Pace
	load  int64 // in flight when it began, itself included
	began time.Time
}

// New makes a Pace. A nil clock is the real one, nil metrics are unregistered.
func New(clk clock.Clock, metrics *Metrics) *Pace {
	if clk == nil {
		clk = clock.Real{}
	}
	if metrics == nil {
		metrics = NewMetrics(nil)
	}
	p := &Pace{clk: clk, metrics: metrics}
	p.mu.est = NewEstimate(BytesMax, Start, Rest)
	p.reportLocked()
	return p
}

// Limit is how much may be in flight at present.
func (p *Pace) Limit() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limitLocked(p.clk.Now())
}

func (p *Pace) limitLocked(now time.Time) int64 {
	if p.mu.inFlight == 0 {
		p.mu.est.Rested(now)
	}
	return p.mu.est.Limit()
}

// Begin waits until some of want bytes, at least 1, may be written, and returns a step that says how many. ok is false if stop was closed first; there
// is no step then. stop may be nil.
func (p *Pace) Begin(want int64, stop <-chan struct{}) (step Step, ok bool) {
	select {
	case <-stop:
		return Step{}, false
	default:
	}
	p.mu.Lock()
	now := p.clk.Now()
	if len(p.mu.waiting) == 0 {
		if step, ok = p.grantLocked(now, want); ok {
			p.mu.Unlock()
			return step, true
		}
	}
	w := &waiter{want: want, granted: make(chan Step, 1)}
	p.mu.waiting = append(p.mu.waiting, w)
	p.mu.Unlock()
	p.metrics.waits.Inc()
	defer func() { p.metrics.waited.Add(max(p.clk.Now().Sub(now).Seconds(), 0)) }()
	expired := make(chan struct{})
	timer := p.clk.AfterFunc(WaitMax, func() { close(expired) })
	defer timer.Stop()
	select {
	case step = <-w.granted:
		return step, true
	case <-expired:
		return p.insist(w), true
	case <-stop:
		p.withdraw(w)
		return Step{}, false
	}
}

// TryBegin is Begin for who has something better to do than to wait.
func (p *Pace) TryBegin(want int64) (Step, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mu.waiting) > 0 {
		return Step{}, false
	}
	return p.grantLocked(p.clk.Now(), want)
}

// grantLocked begins a step if there is room for one. With nothing in flight there always is.
func (p *Pace) grantLocked(now time.Time, want int64) (Step, bool) {
	limit := p.limitLocked(now)
	n := min(want, limit-p.mu.inFlight)
	if p.mu.inFlight > 0 && n < min(want, max(Floor, limit/shareOf)) {
		return Step{}, false
	}
	return p.beginLocked(now, want, n), true
}

func (p *Pace) beginLocked(now time.Time, want, n int64) Step {
	if n < want {
		n -= n % blockBytes
	}
	p.mu.inFlight += n
	p.reportLocked()
	return Step{Bytes: n, Limit: p.mu.est.Limit(), p: p, load: p.mu.inFlight, began: now}
}

// insist begins a step for who has waited long enough.
func (p *Pace) insist(w *waiter) Step {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.removeLocked(w) {
		return <-w.granted
	}
	return p.beginLocked(p.clk.Now(), w.want, min(w.want, Floor))
}

// withdraw ends the wait of who no longer wants to write.
func (p *Pace) withdraw(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.removeLocked(w) {
		step := <-w.granted
		p.mu.inFlight -= step.Bytes
	}
	p.grantWaitingLocked(p.clk.Now())
}

// removeLocked takes w off the list. False: it was granted a step, which is in its channel.
func (p *Pace) removeLocked(w *waiter) bool {
	for i, x := range p.mu.waiting {
		if x == w {
			p.mu.waiting = append(p.mu.waiting[:i], p.mu.waiting[i+1:]...)
			return true
		}
	}
	return false
}

func (p *Pace) grantWaitingLocked(now time.Time) {
	for len(p.mu.waiting) > 0 {
		w := p.mu.waiting[0]
		step, ok := p.grantLocked(now, w.want)
		if !ok {
			break
		}
		p.mu.waiting[0] = nil
		p.mu.waiting = p.mu.waiting[1:]
		w.granted <- step
	}
	p.reportLocked()
}

// Trim gives back what is not going to be used of a step that has just begun: n bytes are. What it took tells of them only.
func (s *Step) Trim(n int64) {
	p := s.p
	p.mu.Lock()
	defer p.mu.Unlock()
	unused := max(s.Bytes-n, 0)
	s.Bytes -= unused
	s.load -= unused
	p.mu.inFlight -= unused
	p.grantWaitingLocked(p.clk.Now())
}

// End ends a step: the device has its bytes, or err says why not.
func (s Step) End(err error) {
	p := s.p
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clk.Now()
	took := now.Sub(s.began)
	p.mu.inFlight -= s.Bytes
	// What failed at once says nothing about the device's speed; what failed late does.
	if err == nil || took > Target {
		p.mu.est.Observe(now, s.load, took)
	}
	p.grantWaitingLocked(now)
}

func (p *Pace) reportLocked() {
	p.metrics.inFlight.Set(float64(p.mu.inFlight))
	p.metrics.limit.Set(float64(p.mu.est.Limit()))
	p.metrics.rate.Set(p.mu.est.BytesPerSecond())
}
