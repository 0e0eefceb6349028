package machine

import (
	"slices"
	"time"

	"weir/raftmeta"
)

// Config is what a machine is made with. NodeID and SessionTimeout must be set.
type Config struct {
	NodeID         int32
	SessionTimeout time.Duration
	// BalanceInterval is how often leaders are balanced, 0: never; BalancePercent how many of the partitions that prefer a broker
	// others may lead before that is changed.
	BalanceInterval time.Duration
	BalancePercent  int
	// Unclean tells from a topic's overrides whether a replica that is not in sync may lead it. nil: never.
	Unclean func(overrides map[string]string) bool
	// NewID makes topic ids; raftmeta.NewID by default.
	NewID func() [16]byte
}

// Request is an operation and what its answer is recognised by; the machine only hands Token back.
type Request struct {
	Op    Op
	Token any
}

// Answer ends a request: Value is what the type of the operation says, unless there is an Err.
type Answer struct {
	Token any
	Value any
	Err   error
}

// Machine is the controller's state. It has one owner: its methods must not be called concurrently.
type Machine struct {
	c        Config
	img      *raftmeta.Image
	office   bool
	reign    uint64 // counts how often it took office: a plan of an earlier time changes nothing now
	deciding bool   // a plan is not complete yet

	sessions map[int32]*session
	gone     map[int32]goneMark
	tally    tally

	unsettled bool // some partition may not be what its brokers' state asks for
	retryAt   time.Time
	failures  int            // plans in a row that did not do what they should
	balanceAt time.Time      // zero: nothing to balance
	short     map[int32]bool // brokers that are being given leaderships back, if a round did not do for all
}

const (
	retryMin = 50 * time.Millisecond
	retryMax = 5 * time.Second
)

// New returns a machine that is not in office and has seen an empty image.
func New(c Config) *Machine {
	if c.Unclean == nil {
		c.Unclean = func(map[string]string) bool { return false }
	}
	if c.NewID == nil {
		c.NewID = raftmeta.NewID
	}
	m := &Machine{c: c, img: raftmeta.NewImage(), gone: map[int32]goneMark{}}
	m.reset()
	return m
}

func (m *Machine) reset() {
	m.office, m.deciding, m.unsettled, m.failures = false, false, false, 0
	m.retryAt, m.balanceAt, m.short = time.Time{}, time.Time{}, nil
	m.sessions = map[int32]*session{}
}

// TakeOffice makes the machine the controller; it must have observed everything that was committed before. Every broker that is
// unfenced gets a full session, but for those of which the process is known to be gone.
func (m *Machine) TakeOffice(now time.Time) {
	m.reset()
	m.reign++
	m.office, m.unsettled = true, true
	m.tally.count(m.img)
	m.startSessions(now)
	m.endGoneSessions(now)
}

// LeaveOffice forgets all that only the controller knows. A plan that is not complete is completed for its answers only.
func (m *Machine) LeaveOffice() {
	m.reset()
	m.tally = tally{}
}

// InOffice says whether the machine is the controller.
func (m *Machine) InOffice() bool { return m.office }

// Image is the newest that was observed.
func (m *Machine) Image() *raftmeta.Image { return m.img }

// Observe takes a new image. d is what changed since the one observed last; nil, or one that does not join up, makes the machine
// look at all topics.
func (m *Machine) Observe(img *raftmeta.Image, d *raftmeta.Delta, now time.Time) {
	if !m.office {
		m.img = img
		return
	}
	alone := m.alone()
	if d == nil || d.From != m.img.Version {
		m.tally.count(img)
		m.unsettled = true
	} else if m.tally.update(d, leaving(img)) || slices.ContainsFunc(d.Brokers, func(b raftmeta.Broker) bool { return b.Leaving }) {
		m.unsettled = true
	}
	m.img = img
	for id := range m.sessions {
		if img.Broker(id) == nil {
			delete(m.sessions, id)
		}
	}
	if alone && !m.alone() {
		clear(m.sessions) // nobody sent heartbeats so far
	}
	m.startSessions(now)
}

// leaving are the brokers that are being decommissioned; mostly there are none.
func leaving(img *raftmeta.Image) (ids []int32) {
	for _, b := range img.Brokers() {
		if b.Leaving {
			ids = append(ids, b.ID)
		}
	}
	return ids
}

