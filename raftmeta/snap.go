package raftmeta

import (
	"errors"

	"github.com/hashicorp/raft"
)

func (m *Meta) storeOptions() storeOptions {
	o := storeOptions{
		timeout:    m.o.StoreTimeout,
		grownBytes: m.o.SnapshotBytes,
		onGrown:    m.askSnapshot,
		onPoison:   m.poison,
		covered:    func() uint64 { index, _ := m.snaps.anchor(); return index },
		anchor:     func() (index, term uint64) { return m.snaps.anchor() },
		clk:        m.o.Clock,
		log:        m.o.Logger,
		metrics:    m.o.Metrics,
	}
	o.wal.FS = m.o.FS
	o.wal.Dir = m.o.Dir + "/wal"
	o.wal.Ring, o.wal.Pace = m.o.Ring, m.o.Pace
	o.wal.FileBytes = m.o.FileBytes
	o.wal.FilesMax = m.o.FilesMax
	o.wal.GroupBytesMax = groupBytesMax
	o.wal.QueueBytesMax = 2 * raftBatch * entryBytesMax // raft's own bounds are tighter; a refusal here would poison
	o.wal.WriteTimeout = m.o.StoreTimeout
	o.wal.LockThread = true
	o.wal.OnThread = m.o.OnLogThread
	o.wal.Logger = m.o.Logger
	o.wal.Locks, o.wal.Ring.Locks = m.o.Locks, m.o.Locks
	return o
}

// askSnapshot wakes snap. It never blocks.
func (m *Meta) askSnapshot() { notify(m.grown) }

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

// takeSnapshot writes the image and lets raft shorten the log to what a follower that lags a little may still want. Not while another node's
// snapshot is being installed: raft would end with the place of whichever is finished last as that of its newest, and an older one makes it vote as
// if it had less than it has.
func (m *Meta) takeSnapshot() error {
	select {
	case m.trans.snapshotting <- struct{}{}:
		defer func() { <-m.trans.snapshotting }()
	case <-m.failed:
		return nil
	case <-m.closing:
		return nil
	}
	trailing := max(1, m.store.trailing(m.o.TrailingLogs, m.o.SnapshotBytes/2))
	err := m.reload(func(rc *raft.ReloadableConfig) { rc.TrailingLogs = trailing })
	if err != nil {
		return err
	}
	err = m.raft().Snapshot().Error()
	if errors.Is(err, raft.ErrRaftShutdown) || errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil // the latter: nothing was applied since the start yet; the next write asks again
	}
	return err
}
