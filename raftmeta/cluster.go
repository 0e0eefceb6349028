package raftmeta

import (
	"context"
	"fmt"
	"time"
)

// Sender carries one request of raft to another node and returns its answer: what HandleRPC there returned. The body is the
// caller's again when Send returns, the answer is the caller's. Send must return when ctx ends, and fail where HandleRPC did.
// Neither body nor answer is longer than MessageBytesMax.
type Sender interface {
	Send(ctx context.Context, node int32, addr string, rpc RPC, body []byte) ([]byte, error)
}

// RPC is a kind of message between the nodes' raft. RPCHeartbeat should travel on a line of its own, so that it does not wait
// behind log entries.
type RPC uint8

// The numbers are part of the protocol between nodes.
const (
	RPCAppendEntries RPC = iota + 1
	RPCHeartbeat
	RPCRequestVote
	RPCPreVote
	RPCInstallSnapshot
	RPCTimeoutNow
)

func (r RPC) String() string {
	switch r {
	case RPCAppendEntries:
		return "AppendEntries"
	case RPCHeartbeat:
		return "Heartbeat"
	case RPCRequestVote:
		return "RequestVote"
	case RPCPreVote:
		return "PreVote"
	case RPCInstallSnapshot:
		return "InstallSnapshot"
	case RPCTimeoutNow:
		return "TimeoutNow"
	}
	return fmt.Sprintf("RPC %d", uint8(r))
}

// Voter is a node of the list that a cluster begins with.
type Voter struct {
	ID   int32
	Addr string
}

// Quorum is the state of the metadata's quorum as this node knows it.
type Quorum struct {
	Leader    int32 // -1: none is known
	Term      uint64
	Commit    uint64
	Voters    []Member
	Observers []Member
}

// Member is a node of the quorum. What is known of the others' progress only the leader knows; elsewhere LastIndex is 0 and LastContact zero.
type Member struct {
	ID          int32
	Addr        string
	LastIndex   uint64
	LastContact time.Time
}

// HandleRPC answers a message that another node's Sender sent. The body is the caller's again when it returns. An error says that
// there is no answer: the other side must see a failed Send. It returns when ctx ends, and has a bound of its own.
func (m *Meta) HandleRPC(ctx context.Context, rpc RPC, body []byte) ([]byte, error) {
	return m.trans.handle(ctx, rpc, body)
}

// Leading says whether this node is the controller and has taken office. It may be called from any goroutine.
func (m *Meta) Leading() bool { return m.office.leading.Load() }
