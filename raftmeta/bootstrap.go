package raftmeta

import (
	"cmp"
	"slices"

	"github.com/hashicorp/raft"
)

// bootstrap makes an empty directory part of a new cluster: of this node alone, or of the list of voters that all of them were given, so
// that each writes the same first entry. A node that is not on the list writes nothing and waits for a leader that has been told
// of it. raft.BootstrapCluster does not finish what a crash interrupted; this does: the configuration is written if there is
// neither log nor snapshot, whatever the term.
func (m *Meta) bootstrap() error {
	list, err := m.snaps.List()
	if err != nil {
		return err
	}
	if last, _ := m.store.LastIndex(); last > 0 || len(list) > 0 {
		return nil
	}
	servers := m.founders()
	if servers == nil {
		return nil
	}
	term, err := m.store.GetUint64([]byte(keyCurrentTerm))
	if err != nil {
		return err
	}
	if term == 0 {
		if err := m.store.SetUint64([]byte(keyCurrentTerm), 1); err != nil {
			return err
		}
	}
	return m.store.StoreLog(&raft.Log{
		Index: 1, Term: 1, Type: raft.LogConfiguration,
		Data: raft.EncodeConfiguration(raft.Configuration{Servers: servers}),
	})
}

// founders are the voters of a new cluster, nil if this node is not one of them.
func (m *Meta) founders() []raft.Server {
	if len(m.o.Voters) == 0 {
		return []raft.Server{{Suffrage: raft.Voter, ID: serverID(m.o.NodeID), Address: m.trans.LocalAddr()}}
	}
	voters := slices.SortedFunc(slices.Values(m.o.Voters), func(a, b Voter) int { return cmp.Compare(a.ID, b.ID) })
	var servers []raft.Server
	member := false
	for _, v := range voters {
		member = member || v.ID == m.o.NodeID
		servers = append(servers, raft.Server{Suffrage: raft.Voter, ID: serverID(v.ID), Address: raft.ServerAddress(v.Addr)})
	}
	if !member {
		return nil
	}
	return servers
}

// hurry lets the only voter elect itself at once rather than after the heartbeat timeout: raft tries immediately when that
// timeout is lowered while it follows, and it was set a nanosecond too high for this. With several voters nothing is hurried.
func (m *Meta) hurry() {
	servers := configuration(m.raft()).Servers
	if len(servers) != 1 || servers[0].ID != serverID(m.o.NodeID) {
		return
	}
	if err := m.reload(func(rc *raft.ReloadableConfig) { rc.HeartbeatTimeout--; rc.ElectionTimeout-- }); err != nil {
		m.o.Logger.Warn("first election is not hurried", "error", err)
	}
}

// configuration returns raft's newest configuration, committed or not.
func configuration(r *raft.Raft) raft.Configuration {
	f := r.GetConfiguration()
	if f.Error() != nil {
		return raft.Configuration{}
	}
	return f.Configuration()
}
