package group

import "time"

// newMemberJoinTimeout is how long the JoinGroup of a new member may be parked.
const newMemberJoinTimeout = 5 * time.Minute

// rebalanceOrComplete starts a rebalance, or, when one is under way, ends its join phase if everybody is there.
func (g *group) rebalanceOrComplete(fx *effects, reason string, attrs ...any) {
	if g.state == PreparingRebalance {
		g.maybeCompleteJoin(fx)
		return
	}
	g.prepareRebalance(fx, reason, attrs...)
}

// prepareRebalance opens the join phase.
func (g *group) prepareRebalance(fx *effects, reason string, attrs ...any) {
	if g.state == CompletingRebalance {
		g.endSyncs(fx, RebalanceInProgress)
	}
	g.clearPendingSync(fx)
	initial := g.state == Empty
	g.to(PreparingRebalance, fx.nowMs())
	g.conf.metrics.rebalances.Inc()
	g.log().Info("group rebalances", append([]any{"group", g.id, "generation", g.generation, "members", len(g.members),
		"reason", reason}, attrs...)...)

	g.initial = initial
	switch {
	case initial:
		// A group is usually born of many members that start together: wait for them.
		g.newMember = false
		g.initialDelay = g.conf.initialRebalanceDelay
		g.initialRemaining = max(g.rebalanceTimeout()-g.initialDelay, 0)
		fx.arm(&g.join, g.initialDelay)
	case g.allJoined():
		g.completeJoin(fx)
	default:
		fx.arm(&g.join, g.rebalanceTimeout())
	}
}

// maybeCompleteJoin ends the join phase early when everybody is there. The initial rebalance is not ended early.
func (g *group) maybeCompleteJoin(fx *effects) {
	if g.state == PreparingRebalance && g.previous != Empty && g.allJoined() {
		g.completeJoin(fx)
	}
}

// joinExpired is the join timer's input.
func (g *group) joinExpired(fx *effects) {
	if g.state != PreparingRebalance {
		return
	}
	if g.initial && g.newMember && g.initialRemaining > 0 {
		// Somebody came meanwhile, so others may too, up to the rebalance timeout.
		g.newMember = false
		delay := min(g.conf.initialRebalanceDelay, g.initialRemaining)
		g.initialRemaining = max(g.initialRemaining-g.initialDelay, 0)
		g.initialDelay = delay
		fx.arm(&g.join, delay)
		return
	}
	g.completeJoin(fx)
}

// completeJoin ends the join phase: members that did not rejoin are out (static ones stay until their session ends), and a
// new generation begins, or the group is empty.
func (g *group) completeJoin(fx *effects) {
	fx.cancel(&g.join)
	g.initial = false
	for _, m := range append([]*member(nil), g.members...) {
		if m.joinReply == nil && m.instance == nil {
			g.log().Info("a member did not rejoin in time and is removed", "group", g.id, "member", m.id)
			g.remove(fx, m)
		}
	}
	if len(g.members) > 0 && !g.electJoinedLeader() {
		// Only static members are left, none of which rejoined. Wait until they do or their sessions end.
		g.log().Warn("no member rejoined; the rebalance goes on", "group", g.id, "members", len(g.members))
		fx.arm(&g.join, g.rebalanceTimeout())
		return
	}
	g.generation++
	if len(g.members) == 0 {
		g.becomeEmpty(fx)
		return
	}
	g.beginGeneration(fx)
}

// electJoinedLeader keeps the leader if it rejoined and otherwise takes the first member that did.
func (g *group) electJoinedLeader() bool {
	if m := g.byID[g.leader]; m != nil && m.joinReply != nil {
		return true
	}
	for _, m := range g.members {
		if m.joinReply != nil {
			g.log().Info("the leader did not rejoin in time; another member leads", "group", g.id, "old_leader", g.leader,
				"leader", m.id)
			g.leader = m.id
			return true
		}
	}
	return false
}

func (g *group) becomeEmpty(fx *effects) {
	g.protocol, g.leader = nil, ""
	g.computeSubscribed()
	g.to(Empty, fx.nowMs())
	g.log().Info("group is empty", "group", g.id, "generation", g.generation)
	g.logged = true
	fx.append(g.metadataRecords(fx.nowMs(), nil), func(_ *effects, code Code) {
		if code != OK {
			// Until the next write the log shows members that are gone; after a restart their sessions would end.
			g.log().Warn("the empty group was not stored", "group", g.id, "code", code)
		}
	})
	g.rescanExpiry(fx)
}

// beginGeneration tells all members of the new generation.
func (g *group) beginGeneration(fx *effects) {
	protocol := g.selectProtocol()
	g.protocol = &protocol
	g.computeSubscribed()
	g.to(CompletingRebalance, fx.nowMs())
	g.log().Info("group has a new generation", "group", g.id, "generation", g.generation, "members", len(g.members),
		"leader", g.leader, "protocol", protocol)
	for _, m := range g.members {
		g.endJoin(fx, m, g.joinResult(m, m.id == g.leader))
		g.touch(fx, m)
		m.isNew = false
		g.setSyncPending(m, true)
	}
	fx.arm(&g.sync, g.rebalanceTimeout())
}

func (g *group) clearPendingSync(fx *effects) {
	for _, m := range g.members {
		g.setSyncPending(m, false)
	}
	fx.cancel(&g.sync)
}

// sessionExpired is the session timer's input.
func (g *group) sessionExpired(fx *effects, id string) {
	if g.forgetPending(fx, id) {
		g.log().Info("a member did not come back with the id it was given", "group", g.id, "member", id)
		switch {
		case g.state == PreparingRebalance && g.allJoined():
			g.completeJoin(fx)
		case g.state == Empty:
			g.rescanExpiry(fx)
		}
		return
	}
	m := g.byID[id]
	if m == nil || m.alive() {
		return
	}
	g.log().Info("a member's session ended", "group", g.id, "member", id, "session_timeout", m.sessionTimeout)
	g.conf.metrics.expired.Inc()
	g.remove(fx, m)
	switch {
	case g.state == Stable || g.state == CompletingRebalance:
		g.prepareRebalance(fx, "a member's session ended", "member", id)
	case g.state == PreparingRebalance && g.allJoined():
		g.completeJoin(fx)
	}
}
