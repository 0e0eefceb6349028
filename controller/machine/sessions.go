package machine

import (
	"time"

	"weir/raftmeta"
)

// session is what the controller knows of a broker's process: when it was heard of. It is not replicated.
type session struct {
	epoch   int64
	heard   time.Time
	applied uint64
	// ended: the process is gone, or said that it will be. It is over without waiting for the timeout.
	ended bool
	// movedAt is the version of the image in which a broker that shuts down has nothing left to move; 0: not yet.
	movedAt uint64
}

// goneMark remembers that no process listens where the broker of this epoch was.
type goneMark struct {
	epoch int64
	at    time.Time
}

// goneMax is for how long that is believed by a controller that takes office.
const goneMax = 30 * time.Second

// alone: this node's broker is the only one. It needs no heartbeats, as nobody could take over from it.
func (m *Machine) alone() bool {
	brokers := m.img.Brokers()
	return len(brokers) == 0 || len(brokers) == 1 && brokers[0].ID == m.c.NodeID
}

// startSessions gives a full session to every unfenced broker that has none.
func (m *Machine) startSessions(now time.Time) {
	if m.alone() {
		return
	}
	for _, b := range m.img.Brokers() {
		if s := m.sessions[b.ID]; !b.Fenced && (s == nil || s.epoch != b.Epoch) {
			m.sessions[b.ID] = &session{epoch: b.Epoch, heard: now}
		}
	}
}

// sessionOf returns the session of a broker as it is registered now, or nil.
func (m *Machine) sessionOf(b *raftmeta.Broker) *session {
	if s := m.sessions[b.ID]; s != nil && s.epoch == b.Epoch {
		return s
	}
	return nil
}

// live says that a process holds the broker's id.
func (m *Machine) live(b *raftmeta.Broker, now time.Time) bool {
	s := m.sessionOf(b)
	return s != nil && !s.ended && now.Before(s.heard.Add(m.c.SessionTimeout))
}

// replaced says that a process that registers has taken the place of the one that is registered: it listens where that one did, which two
// cannot, and that one has missed some heartbeats. So a node that restarts quickly, or a whole cluster, need not wait for sessions to end.
func (m *Machine) replaced(b *raftmeta.Broker, r *Registration, now time.Time) bool {
	s := m.sessionOf(b)
	return r.PeerHost != "" && r.PeerHost == b.PeerHost && r.PeerPort == b.PeerPort && now.Sub(s.heard) >= m.c.SessionTimeout/replacedDiv
}

// replacedDiv: the part of a session for which a process must have been silent for another one to replace it.
const replacedDiv = 3

// touch notes that a broker was heard of.
func (m *Machine) touch(b *raftmeta.Broker, now time.Time) *session {
	s := m.sessionOf(b)
	if s == nil {
		s = &session{epoch: b.Epoch}
		m.sessions[b.ID] = s
	}
	s.heard = now
	if !b.ShuttingDown || !b.Fenced { // after a clean end only a registration begins anew
		s.ended = false
	}
	delete(m.gone, b.ID)
	return s
}

// firstSessionEnd is when the next unfenced broker has to be fenced if it is not heard of.
func (m *Machine) firstSessionEnd() (at time.Time, ok bool) {
	if m.alone() {
		return time.Time{}, false
	}
	for i := range m.img.Brokers() {
		b := &m.img.Brokers()[i]
		s := m.sessionOf(b)
		if b.Fenced || s == nil {
			continue
		}
		end := s.heard.Add(m.c.SessionTimeout)
		if s.ended {
			end = s.heard
		}
		if !ok || end.Before(at) {
			at, ok = end, true
		}
	}
	return at, ok
}

// PeerGone tells that at this time no process listened at a node any more. A broker that was not heard of since is fenced by the
// next Decide; if the machine is not in office, when it takes it.
func (m *Machine) PeerGone(node int32, at time.Time) {
	b := m.img.Broker(node)
	if b == nil || node == m.c.NodeID {
		return
	}
	m.gone[node] = goneMark{epoch: b.Epoch, at: at}
	if s := m.sessionOf(b); m.office && s != nil && !s.heard.After(at) {
		s.ended = true
	}
}

// endGoneSessions ends the sessions of processes that were found gone before the machine took office: the controller that
// heard of them may have died with them.
func (m *Machine) endGoneSessions(now time.Time) {
	for id, mark := range m.gone {
		b := m.img.Broker(id)
		if b == nil || b.Epoch != mark.epoch || now.Sub(mark.at) > goneMax {
			delete(m.gone, id)
			continue
		}
		if s := m.sessionOf(b); s != nil {
			s.ended = true
		}
	}
}

// expire fences the brokers whose sessions are over.
func (m *Machine) expire(v *view, now time.Time) {
	if m.alone() {
		return
	}
	for i := range m.img.Brokers() {
		b := v.brokers[m.img.Brokers()[i].ID]
		if !b.Fenced && !m.live(&b.Broker, now) {
			v.setBroker(b, true, b.ShuttingDown)
		}
	}
}
