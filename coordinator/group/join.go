package group

import (
	"math"
	"strings"
)

// joinGroup is the JoinGroup input. The reply comes at once or when the join phase ends.
func (g *group) joinGroup(fx *effects, r *JoinRequest, reply func(JoinResult)) {
	fail := func(code Code, memberID string) {
		fx.reply(func() { reply(JoinResult{Code: code, Generation: -1, MemberID: memberID}) })
	}
	if !g.accepts(r) {
		if m := g.byID[r.MemberID]; m != nil {
			g.remove(fx, m)
			g.maybeCompleteJoin(fx)
		}
		fail(GroupMaxSizeReached, "")
		return
	}
	if !g.supports(r.ProtocolType, r.Protocols) {
		fail(InconsistentGroupProtocol, r.MemberID)
		return
	}
	switch {
	case r.MemberID == "":
		g.joinNew(fx, r, reply)
	case g.pending[r.MemberID] != nil:
		if r.InstanceID != nil { // ids are only given out to dynamic members
			fail(UnknownServerError, r.MemberID)
			return
		}
		g.addMember(fx, r, r.MemberID, reply)
	default:
		m, code := g.validate(r.MemberID, r.InstanceID)
		if code != OK {
			fail(code, r.MemberID)
			return
		}
		g.rejoin(fx, r, m, reply)
	}
}

// accepts applies group.max.size and the bound on the group's memory. While members rejoin, those count that have: the group
// may already be too large, after the limit was lowered, and the last to rejoin are left out.
func (g *group) accepts(r *JoinRequest) bool {
	m := g.byID[r.MemberID]
	if m == nil && g.bytes+memberBytes+len(r.ClientID)+40+protocolBytes(r.Protocols) > g.conf.groupBytesMax ||
		m != nil && g.bytes-protocolBytes(m.protocols)+protocolBytes(r.Protocols) > g.conf.groupBytesMax {
		return false
	}
	switch g.state {
	case PreparingRebalance:
		return m != nil && m.joinReply != nil || g.awaitingJoin < g.conf.groupSizeMax
	case CompletingRebalance, Stable:
		return m != nil || len(g.members) < g.conf.groupSizeMax
	}
	return true
}

// joinNew handles a member without an id.
func (g *group) joinNew(fx *effects, r *JoinRequest, reply func(JoinResult)) {
	if r.InstanceID != nil {
		id := g.newMemberID(*r.InstanceID)
		if old := g.static[*r.InstanceID]; old != nil {
			g.replaceStatic(fx, r, old, id, reply)
			return
		}
		g.addMember(fx, r, id, reply)
		return
	}
	id := g.newMemberID(r.ClientID)
	if !r.RequireKnownMember {
		g.addMember(fx, r, id, reply)
		return
	}
	g.addPending(fx, id, r.SessionTimeout)
	fx.reply(func() { reply(JoinResult{Code: MemberIDRequired, Generation: -1, MemberID: id}) })
}

// newMemberID makes an id that begins with what the client is known by, as far as there is room: strings in Kafka's records and messages have an int16
// for their length, and a record with a longer one could not be read back.
func (g *group) newMemberID(prefix string) string {
	id := "-" + g.conf.newID()
	if room := math.MaxInt16 - len(id); len(prefix) > room {
		prefix = strings.ToValidUTF8(prefix[:room], "")
	}
	return prefix + id
}

// addMember adds a member and starts, or joins, a rebalance.
func (g *group) addMember(fx *effects, r *JoinRequest, id string, reply func(JoinResult)) {
	m := &member{
		id: id, instance: r.InstanceID, clientID: r.ClientID, clientHost: r.ClientHost,
		protocols:      ownProtocols(r.Protocols),
		sessionTimeout: r.SessionTimeout, rebalanceTimeout: r.RebalanceTimeout,
		joinReply: reply, isNew: true,
	}
	if len(g.members) == 0 {
		g.protocolType = r.ProtocolType
	}
	if g.state == PreparingRebalance && g.previous == Empty {
		g.newMember = true
	}
	g.add(fx, m)
	// The session timeout is not for a member that does not know its id yet. But a client that gave up its parked request comes
	// again as another new member, so the wait is bounded all the same.
	fx.arm(&m.session, newMemberJoinTimeout)
	g.rebalanceOrComplete(fx, "a member joins", "member", id, "client_reason", r.Reason)
}

// rejoin handles JoinGroup of a member.
func (g *group) rejoin(fx *effects, r *JoinRequest, m *member, reply func(JoinResult)) {
	same := m.matches(r.Protocols)
	leader := g.leader == m.id
	switch {
	case g.state == PreparingRebalance,
		g.state == CompletingRebalance && !same,
		// The leader joins to have assignments computed anew, for reasons its metadata need not show.
		g.state == Stable && (leader || !same):
		g.update(fx, m, r)
		g.park(fx, m, reply)
		g.rebalanceOrComplete(fx, "a member joins again", "member", m.id, "client_reason", r.Reason)
	case g.state == CompletingRebalance || g.state == Stable:
		// The response was lost, or a follower asks without a change: it may go on to SyncGroup.
		res := g.joinResult(m, g.state == CompletingRebalance && leader)
		fx.reply(func() { reply(res) })
	default:
		id := m.id
		fx.reply(func() { reply(JoinResult{Code: UnknownMemberID, Generation: -1, MemberID: id}) })
	}
}

// update takes over what a member says anew about itself.
func (g *group) update(_ *effects, m *member, r *JoinRequest) {
	g.count(m, -1)
	m.protocols = ownProtocols(r.Protocols)
	m.sessionTimeout, m.rebalanceTimeout = r.SessionTimeout, r.RebalanceTimeout
	g.count(m, +1)
}

// joinResult tells a member of the current generation.
func (g *group) joinResult(m *member, withMembers bool) JoinResult {
	r := JoinResult{
		Generation: g.generation, ProtocolType: g.protocolTypePtr(), Protocol: g.protocol,
		Leader: g.leader, MemberID: m.id,
	}
	if withMembers {
		r.Members = make([]JoinMember, len(g.members))
		for i, o := range g.members {
			r.Members[i] = JoinMember{MemberID: o.id, InstanceID: o.instance, Metadata: o.metadata(g.protocol)}
		}
	}
	return r
}
