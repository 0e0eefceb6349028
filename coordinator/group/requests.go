package group

import (
	"cmp"
	"slices"
)

// The coordinator's methods, one per request: each finds the shard and feeds one input to the group.

// JoinGroup has reply called once: at once on an error, otherwise when the join phase ends.
func (c *Coordinator) JoinGroup(r *JoinRequest, reply func(JoinResult)) {
	fail := func(code Code) { reply(JoinResult{Code: code, Generation: -1, MemberID: r.MemberID}) }
	if r.Group == "" {
		fail(InvalidGroupID)
		return
	}
	if r.SessionTimeout < c.conf.sessionTimeoutMin || r.SessionTimeout > c.conf.sessionTimeoutMax {
		fail(InvalidSessionTimeout)
		return
	}
	s := c.shardOf(r.Group)
	s.transition(func(fx *effects) {
		g, code := s.lookupLocked(r.Group)
		switch {
		case code == GroupIDNotFound && r.MemberID == "":
			g = s.createLocked(fx, r.Group)
		case code == GroupIDNotFound:
			fx.reply(func() { fail(UnknownMemberID) })
			return
		case code != OK:
			fx.reply(func() { fail(code) })
			return
		}
		g.joinGroup(fx, r, reply)
		s.forgetIdleLocked(fx, g)
	})
}

// SyncGroup has reply called once: at once, or when the leader's assignment is stored.
func (c *Coordinator) SyncGroup(r *SyncRequest, reply func(SyncResult)) {
	if r.Group == "" {
		reply(SyncResult{Code: InvalidGroupID})
		return
	}
	s := c.shardOf(r.Group)
	s.transition(func(fx *effects) {
		g, code := s.lookupLocked(r.Group)
		if code != OK {
			fx.reply(func() { reply(SyncResult{Code: missingMember(code)}) })
			return
		}
		g.syncGroup(fx, r, reply)
	})
}

// Heartbeat keeps a member's session. While the groups are loading it says OK: the member is not to blame.
func (c *Coordinator) Heartbeat(r *HeartbeatRequest) Code {
	if r.Group == "" {
		return InvalidGroupID
	}
	var result Code
	s := c.shardOf(r.Group)
	s.transition(func(fx *effects) {
		g, code := s.lookupLocked(r.Group)
		switch code {
		case OK:
			result = g.heartbeat(fx, r)
		case CoordinatorLoadInProgress:
			result = OK
		default:
			result = missingMember(code)
		}
	})
	return result
}

// LeaveGroup removes members. The code is of the whole; those of the members are in the request.
func (c *Coordinator) LeaveGroup(r *LeaveRequest) Code {
	if r.Group == "" {
		return InvalidGroupID
	}
	var result Code
	s := c.shardOf(r.Group)
	s.transition(func(fx *effects) {
		g, code := s.lookupLocked(r.Group)
		switch code {
		case OK:
			g.leave(fx, r)
			s.forgetIdleLocked(fx, g)
		case GroupIDNotFound:
			for i := range r.Members {
				r.Members[i].Code = UnknownMemberID
			}
		default:
			result = code
		}
	})
	return result
}

// missingMember: who asks as a member of a group that does not exist is not known.
func missingMember(code Code) Code {
	if code == GroupIDNotFound {
		return UnknownMemberID
	}
	return code
}

// CommitOffsets has reply called once, when the offsets are durable. The code is of the whole; those of single partitions are
// in the request and count if the whole is OK.
func (c *Coordinator) CommitOffsets(r *CommitRequest, reply func(Code)) {
	s := c.shardOf(r.Group)
	s.transition(func(fx *effects) {
		g, code := s.lookupLocked(r.Group)
		switch {
		case code == GroupIDNotFound && r.Generation < 0:
			g = s.createLocked(fx, r.Group)
		case code == GroupIDNotFound:
			code = or(r.UnknownGroup, IllegalGeneration) // OK would be a false promise
			fx.reply(func() { reply(code) })
			return
		case code != OK:
			fx.reply(func() { reply(code) })
			return
		}
		g.commit(fx, r, reply)
		s.forgetIdleLocked(fx, g)
	})
}

