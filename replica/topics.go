package replica

import (
	"encoding/base64"
	"fmt"
	"maps"
	"strings"

	"weir/internal/lockmeter"
	"weir/raftmeta"
	"weir/replica/machine"
)

// addTopic makes a topic's partitions. A new partition costs no I/O: its directory appears with its first flush.
func (m *Manager) addTopic(t *raftmeta.Topic) error {
	state, err := m.newTopic(t)
	if err != nil {
		return err
	}
	for _, p := range state.partitions {
		if p == nil {
			continue
		}
		if err := p.open(nil); err != nil {
			return err
		}
	}
	m.install(state)
	for _, p := range state.partitions {
		if p != nil {
			p.begin(false)
		}
	}
	return nil
}

// newTopic makes the partitions of a topic that are here, without their logs.
func (m *Manager) newTopic(t *raftmeta.Topic) (*topicState, error) {
	set, err := m.settingsOf(t)
	if err != nil {
		return nil, err
	}
	state := &topicState{name: t.Name, id: t.ID, configs: t.Configs, settings: set, partitions: make([]*Partition, len(t.Partitions))}
	for i := range t.Partitions {
		if meta := &t.Partitions[i]; holds(meta, m.cfg.NodeID) {
			state.partitions[i] = m.newPartition(t, int32(i), meta, set)
		}
	}
	return state, nil
}

// newPartition makes a partition that has no role yet: begin gives it that, when it has a log.
func (m *Manager) newPartition(t *raftmeta.Topic, index int32, meta *raftmeta.Partition, set *settings) *Partition {
	p := &Partition{
		m: m, topic: t.Name, id: t.ID, index: index, name: fmt.Sprintf("%s-%d", t.Name, index),
		head: walHead(t.ID, index), internal: t.Internal,
	}
	p.mu.MeterBy(m.locks, lockmeter.Partition)
	p.waiters.mu.MeterBy(m.locks, lockmeter.Waiters)
	p.followers.mu.MeterBy(m.locks, lockmeter.Waiters)
	r := newRole(m.cfg.NodeID, meta, false)
	r.leads, r.follows = false, false
	p.role.Store(r)
	p.epochStart.Store(machine.None)
	p.mu.roleNext = meta
	p.settings.Store(set)
	return p
}

// begin takes the first role. former: it is what the metadata said in the node's former life.
func (p *Partition) begin(former bool) {
	p.m.roles.Lock()
	defer p.m.roles.Unlock()
	p.mu.Lock()
	meta := p.mu.roleNext
	if p.mu.roleNext = nil; meta == nil || p.mu.closed {
		p.mu.Unlock()
		return
	}
	p.takeRoleLocked(meta, former)
}

func (m *Manager) install(state *topicState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.byID[state.id], m.mu.byName[state.name] = state, state
}

func (m *Manager) settingsOf(t *raftmeta.Topic) (*settings, error) {
	c, err := m.cfg.ResolveTopic(t.Configs)
	if err != nil {
		return nil, fmt.Errorf("topic %s: %w", t.Name, err)
	}
	return m.newSettings(c), nil
}

// apply follows the metadata. It runs on the metadata's apply goroutine and touches memory only.
func (m *Manager) apply(img *raftmeta.Image, d *raftmeta.Delta) {
	m.fetchers.hold()
	defer m.fetchers.release()
	if d.From == 0 { // the first call, which tells only what there is: recover may have opened what was deleted meanwhile
		for _, t := range m.topicStates() {
			if img.TopicByID(t.id) == nil {
				m.removeTopic(&raftmeta.Topic{Name: t.name, ID: t.id})
			}
		}
	}
	for _, t := range d.Deleted {
		m.removeTopic(t)
	}
	for _, t := range d.Created {
		if m.byID(t.ID) != nil {
			m.changeTopic(t) // opened by recover, perhaps as of an older image
			continue
		}
		if err := m.addTopic(t); err != nil {
			m.log.Error("topic cannot be served", "topic", t.Name, "err", err)
		}
	}
	for _, t := range d.Changed {
		m.changeTopic(t)
	}
}

func (m *Manager) topicStates() (all []*topicState) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, t := range m.mu.byID {
		all = append(all, t)
	}
	return all
}

func (m *Manager) byID(id [16]byte) *topicState {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mu.byID[id]
}

