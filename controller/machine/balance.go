package machine

import (
	"slices"
	"time"

	"weir/raftmeta"
)

// balanceMax is how many leaders one round of balancing moves: clients have to look for each of them. What is left follows at once,
// after that.
const balanceMax = 1000

// balance gives leaderships back to preferred replicas, of brokers that miss more than BalancePercent of theirs. It looks every
// BalanceInterval, and only while some partition is not led by its preferred replica.
func (m *Machine) balance(v *view, now time.Time) {
	switch {
	case m.c.BalanceInterval <= 0 || m.alone() || m.tally.imbalanced == 0:
		m.balanceAt = time.Time{}
		return
	case m.balanceAt.IsZero():
		m.balanceAt = now.Add(m.c.BalanceInterval)
		return
	case now.Before(m.balanceAt):
		return
	}
	m.balanceAt = now.Add(m.c.BalanceInterval)
	if m.short == nil {
		m.short = m.missing(v)
	}
	moved := 0
	for t := range v.img.Topics() {
		if _, taken := v.topics[t.Name]; taken {
			continue
		}
		for i := range t.Partitions {
			p := v.part(t, int32(i))
			if !v.misled(&p) || !m.short[p.Replicas[0]] {
				continue
			}
			if moved == balanceMax {
				m.balanceAt = now
				return // with the same brokers
			}
			p.Leader = p.Replicas[0]
			v.change(t, int32(i), p, ElectBalance)
			moved++
		}
	}
	m.short = nil
}

// misled says that the preferred replica could lead, but does not.
func (v *view) misled(p *raftmeta.Partition) bool {
	return p.Leader != p.Replicas[0] && v.usable(p.Replicas[0]) && slices.Contains(p.ISR, p.Replicas[0])
}

// missing are the brokers that lead too few of the partitions that prefer them.
func (m *Machine) missing(v *view) map[int32]bool {
	n := map[int32]int{}
	for t := range v.img.Topics() {
		for i := range t.Partitions {
			if p := v.part(t, int32(i)); p.Leader != p.Replicas[0] {
				n[p.Replicas[0]]++
			}
		}
	}
	short := map[int32]bool{}
	for id, misses := range n {
		short[id] = misses*100 > m.c.BalancePercent*m.tally.preferred[id]
	}
	return short
}
