package raftmeta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"weir/internal/clock"
	"weir/internal/lockmeter"
)

// A snapshot travels in chunks, each answered before the next is sent. The receiver gathers them and hands the whole to raft, whose main
// goroutine does nothing else until it has read all of it. Memory grows with what has arrived, not with what was announced; one
// transfer at a time; and one that no chunk comes for any more is dropped.

const transferIdle = 10 * time.Second

// installTimeout bounds what the receiver does with the last chunk: it writes the file and restores the image.
func (o *transportOptions) installTimeout(size int64) time.Duration {
	const steps, stepsMax = 4, 64 // of I/O, each with its own deadline
	return o.ioTimeout * time.Duration(min(steps+size/ioChunkBytes, stepsMax))
}

// sendSnapshot sends all of data and returns raft's answer to the last chunk.
func (t *transport) sendSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	c := &snapshotChunk{transfer: rand.Uint64(), req: *args}
	buf := make([]byte, min(snapshotChunkBytes, args.Size))
	for {
		n, err := io.ReadFull(data, buf[:min(int64(len(buf)), args.Size-c.offset)])
		if err != nil {
			return fmt.Errorf("snapshot of %d bytes, read %d: %w", args.Size, c.offset+int64(n), err)
		}
		c.data = buf[:n]
		timeout := t.o.appendTimeout
		last := c.offset+int64(n) == args.Size
		if last {
			timeout = t.o.installTimeout(args.Size) + t.o.appendTimeout
		}
		err = t.call(id, target, RPCInstallSnapshot, timeout, encodeChunk(t.head(), c), func(d *decoder) {
			resp.Term, resp.Success = d.uint(), d.bool()
		})
		if err != nil {
			return fmt.Errorf("chunk at %d of %d: %w", c.offset, args.Size, err)
		}
		t.o.metrics.snapshotSendBytes.Add(float64(n))
		if last || resp.Term > args.Term {
			return nil
		}
		if !resp.Success {
			return fmt.Errorf("chunk at %d of %d: %w", c.offset, args.Size, errAnswer)
		}
		c.offset += int64(n)
	}
}

// incoming is the snapshot that this node is being sent.
type incoming struct {
	o transportOptions

	mu struct {
		lockmeter.Mutex
		key    transferKey
		chunks [][]byte
		got    int64
		timer  clock.Timer // not nil: a transfer is under way
	}
}

// transferKey tells transfers apart.
type transferKey struct {
	transfer, term, index, snapshotTerm uint64
	size                                int64
	sender                              string
}

// receive takes a chunk; the last one goes to raft with all before it.
func (t *transport) receive(ctx context.Context, c *snapshotChunk) (any, error) {
	r := t.raft.Load()
	if r == nil {
		return nil, ErrClosed
	}
	if term := r.CurrentTerm(); c.req.Term < term {
		return &raft.InstallSnapshotResponse{Term: term}, nil
	}
	whole, err := t.incoming.add(c)
	if err != nil {
		return nil, err
	}
	if whole == nil {
		return &raft.InstallSnapshotResponse{Term: c.req.Term, Success: true}, nil
	}
	v := &verdict{t: t, req: &c.req}
	resp, err := t.install(ctx, raft.RPC{Command: &c.req, Reader: &chunkReader{chunks: whole, before: v.reach}})
	return v.answer(resp, err)
}

// install gives a snapshot to raft. Nobody takes one until raft is done with it, even if ctx ends before.
func (t *transport) install(ctx context.Context, rpc raft.RPC) (any, error) {
	select {
	case t.snapshotting <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-t.ctx.Done():
		return nil, ErrClosed
	}
	answer, relay := make(chan raft.RPCResponse, 1), make(chan raft.RPCResponse, 1)
	rpc.RespChan = answer
	if err := t.offer(ctx, rpc); err != nil {
		<-t.snapshotting
		return nil, err
	}
	go func() { // raft answers what it has taken, unless it is closed
		select {
		case a := <-answer:
			relay <- a
		case <-t.ctx.Done():
		}
		<-t.snapshotting
	}()
	return t.wait(ctx, relay)
}

// add takes a chunk and returns all of them with the last.
func (in *incoming) add(c *snapshotChunk) ([][]byte, error) {
	key := transferKey{c.transfer, c.req.Term, c.req.LastLogIndex, c.req.LastLogTerm, c.req.Size, string(c.req.ID)}
	in.mu.Lock()
	defer in.mu.Unlock()
	if c.offset == 0 && (in.mu.timer == nil || key != in.mu.key) {
		if in.mu.timer != nil && c.req.Term < in.mu.key.term {
			return nil, fmt.Errorf("%w: a snapshot of term %d is on its way, this one is of term %d", ErrInvalidCommand, in.mu.key.term, c.req.Term)
		}
		in.dropLocked()
		in.mu.key = key
		in.mu.timer = in.o.clk.AfterFunc(transferIdle, func() { in.expire(key) })
	}
	if in.mu.timer == nil || key != in.mu.key || c.offset != in.mu.got {
		return nil, fmt.Errorf("%w: chunk at %d of a snapshot of which %d bytes are here", ErrInvalidCommand, c.offset, in.mu.got)
	}
	in.mu.timer.Reset(transferIdle)
	in.mu.chunks = append(in.mu.chunks, slices.Clone(c.data))
	in.mu.got += int64(len(c.data))
	if in.mu.got < c.req.Size {
		return nil, nil
	}
	whole := in.mu.chunks
	in.dropLocked()
	return whole, nil
}

// expire drops a transfer that was given up.
func (in *incoming) expire(key transferKey) {
	in.mu.Lock()
	got, given := in.mu.got, in.mu.timer != nil && in.mu.key == key
	if given {
		in.dropLocked()
	}
	in.mu.Unlock()
	if given {
		in.o.log.Warn("a metadata snapshot did not arrive whole", "bytes", got, "of", key.size, "silent", transferIdle)
	}
}

func (in *incoming) drop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.dropLocked()
}

func (in *incoming) dropLocked() {
	if in.mu.timer != nil {
		in.mu.timer.Stop()
	}
	in.mu.timer, in.mu.chunks, in.mu.got, in.mu.key = nil, nil, 0, transferKey{}
}

// chunkReader reads chunks and lets go of what was read. before runs on raft's main goroutine, when it begins to read, and may refuse.
type chunkReader struct {
	chunks [][]byte
	cur    bytes.Reader
	before func() error
	asked  bool
	err    error
}

func (r *chunkReader) Read(p []byte) (int, error) {
	if !r.asked {
		r.asked, r.err = true, r.before()
	}
	if r.err != nil {
		return 0, r.err
	}
	for {
		n, err := r.cur.Read(p)
		if !errors.Is(err, io.EOF) || n > 0 {
			return n, nil
		}
		if len(r.chunks) == 0 {
			return 0, io.EOF
		}
		r.cur.Reset(r.chunks[0])
		r.chunks[0] = nil
		r.chunks = r.chunks[1:]
	}
}
