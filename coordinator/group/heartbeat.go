package group

// heartbeat is the Heartbeat input.
func (g *group) heartbeat(fx *effects, r *HeartbeatRequest) Code {
	m, code := g.validate(r.MemberID, r.InstanceID)
	switch {
	case code != OK:
		return code
	case r.Generation != g.generation:
		return IllegalGeneration
	}
	g.touch(fx, m)
	if g.state == PreparingRebalance {
		return RebalanceInProgress
	}
	return OK
}
