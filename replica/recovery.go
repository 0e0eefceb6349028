package replica

import (
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"weir/internal/config"
	"weir/internal/record"
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
	m.store.ForgetCuts(func() uint64 { return uint64(m.wal.RecoveredEnd()) })
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
	all := m.all()
	if err := m.replayedAll(all); err != nil {
		return fmt.Errorf("replay of the write-ahead log: %w", err)
	}
	m.replayed.Store(uint64(m.wal.End()))
	replayed := m.clk.Now()
	if entries > 0 {
		m.log.Info("write-ahead log replayed", "entries", entries, "of_existing_topics", batches, "bytes", bytes)
	}
	m.restoreAll(all)
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
func (m *Manager) replay(lsn wal.LSN, kind wal.Kind, b, body []byte) (bool, error) {
	if kind != wal.KindInline {
		return false, fmt.Errorf("entry at LSN %d has kind %d, which this version does not write", lsn, kind)
	}
	h, err := parseHead(b)
	if err != nil {
		return false, fmt.Errorf("entry at LSN %d: %w", lsn, err)
	}
	p := m.Partition(h.id, h.partition)
	if p == nil {
		m.stranger(h, lsn)
		return false, nil
	}
	switch h.op {
	case opTruncate, opReset:
		err = p.log.RecoveredTruncate(h.offset, h.op == opReset, uint64(lsn))
	default:
		err = p.replayBatch(lsn, h, body)
	}
	if err != nil {
		return false, fmt.Errorf("entry at LSN %d for %s: %w", lsn, p.name, err)
	}
	return true, nil
}

func (p *Partition) replayBatch(lsn wal.LSN, h head, body []byte) error {
	b, rest, err := record.Next(body)
	switch {
	case err != nil || len(rest) > 0:
		return fmt.Errorf("%d bytes too many, %w", len(rest), err)
	case h.op == opAfterGap:
		return p.log.RecoveredAfterGap(b, h.offset, uint64(lsn))
	}
	return p.log.Recovered(b, uint64(lsn))
}

// replayedAll makes sure that the WAL had all that the logs needed of it.
func (m *Manager) replayedAll(all []*Partition) error {
	var errs []error
	for _, p := range all {
		if err := p.log.Replayed(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	return errors.Join(errs...)
}

// open opens the partition's log where the checkpoint says that it was synced up to.
func (p *Partition) open(checkpoints map[string]segment.Checkpoint) (err error) {
	dir := dirName(p.topic, p.index, p.id)
	point := checkpoints[dir]
	p.log, err = p.m.store.Open(dir, func() *segment.Config { return &p.settings.Load().Segment }, point.RecoveryPoint, point.LogStart)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	p.log.BeginsBehind(p.m.strangers[PartKey{p.id, p.index}])
	p.log.OnRoll(p.rolled)
	p.log.SetEpoch(p.LeaderEpoch())
	p.durable.Store(p.log.End())
	p.highWatermark.Store(p.log.End())
	return nil
}

// expireProducers forgets producers that have been silent for producer.id.expiration.ms.
func (p *Partition) expireProducersLocked() {
	now := p.m.clk.Now()
	p.mu.producers.expire(now.Add(-config.Millis(p.m.cfg.ProducerIDExpirationMs)).UnixMilli())
}
