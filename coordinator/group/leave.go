package group

// leave is the LeaveGroup input: it removes the members it can and then rebalances once.
func (g *group) leave(fx *effects, r *LeaveRequest) {
	left := 0
	for i := range r.Members {
		if l := &r.Members[i]; g.leaveOne(fx, l) {
			left++
			g.log().Info("a member leaves", "group", g.id, "member", l.MemberID, "client_reason", l.Reason)
		}
	}
	if left == 0 {
		return
	}
	switch g.state {
	case Stable, CompletingRebalance:
		g.prepareRebalance(fx, "members leave", "count", left)
	case PreparingRebalance:
		g.maybeCompleteJoin(fx)
	case Empty: // pending members only
		g.rescanExpiry(fx)
	}
}

func (g *group) leaveOne(fx *effects, l *LeaveMember) bool {
	if l.MemberID == "" {
		m := (*member)(nil)
		if l.InstanceID != nil {
			m = g.static[*l.InstanceID]
		}
		if m == nil {
			l.Code = UnknownMemberID
			return false
		}
		g.remove(fx, m)
		return true
	}
	if g.forgetPending(fx, l.MemberID) {
		return true
	}
	m, code := g.validate(l.MemberID, l.InstanceID)
	if l.Code = code; code != OK {
		return false
	}
	g.remove(fx, m)
	return true
}
