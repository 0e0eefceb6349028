package group

import (
	"maps"
	"slices"

	"weir/internal/record"
)

// fetch reads committed offsets: those asked for, filled in, or all.
func (g *group) fetch(topics []OffsetsTopic) []OffsetsTopic {
	if topics == nil {
		return g.fetchAll()
	}
	for i := range topics {
		t := &topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			if o, ok := g.offsets[t.Name][p.Partition]; ok && sameTopic(t.ID, o.topicID) {
				p.Offset, p.LeaderEpoch, p.Metadata = o.offset, o.leaderEpoch, o.metadata
			}
		}
	}
	return topics
}

// sameTopic: ids that are not known do not contradict.
func sameTopic(a, b [16]byte) bool { return a == b || a == [16]byte{} || b == [16]byte{} }

func (g *group) fetchAll() []OffsetsTopic {
	all := make([]OffsetsTopic, 0, len(g.offsets))
	for _, name := range slices.Sorted(maps.Keys(g.offsets)) {
		parts := g.offsets[name]
		t := OffsetsTopic{Name: name, Partitions: make([]OffsetsPartition, 0, len(parts))}
		for _, n := range slices.Sorted(maps.Keys(parts)) {
			o := parts[n]
			t.ID = o.topicID
			t.Partitions = append(t.Partitions, OffsetsPartition{
				Partition: n, Offset: o.offset, LeaderEpoch: o.leaderEpoch, Metadata: o.metadata,
			})
		}
		all = append(all, t)
	}
	return all
}

// noOffsets fills in that nothing is committed.
func noOffsets(topics []OffsetsTopic) {
	for i := range topics {
		for j := range topics[i].Partitions {
			p := &topics[i].Partitions[j]
			p.Offset, p.LeaderEpoch, p.Metadata = -1, -1, ""
		}
	}
}

// deleteOffsets is the OffsetDelete input: tombstones for what exists and is not subscribed to.
func (g *group) deleteOffsets(fx *effects, r *DeleteOffsetsRequest, reply func(Code)) {
	if g.state != Empty && g.protocolType != consumerType {
		fx.reply(func() { reply(NonEmptyGroup) })
		return
	}
	var gone []topicPartition
	for i := range r.Topics {
		t := &r.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			if g.subscribedTo(t.Name) {
				p.Code = GroupSubscribedToTopic
				continue
			}
			if tp := (topicPartition{t.Name, p.Partition}); g.exists(tp) {
				gone = append(gone, tp)
			}
		}
	}
	if len(gone) == 0 {
		fx.reply(func() { reply(OK) })
		return
	}
	g.bury(fx, gone, func(fx *effects, code Code) {
		if g.state != Dead {
			g.rescanExpiry(fx)
		}
		fx.reply(func() { reply(code) })
	})
}

// exists reports whether the offset is committed or being committed.
func (g *group) exists(tp topicPartition) bool {
	_, ok := g.offsets[tp.topic][tp.partition]
	return ok || g.inflight[tp] > 0
}

// bury writes tombstones; the offsets go when these are durable. Commits that are in flight were appended earlier and so
// land earlier.
func (g *group) bury(fx *effects, gone []topicPartition, done func(*effects, Code)) {
	now := fx.nowMs()
	records := make([]record.Record, len(gone))
	for i, tp := range gone {
		records[i] = offsetTombstone(g.id, tp.topic, tp.partition, now)
		g.inflight[tp]++
	}
	fx.append(records, func(fx *effects, code Code) {
		for _, tp := range gone {
			g.landed(tp)
			if code == OK {
				g.removeOffset(tp)
			}
		}
		done(fx, code)
	})
}

// topicDeleted buries the offsets of a topic. A zero id means whatever topic had the name.
func (g *group) topicDeleted(fx *effects, topic string, id [16]byte) {
	var gone []topicPartition
	for n, o := range g.offsets[topic] {
		if sameTopic(id, o.topicID) {
			gone = append(gone, topicPartition{topic, n})
		}
	}
	for tp := range g.inflight {
		if _, ok := g.offsets[topic][tp.partition]; tp.topic == topic && !ok {
			gone = append(gone, tp)
		}
	}
	if len(gone) == 0 {
		return
	}
	slices.SortFunc(gone, func(a, b topicPartition) int { return int(a.partition - b.partition) })
	g.bury(fx, gone, func(fx *effects, code Code) {
		if code != OK {
			g.log().Warn("the offsets of a deleted topic were not removed", "group", g.id, "topic", topic, "code", code)
		}
		if g.state != Dead {
			g.rescanExpiry(fx)
		}
	})
}

// tombstones are what deleting the group writes: one for each offset, committed or on its way, and one for the group.
func (g *group) tombstones(nowMs int64) []record.Record {
	if !g.logged {
		return nil
	}
	var records []record.Record
	for _, topic := range slices.Sorted(maps.Keys(g.offsets)) {
		for _, n := range slices.Sorted(maps.Keys(g.offsets[topic])) {
			records = append(records, offsetTombstone(g.id, topic, n, nowMs))
		}
	}
	for tp := range g.inflight {
		if _, ok := g.offsets[tp.topic][tp.partition]; !ok {
			records = append(records, offsetTombstone(g.id, tp.topic, tp.partition, nowMs))
		}
	}
	return append(records, groupTombstone(g.id, nowMs))
}
