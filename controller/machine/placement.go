package machine

import (
	"cmp"
	"fmt"
	"slices"

	"weir/raftmeta"
)

// placer chooses the brokers of new partitions. Within a topic each broker leads as many partitions as any other and follows in as
// many; the replicas of a partition lie in different racks as long as there are racks, then evenly in them. Where that leaves a
// choice, the broker that has less in the whole cluster is taken, and last a turn decides that is shifted each time round, so that the
// followers of one leader are not always the same. Brokers that cannot lead now are taken only where there are no others, and those that
// leave not at all.
type placer struct {
	slots  []slot // neighbours are in different racks where possible
	turn   int    // partitions placed so far
	inRack []int
}

type slot struct {
	id   int32
	rack int
	off  bool // cannot lead now
	// so far in the topic, and in the cluster
	leads, follows       int
	leadsAll, followsAll int
	taken                bool // for the partition at hand
}

func (v *view) placer() *placer {
	if v.place != nil {
		return v.place
	}
	p := &placer{turn: v.m.tally.partitions}
	racks := map[string]int{}
	var size []int // brokers per rack
	place := map[int32]int{}
	for _, b := range v.img.Brokers() { // by id
		if v.leaving(b.ID) {
			continue
		}
		rack, known := racks[b.Rack]
		if !known {
			rack = len(racks)
			racks[b.Rack] = rack
			size = append(size, 0)
		}
		place[b.ID] = size[rack]
		size[rack]++
		s := slot{id: b.ID, rack: rack, off: !v.usable(b.ID), leadsAll: v.m.tally.preferred[b.ID]}
		s.followsAll = v.m.tally.replicas[b.ID] - s.leadsAll
		p.slots = append(p.slots, s)
	}
	slices.SortStableFunc(p.slots, func(a, b slot) int {
		return cmp.Or(cmp.Compare(place[a.id], place[b.id]), cmp.Compare(a.rack, b.rack))
	})
	p.inRack = make([]int, len(racks))
	v.place = p
	return p
}

// assign places count partitions with factor replicas each. have are the topic's partitions that exist already.
func (p *placer) assign(topic string, have []raftmeta.Partition, count, factor int) ([][]int32, error) {
	switch {
	case factor < 1 || factor > len(p.slots):
		return nil, fmt.Errorf("%w: topic %s: replication factor %d cannot be reached, as %d broker(s) are registered and not being decommissioned",
			raftmeta.ErrInvalidReplication, topic, factor, len(p.slots))
	case !slices.ContainsFunc(p.slots, func(s slot) bool { return !s.off }):
		return nil, fmt.Errorf("%w: topic %s: all %d broker(s) are fenced or shutting down", raftmeta.ErrInvalidReplication, topic, len(p.slots))
	}
	p.begin(have)
	ids := make([]int32, count*factor)
	out := make([][]int32, count)
	for i := range out {
		out[i] = ids[i*factor : (i+1)*factor : (i+1)*factor]
		p.fill(out[i])
	}
	return out, nil
}

// begin counts what the topic has.
func (p *placer) begin(have []raftmeta.Partition) {
	for i := range p.slots {
		p.slots[i].leads, p.slots[i].follows = 0, 0
	}
	for i := range have {
		for k, id := range have[i].Replicas {
			switch at := p.find(id); {
			case at < 0:
			case k == 0:
				p.slots[at].leads++
			default:
				p.slots[at].follows++
			}
		}
	}
}

func (p *placer) find(id int32) int {
	return slices.IndexFunc(p.slots, func(s slot) bool { return s.id == id })
}

// fill chooses the replicas of one partition.
func (p *placer) fill(replicas []int32) {
	clear(p.inRack)
	for i := range p.slots {
		p.slots[i].taken = false
	}
	n := len(p.slots)
	leader := p.best(p.turn%n, true)
	first := leader + 1
	if n > 2 {
		first += p.turn / n % (n - 1)
	}
	p.turn++
	p.take(leader, true)
	replicas[0] = p.slots[leader].id
	for k := 1; k < len(replicas); k++ {
		at := p.best(first%n, false)
		p.take(at, false)
		replicas[k] = p.slots[at].id
	}
}

func (p *placer) take(at int, leads bool) {
	s := &p.slots[at]
	s.taken = true
	p.inRack[s.rack]++
	if leads {
		s.leads++
		s.leadsAll++
		return
	}
	s.follows++
	s.followsAll++
}

// best is the slot to take next; first is whose turn it is.
func (p *placer) best(first int, leads bool) int {
	best := -1
	for i := range p.slots {
		at := first + i
		if at >= len(p.slots) {
			at -= len(p.slots)
		}
		if !p.slots[at].taken && (best < 0 || p.better(&p.slots[at], &p.slots[best], leads)) {
			best = at
		}
	}
	return best
}

func (p *placer) better(a, b *slot, leads bool) bool {
	switch {
	case a.off != b.off:
		return b.off
	case leads && a.leads != b.leads:
		return a.leads < b.leads
	case leads && a.leadsAll != b.leadsAll:
		return a.leadsAll < b.leadsAll
	case leads:
		return false
	case p.inRack[a.rack] != p.inRack[b.rack]:
		return p.inRack[a.rack] < p.inRack[b.rack]
	case a.follows != b.follows:
		return a.follows < b.follows
	}
	return a.followsAll < b.followsAll
}

// substitute chooses a broker that can take a replica over, for a partition that stays on keep. It returns -1 if there is none.
func (p *placer) substitute(keep []int32) int32 {
	if len(p.slots) == 0 {
		return -1
	}
	clear(p.inRack)
	for i := range p.slots {
		s := &p.slots[i]
		s.taken = s.off
		if slices.Contains(keep, s.id) {
			s.taken = true
			p.inRack[s.rack]++
		}
	}
	at := p.best(p.turn%len(p.slots), false)
	if at < 0 {
		return -1
	}
	p.turn++
	p.take(at, false)
	return p.slots[at].id
}
