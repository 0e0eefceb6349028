package netproto

import (
	"container/list"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"weir/internal/lockmeter"
)

// peerLink is what there is of one class to one address of one node: at most one connection, the calls that wait for it, the bound on what
// is in flight, and the circuit. A call goes through it so:
//
//	admit    takes room in flight; Call waits for it in order, Start does not
//	submit   queues the frame for the writer; without a connection it starts a dial, unless the circuit is open
//	taken    the writer has it: from here on it counts as sent
//	ended    its answer has come, its context has ended, or the connection has
//
// A call whose context ends after it was sent keeps its room until its late answer comes or the connection ends: the peer still works on it.
// One lock guards everything, the open calls of the connection included; outcomes are decided under it and delivered without it.
type peerLink struct {
	peers  *Peers
	node   int32
	addr   string
	class  Class
	nextID atomic.Int32

	mu struct {
		lockmeter.Mutex
		conn     *peerConn // nil: none
		lost     bool      // the peer has ended a connection that worked, and none was made since
		dialing  bool
		probing  bool      // the dial under way tests whether the peer is back: others do not wait for it
		queue    callList  // submitted, not yet taken by a writer
		waiting  list.List // of *roomWaiter
		inFlight int
		bytes    int64
		circuit  circuit
		closed   bool // Peers.Close
		removed  bool // not in the map any more: find another
	}
}

// fail makes the error of a call.
func (l *peerLink) fail(started time.Time, op string, sent bool, err error) *PeerError {
	return &PeerError{Node: l.node, Addr: l.addr, Class: l.class, Op: op, Elapsed: l.peers.clk.Now().Sub(started), Sent: sent, Err: err}
}

// fitsLocked reports whether a request of size bytes may be in flight: one always may.
func (l *peerLink) fitsLocked(size int64) bool {
	o := &l.peers.opts
	return l.mu.inFlight == 0 || l.mu.inFlight < o.MaxInFlight && l.mu.bytes+size <= o.MaxInFlightBytes
}

func (l *peerLink) takeRoomLocked(size int64) {
	l.mu.inFlight++
	l.mu.bytes += size
	l.peers.metrics.byClass[l.class].inFlight.Inc()
}

// giveRoomLocked returns a call's room and lets in who waits for it, in order.
func (l *peerLink) giveRoomLocked(size int64) {
	l.mu.inFlight--
	l.mu.bytes -= size
	if l.mu.inFlight < 0 || l.mu.bytes < 0 {
		panic(fmt.Sprintf("BUG: netproto: %d requests of %d bytes in flight to node %d", l.mu.inFlight, l.mu.bytes, l.node))
	}
	l.peers.metrics.byClass[l.class].inFlight.Dec()
	for e := l.mu.waiting.Front(); e != nil; e = l.mu.waiting.Front() {
		w := e.Value.(*roomWaiter)
		if !l.fitsLocked(w.size) {
			return
		}
		l.mu.waiting.Remove(e)
		l.takeRoomLocked(w.size)
		w.granted <- nil
	}
}

// refusalLocked is why no call may go to the peer now, or nil.
func (l *peerLink) refusalLocked() error {
	if l.mu.closed {
		return ErrPeerClosed
	}
	return l.mu.circuit.blocks(l.peers.clk.Now(), l.mu.probing)
}

// admit takes room for a request of size bytes; with wait it waits for it until ctx ends. ok is false if the link is not in use any more.
func (l *peerLink) admit(ctx context.Context, size int64, wait bool) (ok bool, err error) {
	l.mu.Lock()
	if l.mu.removed {
		l.mu.Unlock()
		return false, nil
	}
	if err := l.refusalLocked(); err != nil {
		l.mu.Unlock()
		return true, err
	}
	if l.mu.waiting.Len() == 0 && l.fitsLocked(size) {
		l.takeRoomLocked(size)
		l.mu.Unlock()
		return true, nil
	}
	if !wait || l.mu.waiting.Len() >= l.peers.opts.MaxWaiting {
		err := l.busyLocked()
		l.mu.Unlock()
		return true, err
	}
	w := &roomWaiter{size: size, granted: make(chan error, 1)}
	e := l.mu.waiting.PushBack(w)
	l.mu.Unlock()
	select {
	case err := <-w.granted:
		return true, err
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case err := <-w.granted: // just now
		if err == nil {
			l.giveRoomLocked(size)
		}
	default:
		l.mu.waiting.Remove(e)
	}
	return true, ctxError(ctx)
}

