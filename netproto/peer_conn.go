package netproto

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"weir/internal/clock"
	"weir/internal/iobuf"
)

const (
	// writeCallsMax and writeGatherBytes bound what one wake of the writer puts into one writev: enough to make system calls rare, little
	// enough that calls are given up while they wait and not while they are written.
	writeCallsMax    = 256
	writeGatherBytes = 1 << 20
	// correlationBytes is the smallest response: the correlation id.
	correlationBytes = 4
)

// peerConn is one connection to a peer. The reader goroutine owns frames, the writer goroutine bufs and batch; the link's lock guards mu.
type peerConn struct {
	link   *peerLink
	nc     net.Conn
	frames *frameReader
	start  time.Time
	// lastRead and lastWrite are the times since start of the last byte that came and went: what tells a slow peer from a dead one.
	lastRead, lastWrite atomic.Int64
	wake                chan struct{} // wakes the writer
	gone                chan struct{} // closed when the connection is

	batch []*peerCall
	held  []*iobuf.Buf
	bufs  net.Buffers
	vec   net.Buffers // in the connection, because WriteTo would move a local one to the heap
	until time.Time   // the write deadline that is armed

	mu struct { // link.mu guards it
		open       map[int32]*peerCall
		order      callList // the open calls in the order they were sent
		answers    int64
		timer      clock.Timer
		timerUntil time.Time
		lastCall   time.Time // when the last call ended
		closed     bool
	}
}

func newPeerConn(l *peerLink, nc net.Conn) *peerConn {
	c := &peerConn{link: l, nc: nc, start: l.peers.clk.Now(), wake: make(chan struct{}, 1), gone: make(chan struct{})}
	c.frames = newFrameReader(peerReader{c}, helloFrameBytesMax)
	c.frames.min, c.frames.limit = correlationBytes, "the largest answer"
	c.mu.open = make(map[int32]*peerCall)
	return c
}

// peerReader notes when something came.
type peerReader struct{ c *peerConn }

func (r peerReader) Read(b []byte) (int, error) {
	n, err := r.c.nc.Read(b)
	if n > 0 {
		r.c.lastRead.Store(int64(r.c.age()))
	}
	return n, err
}

// age is how long the connection stands, by a clock that is not set.
func (c *peerConn) age() time.Duration { return c.link.peers.clk.Now().Sub(c.start) }

// hello says Hello and judges the answer. It runs before the goroutines do, and ends with ctx.
func (c *peerConn) hello(ctx context.Context) error {
	p, l := c.link.peers, c.link
	stop := context.AfterFunc(ctx, func() { _ = c.nc.SetDeadline(time.Unix(1, 0)) }) // fails on a dead connection only
	defer stop()
	h := hello{node: p.opts.NodeID, meant: l.node, class: l.class, clusterID: p.opts.ClusterID()}
	body := h.appendTo(nil)
	frame := make([]byte, requestFrameSize(KeyHello, peerProtocol, "", body))
	id := l.nextID.Add(1)
	encodeRequest(frame, KeyHello, peerProtocol, id, "", body)
	if _, err := c.nc.Write(frame); err != nil {
		return helloError(ctx, err)
	}
	got, rest, buf, err := c.readResponse()
	if err != nil {
		return helloError(ctx, err)
	}
	defer buf.Release()
	if got != id {
		return fmt.Errorf("%w: answer to hello has correlation id %d, want %d", ErrMalformed, got, id)
	}
	answer, err := parseHelloAnswer(rest)
	if err != nil {
		return err
	}
	if err := answer.judge(l.node, h.clusterID); err != nil {
		return err
	}
	if !stop() {
		return helloError(ctx, ctx.Err())
	}
	c.frames.max = p.opts.MaxFrameBytes
	return nil
}

func helloError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("no answer to hello: %w", ctx.Err())
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("closed without an answer to hello: %w", err)
	}
	return err
}

