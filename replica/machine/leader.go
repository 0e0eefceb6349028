package machine

import (
	"slices"
	"time"
)

// LeaderConfig is what a leader begins with.
type LeaderConfig struct {
	Self                  int32
	Epoch, PartitionEpoch int32
	Replicas, ISR         []int32 // with Self
	MinISR                int     // min.insync.replicas
	Start                 int64   // log end at the election: where Epoch begins
	HW                    int64   // as far as this replica knows
	Durable               int64   // of this replica's log
	LagMax                time.Duration
}

// Leader is one leadership of one partition: a new epoch is a new Leader. Not safe for concurrent use.
//
// The in-sync replicas are changed by proposals to the controller, one at a time. Until the outcome is known, both the old and the proposed
// members count for the high watermark (KIP-497): whichever of the two holds, all its members have what was acknowledged.
type Leader struct {
	cfg       LeaderConfig
	hw        int64
	durable   int64
	isr       []int32 // as the controller has it
	followers []follower
	proposal  *ISRChange // sent or to be sent; nil: none
	ticked    time.Time
}

// ineligiblePause is how long a follower that the controller would not have in the ISR is not proposed again: it may be fenced only for a moment.
const ineligiblePause = time.Second

// follower is what the leader knows of one.
type follower struct {
	id          int32
	offset      int64 // its durable end; None: not heard of in this epoch
	logStart    int64
	brokerEpoch int64
	caughtUp    time.Time // when it last had all that the leader had, as far as is known
	behind      time.Time // when it was first seen not to, since then; zero: it was not
	asked       time.Time // its last fetch ...
	logEnd      int64     // ... and the leader's end then
	notBefore   time.Time // not proposed for the ISR before
	ghost       bool      // counts like an ISR member: see Refused ...
	ghostly     time.Time // ... since then
}

// Fetched tells of a follower's fetch.
type Fetched struct {
	Replica     int32
	BrokerEpoch int64 // the follower's life; None: not known
	Offset      int64 // its durable end
	LogStart    int64 // of its log
	LogEnd      int64 // the leader's at that time
}

// ISRMember is a replica in one of its lives.
type ISRMember struct {
	ID          int32
	BrokerEpoch int64
}

// ISRChange is a proposal: these should be the in-sync replicas, if the partition's state is still that of the two epochs.
type ISRChange struct {
	Epoch, PartitionEpoch int32
	ISR                   []ISRMember
	Grows                 bool

	doubtful bool // an attempt's outcome is unknown
}

// Outcome is what an input did.
type Outcome struct {
	HW      int64
	Rose    bool       // HW is higher than before
	Propose *ISRChange // to be sent to the controller; nil: nothing
}

// Refusal is why a proposal was not taken.
type Refusal int

const (
	// RefusedRetry: the outcome is not known. The same is proposed again, after a while.
	RefusedRetry Refusal = iota
	// RefusedStale: the partition's state is another. It comes with the metadata; until then both ISRs count.
	RefusedStale
	// RefusedIneligible: it was not done, because a member may not be in the ISR in its present life.
	RefusedIneligible
)

// NewLeader begins a leadership. Followers have LagMax from now to show themselves.
func NewLeader(cfg LeaderConfig, now time.Time) *Leader {
	l := &Leader{cfg: cfg, hw: cfg.HW, durable: cfg.Durable, isr: slices.Clone(cfg.ISR), ticked: now}
	l.setReplicas(cfg.Replicas, now)
	l.rise()
	return l
}

func (l *Leader) setReplicas(replicas []int32, now time.Time) {
	old := l.followers
	l.followers = make([]follower, 0, max(len(replicas)-1, 0))
	for _, id := range replicas {
		if id == l.cfg.Self {
			continue
		}
		if i := slices.IndexFunc(old, func(f follower) bool { return f.id == id }); i >= 0 {
			l.followers = append(l.followers, old[i])
			continue
		}
		l.followers = append(l.followers, follower{id: id, offset: None, logStart: None, brokerEpoch: None, caughtUp: now, behind: now})
	}
}

// HW is the high watermark.
func (l *Leader) HW() int64 { return l.hw }

// ISR is the in-sync replicas as the controller has them. The slice is shared: read only.
func (l *Leader) ISR() []int32 { return l.isr }

// PartitionEpoch is the version of the partition's state that the leader knows.
func (l *Leader) PartitionEpoch() int32 { return l.cfg.PartitionEpoch }

// Proposed is the proposal whose outcome is open, nil if there is none.
func (l *Leader) Proposed() *ISRChange { return l.proposal }

