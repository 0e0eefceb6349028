package group

import (
	"bytes"
	"time"
)

// memberBytes is what a member, or a pending member, is counted for besides its ids, metadata and assignment.
const memberBytes = 256

// member is one member of a group.
type member struct {
	id         string
	instance   *string // not nil: static
	clientID   string
	clientHost string

	protocols        []Protocol
	sessionTimeout   time.Duration
	rebalanceTimeout time.Duration
	assignment       []byte

	joinReply   func(JoinResult) // not nil: a JoinGroup is parked
	syncReply   func(SyncResult) // not nil: a SyncGroup is parked
	syncPending bool             // told of the generation, its SyncGroup not yet seen
	isNew       bool             // its first JoinGroup was not answered: it does not know its id

	session timer
}

// alive reports whether an expired session is excused: a member whose request is parked cannot send heartbeats. A new
// member is not: its JoinGroup is parked too long (it may be gone, and come again under another id).
func (m *member) alive() bool {
	return !m.isNew && (m.joinReply != nil || m.syncReply != nil)
}

func (m *member) size() int {
	n := memberBytes + len(m.id) + len(m.clientID) + len(m.clientHost) + len(m.assignment) + protocolBytes(m.protocols)
	if m.instance != nil {
		n += len(*m.instance)
	}
	return n
}

func protocolBytes(ps []Protocol) int {
	n := 0
	for _, p := range ps {
		n += len(p.Name) + len(p.Metadata) + 48
	}
	return n
}

// metadata is the member's metadata for a protocol; empty, as Kafka has it, where it does not know the protocol.
func (m *member) metadata(protocol *string) []byte {
	if protocol != nil {
		for _, p := range m.protocols {
			if p.Name == *protocol {
				return p.Metadata
			}
		}
	}
	return []byte{}
}

// matches reports whether ps are the protocols the member already has, in the same order.
func (m *member) matches(ps []Protocol) bool {
	if len(ps) != len(m.protocols) {
		return false
	}
	for i, p := range ps {
		if p.Name != m.protocols[i].Name || !bytes.Equal(p.Metadata, m.protocols[i].Metadata) {
			return false
		}
	}
	return true
}

// ownProtocols copies what the member brings, which is a view of the request's buffer. A name that comes twice counts
// once.
func ownProtocols(ps []Protocol) []Protocol {
	own := make([]Protocol, 0, len(ps))
	seen := make(map[string]bool, len(ps))
	for _, p := range ps {
		if !seen[p.Name] {
			seen[p.Name] = true
			own = append(own, Protocol{Name: p.Name, Metadata: append([]byte{}, p.Metadata...)})
		}
	}
	return own
}
