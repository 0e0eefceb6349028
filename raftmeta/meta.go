package raftmeta

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Meta is this node's part in the cluster's metadata. All methods may be called from any goroutine.
type Meta struct {
	o       Options
	props   properties
	store   *store
	snaps   *snapshots
	fsm     *fsm
	pub     *publisher
	raft    *raft.Raft
	gate    *gate
	grown   chan struct{} // holds one: the log wants a snapshot
	ready   chan struct{} // closed once leader and applied
	failed  chan struct{} // closed on poison
	closing chan struct{}
	wg      sync.WaitGroup

	poisonOnce sync.Once
	closeOnce  sync.Once
	closeErr   error
}

// Open starts the metadata of a node: it reads the newest snapshot and the log, and takes part in elections. Ready waits until
// that has come to something. It returns ErrWrongNode, ErrWrongCluster, ErrVersion or ErrCorrupt if the directory is not this
// node's or not whole.
func Open(o Options) (*Meta, error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	m := &Meta{
		o: o, pub: newPublisher(), gate: newGate(o.ProposalsMax, o.flightBytes()),
		grown: make(chan struct{}, 1), ready: make(chan struct{}), failed: make(chan struct{}), closing: make(chan struct{}),
	}
	m.fsm = newFSM(m.pub, o.Clock, o.Metrics, m.poison)
	if err := m.openFiles(); err != nil {
		return nil, fmt.Errorf("open metadata: %w", err)
	}
	if err := m.startRaft(); err != nil {
		return nil, errors.Join(fmt.Errorf("open metadata: %w", err), m.store.close())
	}
	m.wg.Add(2)
	go m.lead()
	go m.snap()
	m.hurry()
	return m, nil
}

func (m *Meta) openFiles() error {
	d := newDisk(m.o.FS, m.o.Ring, m.o.IOTimeout)
	if err := d.makeDir(m.o.Dir); err != nil {
		return err
	}
	var err error
	if m.props, err = loadProperties(d, &m.o); err != nil {
		return err
	}
	if m.snaps, err = openSnapshots(d, path.Join(m.o.Dir, "snapshots"), m.o.Clock, m.o.Logger, m.o.Metrics); err != nil {
		return err
	}
	if err := d.makeDir(path.Join(m.o.Dir, "wal")); err != nil {
		return err
	}
	if m.store, err = openStore(m.storeOptions()); err != nil {
		return err
	}
	if err := m.checkJoint(); err != nil {
		return errors.Join(err, m.store.close())
	}
	return nil
}

// checkJoint makes sure that snapshot and log join up: raft panics where an entry is missing.
func (m *Meta) checkJoint() error {
	list, err := m.snaps.List()
	if err != nil {
		return err
	}
	var covered uint64
	if len(list) > 0 {
		covered = list[0].Index
	}
	first, _ := m.store.FirstIndex()
	if deleted := m.store.prefixDeleted(); covered < deleted {
		return fmt.Errorf("%w: the log was cut up to entry %d, but the newest snapshot in %s ends at %d", ErrCorrupt, deleted, m.snaps.dir, covered)
	}
	if first > covered+1 {
		return fmt.Errorf("%w: the log begins at entry %d, but the newest snapshot in %s ends at %d", ErrCorrupt, first, m.snaps.dir, covered)
	}
	return nil
}

func (m *Meta) startRaft() error {
	c := m.o.raftConfig()
	if err := m.bootstrap(); err != nil {
		return err
	}
	r, err := raft.NewRaft(c, m.fsm, m.store, m.store, m.snaps, m.o.Transport)
	if err != nil {
		return errors.Join(err, m.fsm.cause) // raft only logs why a snapshot could not be restored
	}
	m.raft = r
	if id := m.Image().ClusterID; id != "" && id != m.props.clusterID {
		return errors.Join(fmt.Errorf("%w: %s says cluster.id=%s, the snapshot is of %s", ErrWrongCluster, propertiesName, m.props.clusterID, id), r.Shutdown().Error())
	}
	return nil
}

