package replica

import (
	"encoding/base64"
	"fmt"
	"strings"

	"weir/internal/config"
	"weir/internal/record"
	"weir/raftmeta"
	"weir/segment"
	"weir/wal"
)

// dirName is a partition's directory below topics/: the id in it keeps a topic that was deleted and created again apart from
// its predecessor, whose files may still be on their way out.
func dirName(topic string, partition int32, id [16]byte) string {
	return fmt.Sprintf("%s-%d.%s", topic, partition, base64.RawURLEncoding.EncodeToString(id[:]))
}

// recover opens every partition of the metadata image and replays the WAL over them.
func (m *Manager) recover() error {
	checkpoints, err := m.store.LoadCheckpoint()
	if err != nil {
		return fmt.Errorf("recovery points: %w", err)
	}
	img := m.meta.Image()
	for t := range img.Topics() {
		if err := m.addTopic(t, checkpoints); err != nil {
			return err
		}
	}
	entries, batches := 0, 0
	err = m.wal.Replay(func(lsn wal.LSN, kind wal.Kind, head, body []byte) error {
		entries++
		applied, err := m.replay(lsn, kind, head, body)
		if applied {
			batches++
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("replay of the write-ahead log: %w", err)
	}
	m.replayed.Store(uint64(m.wal.End()))
	if entries > 0 {
		m.log.Info("write-ahead log replayed", "entries", entries, "of_existing_topics", batches)
	}
	for _, p := range m.all() {
		if err := p.restore(); err != nil {
			return err
		}
	}
	return nil
}

// replay gives one WAL entry to its log. Entries of topics that were deleted are passed over.
func (m *Manager) replay(lsn wal.LSN, kind wal.Kind, head, body []byte) (bool, error) {
	if kind != wal.KindInline {
		return false, fmt.Errorf("entry at LSN %d has kind %d, which this version does not write", lsn, kind)
	}
	id, index, err := parseWALHead(head)
	if err != nil {
		return false, fmt.Errorf("entry at LSN %d: %w", lsn, err)
	}
	p := m.Partition(id, index)
	if p == nil {
		return false, nil
	}
	b, rest, err := record.Next(body)
	if err != nil || len(rest) > 0 {
		return false, fmt.Errorf("entry at LSN %d for %s: %d bytes too many, %w", lsn, p.name, len(rest), err)
	}
	if err := p.log.Recovered(b, uint64(lsn)); err != nil {
		return false, fmt.Errorf("entry at LSN %d for %s: %w", lsn, p.name, err)
	}
	return true, nil
}

// addTopic makes a topic's partitions. A new partition costs no I/O: its directory appears with its first flush.
func (m *Manager) addTopic(t *raftmeta.Topic, checkpoints map[string]segment.Checkpoint) error {
	set, err := m.settingsOf(t)
	if err != nil {
		return err
	}
	state := &topicState{name: t.Name, id: t.ID, partitions: make([]*Partition, len(t.Partitions))}
	for i, meta := range t.Partitions {
		if meta.Leader != m.cfg.NodeID {
			continue
		}
		p := &Partition{
			m: m, topic: t.Name, id: t.ID, index: int32(i), name: fmt.Sprintf("%s-%d", t.Name, i),
			head: walHead(t.ID, int32(i)), epoch: meta.LeaderEpoch, internal: t.Internal,
		}
		p.settings.Store(set)
		dir := dirName(t.Name, int32(i), t.ID)
		point := checkpoints[dir]
		p.log, err = m.store.Open(dir, func() *segment.Config { return &p.settings.Load().Segment }, point.RecoveryPoint, point.LogStart)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		p.log.OnRoll(p.rolled)
		p.highWatermark.Store(p.log.End())
		state.partitions[i] = p
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.byID[t.ID], m.mu.byName[t.Name] = state, state
	return nil
}

func (m *Manager) settingsOf(t *raftmeta.Topic) (*settings, error) {
	resolve := m.cfg.ResolveTopic
	if t.Internal {
		resolve = m.cfg.ResolveInternalTopic
	}
	c, err := resolve(t.Configs)
	if err != nil {
		return nil, fmt.Errorf("topic %s: %w", t.Name, err)
	}
	return newSettings(c), nil
}

// apply follows the metadata. It runs on the metadata's apply goroutine and touches memory only.
func (m *Manager) apply(_ *raftmeta.Image, d *raftmeta.Delta) {
	for _, t := range d.Deleted {
		m.removeTopic(t)
	}
	for _, t := range d.Created {
		if m.has(t.ID) {
			continue // opened by recover
		}
		if err := m.addTopic(t, nil); err != nil {
			m.log.Error("topic cannot be served", "topic", t.Name, "err", err)
		}
	}
	for _, t := range d.Changed {
		m.changeTopic(t)
	}
}

func (m *Manager) has(id [16]byte) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mu.byID[id] != nil
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
			p.close()
			m.store.Remove(p.log)
		}
	}
}

func (m *Manager) changeTopic(t *raftmeta.Topic) {
	set, err := m.settingsOf(t)
	if err != nil {
		m.log.Error("topic keeps its former configuration", "topic", t.Name, "err", err)
		return
	}
	m.mu.RLock()
	state := m.mu.byID[t.ID]
	m.mu.RUnlock()
	if state == nil {
		return
	}
	for _, p := range state.partitions {
		if p != nil {
			p.settings.Store(set)
			go p.scheduleRetention()
		}
	}
}

// removeOrphans deletes, in the background, the directories of topics that the metadata no longer has: deletions
// that a crash cut short.
func (m *Manager) removeOrphans() {
	known := map[string]bool{}
	for _, p := range m.all() {
		known[dirName(p.topic, p.index, p.id)] = true
	}
	for _, dir := range m.store.Dirs() {
		if known[dir] || !isPartitionDir(dir) {
			continue
		}
		m.log.Info("deleting the directory of a deleted topic", "dir", dir)
		if err := m.store.RemoveDir(dir); err != nil {
			m.log.Warn("cannot delete the directory of a deleted topic", "dir", dir, "err", err)
		}
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

// restore brings back what is not in the log itself: the high watermark (all of a recovered log is durable), the
// producers' state, the retention timer.
func (p *Partition) restore() error {
	p.highWatermark.Store(p.log.End())
	if err := p.restoreProducers(); err != nil {
		return fmt.Errorf("%s: producer state: %w", p.name, err)
	}
	p.scheduleRetention()
	return nil
}

// expireProducers forgets producers that have been silent for producer.id.expiration.ms.
func (p *Partition) expireProducersLocked() {
	now := p.m.clk.Now()
	p.mu.producers.expire(now.Add(-config.Millis(p.m.cfg.ProducerIDExpirationMs)).UnixMilli())
}
