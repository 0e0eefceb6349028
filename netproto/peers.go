package netproto

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"

	"weir/internal/budget"
	"weir/internal/clock"
	"weir/internal/lockmeter"
)

// Peers makes calls to other nodes: one connection per node and class, opened when it is needed, with requests pipelined by correlation id.
type Peers struct {
	opts     PeersOptions
	metrics  *PeerMetrics
	limited  *limitedLog
	clk      clock.Clock
	clientID string // in the headers of Kafka's messages
	ctx      context.Context
	cancel   context.CancelFunc // ends dials
	wg       sync.WaitGroup     // every dial, reader and writer

	mu struct {
		lockmeter.RWMutex
		links  map[linkKey]*peerLink
		there  map[int32]bool // a connection to the node was made and none refused since
		closed bool
	}
}

// linkKey: the address is a part of it, so that a node that moves gets new connections, and those to its old place end when they are idle.
type linkKey struct {
	node  int32
	class Class
	addr  string
}

// NewPeers makes the set of connections to other nodes. None is opened before it is needed.
func NewPeers(o PeersOptions) (*Peers, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Peers{opts: o, metrics: o.Metrics, clk: o.Clock, clientID: "weir-" + strconv.Itoa(int(o.NodeID))}
	p.limited = newLimitedLog(o.Logger, o.Clock)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.mu.MeterBy(o.Locks, lockmeter.Peers)
	p.mu.links = make(map[linkKey]*peerLink)
	p.mu.there = make(map[int32]bool)
	return p, nil
}

// Call sends a request and waits for its answer until ctx ends. body is the caller's again on return. Errors are *PeerError.
//
// key is a private one, or one of Kafka's, whose body is then encoded in version; the headers are seen to here. A request that gets no
// answer (produce with acks=0) must not be sent.
func (p *Peers) Call(ctx context.Context, node int32, class Class, key, version int16, body []byte) (*PeerResponse, error) {
	addr, err := p.resolve(node, class)
	if err != nil {
		return nil, err
	}
	return p.CallAddr(ctx, node, addr, class, key, version, body)
}

// CallAddr is Call to an address that the caller knows.
func (p *Peers) CallAddr(ctx context.Context, node int32, addr string, class Class, key, version int16, body []byte) (*PeerResponse, error) {
	c, err := p.begin(ctx, linkKey{node, class, addr}, key, version, [][]byte{body}, nil)
	if err != nil {
		return nil, err
	}
	c.link.submit(ctx, c)
	select {
	case <-c.ended:
	case <-ctx.Done():
		c.link.abandon(ctx, c)
		<-c.ended // abandon has decided it, or somebody else had and delivers it now
	}
	return c.outcome()
}

// Start sends a request and calls done, once, with the answer, or when ctx has ended. body is the caller's again on return. done runs on a
// goroutine that others wait for, or within Start: it must not block, and the caller must hold no lock that done takes. Requests of one
// goroutine to one node in one class are sent in the order of their Starts.
func (p *Peers) Start(ctx context.Context, node int32, class Class, key, version int16, body []byte, done func(*PeerResponse, error)) {
	p.StartPieces(ctx, node, class, key, version, [][]byte{body}, done)
}

// StartPieces is Start for a body in pieces, which are copied into the frame one after the other: who puts a message together from parts of
// another need not copy them first.
func (p *Peers) StartPieces(ctx context.Context, node int32, class Class, key, version int16, body [][]byte, done func(*PeerResponse, error)) {
	addr, err := p.resolve(node, class)
	if err != nil {
		done(nil, err)
		return
	}
	c, err := p.begin(ctx, linkKey{node, class, addr}, key, version, body, done)
	if err != nil {
		done(nil, err)
		return
	}
	c.link.submit(ctx, c)
}

// resolve finds a node's address.
func (p *Peers) resolve(node int32, class Class) (string, error) {
	addr, ok := p.opts.Resolve(node)
	if ok && addr != "" {
		return addr, nil
	}
	err := &PeerError{Node: node, Class: class, Op: "resolve", Err: fmt.Errorf("%w: node %d has no address", ErrPeerUnknown, node)}
	p.metrics.failed(class, err)
	return "", err
}

