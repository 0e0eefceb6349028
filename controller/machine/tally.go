package machine

import (
	"maps"
	"slices"

	"weir/raftmeta"
)

// tally counts what would otherwise need a look at every partition, kept up to date by deltas.
type tally struct {
	topics      map[[16]byte]*raftmeta.Topic // as counted
	partitions  int
	offline     int // no leader
	imbalanced  int // led by another than the preferred replica
	reassigning int
	replicas    map[int32]int // per broker
	preferred   map[int32]int // per broker: how many partitions it should lead
}

// count counts everything.
func (c *tally) count(img *raftmeta.Image) {
	*c = tally{topics: make(map[[16]byte]*raftmeta.Topic, img.NumTopics()), replicas: map[int32]int{}, preferred: map[int32]int{}}
	for t := range img.Topics() {
		c.put(t)
	}
}

// update counts what changed. It says whether a configuration did that may decide who leads, or a broker that leaves got a replica: a change whose
// outcome was not known came late.
func (c *tally) update(d *raftmeta.Delta, leaving []int32) (settle bool) {
	for _, t := range d.Deleted {
		c.remove(t.ID)
	}
	for _, t := range slices.Concat(d.Created, d.Changed) {
		if was := c.topics[t.ID]; was != nil && c.offline > 0 && !maps.Equal(was.Configs, t.Configs) {
			settle = true
		}
		for _, id := range leaving {
			settle = settle || gained(c.topics[t.ID], t, id)
		}
		c.remove(t.ID)
		c.put(t)
	}
	return settle
}

// gained says that a broker has to hold a partition that it did not have to.
func gained(was, is *raftmeta.Topic, broker int32) bool {
	holds := func(p *raftmeta.Partition) bool {
		return slices.Contains(p.Replicas, broker) && !slices.Contains(p.Removing, broker)
	}
	for i := range is.Partitions {
		if holds(&is.Partitions[i]) && (was == nil || i >= len(was.Partitions) || !holds(&was.Partitions[i])) {
			return true
		}
	}
	return false
}

func (c *tally) put(t *raftmeta.Topic) {
	c.topics[t.ID] = t
	c.add(t, 1)
}

func (c *tally) remove(id [16]byte) {
	if t := c.topics[id]; t != nil {
		c.add(t, -1)
		delete(c.topics, id)
	}
}

func (c *tally) add(t *raftmeta.Topic, n int) {
	c.partitions += n * len(t.Partitions)
	for i := range t.Partitions {
		p := &t.Partitions[i]
		if p.Leader < 0 {
			c.offline += n
		}
		if p.Leader != p.Replicas[0] {
			c.imbalanced += n
		}
		if len(p.Adding) > 0 || len(p.Removing) > 0 {
			c.reassigning += n
		}
		c.preferred[p.Replicas[0]] += n
		for _, id := range p.Replicas {
			c.replicas[id] += n
		}
	}
}

// Stats is the state of the cluster in numbers.
type Stats struct {
	Active, Fenced       int // brokers
	Offline, Reassigning int // partitions
	Imbalanced           int // partitions that their preferred replica does not lead
}

// Stats returns the numbers of the newest image.
func (m *Machine) Stats() Stats {
	s := Stats{Offline: m.tally.offline, Reassigning: m.tally.reassigning, Imbalanced: m.tally.imbalanced}
	for _, b := range m.img.Brokers() {
		if b.Fenced {
			s.Fenced++
		} else {
			s.Active++
		}
	}
	return s
}
