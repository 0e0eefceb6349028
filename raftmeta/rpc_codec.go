package raftmeta

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// Messages between nodes, in the notation of docs/format/metadata.md. A request is: version, cluster id of the sender (empty: not
// known yet), its node id and address, and what the RPC needs. An answer is: version, status, and what the RPC gives
// or the text of an error.
const (
	messageVersion     = 1
	appendBytesMax     = 1 << 20 // of the entries of a message, if there are several
	peerAddrBytesMax   = 512
	answerErrorBytes   = 1 << 10
	logEntryBytesMin   = 6
	configBytesMax     = 1 << 20
	messageHeadBytes   = 1 << 10
	snapshotChunkBytes = 512 << 10
)

// MessageBytesMax bounds the body of every message that a Sender gets, and of every answer.
const MessageBytesMax = entryBytesMax + appendBytesMax + configBytesMax

const (
	answerOK    = 0
	answerError = 1
)

// errAnswer is a failure that the other node's raft has reported.
var errAnswer = errors.New("refused by the other node")

// messageHead is what every request begins with.
type messageHead struct {
	cluster string
	node    int32
	addr    string
}

func (t *transport) head() encoder {
	e := encoder{b: make([]byte, 0, 256)}
	e.byte(messageVersion)
	e.string(t.cluster())
	e.int(int64(t.self))
	e.string(string(t.addr))
	return e
}

func decodeHead(d *decoder) messageHead {
	if v := d.byte(); d.err == nil && v != messageVersion {
		d.err = fmt.Errorf("%w: message has version %d, want %d", ErrVersion, v, messageVersion)
	}
	h := messageHead{cluster: d.string(), node: d.int32(), addr: d.string()}
	if len(h.cluster) > clusterIDBytesMax || len(h.addr) > peerAddrBytesMax || h.node < 0 {
		d.fail("message of node %d with a cluster id of %d bytes and an address of %d", h.node, len(h.cluster), len(h.addr))
	}
	return h
}

func (h *messageHead) raft() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(serverID(h.node)), Addr: []byte(h.addr)}
}

// fitting is how many of the entries go into one message: at least one.
func fitting(entries []*raft.Log) int {
	size := 0
	for i, l := range entries {
		size += len(l.Data) + len(l.Extensions)
		if i > 0 && size > appendBytesMax {
			return i
		}
	}
	return len(entries)
}

func encodeAppend(e encoder, a *raft.AppendEntriesRequest) []byte {
	size := 0
	for _, l := range a.Entries {
		size += len(l.Data) + len(l.Extensions) + 32
	}
	e.b = slices.Grow(e.b, size+64)
	e.uint(a.Term)
	e.uint(a.PrevLogEntry)
	e.uint(a.PrevLogTerm)
	e.uint(a.LeaderCommitIndex)
	e.uint(uint64(len(a.Entries)))
	for _, l := range a.Entries {
		e.byte(byte(l.Type))
		e.uint(l.Index)
		e.uint(l.Term)
		appended := int64(0)
		if !l.AppendedAt.IsZero() {
			appended = l.AppendedAt.UnixNano()
		}
		e.int(appended)
		e.string(string(l.Data))
		e.string(string(l.Extensions))
	}
	return e.b
}

// decodeAppend copies what it returns.
func decodeAppend(d *decoder, h messageHead) *raft.AppendEntriesRequest {
	a := &raft.AppendEntriesRequest{RPCHeader: h.raft(), Term: d.uint(), PrevLogEntry: d.uint(), PrevLogTerm: d.uint(), LeaderCommitIndex: d.uint()}
	n := d.count(logEntryBytesMin)
	if n > raftBatch {
		d.fail("%d entries, want at most %d", n, raftBatch)
		return a
	}
	for i := range n {
		l := &raft.Log{Type: raft.LogType(d.byte()), Index: d.uint(), Term: d.uint()}
		if appended := d.int(); appended != 0 {
			l.AppendedAt = time.Unix(0, appended)
		}
		l.Data, l.Extensions = slices.Clone(d.bytes()), slices.Clone(d.bytes())
		checkEntry(d, l, a.PrevLogEntry+uint64(i)+1)
		if d.err != nil {
			return a
		}
		a.Entries = append(a.Entries, l)
	}
	return a
}

// checkEntry refuses what raft would panic on, or what would tear the log.
func checkEntry(d *decoder, l *raft.Log, index uint64) {
	switch {
	case d.err != nil:
	case l.Index != index:
		d.fail("entry %d, want %d", l.Index, index)
	case l.Type > raft.LogConfiguration || l.Type == raft.LogAddPeerDeprecated || l.Type == raft.LogRemovePeerDeprecated:
		d.fail("entry %d has type %d", l.Index, l.Type)
	case len(l.Data) > entryBytesMax+configBytesMax:
		d.fail("entry %d has %d bytes", l.Index, len(l.Data))
	case l.Type == raft.LogConfiguration:
		checkConfiguration(d, l.Data)
	}
}

