package machine

import (
	"fmt"
	"time"

	"weir/raftmeta"
)

// A broker's life: it registers and is fenced; its heartbeats say that it has seen its registration, and it is unfenced; it wants to
// shut down, its leaderships are moved, and when nothing is left to move it is fenced and told to go. If it falls silent it is fenced.

// Heard notes a heartbeat as it arrives. If it asks for nothing, its answer is there at once; else, with wait, it has to be given to Decide.
func (m *Machine) Heard(h *Heartbeat, now time.Time) (a HeartbeatAnswer, err error, wait bool) {
	if !m.office {
		return a, ErrNotController, false
	}
	b, err := m.sender(h.Broker, h.Epoch)
	if err != nil {
		return a, err, false
	}
	s := m.touch(b, now)
	s.applied = max(s.applied, h.Applied)
	a = HeartbeatAnswer{CaughtUp: caughtUp(b, h), Fenced: b.Fenced}
	switch {
	case h.WantShutdown, b.ShuttingDown:
		return a, nil, true
	case b.Fenced:
		return a, nil, !h.WantFence && a.CaughtUp
	}
	return a, nil, h.WantFence
}

// sender returns the broker that sent something, if it is the one that is registered.
func (m *Machine) sender(id int32, epoch int64) (*raftmeta.Broker, error) {
	switch b := m.img.Broker(id); {
	case b == nil:
		return nil, fmt.Errorf("%w: %d", ErrUnknownBroker, id)
	case b.Epoch != epoch:
		return nil, fmt.Errorf("%w: broker %d is registered with %d, not %d", ErrStaleBrokerEpoch, id, b.Epoch, epoch)
	default:
		return b, nil
	}
}

func caughtUp(b *raftmeta.Broker, h *Heartbeat) bool { return h.Applied >= uint64(b.Epoch) }

// decideBroker takes the requests that change brokers' state.
func (m *Machine) decideBroker(v *view, r Request, now time.Time) bool {
	switch op := r.Op.(type) {
	case *Registration:
		m.register(v, r, op, now)
	case *Heartbeat:
		m.heartbeat(v, r, op)
	default:
		return false
	}
	return true
}

func (m *Machine) register(v *view, r Request, op *Registration, now time.Time) {
	b := v.brokers[op.ID]
	same := b != nil && op.Incarnation != [16]byte{} && b.Incarnation == op.Incarnation
	switch {
	case b != nil && b.renewed:
		v.plan.Later = append(v.plan.Later, r)
		return
	case b != nil && !same && !m.alone() && m.live(&b.Broker, now) && !m.replaced(&b.Broker, op, now):
		v.plan.answer(r, nil, fmt.Errorf("%w: broker %d at %s:%d, heard of %s ago, session timeout %s",
			ErrDuplicateBroker, op.ID, b.Host, b.Port, now.Sub(m.sessionOf(&b.Broker).heard), m.c.SessionTimeout))
		return
	case op.PeerHost == "" && (len(v.brokers) > 1 || b == nil && len(v.brokers) > 0):
		v.plan.answer(r, nil, fmt.Errorf("%w: broker %d has no address for other nodes, and there are others", ErrInvalidRequest, op.ID))
		return
	}
	c := raftmeta.RegisterBroker{
		ID: op.ID, Host: op.Host, Port: op.Port, Rack: op.Rack, PeerHost: op.PeerHost, PeerPort: op.PeerPort,
		Incarnation: op.Incarnation, Fenced: op.PeerHost != "",
	}
	// What follows from a registration is in the same entry, so one that would be refused must not get there.
	if _, _, outcome := raftmeta.Apply(m.img, m.img.Version+1, c); outcome[0].Err != nil {
		v.plan.answer(r, nil, outcome[0].Err)
		return
	}
	if same && b.Broker == registered(c, &b.Broker) {
		m.touch(&b.Broker, now)
		v.plan.answer(r, b.Epoch, nil)
		return
	}
	from := len(v.plan.cmds)
	v.plan.add(c, bytesOf(c))
	m.stageRegistration(v, c, b, same)
	v.plan.await(r, from, func(rs []raftmeta.Result, now time.Time) (any, error) {
		if rs[0].Err != nil {
			return nil, rs[0].Err
		}
		m.registeredNow(c.ID, now)
		return rs[0].BrokerEpoch, nil
	})
}

// stageRegistration lets the rest of the plan know of it.
func (m *Machine) stageRegistration(v *view, c raftmeta.RegisterBroker, b *member, same bool) {
	if b == nil {
		b = &member{}
		v.brokers[c.ID] = b
	}
	if !same {
		if c.Fenced && b.Host != "" && !b.Fenced {
			v.plan.Fenced = append(v.plan.Fenced, c.ID)
		}
		b.Fenced, b.ShuttingDown, b.renewed = c.Fenced, false, true
		v.brokersChanged = true
	}
	b.Broker = registered(c, &b.Broker)
}