// abort ends a connection that was never used.
func (c *peerConn) abort() {
	_ = c.nc.Close() // there is nothing to lose
	c.frames.close()
}

// startLocked starts the reader and the writer.
func (c *peerConn) startLocked() {
	p := c.link.peers
	c.mu.lastCall = p.clk.Now()
	c.armLocked(c.mu.lastCall, p.opts.IdleTimeout)
	p.wg.Add(2)
	go func() {
		defer p.wg.Done()
		c.readLoop()
	}()
	go func() {
		defer p.wg.Done()
		c.writeLoop()
	}()
	if c.link.mu.queue.n > 0 {
		signal(c.wake)
	}
}

// shut closes what dropConnLocked has taken out of use.
func (c *peerConn) shut() {
	_ = c.nc.Close() // an error leaves nothing to do: the descriptor is gone
	close(c.gone)
}

// readResponse reads one response: its correlation id and what follows, with one reference to the buffer.
func (c *peerConn) readResponse() (id int32, rest []byte, buf *iobuf.Buf, err error) {
	size, err := c.frames.size()
	if err != nil {
		return 0, nil, nil, err
	}
	frame, buf, err := c.frames.frame(size)
	if err != nil {
		return 0, nil, nil, err
	}
	return int32(binary.BigEndian.Uint32(frame)), frame[correlationBytes:], buf, nil
}

// readLoop hands the responses to their calls until the connection ends.
func (c *peerConn) readLoop() {
	defer c.frames.close()
	for {
		id, rest, buf, err := c.readResponse()
		if err == nil {
			err = c.answer(id, rest, buf)
		}
		if err != nil {
			c.link.lost(c, "response", err)
			return
		}
	}
}

// answer ends the call that a response is for.
func (c *peerConn) answer(id int32, rest []byte, buf *iobuf.Buf) error {
	l := c.link
	l.mu.Lock()
	call := c.mu.open[id]
	if call == nil || c.mu.closed {
		l.mu.Unlock()
		buf.Release()
		return fmt.Errorf("%w: answer to correlation id %d, which is not open", ErrMalformed, id)
	}
	body, err := responseBody(call.key, call.version, rest)
	if err != nil {
		l.mu.Unlock()
		buf.Release()
		return err
	}
	c.closeCallLocked(call)
	c.mu.lastCall = l.peers.clk.Now()
	if c.mu.answers++; c.mu.answers == 1 {
		l.mu.circuit.answered()
	}
	wanted := !call.decided
	if wanted {
		call.decided, call.resp = true, PeerResponse{Body: body, Buf: buf}
	}
	l.mu.Unlock()
	if !wanted { // given up on
		buf.Release()
		return nil
	}
	call.deliver()
	return nil
}

// closeCallLocked takes a sent call off the connection.
func (c *peerConn) closeCallLocked(call *peerCall) {
	delete(c.mu.open, call.id)
	c.mu.order.remove(call)
	call.state = callEnded
	c.link.giveRoomLocked(call.size)
}

// dropConnLocked takes a connection out of use and ends its calls. The caller shuts it and delivers them.
func (l *peerLink) dropConnLocked(c *peerConn, op string, err error, calls []*peerCall) []*peerCall {
	l.mu.conn = nil
	c.mu.closed = true
	c.mu.timer.Stop()
	for call := c.mu.order.head; call != nil; call = c.mu.order.head {
		c.closeCallLocked(call)
		if l.decideLocked(call, l.fail(call.started, op, true, err)) {
			calls = append(calls, call)
		}
	}
	return calls
}

// lost ends a connection on which something went wrong; the first to notice does it. If it was the other side that ended a connection on
// which a call had been answered, a new dial follows at once: either the calls in the queue go on there, or it is refused, and no process
// listens there any more. Otherwise the circuit opens, and the next call finds out.
func (l *peerLink) lost(c *peerConn, op string, cause error) {
	err := lossError(cause)
	l.mu.Lock()
	if c.mu.closed {
		l.mu.Unlock()
		return
	}
	calls := l.lostLocked(c, op, err)
	l.mu.Unlock()
	l.afterLoss(c, op, err, calls)
}