// Deadline is when Decide has something to do although nothing arrived; none if ok is false. It is none on a node that is alone.
func (m *Machine) Deadline() (at time.Time, ok bool) {
	if !m.office {
		return time.Time{}, false
	}
	earliest := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	if m.unsettled {
		earliest(m.retryAt)
	}
	if end, any := m.firstSessionEnd(); any {
		earliest(later(end, m.retryAt))
	}
	if !m.balanceAt.IsZero() {
		earliest(later(m.balanceAt, m.retryAt))
	}
	return at, ok
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Woke tells that the caller woke for a deadline. If it woke far too late it has not listened either, so what the machine did
// not hear says nothing about the brokers: all sessions start anew.
func (m *Machine) Woke(due, now time.Time) {
	if m.office && now.Sub(due) > m.c.SessionTimeout/2 {
		for _, s := range m.sessions {
			if !s.ended {
				s.heard = now
			}
		}
	}
}

// Decide makes a plan for what waits and for what has become due. Requests that the plan has neither answered nor taken are in Plan.Later,
// in their order. Complete must be called before the next Decide, unless the plan has no Entries.
func (m *Machine) Decide(requests []Request, now time.Time) *Plan {
	if m.deciding {
		panic("BUG: controller: Decide before Complete")
	}
	v := newView(m)
	v.plan.reign = m.reign
	if !m.office {
		for _, r := range requests {
			v.plan.answer(r, nil, ErrNotController)
		}
		return v.plan
	}
	rest := requests[:0:0]
	for _, r := range requests { // brokers first: the rest is decided with their new state
		if !m.decideBroker(v, r, now) {
			rest = append(rest, r)
		}
	}
	v.plan.ownFrom = len(v.plan.cmds)
	if !now.Before(m.retryAt) {
		m.expire(v, now)
	}
	if v.brokersChanged || m.unsettled && !now.Before(m.retryAt) {
		m.unsettled = false
		v.settle()
		v.empty()
	}
	v.plan.ownTo = len(v.plan.cmds)
	m.answerHeartbeats(v)
	for i, r := range rest {
		if v.full || v.plan.bytes > planBytesMax {
			v.plan.Later = append(v.plan.Later, rest[i:]...)
			break
		}
		m.decide(v, r)
	}
	if !v.full && !now.Before(m.retryAt) {
		m.balance(v, now)
	}
	m.deciding = len(v.plan.cmds) > 0
	v.plan.cut()
	return v.plan
}

func (m *Machine) decide(v *view, r Request) {
	switch op := r.Op.(type) {
	case *AlterISR:
		m.alterISR(v, r, op)
	case *CreateTopics:
		m.createTopics(v, r, op)
	case *AddPartitions:
		m.addPartitions(v, r, op)
	case *DeleteTopics:
		m.deleteTopics(v, r, op)
	case *Reassign:
		m.reassign(v, r, op)
	case *ElectLeaders:
		m.electLeaders(v, r, op)
	case *Unregister:
		m.unregister(v, r, op)
	case *Decommission:
		m.decommission(v, r, op)
	default:
		panic("BUG: controller: unknown operation")
	}
}

// Complete ends a plan: results are those of its commands as far as they were committed, in order over all entries; err is why the
// others were not, or may not have been. The images of what was committed must have been observed.
func (m *Machine) Complete(p *Plan, results []raftmeta.Result, err error, now time.Time) []Answer {
	if m.office && p.reign == m.reign {
		m.deciding = false
		m.note(err != nil || p.missed(results), now)
	}
	var answers []Answer
	for _, piece := range p.pieces {
		if piece.to > len(results) {
			answers = append(answers, Answer{Token: piece.request.Token, Err: err})
			continue
		}
		value, problem := piece.finish(results[piece.from:piece.to], now)
		answers = append(answers, Answer{Token: piece.request.Token, Value: value, Err: problem})
	}
	return answers
}

// note remembers whether a plan did all that it should. If not, everything is looked at again, but not in a hot loop.
func (m *Machine) note(missed bool, now time.Time) {
	if !missed {
		// What an earlier plan was told nothing of may have been committed before this one, which did not reckon with it.
		m.unsettled = m.unsettled || m.failures > 0
		m.failures, m.retryAt = 0, time.Time{}
		return
	}
	m.unsettled = true
	m.retryAt = now.Add(min(retryMin<<min(m.failures, 10), retryMax))
	m.failures++
}