// registered is what RegisterBroker makes of b, but for what only a new epoch changes.
func registered(c raftmeta.RegisterBroker, b *raftmeta.Broker) raftmeta.Broker {
	return raftmeta.Broker{
		ID: c.ID, Host: c.Host, Port: c.Port, Rack: c.Rack, PeerHost: c.PeerHost, PeerPort: c.PeerPort, Incarnation: c.Incarnation,
		Epoch: b.Epoch, Fenced: b.Fenced, ShuttingDown: b.ShuttingDown, Leaving: b.Leaving,
	}
}

// registeredNow starts the session of a broker that has registered.
func (m *Machine) registeredNow(id int32, now time.Time) {
	if b := m.img.Broker(id); b != nil && m.office {
		m.touch(b, now)
	}
}

// heartbeat changes a broker's state as it wishes. The answer comes later, when it is known what else happens to it.
func (m *Machine) heartbeat(v *view, r Request, op *Heartbeat) {
	b := v.brokers[op.Broker]
	if b != nil && b.renewed {
		v.plan.answer(r, nil, fmt.Errorf("%w: broker %d registers anew, %d is over", ErrStaleBrokerEpoch, op.Broker, op.Epoch))
		return
	}
	if _, err := m.sender(op.Broker, op.Epoch); err != nil {
		v.plan.answer(r, nil, err)
		return
	}
	switch {
	case op.WantShutdown:
		if !b.Fenced && !b.ShuttingDown && !m.alone() {
			v.setBroker(b, false, true)
		}
	case op.WantFence && !b.Fenced:
		v.setBroker(b, true, b.ShuttingDown)
	case b.Fenced && !op.WantFence && !b.ShuttingDown && caughtUp(&b.Broker, op):
		v.setBroker(b, false, false)
	}
	v.beats = append(v.beats, r)
}

// answerHeartbeats answers those that were heard in this round, after the commands that they led to.
func (m *Machine) answerHeartbeats(v *view) {
	for _, r := range v.beats {
		op := r.Op.(*Heartbeat)
		b := v.brokers[op.Broker]
		a := HeartbeatAnswer{CaughtUp: caughtUp(&b.Broker, op), Fenced: b.Fenced}
		from := len(v.plan.cmds)
		switch {
		case !op.WantShutdown || !m.mayGo(v, b):
		case b.Fenced || m.alone():
			a.ShouldShutDown = true
			m.leaves(op.Broker)
		default:
			a.Fenced, a.ShouldShutDown = true, true
			v.setBroker(b, true, true)
			v.settle()
		}
		m.await(v, r, op, a, min(from, v.plan.firstOf(op.Broker)))
	}
	v.beats = nil
}

// await answers a heartbeat when the commands from that one on are done.
func (m *Machine) await(v *view, r Request, op *Heartbeat, a HeartbeatAnswer, from int) {
	if from == len(v.plan.cmds) {
		v.plan.answer(r, a, nil)
		return
	}
	v.plan.await(r, from, func(rs []raftmeta.Result, _ time.Time) (any, error) {
		for i := range rs {
			if isStale(rs[i].Err) {
				return nil, rs[i].Err
			}
		}
		if a.ShouldShutDown {
			m.leaves(op.Broker)
		} else if op.WantShutdown {
			m.moved(op.Broker)
		}
		return a, nil
	})
}

// leaves ends the session of a broker that was told to go: its id is free for the next process.
func (m *Machine) leaves(id int32) {
	if b := m.img.Broker(id); b != nil {
		if s := m.sessionOf(b); s != nil {
			s.ended = true
		}
	}
}

// moved notes the image in which nothing is left to move of a broker that shuts down.
func (m *Machine) moved(id int32) {
	if b := m.img.Broker(id); b != nil {
		if s := m.sessionOf(b); s != nil && s.movedAt == 0 {
			s.movedAt = m.img.Version
		}
	}
}

// firstOf is the first command that sets a broker's state, or how many commands there are.
func (p *Plan) firstOf(broker int32) int {
	for i, c := range p.cmds {
		if set, ok := c.(raftmeta.SetBroker); ok && set.ID == broker {
			return i
		}
	}
	return len(p.cmds)
}

// mayGo says that a broker that wants to shut down has nothing left that could be moved, and that the others know what was: clients that
// it turns away find the new leaders at work.
func (m *Machine) mayGo(v *view, b *member) bool {
	if b.Fenced || m.alone() {
		return true
	}
	was := m.img.Broker(b.ID)
	s := m.sessionOf(was)
	if !was.ShuttingDown || s == nil || m.unsettled || v.plan.ownTo > v.plan.ownFrom {
		return false // what moves because of it is on its way
	}
	m.moved(b.ID)
	for id, other := range v.brokers {
		if o := m.sessions[id]; id != b.ID && !other.Fenced && (o == nil || o.applied < s.movedAt) {
			return false
		}
	}
	return true
}
