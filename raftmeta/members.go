package raftmeta

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/raft"
)

// AddVoter makes a node a voter, or gives a voter another address. Only the leader does it: ErrNotLeader elsewhere. It returns when
// the change is committed; a node that is new need not have caught up. ctx bounds the wait, not the change.
func (m *Meta) AddVoter(ctx context.Context, id int32, addr string) error {
	return m.add(ctx, id, addr, raft.Voter)
}

// AddObserver lets a node follow the metadata without a vote. One that has a vote keeps it, and gets the address.
func (m *Meta) AddObserver(ctx context.Context, id int32, addr string) error {
	return m.add(ctx, id, addr, raft.Nonvoter)
}

func (m *Meta) add(ctx context.Context, id int32, addr string, as raft.ServerSuffrage) error {
	if id < 0 || addr == "" || len(addr) > peerAddrBytesMax {
		return fmt.Errorf("%w: node %d at an address of %d bytes", ErrInvalidCommand, id, len(addr))
	}
	err := m.change(ctx, func(timeout time.Duration) error {
		for _, s := range configuration(m.raft()).Servers {
			has := s.Suffrage == raft.Voter || as == raft.Nonvoter
			if nodeID(s.ID) == id && string(s.Address) == addr && has {
				return nil
			}
			if nodeID(s.ID) != id && string(s.Address) == addr {
				return fmt.Errorf("%w: %s is the address of node %s", ErrInvalidCommand, addr, s.ID)
			}
		}
		if as == raft.Voter {
			return m.raft().AddVoter(serverID(id), raft.ServerAddress(addr), 0, timeout).Error()
		}
		return m.raft().AddNonvoter(serverID(id), raft.ServerAddress(addr), 0, timeout).Error()
	})
	if err != nil {
		return fmt.Errorf("add node %d at %s to the quorum: %w", id, addr, err)
	}
	return nil
}

// RemoveMember takes a node out of the quorum: ErrUnknownMember if it is not in it. A leader that is taken out gives up the lead. The
// last voter cannot be taken out.
func (m *Meta) RemoveMember(ctx context.Context, id int32) error {
	err := m.change(ctx, func(timeout time.Duration) error {
		servers := configuration(m.raft()).Servers
		i := slices.IndexFunc(servers, func(s raft.Server) bool { return nodeID(s.ID) == id })
		if i < 0 {
			return fmt.Errorf("%w: node %d", ErrUnknownMember, id)
		}
		if servers[i].Suffrage == raft.Voter && m.voters() == 1 {
			return fmt.Errorf("%w: node %d is the last voter", ErrInvalidCommand, id)
		}
		err := m.raft().RemoveServer(serverID(id), 0, timeout).Error()
		if err == nil {
			m.trans.forget(id) // here, as the caller may have given up
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("take node %d out of the quorum: %w", id, err)
	}
	return nil
}

// change changes the quorum.
func (m *Meta) change(ctx context.Context, do func(timeout time.Duration) error) error {
	if m.raft().State() != raft.Leader {
		return m.explain(raft.ErrNotLeader)
	}
	err := m.inside(ctx, do)
	m.trans.tellAll()
	return err
}

// TransferLeadership makes another voter the leader: ErrNotLeader if this node does not lead. It returns when the lead is given up.
func (m *Meta) TransferLeadership(ctx context.Context) error {
	if m.raft().State() != raft.Leader {
		return m.explain(raft.ErrNotLeader)
	}
	err := m.inside(ctx, func(time.Duration) error { return m.raft().LeadershipTransfer().Error() })
	if err != nil {
		return fmt.Errorf("transfer the metadata office: %w", err)
	}
	return nil
}

// moveMember gives a member the address under which its broker has registered, if that is another. One at a time; lead comes back
// here when it is done.
func (m *Meta) moveMember() {
	if m.office.moving || !m.Leading() || m.o.Sender == nil {
		return
	}
	img := m.Image()
	for _, s := range configuration(m.raft()).Servers {
		id := nodeID(s.ID)
		b := img.Broker(id)
		if b == nil || b.PeerHost == "" {
			continue
		}
		addr := net.JoinHostPort(b.PeerHost, strconv.Itoa(int(b.PeerPort)))
		if addr == string(s.Address) {
			continue
		}
		m.o.Logger.Info("a member of the metadata quorum has moved", "node", id, "from", s.Address, "to", addr)
		m.office.moving = true
		m.wg.Add(1)
		go func() {
			defer m.wg.Done()
			err := m.add(context.Background(), id, addr, s.Suffrage)
			if err != nil {
				m.o.Logger.Warn("the new address of a member could not be noted", "node", id, "address", addr, "error", err)
			}
			select {
			case m.office.moved <- err:
			case <-m.closing:
			case <-m.failed:
			}
		}()
		return
	}
}

// Quorum returns the state of the quorum.
func (m *Meta) Quorum() Quorum {
	_, leader := m.raft().LeaderWithID()
	q := Quorum{Leader: -1, Term: m.raft().CurrentTerm(), Commit: m.raft().CommitIndex()}
	if leader != "" {
		q.Leader = nodeID(leader)
	}
	leads := m.raft().State() == raft.Leader
	for _, s := range configuration(m.raft()).Servers {
		member := Member{ID: nodeID(s.ID), Addr: string(s.Address)}
		switch {
		case member.ID == m.o.NodeID:
			member.LastIndex, member.LastContact = m.raft().LastIndex(), m.o.Clock.Now()
		case leads:
			member.LastIndex, member.LastContact = m.trans.progress(member.ID, q.Term)
		}
		if s.Suffrage == raft.Voter {
			q.Voters = append(q.Voters, member)
		} else {
			q.Observers = append(q.Observers, member)
		}
	}
	byID := func(a, b Member) int { return cmp.Compare(a.ID, b.ID) }
	slices.SortFunc(q.Voters, byID)
	slices.SortFunc(q.Observers, byID)
	return q
}

// progress is how far a node's log is known to agree with this one's, and when it last answered.
func (t *transport) progress(node int32, term uint64) (index uint64, contact time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.mu.peers[node]
	if p == nil {
		return 0, time.Time{}
	}
	if p.term == term {
		index = p.matched
	}
	return index, p.contact
}
