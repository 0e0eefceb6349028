package broker

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/coordinator/group"
)

// DescribeGroups v0-6, ListGroups v0-5, DeleteGroups v0-2.
//
//	DescribeGroups v3: authorized operations; v4: group.instance.id; v6: a group that does not exist is GROUP_ID_NOT_FOUND, before it was
//	shown as Dead. ListGroups v4: state, and a filter for it; v5: type, and a filter for it.

const (
	// groupTypeClassic is the type of all groups that there are.
	groupTypeClassic = "classic"
	// groupOperations is what may be done with a group where nothing is forbidden, as bits of Kafka's operation numbers: read,
	// delete, describe, describe configs, alter configs.
	groupOperations = 1<<3 | 1<<6 | 1<<8 | 1<<10 | 1<<11
)

func (c *call) describeGroups(r kmsg.Request) {
	req := r.(*kmsg.DescribeGroupsRequest)
	resp := kmsg.NewPtrDescribeGroupsResponse()
	resp.Groups = make([]kmsg.DescribeGroupsResponseGroup, len(req.Groups))
	for i, id := range req.Groups {
		d := c.b.groups.Describe(id)
		resp.Groups[i] = describedGroup(req.Version, &d)
		if req.IncludeAuthorizedOperations && resp.Groups[i].ErrorCode == 0 {
			resp.Groups[i].AuthorizedOperations = groupOperations
		}
	}
	c.reply(resp)
}

func describedGroup(version int16, d *group.Description) kmsg.DescribeGroupsResponseGroup {
	out := kmsg.NewDescribeGroupsResponseGroup()
	out.Group, out.AuthorizedOperations = d.Group, math.MinInt32
	switch {
	case d.Code == group.GroupIDNotFound && version < 6:
		out.State = group.Dead.String()
		return out
	case d.Code == group.GroupIDNotFound:
		out.State, out.ErrorCode = group.Dead.String(), groupCode(d.Code)
		out.ErrorMessage = kmsg.StringPtr(fmt.Sprintf("Group %s not found.", d.Group))
		return out
	case d.Code != group.OK:
		out.ErrorCode = groupCode(d.Code)
		return out
	}
	out.State, out.ProtocolType, out.Protocol = d.State.String(), d.ProtocolType, d.Protocol
	for _, m := range d.Members {
		om := kmsg.NewDescribeGroupsResponseGroupMember()
		om.MemberID, om.InstanceID, om.ClientID, om.ClientHost = m.MemberID, m.InstanceID, m.ClientID, m.ClientHost
		om.ProtocolMetadata, om.MemberAssignment = notNil(m.Metadata), notNil(m.Assignment)
		out.Members = append(out.Members, om)
	}
	return out
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func (c *call) listGroups(r kmsg.Request) {
	req := r.(*kmsg.ListGroupsRequest)
	resp := kmsg.NewPtrListGroupsResponse()
	listed, code := c.b.groups.List()
	resp.ErrorCode = groupCode(code)
	for _, g := range listed {
		if !passes(req.StatesFilter, g.State.String()) || !passes(req.TypesFilter, groupTypeClassic) {
			continue
		}
		out := kmsg.NewListGroupsResponseGroup()
		out.Group, out.ProtocolType = g.Group, g.ProtocolType
		out.GroupState, out.GroupType = g.State.String(), groupTypeClassic
		resp.Groups = append(resp.Groups, out)
	}
	c.reply(resp)
}

// passes: an empty filter lets everything through; names are compared without case, as Kafka does.
func passes(filter []string, value string) bool {
	return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(f, value) })
}

func (c *call) deleteGroups(r kmsg.Request) {
	req := r.(*kmsg.DeleteGroupsRequest)
	resp := kmsg.NewPtrDeleteGroupsResponse()
	seen := make(map[string]bool, len(req.Groups))
	for _, id := range req.Groups {
		if !seen[id] {
			seen[id] = true
			out := kmsg.NewDeleteGroupsResponseGroup()
			out.Group = id
			resp.Groups = append(resp.Groups, out)
		}
	}
	if len(resp.Groups) == 0 {
		c.reply(resp)
		return
	}
	var left atomic.Int32
	left.Store(int32(len(resp.Groups)))
	for i := range resp.Groups {
		out := &resp.Groups[i]
		c.b.groups.DeleteGroup(out.Group, func(code group.Code) {
			out.ErrorCode = groupCode(code)
			if left.Add(-1) == 0 {
				c.reply(resp)
			}
		})
	}
}
