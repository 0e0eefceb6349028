package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/coordinator/group"
	"weir/internal/budget"
)

// JoinGroup v2-9, SyncGroup v0-5, Heartbeat v0-4, LeaveGroup v0-5: the classic group protocol.
//
//	JoinGroup v4: a new dynamic member is given its id first (KIP-394); v5: group.instance.id; v7: protocol type and null
//	protocol in the response; v9: SkipAssignment. SyncGroup v3: group.instance.id; v5: protocol type and name are checked.
//	LeaveGroup v3: several members, each with its own error.

func (c *call) joinGroup(r kmsg.Request) {
	req := r.(*kmsg.JoinGroupRequest)
	in := &group.JoinRequest{
		Group: req.Group, MemberID: req.MemberID, InstanceID: req.InstanceID,
		ClientID: c.r.ClientID, ClientHost: clientHost(c.r.Conn.RemoteAddr()),
		ProtocolType:       req.ProtocolType,
		Protocols:          make([]group.Protocol, len(req.Protocols)),
		SessionTimeout:     time.Duration(req.SessionTimeoutMillis) * time.Millisecond,
		RebalanceTimeout:   time.Duration(req.RebalanceTimeoutMillis) * time.Millisecond,
		RequireKnownMember: req.Version >= 4,
		CanSkipAssignment:  req.Version >= 9,
	}
	for i, p := range req.Protocols {
		in.Protocols[i] = group.Protocol{Name: p.Name, Metadata: p.Metadata}
	}
	if req.Reason != nil {
		in.Reason = *req.Reason
	}
	version := req.Version
	c.b.groups.JoinGroup(in, func(res group.JoinResult) {
		c.r.Lap(budget.Wait, c.b.clk.Now()) // for the other members
		c.reply(joinResponse(version, &res))
	})
}

func joinResponse(version int16, res *group.JoinResult) *kmsg.JoinGroupResponse {
	resp := kmsg.NewPtrJoinGroupResponse()
	resp.ErrorCode = groupCode(res.Code)
	resp.Generation = res.Generation
	resp.ProtocolType = res.ProtocolType
	resp.Protocol = res.Protocol
	if version < 7 && resp.Protocol == nil {
		resp.Protocol = kmsg.StringPtr("")
	}
	resp.LeaderID = res.Leader
	resp.SkipAssignment = res.SkipAssignment
	resp.MemberID = res.MemberID
	resp.Members = make([]kmsg.JoinGroupResponseMember, len(res.Members))
	for i, m := range res.Members {
		resp.Members[i] = kmsg.JoinGroupResponseMember{
			MemberID: m.MemberID, InstanceID: m.InstanceID, ProtocolMetadata: m.Metadata,
		}
	}
	return resp
}

func (c *call) syncGroup(r kmsg.Request) {
	req := r.(*kmsg.SyncGroupRequest)
	if req.Version >= 5 && (req.ProtocolType == nil || req.Protocol == nil) {
		resp := kmsg.NewPtrSyncGroupResponse()
		resp.ErrorCode = kerr.InconsistentGroupProtocol.Code
		c.reply(resp)
		return
	}
	in := &group.SyncRequest{
		Group: req.Group, Generation: req.Generation, MemberID: req.MemberID, InstanceID: req.InstanceID,
		ProtocolType: req.ProtocolType, Protocol: req.Protocol,
		Assignments: make([]group.Assignment, len(req.GroupAssignment)),
	}
	for i, a := range req.GroupAssignment {
		in.Assignments[i] = group.Assignment{MemberID: a.MemberID, Data: a.MemberAssignment}
	}
	c.b.groups.SyncGroup(in, func(res group.SyncResult) {
		if len(in.Assignments) == 0 {
			c.r.Lap(budget.Wait, c.b.clk.Now()) // for the member that assigns
		}
		resp := kmsg.NewPtrSyncGroupResponse()
		resp.ErrorCode = groupCode(res.Code)
		resp.ProtocolType, resp.Protocol = res.ProtocolType, res.Protocol
		if resp.MemberAssignment = res.Assignment; res.Assignment == nil {
			resp.MemberAssignment = []byte{}
		}
		c.reply(resp)
	})
}

func (c *call) heartbeat(r kmsg.Request) {
	req := r.(*kmsg.HeartbeatRequest)
	resp := kmsg.NewPtrHeartbeatResponse()
	resp.ErrorCode = groupCode(c.b.groups.Heartbeat(&group.HeartbeatRequest{
		Group: req.Group, Generation: req.Generation, MemberID: req.MemberID, InstanceID: req.InstanceID,
	}))
	c.reply(resp)
}

func (c *call) leaveGroup(r kmsg.Request) {
	req := r.(*kmsg.LeaveGroupRequest)
	in := &group.LeaveRequest{Group: req.Group}
	if req.Version < 3 {
		in.Members = []group.LeaveMember{{MemberID: req.MemberID}}
	}
	for _, m := range req.Members {
		l := group.LeaveMember{MemberID: m.MemberID, InstanceID: m.InstanceID}
		if m.Reason != nil {
			l.Reason = *m.Reason
		}
		in.Members = append(in.Members, l)
	}
	code := c.b.groups.LeaveGroup(in)
	resp := kmsg.NewPtrLeaveGroupResponse()
	resp.ErrorCode = groupCode(code)
	switch {
	case req.Version < 3 && code == group.OK:
		resp.ErrorCode = groupCode(in.Members[0].Code)
	case code == group.OK:
		for _, m := range in.Members {
			rm := kmsg.NewLeaveGroupResponseMember()
			rm.MemberID, rm.InstanceID, rm.ErrorCode = m.MemberID, m.InstanceID, groupCode(m.Code)
			resp.Members = append(resp.Members, rm)
		}
	}
	c.reply(resp)
}
