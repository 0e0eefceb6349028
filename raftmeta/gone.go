package raftmeta

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
)

// PeerGone says that no process listens where a node was any more: its connections were reset and a new one was refused. If that node was the
// last to lead the metadata, as far as this one has heard, this node need not wait until it has missed its heartbeats: it stands for election
// now. The others, which see the same, wait a little for those with lower ids, so that they do not stand against each other. It does not block
// and may be called from any goroutine.
func (m *Meta) PeerGone(node int32) {
	heard := m.trans.lastHeard()
	if heard.term == 0 || heard.node != node || node == m.o.NodeID || m.Poisoned() != nil {
		return
	}
	rank, votes := m.rank(node)
	if !votes {
		return
	}
	since := m.o.Clock.Now()
	m.o.Clock.AfterFunc(time.Duration(rank)*goneStep, func() { m.succeed(heard, since) })
}

// lateMax is how much later than its end a process may be heard: what it has sent may still be on its way.
const lateMax = goneStep / 3

// heard is a leader that has spoken to this node. Raft's own idea of the leader does not do here: it forgets it with the first request for a
// vote, and its time of the last contact is that of the end of a request, which may have waited for the disk.
type heard struct {
	node int32
	term uint64 // 0: nobody yet
	at   time.Time
}

// hear notes that a node speaks as the leader of a term.
func (t *transport) hear(node int32, term uint64) {
	now := t.o.clk.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if term >= t.mu.heard.term {
		t.mu.heard = heard{node, term, now}
	}
}

func (t *transport) lastHeard() heard {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.heard
}

// A leader that is there and silent, a stopped process or a cut-off node, is another matter: it may be this node that cannot hear, so
// there has to be a pre-vote. Raft looks whether it has heard of the leader at random moments, one to two timeouts apart, and stands if that
// was a timeout ago: after one to three of them. watchLeader makes it look after one, and one rank after the other: who looks last finds all
// others without a leader, so that its pre-vote is granted and the votes are not split. It is the same without a leader: at the start, and after an
// election that came to nothing.

// watchLeader looks after the leader and comes back when its next message is overdue. It runs on timers until Close or poison.
func (m *Meta) watchLeader() {
	next := m.overdue()
	m.vigil.Lock()
	defer m.vigil.Unlock()
	if m.vigil.ended {
		return
	}
	m.vigil.timer = m.o.Clock.AfterFunc(next, m.watchLeader)
}

// overdue makes raft look if it is time, and returns when it may be time again.
func (m *Meta) overdue() time.Duration {
	r := m.raft()
	_, leader := r.LeaderWithID()
	rank, votes := m.rank(nodeID(leader))
	patience := m.o.HeartbeatTimeout + time.Millisecond + time.Duration(rank)*goneStep // raft's own timeout must be over
	if !votes || r.State() != raft.Follower {
		return patience
	}
	if silent := time.Since(m.lastContact(r)); silent < patience {
		return patience - silent
	}
	m.look()
	return patience
}

// lastContact is when raft has heard of a leader, or voted, or was opened if it did neither.
func (m *Meta) lastContact(r *raft.Raft) time.Time {
	m.vigil.Lock()
	defer m.vigil.Unlock()
	if last := r.LastContact(); last.After(m.vigil.opened) {
		return last
	}
	return m.vigil.opened
}

// beginWatch notes that raft was opened.
func (m *Meta) beginWatch() {
	m.vigil.Lock()
	defer m.vigil.Unlock()
	m.vigil.opened = time.Now() // raft's clock
}

// look makes a follower look at once whether it has heard of the leader: raft does when the timeout is lowered.
func (m *Meta) look() {
	err := m.reload(func(rc *raft.ReloadableConfig) { rc.ElectionTimeout++; rc.HeartbeatTimeout++ })
	if err == nil {
		err = m.reload(func(rc *raft.ReloadableConfig) { rc.ElectionTimeout--; rc.HeartbeatTimeout-- })
	}
	if err != nil {
		m.o.Logger.Warn("raft's timeouts could not be changed", "error", err)
	}
}

// reload changes raft's settings, one caller at a time.
func (m *Meta) reload(change func(*raft.ReloadableConfig)) error {
	m.reloading.Lock()
	defer m.reloading.Unlock()
	rc := m.raft().ReloadableConfig()
	change(&rc)
	return m.raft().ReloadConfig(rc)
}

// endWatch stops watchLeader.
func (m *Meta) endWatch() {
	m.vigil.Lock()
	defer m.vigil.Unlock()
	m.vigil.ended = true
	if m.vigil.timer != nil {
		m.vigil.timer.Stop()
	}
}

// goneStep is what an election takes at most among nodes that are there and whose disks are not slow.
const goneStep = 150 * time.Millisecond

// rank is this node's place among the voters but one, by id, and whether it is one.
func (m *Meta) rank(without int32) (rank int, votes bool) {
	for _, s := range configuration(m.raft()).Servers {
		id := nodeID(s.ID)
		if s.Suffrage != raft.Voter || id == without {
			continue
		}
		votes = votes || id == m.o.NodeID
		if id < m.o.NodeID {
			rank++
		}
	}
	return rank, votes
}

// succeed stands for election in place of a leader that is gone, if nobody else leads meanwhile, it was not heard since, and this node has voted
// for nobody who would take its place. It does stand after a node that it has refused its vote.
func (m *Meta) succeed(gone heard, since time.Time) {
	r, now := m.raft(), m.trans.lastHeard()
	_, leader := r.LeaderWithID()
	voted, err := m.store.GetUint64([]byte(keyLastVoteTerm))
	switch {
	case r.State() != raft.Follower || leader != "" && nodeID(leader) != gone.node:
		return
	case now.term != gone.term || now.at.Sub(since) > lateMax:
		return
	case err != nil || voted > gone.term:
		return
	}
	if _, err := m.trans.mayAnswer(); err != nil {
		return
	}
	m.o.Logger.Info("the controller's process is gone, this node stands for election", "controller", gone.node, "term", r.CurrentTerm())
	h := messageHead{node: m.o.NodeID, addr: string(m.trans.addr)}
	ctx, cancel := context.WithTimeout(m.trans.ctx, m.o.ElectionTimeout)
	defer cancel()
	if _, err := m.trans.pass(ctx, raft.RPC{Command: &raft.TimeoutNowRequest{RPCHeader: h.raft()}}); err != nil {
		m.o.Logger.Info("it could not stand for election", "error", err)
	}
}