// bootstrap makes an empty directory the cluster of this one node. raft.BootstrapCluster does not finish what a crash
// interrupted; this does: the configuration is written if there is neither log nor snapshot, whatever the term.
func (m *Meta) bootstrap() error {
	list, err := m.snaps.List()
	if err != nil {
		return err
	}
	if last, _ := m.store.LastIndex(); last > 0 || len(list) > 0 {
		return nil
	}
	term, err := m.store.GetUint64([]byte(keyCurrentTerm))
	if err != nil {
		return err
	}
	if term == 0 {
		term = 1
		if err := m.store.SetUint64([]byte(keyCurrentTerm), term); err != nil {
			return err
		}
	}
	self := raft.Server{Suffrage: raft.Voter, ID: serverID(m.o.NodeID), Address: m.o.Transport.LocalAddr()}
	return m.store.StoreLog(&raft.Log{
		Index: 1, Term: 1, Type: raft.LogConfiguration,
		Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{self}}),
	})
}

// hurry lets the only voter elect itself at once rather than after the heartbeat timeout: raft tries immediately when that
// timeout is lowered while it follows, and it was set a nanosecond too high for this. With several voters nothing is hurried.
func (m *Meta) hurry() {
	f := m.raft.GetConfiguration()
	if f.Error() != nil {
		return
	}
	servers := f.Configuration().Servers
	if len(servers) != 1 || servers[0].ID != serverID(m.o.NodeID) {
		return
	}
	rc := m.raft.ReloadableConfig()
	rc.HeartbeatTimeout, rc.ElectionTimeout = raftPatience, raftPatience
	if err := m.raft.ReloadConfig(rc); err != nil {
		m.o.Logger.Warn("first election is not hurried", "error", err)
	}
}

// Ready waits until this node leads, has applied its log and the cluster has its id.
func (m *Meta) Ready(ctx context.Context) error {
	select {
	case <-m.ready:
		return nil
	default:
	}
	select {
	case <-m.ready:
		return nil
	case <-m.failed:
		return m.Poisoned()
	case <-m.closing:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("metadata is not ready: %w (raft is %s)", ctx.Err(), m.raft.State())
	}
}

// Image returns the metadata as this node knows it now. It is never nil and never changes.
func (m *Meta) Image() *Image { return m.pub.image.Load() }

// Subscribe calls fn with the current image and everything in it as Created, before it returns, and then after every change, in
// order, on the goroutine that applies it and before Propose returns to its caller. fn must be quick, do no I/O, and call neither
// Propose, Subscribe nor Close.
func (m *Meta) Subscribe(fn func(img *Image, d *Delta)) (cancel func()) { return m.pub.subscribe(fn) }

// Poisoned is nil, or why this node no longer takes part in the metadata.
func (m *Meta) Poisoned() error {
	select {
	case <-m.failed:
		return m.gate.poisonReason()
	default:
		return nil
	}
}

// ClusterID is the id in this node's directory, known before Ready.
func (m *Meta) ClusterID() string { return m.props.clusterID }

// OldestIO is the age of the oldest write of the log in flight, 0 if there is none.
func (m *Meta) OldestIO() time.Duration { return m.store.wal.OldestIO() }

// poison ends this node's part in the metadata. It runs on any goroutine, raft's included, so the rest is lead's.
func (m *Meta) poison(err error) {
	m.poisonOnce.Do(func() {
		m.gate.poison(err)
		m.o.Metrics.poisoned.Set(1)
		close(m.failed)
		m.o.OnPoison(err)
	})
}

// Close stops taking part and frees everything. What Propose has begun is finished first. It takes at most some 10 s, on a stalled disk.
func (m *Meta) Close() error {
	m.closeOnce.Do(func() { m.closeErr = m.close() })
	return m.closeErr
}

func (m *Meta) close() error {
	m.gate.shutFor(ErrClosed)
	close(m.closing)
	ended := make(chan error, 1)
	go func() {
		<-m.gate.idle
		err := m.raft.Shutdown().Error()
		m.wg.Wait()
		ended <- errors.Join(err, m.store.close())
	}()
	timeout := make(chan struct{})
	t := m.o.Clock.AfterFunc(closeTimeout, func() { close(timeout) })
	defer t.Stop()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("close metadata: %w", err)
		}
		return nil
	case <-timeout:
		return fmt.Errorf("close metadata: %w after %s", ErrTimeout, closeTimeout)
	}
}
