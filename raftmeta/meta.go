package raftmeta

import (
	"errors"
	"fmt"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"weir/internal/clock"
	"weir/internal/lockmeter"
)

// Meta is this node's part in the cluster's metadata. All methods may be called from any goroutine.
type Meta struct {
	o       Options
	disk    *disk
	cluster atomic.Pointer[string] // the id in meta.properties, empty: not known yet
	store   *store
	snaps   *snapshots
	fsm     *fsm
	pub     *publisher
	trans   *transport
	gate    *gate
	grown   chan struct{} // holds one: the log wants a snapshot
	named   chan struct{} // holds one: the cluster has its id, here
	ready   chan struct{} // closed once see Ready
	settled chan struct{} // holds one: what Ready waits for may be true now
	torn    chan struct{} // holds one: raft has to be opened anew, see reopen.go
	led     chan struct{} // closed when the lead goroutine has ended
	failed  chan struct{} // closed on poison
	closing chan struct{}
	wg      sync.WaitGroup
	office  office

	reloading sync.Mutex // raft's settings are being read and written
	vigil     struct {   // watchLeader's
		sync.Mutex
		timer  clock.Timer
		opened time.Time // raft
		ended  bool
	}

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
		grown: make(chan struct{}, 1), named: make(chan struct{}, 1), ready: make(chan struct{}), settled: make(chan struct{}, 1), torn: make(chan struct{}, 1), led: make(chan struct{}),
		failed: make(chan struct{}), closing: make(chan struct{}), office: newOffice(),
	}
	m.pub.mu.MeterBy(o.Locks, lockmeter.Metadata)
	m.gate.mu.MeterBy(o.Locks, lockmeter.Raft)
	m.trans = newTransport(&m.o, m.ClusterID)
	m.fsm = newFSM(m.pub, o.Clock, o.Metrics, m.poison)
	m.fsm.applied = m.trans.tellAll
	m.trans.onTorn = func() { notify(m.torn) }
	m.trans.shorten = m.shorten
	if err := m.openFiles(); err != nil {
		return nil, fmt.Errorf("open metadata: %w", err)
	}
	if err := m.startRaft(); err != nil {
		return nil, errors.Join(fmt.Errorf("open metadata: %w", err), m.store.close())
	}
	m.pub.subscribe(m.watch)
	m.wg.Add(3)
	go m.lead()
	go m.snap()
	go m.identify()
	m.hurry()
	if m.o.Sender != nil {
		m.watchLeader()
	}
	return m, nil
}

func (m *Meta) openFiles() error {
	d := newDisk(m.o.FS, m.o.Ring, m.o.IOTimeout)
	d.pace = m.o.Pace
	m.disk = d
	if err := d.makeDir(m.o.Dir); err != nil {
		return err
	}
	props, err := loadProperties(d, &m.o)
	if err != nil {
		return err
	}
	m.cluster.Store(&props.clusterID)
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
		if err := m.dropReplaced(list[0]); err != nil {
			return err
		}
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

// raft is the library's part. It is another one after reopen.
func (m *Meta) raft() *raft.Raft { return m.trans.raft.Load() }

func (m *Meta) startRaft() error {
	if err := m.bootstrap(); err != nil {
		return err
	}
	r, err := m.newRaft()
	if err != nil {
		return err
	}
	m.trans.raft.Store(r)
	if err := m.checkCluster(m.Image().ClusterID); err != nil {
		m.trans.close()
		return errors.Join(err, r.Shutdown().Error())
	}
	return nil
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

// ClusterID is the id in this node's directory: known before Ready, but for a node that is new in a cluster. It may be called
// from any goroutine.
func (m *Meta) ClusterID() string {
	if id := m.cluster.Load(); id != nil {
		return *id
	}
	return ""
}

// OldestIO is the age of the oldest write of the log in flight, 0 if there is none.
func (m *Meta) OldestIO() time.Duration { return m.store.wal.OldestIO() }

// poison ends this node's part in the metadata. It runs on any goroutine, raft's included, so the rest is lead's.
func (m *Meta) poison(err error) {
	m.poisonOnce.Do(func() {
		m.gate.poison(err)
		m.trans.silence(err)
		m.o.Metrics.poisoned.Set(1)
		close(m.failed)
		m.o.OnPoison(err)
	})
}

// Close stops taking part and frees everything. What Propose has begun is finished first, and a controller hands its office to another
// voter. It takes at most some 10 s, on a stalled disk.
func (m *Meta) Close() error {
	m.closeOnce.Do(func() { m.closeErr = m.close() })
	return m.closeErr
}

func (m *Meta) close() error {
	m.gate.shutFor(ErrClosed)
	close(m.closing)
	m.endWatch()
	ended := make(chan error, 1)
	go func() {
		<-m.gate.idle
		<-m.led // from here on raft is not opened anew
		m.handOver()
		m.trans.close()
		err := m.raft().Shutdown().Error()
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
