package replica

import (
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

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

// recoverWorkers is how many partitions are opened, and at the end their snapshots written, at once: a start with a cold cache waits for the disk,
// and many waits at once cost as much as one. It stays below what the file systems' bounds let be under way.
const recoverWorkers = 16

// recover opens every partition of the metadata image and replays the WAL over them.
func (m *Manager) recover() error {
	began := m.clk.Now()
	checkpoints, err := m.store.LoadCheckpoint()
	if err != nil {
		return fmt.Errorf("recovery points: %w", err)
	}
	if err := m.store.OpenTogether(func() error { return m.openTopics(checkpoints) }); err != nil {
		return err
	}
	opened := m.clk.Now()
	entries, batches, bytes := 0, 0, 0
	err = m.wal.Replay(func(lsn wal.LSN, kind wal.Kind, head, body []byte) error {
		entries++
		bytes += len(body)
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
	replayed := m.clk.Now()
	if entries > 0 {
		m.log.Info("write-ahead log replayed", "entries", entries, "of_existing_topics", batches, "bytes", bytes)
	}
	all := m.all()
	for _, p := range all {
		p.restore()
	}
	m.log.Info("partitions recovered", "partitions", len(all), "open_ms", opened.Sub(began).Milliseconds(),
		"replay_ms", replayed.Sub(opened).Milliseconds(), "rest_ms", m.clk.Now().Sub(replayed).Milliseconds())
	return nil
}

// openTopics opens the logs of all topics there are.
func (m *Manager) openTopics(checkpoints map[string]segment.Checkpoint) error {
	var topics []*topicState
	var all []*Partition
	for t := range m.meta.Image().Topics() {
		state, err := m.newTopic(t)
		if err != nil {
			return err
		}
		topics = append(topics, state)
		for _, p := range state.partitions {
			if p != nil {
				all = append(all, p)
			}
		}
	}
	if err := inParallel(all, func(p *Partition) error { return p.open(checkpoints) }); err != nil {
		return err
	}
	for _, state := range topics {
		m.install(state)
	}
	return nil
}

// inParallel calls fn for every partition, a bounded number at a time, and returns the first error, after which no more
// calls begin.
func inParallel(all []*Partition, fn func(*Partition) error) error {
	var (
		workers sync.WaitGroup
		next    atomic.Int64
		failed  atomic.Pointer[error]
	)
	for range min(recoverWorkers, len(all)) {
		workers.Go(func() {
			for failed.Load() == nil {
				i := next.Add(1) - 1
				if i >= int64(len(all)) {
					return
				}
				if err := fn(all[i]); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	workers.Wait()
	if err := failed.Load(); err != nil {
		return *err
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
	return nil
}

// newTopic makes the partitions of a topic that are here, without their logs.
func (m *Manager) newTopic(t *raftmeta.Topic) (*topicState, error) {
	set, err := m.settingsOf(t)
	if err != nil {
		return nil, err
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
		state.partitions[i] = p
	}
	return state, nil
}

// open opens the partition's log where the checkpoint says that it was synced up to.
func (p *Partition) open(checkpoints map[string]segment.Checkpoint) (err error) {
	dir := dirName(p.topic, p.index, p.id)
	point := checkpoints[dir]
	p.log, err = p.m.store.Open(dir, func() *segment.Config { return &p.settings.Load().Segment }, point.RecoveryPoint, point.LogStart)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	p.log.OnRoll(p.rolled)
	p.log.SetEpoch(p.epoch)
	p.highWatermark.Store(p.log.End())
	return nil
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
func (m *Manager) apply(_ *raftmeta.Image, d *raftmeta.Delta) {
	for _, t := range d.Deleted {
		m.removeTopic(t)
	}
	for _, t := range d.Created {
		if m.has(t.ID) {
			continue // opened by recover
		}
		if err := m.addTopic(t); err != nil {
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
			m.cleaner.forget(p)
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
			m.cleaner.configured(p)
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

// restore brings back what is not in the log itself: the high watermark (all of a recovered log is durable) and the retention timer.
func (p *Partition) restore() {
	p.highWatermark.Store(p.log.End())
	p.scheduleRetention()
}

// expireProducers forgets producers that have been silent for producer.id.expiration.ms.
func (p *Partition) expireProducersLocked() {
	now := p.m.clk.Now()
	p.mu.producers.expire(now.Add(-config.Millis(p.m.cfg.ProducerIDExpirationMs)).UnixMilli())
}
