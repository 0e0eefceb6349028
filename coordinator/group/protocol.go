package group

// consumerType is the protocol type of consumers, the only one whose metadata the coordinator looks into.
const consumerType = "consumer"

// supports reports whether a member with these protocols fits the group: at least one is known to all members.
func (g *group) supports(protocolType string, ps []Protocol) bool {
	if g.state == Empty {
		return protocolType != "" && len(ps) > 0
	}
	if g.protocolType == "" || g.protocolType != protocolType {
		return false
	}
	for _, p := range ps {
		if g.supported[p.Name] == len(g.members) {
			return true
		}
	}
	return false
}

// selectProtocol lets each member vote for the first of its protocols that all know. Among equals the leader's
// preference decides.
func (g *group) selectProtocol() string {
	votes := map[string]int{}
	for _, m := range g.members {
		for _, p := range m.protocols {
			if g.supported[p.Name] == len(g.members) {
				votes[p.Name]++
				break
			}
		}
	}
	best, most := "", 0
	for _, p := range g.byID[g.leader].protocols {
		if votes[p.Name] > most {
			best, most = p.Name, votes[p.Name]
		}
	}
	if most == 0 {
		panic("BUG: group " + g.id + ": no protocol that all members know")
	}
	return best
}

// computeSubscribed learns the topics that a consumer group's members subscribed to. Offsets of these do not expire and
// cannot be deleted while the group is alive.
func (g *group) computeSubscribed() {
	g.subscribed = nil
	if g.protocolType != consumerType {
		return
	}
	topics := map[string]bool{}
	for _, m := range g.members {
		if g.protocol == nil {
			return
		}
		names, err := subscribedTopics(m.metadata(g.protocol))
		if err != nil {
			g.log().Warn("the metadata of a consumer group's member is unreadable; its subscription is not known",
				"group", g.id, "member", m.id, "protocol", *g.protocol, "err", err)
			return
		}
		for _, t := range names {
			topics[t] = true
		}
	}
	g.subscribed = topics
}

// subscribedTo: a consumer group of unknown subscription counts as subscribed to everything.
func (g *group) subscribedTo(topic string) bool {
	if g.subscribed == nil {
		return g.protocolType == consumerType
	}
	return g.subscribed[topic]
}

// subscribedTopics reads the prefix that all versions of a consumer's metadata share.
func subscribedTopics(metadata []byte) ([]string, error) {
	d := reader{buf: metadata}
	d.int16("version")
	n := d.int32("topic count")
	if d.err == nil && (n < 0 || int64(n)*2 > int64(len(d.buf))) {
		d.fail("topic count", "%d topics in %d bytes", n, len(d.buf))
	}
	var topics []string
	for ; n > 0 && d.err == nil; n-- {
		topics = append(topics, d.string("topic"))
	}
	return topics, d.err
}

// assignedBytes is what a SyncGroup's assignments take.
func assignedBytes(as []Assignment) int {
	n := 0
	for _, a := range as {
		n += len(a.Data)
	}
	return n
}
