package group

import (
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// group is the state of one group. All of it belongs to the shard's lock.
//
// Invariants: awaitingJoin counts the members with a parked join; pendingSync those with syncPending; supported counts, per
// protocol, the members that know it, and while there are members at least one protocol is known to all; the leader, if any, is
// a member; static maps exactly the members that have an instance id.
type group struct {
	id   string
	conf *settings

	state    State
	previous State
	sinceMs  int64 // when the state was entered; -1: unknown (loaded from an old record)

	generation   int32
	protocolType string  // "": none, a simple group
	protocol     *string // chosen for the generation
	leader       string  // "": none

	members      []*member // in the order of joining
	byID         map[string]*member
	static       map[string]*member
	pending      map[string]*timer // ids given out (KIP-394) that have not joined yet
	supported    map[string]int
	awaitingJoin int
	pendingSync  int
	bytes        int

	// subscribed is what a consumer group's members subscribed to; nil: not known.
	subscribed map[string]bool

	// The initial rebalance, which waits for more members: whether one came since the timer was armed, how long it was armed
	// for, and how much may be added.
	initial          bool
	newMember        bool
	initialDelay     time.Duration
	initialRemaining time.Duration

	join   timer
	sync   timer
	expiry timer

	offsets  map[string]map[int32]offset
	inflight map[topicPartition]int // commits being written
	logged   bool                   // something of the group is, or will be, in the log
	deleting bool                   // its tombstones are being written

	expiryAtMs    int64 // when the expiry timer comes up; 0: it does not
	expiryFloorMs int64 // it does not come up earlier than this
}

type topicPartition struct {
	topic     string
	partition int32
}

func newGroup(id string, conf *settings, nowMs int64) *group {
	g := &group{
		id: id, conf: conf, previous: Dead, sinceMs: nowMs,
		byID: map[string]*member{}, static: map[string]*member{}, pending: map[string]*timer{},
		supported: map[string]int{},
		offsets:   map[string]map[int32]offset{}, inflight: map[topicPartition]int{},
	}
	g.join = timer{kind: joinTimer, group: g, index: -1}
	g.sync = timer{kind: syncTimer, group: g, index: -1}
	g.expiry = timer{kind: expiryTimer, group: g, index: -1}
	conf.metrics.state(Empty, +1)
	return g
}

func (g *group) log() *slog.Logger { return g.conf.log }

func (g *group) to(s State, nowMs int64) {
	if !validFrom[s][g.state] {
		panic(fmt.Sprintf("BUG: group %q: %s to %s", g.id, g.state, s))
	}
	g.conf.metrics.state(g.state, -1)
	g.conf.metrics.state(s, +1)
	g.previous, g.state, g.sinceMs = g.state, s, nowMs
}

// idle reports whether nothing would be lost with the group.
func (g *group) idle() bool {
	return g.state == Empty && len(g.members) == 0 && len(g.pending) == 0 && len(g.offsets) == 0 && len(g.inflight) == 0
}

func (g *group) protocolTypePtr() *string {
	if g.protocolType == "" {
		return nil
	}
	return &g.protocolType
}

// add makes m a member.
func (g *group) add(fx *effects, m *member) {
	if m.instance != nil {
		if old := g.static[*m.instance]; old != nil {
			panic(fmt.Sprintf("BUG: group %q: instance %q is added as %q while it is %q", g.id, *m.instance, m.id, old.id))
		}
		g.static[*m.instance] = m
	}
	g.forgetPending(fx, m.id)
	if g.leader == "" {
		g.leader = m.id
	}
	m.session = timer{kind: sessionTimer, group: g, member: m.id, index: -1}
	g.members = append(g.members, m)
	g.byID[m.id] = m
	g.count(m, +1)
	if m.joinReply != nil {
		g.awaitingJoin++
	}
	g.conf.metrics.members.Inc()
}

// count adds (or takes away) m's protocols and bytes.
func (g *group) count(m *member, sign int) {
	g.bytes += sign * m.size()
	for _, p := range m.protocols {
		if g.supported[p.Name] += sign; g.supported[p.Name] == 0 {
			delete(g.supported, p.Name)
		}
	}
}

// remove takes a member out and answers what it has parked: it is told that it is not known, so that it joins again
// if it is still there.
func (g *group) remove(fx *effects, m *member) {
	g.endJoin(fx, m, JoinResult{Code: UnknownMemberID, Generation: -1})
	g.endSync(fx, m, SyncResult{Code: UnknownMemberID})
	g.setSyncPending(m, false)
	fx.cancel(&m.session)
	g.count(m, -1)
	delete(g.byID, m.id)
	if m.instance != nil {
		delete(g.static, *m.instance)
	}
	i := slices.Index(g.members, m)
	g.members = slices.Delete(g.members, i, i+1)
	if g.leader == m.id {
		g.leader = ""
		if len(g.members) > 0 {
			g.leader = g.members[0].id
		}
	}
	g.conf.metrics.members.Dec()
}

// addPending remembers an id given to a dynamic member that has to join with it.
func (g *group) addPending(fx *effects, id string, session time.Duration) {
	t := &timer{kind: sessionTimer, group: g, member: id, index: -1}
	g.pending[id] = t
	g.bytes += memberBytes + len(id)
	fx.arm(t, session)
}

func (g *group) forgetPending(fx *effects, id string) bool {
	t := g.pending[id]
	if t == nil {
		return false
	}
	fx.cancel(t)
	delete(g.pending, id)
	g.bytes -= memberBytes + len(id)
	return true
}

// park keeps the reply of a join until the join phase is over. A reply that is already parked belongs to a request that the
// member gave up; it is answered, because later responses of its connection wait behind it.
func (g *group) park(fx *effects, m *member, reply func(JoinResult)) {
	g.endJoin(fx, m, JoinResult{Code: RebalanceInProgress, Generation: -1, MemberID: m.id})
	m.joinReply = reply
	g.awaitingJoin++
}

// endJoin answers a parked join, if there is one.
func (g *group) endJoin(fx *effects, m *member, r JoinResult) bool {
	reply := m.joinReply
	if reply == nil {
		return false
	}
	m.joinReply = nil
	g.awaitingJoin--
	fx.reply(func() { reply(r) })
	return true
}

// endSync answers a parked sync, if there is one.
func (g *group) endSync(fx *effects, m *member, r SyncResult) bool {
	reply := m.syncReply
	if reply == nil {
		return false
	}
	m.syncReply = nil
	fx.reply(func() { reply(r) })
	return true
}

func (g *group) setSyncPending(m *member, pending bool) {
	switch {
	case pending && !m.syncPending:
		g.pendingSync++
	case !pending && m.syncPending:
		g.pendingSync--
	}
	m.syncPending = pending
}

func (g *group) allJoined() bool { return len(g.members) == g.awaitingJoin && len(g.pending) == 0 }

func (g *group) touch(fx *effects, m *member) { fx.arm(&m.session, m.sessionTimeout) }

// rebalanceTimeout is the longest of the members'.
func (g *group) rebalanceTimeout() time.Duration {
	var d time.Duration
	for _, m := range g.members {
		d = max(d, m.rebalanceTimeout)
	}
	return d
}

// validate checks the identity in a request: the member must exist, and a static one must not have been replaced.
func (g *group) validate(memberID string, instance *string) (*member, Code) {
	if instance != nil {
		m := g.static[*instance]
		if m == nil {
			return nil, UnknownMemberID
		}
		if m.id != memberID {
			return nil, FencedInstanceID
		}
	}
	if m := g.byID[memberID]; m != nil {
		return m, OK
	}
	return nil, UnknownMemberID
}

// die ends the group: whoever is parked is told code, no timer of it fires again.
func (g *group) die(fx *effects, code Code) {
	for _, parts := range g.offsets {
		g.conf.metrics.offsets.Sub(float64(len(parts)))
	}
	g.offsets = map[string]map[int32]offset{}
	for _, m := range g.members {
		g.endJoin(fx, m, JoinResult{Code: code, Generation: -1, MemberID: m.id})
		g.endSync(fx, m, SyncResult{Code: code})
		fx.cancel(&m.session)
	}
	for _, t := range g.pending {
		fx.cancel(t)
	}
	fx.cancel(&g.join)
	fx.cancel(&g.sync)
	fx.cancel(&g.expiry)
	g.to(Dead, fx.nowMs())
	g.conf.metrics.members.Sub(float64(len(g.members)))
	g.conf.metrics.state(Dead, -1)
}

// onTimer is the input of an expired timer.
func (g *group) onTimer(fx *effects, t *timer) {
	switch t.kind {
	case sessionTimer:
		g.sessionExpired(fx, t.member)
	case joinTimer:
		g.joinExpired(fx)
	case syncTimer:
		g.syncExpired(fx)
	case expiryTimer:
		g.expireOffsets(fx)
	}
}
