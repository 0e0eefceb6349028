package simulation

import (
	"slices"

	"weir/raftmeta"
)

const minISR = 2

// model is what must hold: it knows everything that was acknowledged, seen by anybody, or written.
type model struct {
	w       *world
	acked   map[key]map[int64]uint64 // acknowledged with acks=all, by offset
	exposed map[key][]rec            // below a high watermark somewhere: what consumers may have read
	leaders map[leadership]int32     // who wrote, or led, in an epoch
	acks    int
	tries   int
	reads   int
}

type leadership struct {
	key   key
	epoch int32
}

func newModel(w *world) *model {
	return &model{w: w, acked: map[key]map[int64]uint64{}, exposed: map[key][]rec{}, leaders: map[leadership]int32{}}
}

// one holds that an epoch has one leader.
func (m *model) one(k key, epoch, node int32) {
	l := leadership{k, epoch}
	if was, ok := m.leaders[l]; ok && was != node {
		m.w.fail("two leaders, %d and %d, of %v in epoch %d", was, node, k, epoch)
	}
	m.leaders[l] = node
}

// elected holds that a new leader has everything that was acknowledged, and everything that anybody could have read.
func (m *model) elected(r *replica) {
	m.w.note("node %d leads %v in epoch %d from %d, high watermark %d", r.n.id, r.key, r.role.epoch, r.end(), r.hw)
	m.one(r.key, r.role.epoch, r.n.id)
	if !m.current(r) {
		return // it comes late: others have acknowledged since
	}
	for offset, value := range m.acked[r.key] {
		if offset >= r.end() || r.log[offset].value != value {
			m.w.fail("node %d leads %v in epoch %d without the record at offset %d, which was acknowledged", r.n.id, r.key, r.role.epoch, offset)
			return
		}
	}
	m.prefix(r, "the new leader", int64(len(m.exposed[r.key])))
}

// prefix holds that a log has what was exposed, as far as asked.
func (m *model) prefix(r *replica, who string, upTo int64) {
	seen := m.exposed[r.key]
	for i := range min(upTo, int64(len(seen))) {
		if i >= r.end() || r.log[i] != seen[i] {
			m.w.fail("%s %d of %v in epoch %d does not have, at offset %d, the %+v that was committed", who, r.n.id, r.key, r.role.epoch, i, seen[i])
			return
		}
	}
}

// wrote notes that a leader has appended.
func (m *model) wrote(r *replica) { m.one(r.key, r.role.epoch, r.n.id) }

// committed holds, whenever a high watermark has risen somewhere, that offsets never change their content, and that on the leader every in-sync replica
// has what is below it on its disk.
func (m *model) committed(r *replica) {
	if r.hw > r.end() || r.hw > r.durable && r.role.follows {
		m.w.fail("node %d: high watermark %d of %v, log ends at %d, durable are %d", r.n.id, r.hw, r.key, r.end(), r.durable)
		return
	}
	seen := m.exposed[r.key]
	m.prefix(r, "node", r.hw)
	for i := int64(len(seen)); i < r.hw; i++ {
		seen = append(seen, r.log[i])
	}
	m.exposed[r.key] = seen
	m.reads++
	if r.lead == nil {
		return
	}
	if m.current(r) { // else it was replaced and does not know yet; whoever replaced it was held against what is committed
		m.inSync(r.key, &m.w.quorum.newest().TopicByID(r.key.topic).Partitions[r.key.index])
	}
}

// current reports whether a leader is the one of the newest metadata.
func (m *model) current(r *replica) bool {
	t := m.w.quorum.newest().TopicByID(r.key.topic)
	return t != nil && t.Partitions[r.key.index].LeaderEpoch == r.role.epoch
}

// inSync holds that all in-sync replicas have, on disk, what is committed: also those that are down.
func (m *model) inSync(k key, p *raftmeta.Partition) {
	committed := int64(len(m.exposed[k]))
	for _, id := range p.ISR {
		n := m.w.node(id)
		r := n.replicas[k]
		if !n.up || !n.open {
			if d := n.disk[k]; d != nil {
				r = d
			}
		}
		have := int64(0)
		if r != nil {
			have = min(r.durable, r.end())
		}
		if have < committed {
			m.w.fail("node %d is in sync for %v (%+v) and has %d on disk, committed are %d", id, k, *p, have, committed)
		}
	}
}

// metadata is called with every new image.
func (m *model) metadata(img *raftmeta.Image) {
	for t := range img.Topics() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if p.Leader >= 0 {
				m.one(key{t.ID, int32(i)}, p.LeaderEpoch, p.Leader)
			}
			if p.Leader >= 0 && !slices.Contains(p.ISR, p.Leader) || len(p.ISR) == 0 {
				m.w.fail("%s-%d: %+v", t.Name, i, *p)
			}
			m.inSync(key{t.ID, int32(i)}, p)
		}
	}
}

// acknowledged notes what a producer was told.
func (m *model) acknowledged(k key, offset int64, value uint64) {
	if m.acked[k] == nil {
		m.acked[k] = map[int64]uint64{}
	}
	m.acked[k][offset] = value
	m.acks++
	if seen := m.exposed[k]; offset >= int64(len(seen)) || seen[offset].value != value {
		m.w.fail("value %d at offset %d of %v was acknowledged and is not committed", value, offset, k)
	}
	copies := 0
	for _, n := range m.w.nodes {
		r := n.replicas[k]
		if d := n.disk[k]; d != nil && (!n.up || !n.open) {
			r = d
		}
		if r != nil && offset < r.durable && offset < r.end() && r.log[offset].value == value {
			copies++
		}
	}
	if copies < minISR {
		m.w.fail("value %d at offset %d of %v was acknowledged with %d copies on disk, min.insync.replicas is %d", value, offset, k, copies, minISR)
	}
}

// settled holds at the end, without faults: every partition is led, all its replicas are in sync and equal, and everything acknowledged is there.
func (m *model) settled() {
	img := m.w.quorum.newest()
	for t := range img.Topics() {
		for i := range t.Partitions {
			p, k := &t.Partitions[i], key{t.ID, int32(i)}
			if p.Leader < 0 || len(p.ISR) != len(p.Replicas) || len(p.Adding)+len(p.Removing) > 0 {
				m.w.fail("after all is well %s-%d is %+v", t.Name, i, *p)
				return
			}
			lead := m.w.node(p.Leader).replicas[k]
			if lead == nil {
				m.w.fail("after all is well leader %d has not opened %s-%d: %+v", p.Leader, t.Name, i, *p)
				return
			}
			for _, id := range p.Replicas {
				r := m.w.node(id).replicas[k]
				if r == nil || !slices.Equal(r.log, lead.log) || r.hw != lead.end() {
					m.w.fail("after all is well node %d differs from leader %d of %s-%d: %+v", id, p.Leader, t.Name, i, *p)
					return
				}
			}
			for offset, value := range m.acked[k] {
				if offset >= lead.end() || lead.log[offset].value != value {
					m.w.fail("the record at offset %d of %s-%d was acknowledged and is gone", offset, t.Name, i)
				}
			}
		}
	}
}