// Enough reports whether there are min.insync.replicas: all replicas, if those are fewer.
func (l *Leader) Enough() bool { return len(l.isr) >= min(l.cfg.MinISR, len(l.followers)+1) }

// SetMinISR changes min.insync.replicas.
func (l *Leader) SetMinISR(n int) Outcome {
	l.cfg.MinISR = n
	return l.outcome()
}

// Durable says how far the leader's own log is durable.
func (l *Leader) Durable(offset int64) (hw int64, rose bool) {
	l.durable = max(l.durable, offset)
	rose = l.rise()
	return l.hw, rose
}

// rise raises the high watermark as far as it may.
func (l *Leader) rise() bool {
	if !l.Enough() {
		return false // what so few have could be lost: it must not be shown to anybody (KIP-966)
	}
	hw := l.durable
	for i := range l.followers {
		if f := &l.followers[i]; l.counts(f) {
			hw = min(hw, f.offset)
		}
	}
	if hw <= l.hw {
		return false
	}
	l.hw = hw
	return true
}

// counts reports whether a follower is in the ISR, or may be before the leader learns of it.
func (l *Leader) counts(f *follower) bool {
	return f.ghost || slices.Contains(l.isr, f.id) ||
		(l.proposal != nil && slices.ContainsFunc(l.proposal.ISR, func(m ISRMember) bool { return m.ID == f.id }))
}

// outcome is for inputs after which the high watermark may rise.
func (l *Leader) outcome() Outcome {
	rose := l.rise()
	return Outcome{HW: l.hw, Rose: rose}
}

// Fetched notes a follower's progress. A replica that the leader does not know is ignored.
func (l *Leader) Fetched(f Fetched, now time.Time) Outcome {
	at := l.follower(f.Replica)
	if at == nil || f.BrokerEpoch < at.brokerEpoch {
		return Outcome{HW: l.hw} // not known, or of a life that is over: what that had says nothing
	}
	switch {
	case f.Offset >= f.LogEnd:
		at.hasAll(now)
	case at.offset != None && f.Offset >= at.logEnd && at.asked.After(at.caughtUp):
		at.hasAll(at.asked) // it has what there was when it asked before
	}
	at.offset, at.logStart, at.brokerEpoch, at.asked, at.logEnd = f.Offset, f.LogStart, f.BrokerEpoch, now, f.LogEnd
	o := l.outcome()
	o.Propose = l.expand(at, now)
	return o
}

func (l *Leader) follower(id int32) *follower {
	for i := range l.followers {
		if l.followers[i].id == id {
			return &l.followers[i]
		}
	}
	return nil
}

// expand proposes a follower that has all that was acknowledged. It must also have got to where this epoch begins: below that the high
// watermark may be one that this leader has not caught up with yet.
func (l *Leader) expand(f *follower, now time.Time) *ISRChange {
	if l.proposal != nil || slices.Contains(l.isr, f.id) || f.offset < l.hw || f.offset < l.cfg.Start || now.Before(f.notBefore) {
		return nil
	}
	return l.propose(append(slices.Clone(l.isr), f.id), true)
}

func (l *Leader) propose(isr []int32, grows bool) *ISRChange {
	c := &ISRChange{Epoch: l.cfg.Epoch, PartitionEpoch: l.cfg.PartitionEpoch, Grows: grows, ISR: make([]ISRMember, len(isr))}
	for i, id := range isr {
		c.ISR[i] = ISRMember{ID: id, BrokerEpoch: None}
		if f := l.follower(id); f != nil {
			c.ISR[i].BrokerEpoch = f.brokerEpoch
		}
	}
	l.proposal = c
	return c
}

func (f *follower) hasAll(at time.Time) { f.caughtUp, f.behind = at, time.Time{} }

