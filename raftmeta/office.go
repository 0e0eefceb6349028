package raftmeta

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// office is the controller's, as far as this node holds it. All but leading belongs to the lead goroutine.
type office struct {
	leading    atomic.Bool
	term       uint64
	last       int32         // controller seen last
	again      chan struct{} // holds one: taking office has failed and is to be tried again
	registered chan struct{} // holds one: a broker registered
	moving     bool          // a member's address is being changed
	moved      chan error    // the outcome of that
}

func newOffice() office {
	return office{last: -1, again: make(chan struct{}, 1), registered: make(chan struct{}, 1), moved: make(chan error, 1)}
}

// lead reacts to gaining and losing the lead, and to poison. It ends with the first of poison and Close.
func (m *Meta) lead() {
	defer m.wg.Done()
	defer close(m.led)
	seen := make(chan raft.Observation, 1)
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, leader := o.Data.(raft.LeaderObservation)
		return leader
	})
	m.raft().RegisterObserver(observer)
	defer func() { m.raft().DeregisterObserver(observer) }()
	for {
		select {
		case <-seen:
		case leading := <-m.raft().LeaderCh():
			m.trans.lapse()
			if !leading || m.raft().CurrentTerm() != m.office.term {
				m.leaveOffice()
			}
			if leading {
				m.takeOffice()
			}
		case <-m.office.again:
			if m.raft().State() == raft.Leader {
				m.takeOffice()
			}
		case <-m.torn:
			m.leaveOffice()
			if !m.reopen() {
				continue
			}
			m.raft().RegisterObserver(observer)
		case <-m.settled:
		case <-m.office.registered:
			m.moveMember()
		case err := <-m.office.moved:
			m.office.moving = false
			if err == nil {
				m.moveMember()
			}
		case <-m.failed:
			m.leaveOffice()
			m.resign()
			return
		case <-m.closing:
			m.leaveOffice()
			return
		}
		m.noteController()
		m.checkReady()
	}
}

// noteController publishes who leads.
func (m *Meta) noteController() {
	_, id := m.raft().LeaderWithID()
	controller := int32(-1)
	if id != "" {
		controller = nodeID(id)
	}
	leads := 0.0
	if controller == m.o.NodeID {
		leads = 1
	}
	if controller != -1 && controller != m.office.last {
		m.office.last = controller
		m.o.Metrics.leaderChanges.Inc()
	}
	m.o.Metrics.leader.Set(leads)
	m.o.Metrics.term.Set(float64(m.raft().CurrentTerm()))
	m.pub.setController(controller)
}

// takeOffice waits until everything that was committed before is applied, and gives a new cluster its id.
func (m *Meta) takeOffice() {
	if m.office.leading.Load() {
		return
	}
	term := m.raft().CurrentTerm()
	err := m.barrier()
	if err == nil {
		m.trans.tellAll()
		err = m.claimCluster()
	}
	if err != nil {
		m.standDown(term, err)
		return
	}
	if m.raft().State() != raft.Leader || m.raft().CurrentTerm() != term {
		return // raft says so, too
	}
	m.noteController()
	if m.store.heldBytes() >= m.o.SnapshotBytes {
		m.askSnapshot() // each start begins a new file of the log: starts alone can fill it
	}
	m.office.term = term
	m.office.leading.Store(true)
	m.o.OnOffice(term, true)
	m.moveMember()
}

// standDown lets another node have the lead that this one could not use, or tries again a little later if there is no other. Mostly
// the lead was lost meanwhile.
func (m *Meta) standDown(term uint64, cause error) {
	if m.raft().State() != raft.Leader || m.raft().CurrentTerm() != term || m.Poisoned() != nil {
		return
	}
	m.o.Logger.Warn("controller could not take office", "term", term, "error", cause)
	m.handOver()
	m.o.Clock.AfterFunc(m.o.HeartbeatTimeout, func() { notify(m.office.again) })
}

// notify wakes who waits at a channel that holds one.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// leaveOffice tells that the lead is lost, if this node was in office.
func (m *Meta) leaveOffice() {
	if m.office.leading.CompareAndSwap(true, false) {
		m.o.OnOffice(m.office.term, false)
	}
}

// handOver makes another voter the leader, if this node leads and there is one. It is bounded by the election timeout.
func (m *Meta) handOver() {
	if m.o.Sender == nil || m.raft().State() != raft.Leader || m.Poisoned() != nil || m.voters() < 2 {
		return
	}
	ended := make(chan error, 1)
	f := m.raft().LeadershipTransfer()
	go func() { ended <- f.Error() }()
	timeout := make(chan struct{})
	timer := m.o.Clock.AfterFunc(2*m.o.ElectionTimeout, func() { close(timeout) })
	defer timer.Stop()
	select {
	case err := <-ended:
		if err != nil {
			m.o.Logger.Warn("metadata office could not be handed over, an election will follow", "error", err)
		}
	case <-timeout:
		m.o.Logger.Warn("metadata office could not be handed over in time, an election will follow")
	case <-m.failed:
	}
}

func (m *Meta) voters() int {
	n := 0
	for _, s := range configuration(m.raft()).Servers {
		if s.Suffrage == raft.Voter {
			n++
		}
	}
	return n
}

// barrier waits until everything committed so far is applied here.
func (m *Meta) barrier() error {
	return m.inside(context.Background(), func(timeout time.Duration) error { return m.raft().Barrier(timeout).Error() })
}

// inside does something that waits in raft, where Close and poison know of it. The wait for raft to begin is bounded by ProposeTimeout; from
// then on it ends with the lead, if not before.
func (m *Meta) inside(ctx context.Context, do func(timeout time.Duration) error) error {
	if err := m.gate.enter(0); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		defer m.gate.leave(0)
		ended <- do(m.o.ProposeTimeout)
	}()
	select {
	case err := <-ended:
		return m.explain(err)
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-m.failed:
		return m.Poisoned()
	case <-m.closing:
		return ErrClosed
	}
}

// resign shuts raft down after poison: this node must neither lead, nor vote, nor keep trying to. A leader tells another
// voter to take over; then waiters have their errors.
func (m *Meta) resign() {
	m.endWatch()
	m.trans.handOver()
	select {
	case <-m.gate.idle:
	case <-m.closing: // Close does it all
		return
	}
	m.trans.close()
	if err := m.raft().Shutdown().Error(); err != nil {
		m.o.Logger.Error("raft did not shut down", "error", err)
	}
	m.o.Metrics.leader.Set(0)
	m.pub.setController(-1)
}
