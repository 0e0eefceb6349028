package raftmeta

import (
	"context"
	"errors"

	"github.com/hashicorp/raft"
)

func (m *Meta) storeOptions() storeOptions {
	o := storeOptions{
		timeout:    m.o.StoreTimeout,
		grownBytes: m.o.SnapshotBytes,
		onGrown:    m.askSnapshot,
		onPoison:   m.poison,
		clk:        m.o.Clock,
		log:        m.o.Logger,
		metrics:    m.o.Metrics,
	}
	o.wal.FS = m.o.FS
	o.wal.Dir = m.o.Dir + "/wal"
	o.wal.Ring = m.o.Ring
	o.wal.FileBytes = m.o.FileBytes
	o.wal.FilesMax = m.o.FilesMax
	o.wal.GroupBytesMax = groupBytesMax
	o.wal.QueueBytesMax = 2 * raftBatch * entryBytesMax // raft's own bounds are tighter; a refusal here would poison
	o.wal.WriteTimeout = m.o.StoreTimeout
	o.wal.LockThread = true
	o.wal.Logger = m.o.Logger
	return o
}

// lead reacts to gaining and losing the lead, and to poison. It ends with the first of poison and Close.
func (m *Meta) lead() {
	defer m.wg.Done()
	seen := make(chan raft.Observation, 1)
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, leader := o.Data.(raft.LeaderObservation)
		return leader
	})
	m.raft.RegisterObserver(observer)
	defer m.raft.DeregisterObserver(observer)
	for {
		select {
		case <-seen:
		case leading := <-m.raft.LeaderCh():
			if leading {
				m.takeOffice()
			}
		case <-m.failed:
			m.resign()
			return
		case <-m.closing:
			return
		}
		m.noteController()
	}
}

// noteController publishes who leads.
func (m *Meta) noteController() {
	_, id := m.raft.LeaderWithID()
	controller := int32(-1)
	if id != "" {
		controller = nodeID(id)
	}
	leads := 0.0
	if controller == m.o.NodeID {
		leads = 1
	}
	m.o.Metrics.leader.Set(leads)
	m.pub.setController(controller)
}

// takeOffice waits until everything that was committed before is applied, and gives a new cluster its id.
func (m *Meta) takeOffice() {
	if err := m.barrier(); err != nil {
		m.o.Logger.Warn("controller could not take office", "error", err)
		return
	}
	if err := m.claimCluster(); err != nil {
		m.o.Logger.Error("controller could not name the cluster", "error", err)
		return
	}
	m.noteController()
	if m.store.heldBytes() >= m.o.SnapshotBytes {
		m.askSnapshot() // each start begins a new file of the log: starts alone can fill it
	}
	select {
	case <-m.ready:
	default:
		close(m.ready)
		m.o.Logger.Info("metadata is ready", "node", m.o.NodeID, "cluster", m.props.clusterID, "version", m.Image().Version, "topics", m.Image().NumTopics())
	}
}

func (m *Meta) claimCluster() error {
	switch id := m.Image().ClusterID; id {
	case m.props.clusterID:
		return nil
	case "":
		results, err := m.Propose(context.Background(), SetClusterID{ID: m.props.clusterID})
		if err != nil {
			return err
		}
		return results[0].Err
	default:
		err := errors.Join(ErrPoisoned, ErrWrongCluster)
		m.poison(err)
		return err
	}
}

// barrier waits until everything committed so far is applied here.
func (m *Meta) barrier() error {
	if err := m.gate.enter(0); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		defer m.gate.leave(0)
		ended <- m.raft.Barrier(m.o.ProposeTimeout).Error()
	}()
	select {
	case err := <-ended:
		return m.explain(err)
	case <-m.failed:
		return m.Poisoned()
	case <-m.closing:
		return ErrClosed
	}
}

// resign shuts raft down after poison: this node must neither lead, nor vote, nor keep trying to. Waiters have their errors first.
func (m *Meta) resign() {
	select {
	case <-m.gate.idle:
	case <-m.closing: // Close does it all
		return
	}
	if err := m.raft.Shutdown().Error(); err != nil {
		m.o.Logger.Error("raft did not shut down", "error", err)
	}
	m.o.Metrics.leader.Set(0)
	m.pub.setController(-1)
}

// askSnapshot wakes snap. It never blocks.
func (m *Meta) askSnapshot() {
	select {
	case m.grown <- struct{}{}:
	default:
	}
}

// snap takes snapshots when asked.
func (m *Meta) snap() {
	defer m.wg.Done()
	for {
		select {
		case <-m.grown:
		case <-m.failed:
			return
		case <-m.closing:
			return
		}
		if err := m.takeSnapshot(); err != nil {
			m.o.Logger.Warn("metadata snapshot failed, the log grows on", "log_bytes", m.store.heldBytes(), "error", err)
		}
		m.store.askAgain() // the next write asks again if that did not shorten the log
	}
}

// takeSnapshot writes the image and lets raft shorten the log to what a follower that lags a little may still want.
func (m *Meta) takeSnapshot() error {
	rc := m.raft.ReloadableConfig()
	rc.TrailingLogs = max(1, m.store.trailing(m.o.TrailingLogs, m.o.SnapshotBytes/2))
	if err := m.raft.ReloadConfig(rc); err != nil {
		return err
	}
	err := m.raft.Snapshot().Error()
	if errors.Is(err, raft.ErrRaftShutdown) || errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil // the latter: nothing was applied since the start yet; the next write asks again
	}
	return err
}