// begin makes a call that has room in flight and is encoded. done is nil for one that may wait for room.
func (p *Peers) begin(ctx context.Context, k linkKey, key, version int16, body [][]byte, done func(*PeerResponse, error)) (*peerCall, error) {
	c := &peerCall{key: key, version: version, started: p.clk.Now(), done: done}
	if flexibleRequest(key, version) {
		if trace, ok := budget.FromContext(ctx); ok {
			c.trace = &trace
		}
	}
	size := tracedFrameSize(c.trace, key, version, p.clientID, body...)
	fail := func(op string, err error) (*peerCall, error) {
		e := &PeerError{Node: k.node, Addr: k.addr, Class: k.class, Op: op, Elapsed: p.clk.Now().Sub(c.started), Err: err}
		p.metrics.failed(k.class, e)
		return nil, e
	}
	if size > p.opts.MaxFrameBytes {
		return fail("encode", fmt.Errorf("%w: request of %d bytes, at most %d", ErrFrameSize, size, p.opts.MaxFrameBytes))
	}
	if ctx.Err() != nil {
		return fail("queue", ctxError(ctx))
	}
	c.size = int64(size)
	c.deadline, _ = ctx.Deadline()
	if done == nil {
		c.ended = make(chan struct{})
	}
	for {
		l := p.link(k)
		if l == nil {
			return fail("queue", ErrPeerClosed)
		}
		ok, err := l.admit(ctx, c.size, done == nil)
		if !ok {
			continue // it went out of use just now
		}
		if err != nil {
			return fail("queue", err)
		}
		c.link, c.id = l, l.nextID.Add(1)
		c.encode(p.clientID, body)
		return c, nil
	}
}

// link finds or makes the link; nil if Peers is closed.
func (p *Peers) link(k linkKey) *peerLink {
	p.mu.RLock()
	l, closed := p.mu.links[k], p.mu.closed
	p.mu.RUnlock()
	if l != nil || closed {
		return l
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l = p.mu.links[k]; l != nil || p.mu.closed {
		return l
	}
	for other, old := range p.mu.links {
		if other.node == k.node && other.class == k.class {
			p.forgetLocked(old, true) // the node has moved: what is idle of its old place goes at once
		}
	}
	l = &peerLink{peers: p, node: k.node, addr: k.addr, class: k.class}
	l.mu.MeterBy(p.opts.Locks, lockmeter.Peers)
	p.mu.links[k] = l
	return l
}

// forget drops a link that has nothing to do and nothing to remember.
func (p *Peers) forget(l *peerLink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetLocked(l, false)
}

// forgetLocked drops a link that has nothing to do; with moved also one whose circuit is open.
func (p *Peers) forgetLocked(l *peerLink, moved bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.unusedLocked() || l.mu.circuit.open && !moved || l.mu.removed || l.mu.closed {
		return
	}
	if l.mu.circuit.open {
		p.metrics.circuitOpen(l.node, l.class, -1)
	}
	l.mu.removed = true
	delete(p.mu.links, linkKey{l.node, l.class, l.addr})
}

// Heard tells that the node was heard of (it has said Hello to us): the next call tries it at once, also where the circuit is open.
func (p *Peers) Heard(node int32) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for k, l := range p.mu.links {
		if k.node == node {
			l.mu.Lock()
			l.mu.circuit.retry()
			l.mu.Unlock()
		}
	}
}

// Close ends all connections and fails all calls with ErrPeerClosed. It returns when nothing of Peers runs any more.
func (p *Peers) Close() error {
	p.mu.Lock()
	p.mu.closed = true
	links := p.mu.links
	p.mu.links = nil
	p.mu.Unlock()
	for _, l := range links {
		l.close()
	}
	p.cancel() // after that, so that a dial which it ends finds its link closed
	p.wg.Wait()
	return nil
}

// isThere notes that a connection to the node was made.
func (p *Peers) isThere(node int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.there[node] = true
}

// isGone tells, once until it is there again, that no process listens where the node was.
func (p *Peers) isGone(node int32) {
	p.mu.Lock()
	was := p.mu.there[node]
	p.mu.there[node] = false
	closed := p.mu.closed
	p.mu.Unlock()
	if was && !closed {
		p.opts.OnGone(node)
	}
}

// warn logs a failure, at most once for each peer in a while: what befalls one class mostly befalls all.
func (p *Peers) warn(what string, l *peerLink, err error) {
	p.limited.warn(what, l.place(), slog.String("class", l.class.String()), slog.String("error", err.Error()))
}

func (p *Peers) note(level slog.Level, what string, l *peerLink) {
	p.limited.at(level, what, l.place(), slog.String("class", l.class.String()))
}

// place names the other end in the log.
func (l *peerLink) place() string { return fmt.Sprintf("node %d at %s", l.node, l.addr) }

// String names the link in the log.
func (l *peerLink) String() string { return fmt.Sprintf("node %d at %s, %v", l.node, l.addr, l.class) }
