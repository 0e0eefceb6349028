package group

// syncGroup is the SyncGroup input. The reply comes when the assignment is stored.
func (g *group) syncGroup(fx *effects, r *SyncRequest, reply func(SyncResult)) {
	m, code := g.validateSync(r)
	if code != OK {
		fx.reply(func() { reply(SyncResult{Code: code}) })
		return
	}
	g.setSyncPending(m, false)
	if g.pendingSync == 0 {
		fx.cancel(&g.sync)
	}
	if g.state == Stable {
		res := g.syncResult(m)
		fx.reply(func() { reply(res) })
		return
	}
	g.endSync(fx, m, SyncResult{Code: RebalanceInProgress}) // a request given up earlier
	m.syncReply = reply
	if m.id == g.leader {
		g.storeAssignment(fx, r)
	}
}

func (g *group) validateSync(r *SyncRequest) (*member, Code) {
	if g.state == Empty {
		return nil, UnknownMemberID
	}
	m, code := g.validate(r.MemberID, r.InstanceID)
	switch {
	case code != OK:
		return nil, code
	case r.Generation != g.generation:
		return nil, IllegalGeneration
	case r.ProtocolType != nil && g.protocolType != "" && *r.ProtocolType != g.protocolType,
		r.Protocol != nil && g.protocol != nil && *r.Protocol != *g.protocol:
		return nil, InconsistentGroupProtocol
	case g.state == PreparingRebalance:
		return nil, RebalanceInProgress
	}
	return m, OK
}

func (g *group) syncResult(m *member) SyncResult {
	return SyncResult{ProtocolType: g.protocolTypePtr(), Protocol: g.protocol, Assignment: m.assignment}
}

// storeAssignment writes the leader's assignment; when it is durable the group is stable and everybody is answered. A
// rebalance that begins before makes the write's completion void.
func (g *group) storeAssignment(fx *effects, r *SyncRequest) {
	if g.bytes+assignedBytes(r.Assignments) > g.conf.groupBytesMax {
		g.log().Warn("the leader's assignment is too large", "group", g.id, "leader", g.leader,
			"bytes", assignedBytes(r.Assignments), "group_bytes", g.bytes, "max", g.conf.groupBytesMax)
		g.assignmentFailed(fx, UnknownServerError)
		return
	}
	assigned := make(map[string][]byte, len(r.Assignments))
	for _, a := range r.Assignments {
		assigned[a.MemberID] = append([]byte{}, a.Data...)
	}
	generation := g.generation
	g.logged = true
	fx.append(g.metadataRecords(fx.nowMs(), assigned), func(fx *effects, code Code) {
		switch {
		case g.state != CompletingRebalance || g.generation != generation:
		case code != OK:
			g.assignmentFailed(fx, code)
		default:
			g.assign(fx, assigned)
		}
	})
}

// assign makes the group stable.
func (g *group) assign(fx *effects, assigned map[string][]byte) {
	g.to(Stable, fx.nowMs())
	for _, m := range g.members {
		g.bytes -= len(m.assignment)
		m.assignment = assigned[m.id]
		g.bytes += len(m.assignment)
		if g.endSync(fx, m, g.syncResult(m)) {
			// A session that ended while the request was parked was excused and has no timer any more.
			g.touch(fx, m)
		}
	}
	g.rescanExpiry(fx)
}

func (g *group) assignmentFailed(fx *effects, code Code) {
	g.endSyncs(fx, code)
	g.prepareRebalance(fx, "the assignment could not be stored", "code", code.String())
}

// endSyncs answers all parked syncs with an error.
func (g *group) endSyncs(fx *effects, code Code) {
	for _, m := range g.members {
		g.bytes -= len(m.assignment)
		m.assignment = nil
		if g.endSync(fx, m, SyncResult{Code: code}) {
			g.touch(fx, m)
		}
	}
}

// syncExpired is the sync timer's input: members that were told of the generation and never asked for their assignment
// are out.
func (g *group) syncExpired(fx *effects) {
	if g.state != CompletingRebalance && g.state != Stable || g.pendingSync == 0 {
		return
	}
	for _, m := range append([]*member(nil), g.members...) {
		if m.syncPending {
			g.log().Info("a member did not ask for its assignment and is removed", "group", g.id, "member", m.id)
			g.remove(fx, m)
		}
	}
	g.prepareRebalance(fx, "members did not ask for their assignment")
}