// FetchOffsets has reply called once, at once unless commits that are being written must be waited for.
func (c *Coordinator) FetchOffsets(r *OffsetsRequest, reply func(OffsetsResult)) {
	s := c.shardOf(r.Group)
	s.transition(func(fx *effects) {
		if code := s.stateCodeLocked(); code != OK {
			fx.reply(func() { reply(OffsetsResult{Code: code}) })
			return
		}
		read := func() {
			noOffsets(r.Topics)
			res := OffsetsResult{Topics: r.Topics}
			if code := s.stateCodeLocked(); code != OK {
				res = OffsetsResult{Code: code}
			} else if g := s.mu.groups[r.Group]; g != nil {
				res.Topics = g.fetch(r.Topics)
			}
			s.mu.fx.reply(func() { reply(res) })
		}
		if r.RequireStable && len(s.mu.appends) > 0 {
			s.mu.barriers = append(s.mu.barriers, barrier{s.mu.appended, read})
			return
		}
		read()
	})
}

// DeleteOffsets has reply called once, when the offsets are gone durably. Results of single partitions are in the request.
func (c *Coordinator) DeleteOffsets(r *DeleteOffsetsRequest, reply func(Code)) {
	if r.Group == "" {
		reply(InvalidGroupID)
		return
	}
	s := c.shardOf(r.Group)
	s.transition(func(fx *effects) {
		g, code := s.lookupLocked(r.Group)
		if code != OK {
			fx.reply(func() { reply(code) })
			return
		}
		g.deleteOffsets(fx, r, reply)
	})
}

// DeleteGroup removes a group without members; reply is called once, when that is durable.
func (c *Coordinator) DeleteGroup(group string, reply func(Code)) {
	s := c.shardOf(group)
	s.transition(func(fx *effects) {
		g, code := s.lookupLocked(group)
		switch {
		case code != OK:
		case g.state != Empty:
			code = NonEmptyGroup
		default:
			g.delete(fx, func(fx *effects, code Code) { fx.reply(func() { reply(code) }) })
			return
		}
		fx.reply(func() { reply(code) })
	})
}

// Describe shows a group; Code is GroupIDNotFound where there is none.
func (c *Coordinator) Describe(group string) Description {
	d := Description{Group: group, State: Dead}
	s := c.shardOf(group)
	s.transition(func(*effects) {
		if d.Code = s.stateCodeLocked(); d.Code != OK {
			return
		}
		if g := s.mu.groups[group]; g != nil {
			d = g.describe()
			return
		}
		d.Code = GroupIDNotFound
	})
	return d
}

// List shows all groups of the partitions owned, by name. It fails while one of them is loading.
func (c *Coordinator) List() ([]Listed, Code) {
	if c.closed.Load() {
		return nil, CoordinatorNotAvailable
	}
	var all []Listed
	result := OK
	for _, s := range c.shards {
		s.transition(func(*effects) {
			if s.mu.state == loading {
				result = CoordinatorLoadInProgress
			}
			for _, g := range s.mu.groups {
				all = append(all, Listed{Group: g.id, ProtocolType: g.protocolType, State: g.state})
			}
		})
	}
	if result != OK {
		return nil, result
	}
	slices.SortFunc(all, func(a, b Listed) int { return cmp.Compare(a.Group, b.Group) })
	return all, OK
}

// TopicDeleted removes the offsets that groups committed for a topic. With a nonzero id, those of another topic of that name
// stay.
func (c *Coordinator) TopicDeleted(name string, id [16]byte) {
	for _, s := range c.shards {
		s.transition(func(fx *effects) {
			if s.mu.state == loading || s.mu.failed {
				s.mu.gone = append(s.mu.gone, goneTopic{name, id})
			}
			s.topicDeletedLocked(fx, name, id)
		})
	}
}