func (l *peerLink) busyLocked() error {
	o := &l.peers.opts
	return fmt.Errorf("%w: %d requests of %d bytes in flight, at most %d of %d (peer.inflight.requests.max, peer.inflight.bytes.max), %d wait",
		ErrPeerBusy, l.mu.inFlight, l.mu.bytes, o.MaxInFlight, o.MaxInFlightBytes, l.mu.waiting.Len())
}

// submit queues a call that has room and is encoded.
func (l *peerLink) submit(ctx context.Context, c *peerCall) {
	var stop func() bool
	if c.done != nil && ctx.Done() != nil {
		stop = context.AfterFunc(ctx, func() { l.abandon(ctx, c) })
	}
	l.mu.Lock()
	if c.decided { // ctx ended meanwhile; abandon has left the room to us
		c.dropFrameLocked()
		l.giveRoomLocked(c.size)
		l.mu.Unlock()
		return
	}
	c.stop = stop
	if err := l.refusalLocked(); err != nil {
		l.endLocked(c, "dial", err)
		l.mu.Unlock()
		c.deliver()
		return
	}
	c.state = callQueued
	l.mu.queue.push(c)
	if conn := l.mu.conn; conn != nil {
		l.mu.Unlock()
		l.peers.metrics.byClass[l.class].reused.Inc()
		signal(conn.wake)
		return
	}
	if !l.mu.dialing {
		kind := dialFirst
		if l.mu.circuit.open {
			kind = dialProbe
		}
		l.startDialLocked(kind)
	}
	l.mu.Unlock()
}

// decideLocked fixes a call's outcome; false: it has one.
func (l *peerLink) decideLocked(c *peerCall, err error) bool {
	if c.decided {
		return false
	}
	c.decided, c.err = true, err
	return true
}

// endLocked ends a call that was not sent: it fails, and its room and memory are given back. The caller delivers it.
func (l *peerLink) endLocked(c *peerCall, op string, err error) {
	if c.state == callQueued {
		l.mu.queue.remove(c)
	}
	c.state = callEnded
	l.decideLocked(c, l.fail(c.started, op, false, err))
	c.dropFrameLocked()
	l.giveRoomLocked(c.size)
}

// abandon gives a call up whose context has ended. Its late answer will be dropped.
func (l *peerLink) abandon(ctx context.Context, c *peerCall) {
	err := ctxError(ctx)
	l.mu.Lock()
	if c.decided {
		l.mu.Unlock()
		return
	}
	switch c.state {
	case callNew: // submit sees it and gives the room back
		l.decideLocked(c, l.fail(c.started, "queue", false, err))
	case callQueued:
		op := "queue"
		if l.mu.conn == nil {
			op = "dial"
		}
		l.endLocked(c, op, err)
	default:
		l.decideLocked(c, l.fail(c.started, "response", true, err))
	}
	l.mu.Unlock()
	c.deliver()
}

// failQueueLocked ends every call that no writer has taken and returns them for delivery.
func (l *peerLink) failQueueLocked(op string, err error, calls []*peerCall) []*peerCall {
	for c := l.mu.queue.head; c != nil; c = l.mu.queue.head {
		l.endLocked(c, op, err)
		calls = append(calls, c)
	}
	return calls
}

// close fails everything.
func (l *peerLink) close() {
	l.mu.Lock()
	l.mu.closed = true
	if l.mu.circuit.open {
		l.peers.metrics.circuitOpen(l.node, l.class, -1)
		l.mu.circuit.open = false
	}
	for e := l.mu.waiting.Front(); e != nil; e = l.mu.waiting.Front() {
		l.mu.waiting.Remove(e)
		e.Value.(*roomWaiter).granted <- ErrPeerClosed
	}
	calls := l.failQueueLocked("close", ErrPeerClosed, nil)
	conn := l.mu.conn
	if conn != nil {
		calls = l.dropConnLocked(conn, "close", ErrPeerClosed, calls)
	}
	l.mu.Unlock()
	if conn != nil {
		conn.shut()
	}
	deliverAll(calls)
}

// unusedLocked reports whether nothing would be lost with the link.
func (l *peerLink) unusedLocked() bool {
	return l.mu.conn == nil && !l.mu.dialing && l.mu.inFlight == 0 && l.mu.waiting.Len() == 0
}

func deliverAll(calls []*peerCall) {
	for _, c := range calls {
		c.deliver()
	}
}