// lagging reports whether a follower has not had all that the leader has for LagMax.
func (l *Leader) lagging(f *follower, now time.Time) bool {
	return !f.behind.IsZero() && now.Sub(later(f.behind, f.caughtUp)) >= l.cfg.LagMax
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Tick looks for in-sync followers that lag and proposes to drop them; logEnd is the leader's. It is to be called when Deadline has come. A follower that has
// everything need not fetch to stay in sync: an idle partition is not named in fetches, and a node that died is fenced by the controller.
func (l *Leader) Tick(now time.Time, logEnd int64) Outcome {
	l.ticked = now
	for i := range l.followers {
		f := &l.followers[i]
		switch {
		case f.offset >= logEnd:
			f.hasAll(now)
		case f.behind.IsZero():
			f.behind = now
		}
	}
	o := l.outcome()
	if l.proposal != nil {
		return o
	}
	doubt := false
	for i := range l.followers {
		f := &l.followers[i]
		doubt = doubt || f.ghost && l.lagging(f, now) && now.Sub(f.ghostly) > l.cfg.LagMax
	}
	stay := slices.DeleteFunc(slices.Clone(l.isr), func(id int32) bool {
		f := l.follower(id)
		return f != nil && l.lagging(f, now)
	})
	if len(stay) < len(l.isr) || doubt {
		o.Propose = l.propose(stay, false)
	}
	return o
}

// Deadline is when Tick is to be called next; ok is false if never, as things are: nobody follows in sync.
func (l *Leader) Deadline() (at time.Time, ok bool) {
	for i := range l.followers {
		f := &l.followers[i]
		if !f.ghost && !slices.Contains(l.isr, f.id) {
			continue
		}
		due := l.ticked.Add(l.cfg.LagMax / 2)
		if lag := later(f.behind, f.caughtUp).Add(l.cfg.LagMax); !f.behind.IsZero() && lag.After(l.ticked) && lag.Before(due) {
			due = lag
		}
		if !ok || due.Before(at) {
			at, ok = due, true
		}
	}
	return at, ok
}

// Updated tells what the controller decided, with this leader's epoch unchanged. What is not newer than what the leader knows is ignored.
func (l *Leader) Updated(partitionEpoch int32, isr, replicas []int32, now time.Time) Outcome {
	if partitionEpoch <= l.cfg.PartitionEpoch {
		return Outcome{HW: l.hw}
	}
	for i := range l.followers {
		// Whoever comes into the ISR has LagMax from then on.
		f := &l.followers[i]
		f.ghost = false
		if slices.Contains(isr, f.id) && !slices.Contains(l.isr, f.id) && l.lagging(f, now) {
			f.behind = now
		}
	}
	l.cfg.PartitionEpoch, l.isr, l.proposal = partitionEpoch, slices.Clone(isr), nil
	l.setReplicas(replicas, now)
	o := l.outcome()
	for i := range l.followers {
		if f := &l.followers[i]; o.Propose == nil && f.offset != None && !l.lagging(f, now) {
			o.Propose = l.expand(f, now)
		}
	}
	return o
}

// Refused tells that a proposal was not taken. The outcome's Propose is to be sent again, after a pause.
//
// An attempt of which nothing was heard may still be on its way to the controller when a later one is found ineligible. Whom it would have put
// into the ISR goes on counting, as a ghost, until the partition's state moves on, which makes the attempt void. If the follower lags and LagMax has
// passed, so that nothing is on its way any more, the controller is asked whether the state is what it was, by proposing it.
func (l *Leader) Refused(c *ISRChange, why Refusal, now time.Time) Outcome {
	if l.proposal == nil || l.proposal != c {
		return Outcome{HW: l.hw} // the metadata came first
	}
	switch why {
	case RefusedRetry:
		c.doubtful = true
		return Outcome{HW: l.hw, Propose: c}
	case RefusedIneligible:
		l.proposal = nil
		for _, m := range c.ISR {
			if f := l.follower(m.ID); f != nil && !slices.Contains(l.isr, m.ID) {
				f.notBefore, f.ghost, f.ghostly = now.Add(ineligiblePause), f.ghost || c.doubtful, now
			}
		}
	}
	return l.outcome()
}

// Confirmed tells that the controller found a proposal to be what holds already: the partition epoch is the leader's, too.
func (l *Leader) Confirmed(c *ISRChange) Outcome {
	if l.proposal == nil || l.proposal != c {
		return Outcome{HW: l.hw}
	}
	l.proposal = nil
	for i := range l.followers {
		l.followers[i].ghost = false
	}
	return l.outcome()
}

// FollowerState is what a leader knows of a follower.
type FollowerState struct {
	ID            int32
	End, LogStart int64 // None: it has not fetched in this epoch
	BrokerEpoch   int64
	InSync        bool
	CaughtUp      time.Time
}

// Followers is what the leader knows of each.
func (l *Leader) Followers() []FollowerState {
	all := make([]FollowerState, len(l.followers))
	for i, f := range l.followers {
		all[i] = FollowerState{ID: f.id, End: f.offset, LogStart: f.logStart, BrokerEpoch: f.brokerEpoch,
			InSync: slices.Contains(l.isr, f.id), CaughtUp: f.caughtUp}
	}
	return all
}

// LowWatermark is the lowest log start of the in-sync replicas, of which the leader's own is given.
func (l *Leader) LowWatermark(start int64) int64 {
	for i := range l.followers {
		if f := &l.followers[i]; slices.Contains(l.isr, f.id) {
			start = min(start, f.logStart)
		}
	}
	return max(start, 0)
}
