package group

import "slices"

// replaceStatic handles a static member that comes back without its id (KIP-345): it takes the place of old under a new
// id. In a stable group whose protocol stays the same there is no rebalance, only the new id is stored.
func (g *group) replaceStatic(fx *effects, r *JoinRequest, old *member, id string, reply func(JoinResult)) {
	oldLeader := g.leader
	m := g.substitute(fx, old, id)
	g.touch(fx, m)
	g.update(fx, m, r)
	g.park(fx, m, reply)

	switch g.state {
	case PreparingRebalance:
		g.maybeCompleteJoin(fx)
	case CompletingRebalance:
		// The leader may already compute with the old id, and its assignment would miss the new one.
		g.prepareRebalance(fx, "a static member joins during the sync phase", "member", id, "instance", *r.InstanceID)
	case Stable:
		if g.protocol == nil || *g.protocol != g.selectProtocol() {
			g.rebalanceOrComplete(fx, "a static member's return changes the protocol", "member", id, "instance", *r.InstanceID)
			return
		}
		g.persistStatic(fx, r, m, old, oldLeader)
	default:
		g.endJoin(fx, m, JoinResult{Code: UnknownServerError, Generation: -1, MemberID: id})
	}
}

// substitute puts a member with a new id in the place of old and fences whoever still waits under the old id.
func (g *group) substitute(fx *effects, old *member, id string) *member {
	g.endJoin(fx, old, JoinResult{Code: FencedInstanceID, Generation: -1, MemberID: old.id})
	g.endSync(fx, old, SyncResult{Code: FencedInstanceID})
	fx.cancel(&old.session)
	m := &member{
		id: id, instance: old.instance, clientID: old.clientID, clientHost: old.clientHost,
		protocols: old.protocols, sessionTimeout: old.sessionTimeout, rebalanceTimeout: old.rebalanceTimeout,
		assignment: old.assignment,
	}
	m.session = timer{kind: sessionTimer, group: g, member: id, index: -1}
	g.setSyncPending(old, false)
	g.count(old, -1)
	g.count(m, +1)
	g.members[slices.Index(g.members, old)] = m
	delete(g.byID, old.id)
	g.byID[id] = m
	g.static[*m.instance] = m
	if g.leader == old.id {
		g.leader = id
	}
	return m
}

// persistStatic stores the replacement and then lets the member go on in the current generation. If it cannot be stored,
// the old member is put back: after a restart the log would know only that one.
func (g *group) persistStatic(fx *effects, r *JoinRequest, m, old *member, oldLeader string) {
	generation, skip := g.generation, r.CanSkipAssignment
	g.logged = true
	fx.append(g.metadataRecords(fx.nowMs(), nil), func(fx *effects, code Code) {
		current := g.state != Dead && g.byID[m.id] == m
		switch {
		case !current || g.state != Stable || g.generation != generation:
			// A rebalance began, and answers the member; or the member went, and was answered.
		case code == OK:
			leader := g.leader == m.id
			res := g.joinResult(m, skip && leader)
			res.SkipAssignment = skip && leader
			if !skip {
				// Without the flag a leader would compute an assignment: it is not told that it is one.
				res.Leader = oldLeader
			}
			g.endJoin(fx, m, res)
			g.touch(fx, m)
		default:
			g.log().Warn("a static member's new id was not stored; the old one is put back",
				"group", g.id, "instance", *m.instance, "member", m.id, "old_member", old.id, "code", code)
			res := g.joinResult(m, false)
			res.Code, res.MemberID, res.Leader = code, "", oldLeader
			g.endJoin(fx, m, res)
			back := g.substitute(fx, m, old.id)
			g.count(back, -1)
			back.protocols = old.protocols
			back.sessionTimeout, back.rebalanceTimeout = old.sessionTimeout, old.rebalanceTimeout
			g.count(back, +1)
			g.touch(fx, back)
		}
	})
}
