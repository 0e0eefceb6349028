package group

// describe is the group as DescribeGroups shows it.
func (g *group) describe() Description {
	d := Description{
		Group: g.id, State: g.state, ProtocolType: g.protocolType, Generation: g.generation,
		Members: make([]DescribedMember, len(g.members)),
	}
	stable := g.state == Stable && g.protocol != nil
	if stable {
		d.Protocol = *g.protocol
	}
	for i, m := range g.members {
		dm := DescribedMember{MemberID: m.id, InstanceID: m.instance, ClientID: m.clientID, ClientHost: m.clientHost}
		if stable {
			dm.Metadata, dm.Assignment = m.metadata(g.protocol), m.assignment
		}
		d.Members[i] = dm
	}
	return d
}