func (m *Manager) removeTopic(t *raftmeta.Topic) {
	m.mu.Lock()
	state := m.mu.byID[t.ID]
	delete(m.mu.byID, t.ID)
	if m.mu.byName[t.Name] == state {
		delete(m.mu.byName, t.Name)
	}
	m.mu.Unlock()
	if state == nil {
		return
	}
	for _, p := range state.partitions {
		if p != nil {
			m.remove(p)
			m.store.Remove(p.log)
		}
	}
}

// remove ends a partition on this node.
func (m *Manager) remove(p *Partition) {
	led := p.IsLeader()
	p.close()
	m.fetchers.forget(p)
	m.cleaner.forget(p)
	if led && m.onRole != nil {
		m.onRole(p, false, p.LeaderEpoch())
	}
}

// changeTopic takes over a topic's configuration and the roles of its partitions. Partitions may have come to this node, or left it: a replica
// that is none any more deletes its log.
func (m *Manager) changeTopic(t *raftmeta.Topic) {
	state := m.byID(t.ID)
	if state == nil {
		if err := m.addTopic(t); err != nil {
			m.log.Error("topic cannot be served", "topic", t.Name, "err", err)
		}
		return
	}
	set, configured := state.settings, !maps.Equal(state.configs, t.Configs)
	if configured { // and not only because an ISR changed, which is more often
		if fresh, err := m.settingsOf(t); err == nil {
			set = fresh
		} else {
			m.log.Error("topic keeps its former configuration", "topic", t.Name, "err", err)
		}
	}
	next := &topicState{name: t.Name, id: t.ID, configs: t.Configs, settings: set, partitions: make([]*Partition, len(t.Partitions))}
	var gone, came []*Partition
	for i := range t.Partitions {
		p, meta := state.partition(int32(i)), &t.Partitions[i]
		switch here := holds(meta, m.cfg.NodeID); {
		case p != nil && here:
			next.partitions[i] = p
		case p != nil:
			gone = append(gone, p)
		case here:
			p = m.newPartition(t, int32(i), meta, set)
			if err := p.open(nil); err != nil {
				m.log.Error("partition cannot be served", "partition", p.name, "err", err)
				continue
			}
			next.partitions[i], came = p, append(came, p)
		}
	}
	m.install(next)
	for _, p := range gone {
		m.log.Info("partition has left this node", "partition", p.name)
		m.remove(p)
		p.leave()
	}
	for i, p := range next.partitions {
		if p == nil {
			continue
		}
		if configured {
			p.configure(set)
		}
		if meta := &t.Partitions[i]; !p.role.Load().is(meta) {
			p.setRole(meta, false)
		}
	}
	for _, p := range came {
		p.begin(false)
	}
}

// configure takes over a topic's configuration.
func (p *Partition) configure(set *settings) {
	p.settings.Store(set)
	var c change
	p.mu.Lock()
	if p.mu.lead != nil {
		p.outcomeLocked(p.mu.lead.SetMinISR(set.Topic.MinInsyncReplicas), &c)
		p.notEnoughLocked(&c)
	}
	p.mu.Unlock()
	p.settle(&c)
	go p.scheduleRetention()
	p.m.cleaner.configured(p)
}

// removeOrphans deletes, in the background, the directories of topics that the metadata no longer has: deletions
// that a crash cut short.
func (m *Manager) removeOrphans() {
	known := map[string]bool{}
	for _, p := range m.all() {
		known[dirName(p.topic, p.index, p.id)] = true
	}
	deleting := 0
	for _, dir := range m.store.Dirs() {
		if known[dir] || !isPartitionDir(dir) {
			continue
		}
		deleting++
		if err := m.store.RemoveDir(dir); err != nil {
			m.log.Warn("cannot delete the directory of a deleted topic", "dir", dir, "err", err)
		}
	}
	if deleting > 0 {
		m.log.Info("deleting directories of deleted topics", "partitions", deleting)
	}
}

// isPartitionDir reports whether name looks like one that dirName made; anything else in the directory is left alone.
func isPartitionDir(name string) bool {
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 || !strings.Contains(name[:dot], "-") {
		return false
	}
	id, err := base64.RawURLEncoding.DecodeString(name[dot+1:])
	return err == nil && len(id) == 16
}
