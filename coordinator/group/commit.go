package group

import (
	"unicode/utf8"

	"weir/internal/record"
)

// staged is an offset on its way to the log.
type staged struct {
	tp topicPartition
	o  offset
}

// commit is the OffsetCommit input. The reply comes when the offsets are durable; results of single partitions are in the
// request.
func (g *group) commit(fx *effects, r *CommitRequest, reply func(Code)) {
	if code := g.validateCommit(r); code != OK {
		fx.reply(func() { reply(code) })
		return
	}
	// A commit is a sign of life.
	if m := g.byID[r.MemberID]; m != nil && (g.state == Stable || g.state == PreparingRebalance) {
		g.touch(fx, m)
	}
	records, batch := g.stage(fx, r)
	if len(records) == 0 {
		fx.reply(func() { reply(OK) })
		return
	}
	g.logged = true
	for _, s := range batch {
		g.inflight[s.tp]++
	}
	fx.append(records, func(fx *effects, code Code) {
		for _, s := range batch {
			g.landed(s.tp)
			if code == OK && g.state != Dead {
				g.setOffset(s.tp, s.o)
			}
		}
		if code == OK && g.state != Dead {
			g.conf.metrics.commits.Add(float64(len(batch)))
			g.commitExpiry(fx, batch)
		}
		if code != OK && g.idle() { // made for this commit
			g.rescanExpiry(fx)
		}
		fx.reply(func() { reply(code) })
	})
}

// validateCommit: members commit in their generation; others only while nobody is in the group.
func (g *group) validateCommit(r *CommitRequest) Code {
	if r.Generation < 0 && g.state == Empty {
		return OK
	}
	if r.Generation < 0 && r.MemberID == "" && r.InstanceID == nil {
		return UnknownMemberID
	}
	if _, code := g.validate(r.MemberID, r.InstanceID); code != OK {
		return code
	}
	if r.Generation != g.generation {
		return IllegalGeneration
	}
	if g.state == CompletingRebalance {
		// The member has the new generation, but partitions it may have lost are not given to others yet.
		return RebalanceInProgress
	}
	return OK
}

// stage makes the records of what can be committed and says in the request what cannot.
func (g *group) stage(fx *effects, r *CommitRequest) ([]record.Record, []staged) {
	var records []record.Record
	var batch []staged
	now := fx.nowMs()
	for i := range r.Topics {
		t := &r.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			if g.metadataTooLarge(p.Metadata) {
				p.Code = OffsetMetadataTooLarge
				continue
			}
			o := offset{
				offset: p.Offset, leaderEpoch: p.LeaderEpoch, metadata: p.Metadata, committedMs: now, topicID: t.ID,
			}
			if r.Retention >= 0 {
				o.expireMs = now + r.Retention.Milliseconds()
			}
			batch = append(batch, staged{topicPartition{t.Name, p.Partition}, o})
			records = append(records, offsetRecord(g.id, t.Name, p.Partition, &o, now))
		}
	}
	return records, batch
}

// metadataTooLarge counts characters, as Kafka does.
func (g *group) metadataTooLarge(s string) bool {
	return len(s) > g.conf.offsetMetadataMax && utf8.RuneCountInString(s) > g.conf.offsetMetadataMax
}

func (g *group) landed(tp topicPartition) {
	if g.inflight[tp]--; g.inflight[tp] == 0 {
		delete(g.inflight, tp)
	}
}

func (g *group) setOffset(tp topicPartition, o offset) {
	parts := g.offsets[tp.topic]
	if parts == nil {
		parts = map[int32]offset{}
		g.offsets[tp.topic] = parts
	}
	if _, ok := parts[tp.partition]; !ok {
		g.conf.metrics.offsets.Inc()
	}
	parts[tp.partition] = o
}

func (g *group) removeOffset(tp topicPartition) {
	parts := g.offsets[tp.topic]
	if _, ok := parts[tp.partition]; !ok {
		return
	}
	g.conf.metrics.offsets.Dec()
	delete(parts, tp.partition)
	if len(parts) == 0 {
		delete(g.offsets, tp.topic)
	}
}