// checkConfiguration: the library panics on bytes that are no configuration.
func checkConfiguration(d *decoder, b []byte) {
	defer func() {
		if r := recover(); r != nil {
			d.fail("configuration of %d bytes: %v", len(b), r)
		}
	}()
	if len(b) > configBytesMax {
		d.fail("configuration of %d bytes, want at most %d", len(b), configBytesMax)
		return
	}
	raft.DecodeConfiguration(b)
}

func encodeVote(e encoder, a *raft.RequestVoteRequest) []byte {
	e.uint(a.Term)
	e.uint(a.LastLogIndex)
	e.uint(a.LastLogTerm)
	e.bool(a.LeadershipTransfer)
	return e.b
}

func decodeVote(d *decoder, h messageHead) *raft.RequestVoteRequest {
	return &raft.RequestVoteRequest{RPCHeader: h.raft(), Term: d.uint(), LastLogIndex: d.uint(), LastLogTerm: d.uint(), LeadershipTransfer: d.bool()}
}

func encodePreVote(e encoder, a *raft.RequestPreVoteRequest) []byte {
	e.uint(a.Term)
	e.uint(a.LastLogIndex)
	e.uint(a.LastLogTerm)
	return e.b
}

func decodePreVote(d *decoder, h messageHead) *raft.RequestPreVoteRequest {
	return &raft.RequestPreVoteRequest{RPCHeader: h.raft(), Term: d.uint(), LastLogIndex: d.uint(), LastLogTerm: d.uint()}
}

// snapshotChunk is a part of a snapshot. What raft says of the snapshot comes with each.
type snapshotChunk struct {
	transfer uint64 // tells one attempt from another
	offset   int64
	data     []byte // part of the message
	req      raft.InstallSnapshotRequest
}

func encodeChunk(e encoder, c *snapshotChunk) []byte {
	r := &c.req
	e.b = slices.Grow(e.b, len(c.data)+len(r.Configuration)+128)
	e.uint(c.transfer)
	e.uint(uint64(c.offset))
	e.uint(uint64(r.Size))
	e.uint(r.Term)
	e.uint(r.LastLogIndex)
	e.uint(r.LastLogTerm)
	e.uint(r.ConfigurationIndex)
	e.string(string(r.Configuration))
	e.string(string(c.data))
	return e.b
}

func decodeChunk(d *decoder, h messageHead) *snapshotChunk {
	c := &snapshotChunk{transfer: d.uint(), offset: int64(d.uint())}
	c.req = raft.InstallSnapshotRequest{
		RPCHeader: h.raft(), SnapshotVersion: raft.SnapshotVersionMax,
		Size: int64(d.uint()), Term: d.uint(), LastLogIndex: d.uint(), LastLogTerm: d.uint(), ConfigurationIndex: d.uint(),
		Configuration: slices.Clone(d.bytes()),
	}
	c.data = d.bytes()
	switch {
	case d.err != nil:
	case c.req.Size < 1 || c.req.Size > snapshotBytesMax:
		d.fail("snapshot of %d bytes, want 1 to %d", c.req.Size, snapshotBytesMax)
	case len(c.data) == 0 || len(c.data) > snapshotChunkBytes:
		d.fail("chunk of %d bytes, want 1 to %d", len(c.data), snapshotChunkBytes)
	case c.offset < 0 || c.offset+int64(len(c.data)) > c.req.Size:
		d.fail("chunk at %d of %d bytes in a snapshot of %d", c.offset, len(c.data), c.req.Size)
	default:
		checkConfiguration(d, c.req.Configuration)
	}
	return c
}

// encodeAnswer writes what raft answered.
func encodeAnswer(resp any, err error) []byte {
	e := encoder{b: make([]byte, 0, 32)}
	e.byte(messageVersion)
	if err != nil {
		e.byte(answerError)
		text := err.Error()
		e.string(text[:min(len(text), answerErrorBytes)])
		return e.b
	}
	e.byte(answerOK)
	switch r := resp.(type) {
	case *raft.AppendEntriesResponse:
		e.uint(r.Term)
		e.uint(r.LastLog)
		e.bool(r.Success)
		e.bool(r.NoRetryBackoff)
	case *raft.RequestVoteResponse:
		e.uint(r.Term)
		e.bool(r.Granted)
	case *raft.RequestPreVoteResponse:
		e.uint(r.Term)
		e.bool(r.Granted)
	case *raft.InstallSnapshotResponse:
		e.uint(r.Term)
		e.bool(r.Success)
	case *raft.TimeoutNowResponse:
	}
	return e.b
}

func decodeAnswer(b []byte, decode func(*decoder)) error {
	d := &decoder{b: b}
	if v := d.byte(); d.err == nil && v != messageVersion {
		return fmt.Errorf("%w: answer has version %d, want %d", ErrVersion, v, messageVersion)
	}
	switch status := d.byte(); {
	case d.err != nil:
	case status == answerError:
		if text := d.string(); d.end() == nil {
			return fmt.Errorf("%w: %s", errAnswer, text)
		}
	case status == answerOK:
		decode(d)
	default:
		d.fail("answer has status %d", status)
	}
	return d.end()
}

func decodeAppendAnswer(d *decoder, resp *raft.AppendEntriesResponse) {
	resp.Term, resp.LastLog, resp.Success, resp.NoRetryBackoff = d.uint(), d.uint(), d.bool(), d.bool()
}
