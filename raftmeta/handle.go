package raftmeta

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// handle answers one message of another node. What raft refuses is an answer; an error is that there is none.
func (t *transport) handle(ctx context.Context, rpc RPC, body []byte) ([]byte, error) {
	torn, err := t.mayAnswer()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rpc, err)
	}
	d := &decoder{b: body}
	h := decodeHead(d)
	if d.err == nil {
		if err := t.checkCluster(h); err != nil {
			return encodeAnswer(nil, err), nil
		}
	}
	cmd, chunk := decodeCommand(d, rpc, h)
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("%s from node %d: %w", rpc, h.node, err)
	}
	if a, ok := cmd.(*raft.AppendEntriesRequest); ok {
		t.hear(h.node, a.Term)
	} else if chunk != nil {
		t.hear(h.node, chunk.req.Term)
	}
	patience := t.patience(rpc, chunk)
	ctx, cancel := context.WithTimeoutCause(ctx, patience, &timeoutError{": raft is busy", patience})
	defer cancel()
	var resp any
	switch {
	case rpc == RPCHeartbeat:
		resp, err = t.beat(ctx, cmd.(*raft.AppendEntriesRequest))
	case chunk != nil:
		resp, err = t.receive(ctx, chunk)
	case rpc == RPCTimeoutNow:
		if err = t.mayDepose(h.node); err == nil {
			resp, err = t.pass(ctx, raft.RPC{Command: cmd})
		}
	default:
		if a, ok := cmd.(*raft.AppendEntriesRequest); ok {
			t.shorten(a)
		}
		resp, err = t.pass(ctx, raft.RPC{Command: cmd})
	}
	if err != nil && (ctx.Err() != nil || t.ctx.Err() != nil) {
		return nil, fmt.Errorf("%s from node %d: %w", rpc, h.node, err)
	}
	if now, err := t.mayAnswer(); err != nil || now != torn {
		return nil, fmt.Errorf("%s from node %d: answer withheld: %w", rpc, h.node, cmp.Or(err, errTorn))
	}
	return encodeAnswer(resp, err), nil
}

// decodeCommand reads what follows the head.
func decodeCommand(d *decoder, rpc RPC, h messageHead) (cmd any, chunk *snapshotChunk) {
	switch rpc {
	case RPCAppendEntries:
		return decodeAppend(d, h), nil
	case RPCHeartbeat:
		a := decodeAppend(d, h)
		if !isHeartbeat(a) {
			d.fail("heartbeat with entries or an index")
		}
		return a, nil
	case RPCRequestVote:
		return decodeVote(d, h), nil
	case RPCPreVote:
		return decodePreVote(d, h), nil
	case RPCInstallSnapshot:
		return nil, decodeChunk(d, h)
	case RPCTimeoutNow:
		return &raft.TimeoutNowRequest{RPCHeader: h.raft()}, nil
	}
	d.fail("unknown %s", rpc)
	return nil, nil
}

// patience bounds the wait for raft's answer: its main goroutine may be waiting for the disk.
func (t *transport) patience(rpc RPC, chunk *snapshotChunk) time.Duration {
	switch {
	case rpc == RPCHeartbeat:
		return t.o.heartbeatTimeout
	case chunk != nil:
		return t.o.installTimeout(chunk.req.Size)
	}
	return t.o.appendTimeout + t.o.ioTimeout
}

// mayAnswer is nil unless this node has to be silent. The number must be the same after raft has answered.
func (t *transport) mayAnswer() (torn uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.mu.silent != nil:
		return 0, t.mu.silent
	case t.mu.closed:
		return 0, ErrClosed
	case t.mu.muted:
		return 0, errTorn
	}
	return t.mu.torn, nil
}

// checkCluster keeps nodes of another cluster out, as far as both know theirs. It is the last of several guards: entries of another
// cluster would replace our own.
func (t *transport) checkCluster(h messageHead) error {
	own := t.cluster()
	if own == "" || h.cluster == "" || own == h.cluster {
		return nil
	}
	err := fmt.Errorf("%w: node %d at %s is of cluster %s, node %d of %s", ErrWrongCluster, h.node, h.addr, h.cluster, t.self, own)
	t.mu.Lock()
	first := t.mu.wrong == nil
	t.mu.wrong = err
	t.mu.Unlock()
	if first {
		t.o.log.Error("a node of another cluster sends metadata messages", "error", err)
	}
	return err
}

// stranger is the last message of another cluster, nil if there was none.
func (t *transport) stranger() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.wrong
}

// mayDepose is nil if a node may tell this one to take over: the leader, as far as is known here, or anybody where none is known. The message
// has no term, and one that comes late, or of a leader that does not know yet that it is none, would unseat the one that there is.
func (t *transport) mayDepose(node int32) error {
	r := t.raft.Load()
	if r == nil {
		return nil
	}
	if _, leader := r.LeaderWithID(); leader != "" && nodeID(leader) != node {
		return fmt.Errorf("%w: node %d, and node %s leads, as far as node %d knows", ErrNotLeader, node, leader, t.self)
	}
	return nil
}

// beat answers a heartbeat without waiting for raft's main goroutine, which may be waiting for the disk; but only where that
// changes nothing of its state: the term and the role are as the heartbeat says already.
func (t *transport) beat(ctx context.Context, a *raft.AppendEntriesRequest) (any, error) {
	r, fn := t.raft.Load(), t.heartbeat.Load()
	if r == nil || fn == nil || r.State() != raft.Follower || r.CurrentTerm() != a.Term {
		return t.pass(ctx, raft.RPC{Command: a})
	}
	answer := make(chan raft.RPCResponse, 1)
	(*fn)(raft.RPC{Command: a, RespChan: answer})
	return t.wait(ctx, answer)
}

// pass gives a request to raft's main goroutine and waits for the answer.
func (t *transport) pass(ctx context.Context, rpc raft.RPC) (any, error) {
	answer := make(chan raft.RPCResponse, 1)
	rpc.RespChan = answer
	if err := t.offer(ctx, rpc); err != nil {
		return nil, err
	}
	return t.wait(ctx, answer)
}

// offer returns when raft's main goroutine has taken a request.
func (t *transport) offer(ctx context.Context, rpc raft.RPC) error {
	select {
	case t.consume <- rpc:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.ctx.Done():
		return ErrClosed
	}
}

func (t *transport) wait(ctx context.Context, answer <-chan raft.RPCResponse) (any, error) {
	select {
	case a := <-answer:
		return a.Response, a.Error
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-t.ctx.Done():
		return nil, ErrClosed
	}
}