func (l *peerLink) lostLocked(c *peerConn, op string, err error) (calls []*peerCall) {
	calls = l.dropConnLocked(c, op, err, nil)
	if c.mu.answers > 0 && endedByPeer(err) {
		l.mu.lost = true
		l.startDialLocked(dialAgain)
		return calls
	}
	l.openCircuitLocked(err)
	return l.failQueueLocked(op, fmt.Errorf("%w: %v", ErrPeerDown, err), calls)
}

func (l *peerLink) afterLoss(c *peerConn, op string, err error, calls []*peerCall) {
	c.shut()
	l.peers.warn("connection to node lost", l, fmt.Errorf("%s: %w", op, err))
	deliverAll(calls)
}

// lossError is what the calls of a lost connection are told.
func lossError(cause error) error {
	if errors.Is(cause, ErrPeerTimeout) {
		return cause
	}
	return fmt.Errorf("%w: %w", ErrPeerLost, cause)
}

// endedByPeer reports whether the other side has closed or reset the connection.
func endedByPeer(cause error) bool {
	return errors.Is(cause, io.EOF) || errors.Is(cause, ErrTruncated) || errors.Is(cause, syscall.ECONNRESET) || errors.Is(cause, syscall.EPIPE)
}

// armLocked sees to it that check runs within d.
func (c *peerConn) armLocked(now time.Time, d time.Duration) {
	until := now.Add(d)
	switch {
	case c.mu.timer == nil:
		c.mu.timer = c.link.peers.clk.AfterFunc(d, c.check)
	case c.mu.timerUntil.IsZero() || c.mu.timerUntil.After(until):
		c.mu.timer.Reset(d)
	default:
		return
	}
	c.mu.timerUntil = until
}

// check runs when the timer does, which is armed for the earliest time at which something can be due: it closes a connection that is idle,
// and gives up one that is silent although calls are open.
func (c *peerConn) check() {
	l, p := c.link, c.link.peers
	l.mu.Lock()
	if c.mu.closed {
		l.mu.Unlock()
		return
	}
	now := p.clk.Now()
	c.mu.timerUntil = time.Time{}
	head := c.mu.order.head
	if head == nil {
		if left := p.opts.IdleTimeout - now.Sub(c.mu.lastCall); left > 0 || l.mu.queue.n > 0 {
			c.armLocked(now, max(left, p.opts.ResponseTimeout))
			l.mu.Unlock()
			return
		}
		l.dropConnLocked(c, "idle", nil, nil)
		l.mu.Unlock()
		c.shut()
		p.forget(l)
		return
	}
	silent, left := c.silenceLocked(head, now)
	if left > 0 {
		c.armLocked(now, left)
		l.mu.Unlock()
		return
	}
	err := fmt.Errorf("%w: nothing came for %v, %d requests are open", ErrPeerTimeout, silent, c.mu.order.n)
	calls := l.lostLocked(c, "response", err)
	l.mu.Unlock()
	l.afterLoss(c, "response", err, calls)
}

// silenceLocked is how long nothing has come although head, the oldest open call, was sent, and how long that may go on. A caller that waits
// longer than ResponseTimeout knows why: as long as it does, the connection is not given up.
func (c *peerConn) silenceLocked(head *peerCall, now time.Time) (silent, left time.Duration) {
	limit := c.link.peers.opts.ResponseTimeout
	if head.sentAt.IsZero() { // being written: the write has a deadline of its own
		return 0, limit
	}
	since := c.start.Add(time.Duration(c.lastRead.Load()))
	if head.sentAt.After(since) {
		since = head.sentAt
	}
	silent = now.Sub(since)
	left = limit - silent
	if !head.decided && !head.deadline.IsZero() {
		left = max(left, head.deadline.Sub(now))
	}
	return silent, left
}
