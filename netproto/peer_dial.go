package netproto

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// dialKind is why a dial is made.
type dialKind uint8

const (
	dialFirst dialKind = iota // there is no connection, and calls want one
	dialProbe                 // the last attempt failed: is the peer back?
	dialAgain                 // the peer has ended a connection that worked: is it gone?
)

// startDialLocked makes a connection in the background. The calls in the queue wait for it.
func (l *peerLink) startDialLocked(kind dialKind) {
	l.mu.dialing, l.mu.probing = true, kind == dialProbe
	l.peers.wg.Add(1)
	go func() {
		defer l.peers.wg.Done()
		l.dial(kind)
	}()
}

// dialAgainMax is how often a dial is repeated whose connection the peer has ended before Hello was answered, after it has ended one that
// worked: a process that ends resets what waits to be accepted, and refuses the next one.
const dialAgainMax = 3

// dial makes the connection. Its failure is that of every call that waits for it.
func (l *peerLink) dial(kind dialKind) {
	started := l.peers.clk.Now()
	for try := 1; ; try++ {
		conn, op, err := l.connect()
		if err == nil {
			l.connected(conn)
			return
		}
		if kind == dialAgain && try < dialAgainMax && endedByPeer(err) {
			continue
		}
		if errors.Is(err, syscall.ECONNREFUSED) && l.hasLost() {
			l.peers.isGone(l.node) // before anybody can try again and find the node back
		}
		l.dialFailed(op, started, err)
		return
	}
}

// connect connects and says Hello, both within DialTimeout.
func (l *peerLink) connect() (conn *peerConn, op string, err error) {
	p := l.peers
	ctx, cancel := context.WithTimeout(p.ctx, p.opts.DialTimeout)
	defer cancel()
	nc, err := p.opts.dialer(ctx, l.addr)
	if err != nil {
		return nil, "dial", err
	}
	conn = newPeerConn(l, nc)
	if err := conn.hello(ctx); err != nil {
		conn.abort()
		return nil, "hello", err
	}
	return conn, "", nil
}

// hasLost reports whether the peer has ended a connection that worked, and none was made since.
func (l *peerLink) hasLost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.lost
}

// connected puts a new connection to use.
func (l *peerLink) connected(conn *peerConn) {
	p := l.peers
	l.mu.Lock()
	l.mu.dialing, l.mu.probing = false, false
	if l.mu.closed {
		l.mu.Unlock()
		conn.abort()
		return
	}
	restored := l.mu.circuit.open
	if restored {
		p.metrics.circuitOpen(l.node, l.class, -1)
	}
	l.mu.circuit.connected()
	l.mu.conn, l.mu.lost = conn, false
	conn.startLocked()
	l.mu.Unlock()
	p.metrics.byClass[l.class].created.Inc()
	p.isThere(l.node)
	level := slog.LevelDebug
	if restored {
		level = slog.LevelInfo
	}
	p.note(level, "connected to node", l)
}

// dialFailed opens the circuit and fails the calls that waited.
func (l *peerLink) dialFailed(op string, started time.Time, cause error) {
	p := l.peers
	now := p.clk.Now()
	err := l.dialError(op, now.Sub(started), cause)
	l.mu.Lock()
	l.mu.dialing, l.mu.probing = false, false
	closed := l.mu.closed
	if closed {
		err = ErrPeerClosed
	} else {
		l.openCircuitLocked(err)
	}
	calls := l.failQueueLocked(op, err, nil)
	l.mu.Unlock()
	if !closed {
		p.warn("cannot connect to node", l, err)
	}
	deliverAll(calls)
}

// dialError says that no connection could be made, and whether that was a refusal of Hello.
func (l *peerLink) dialError(op string, elapsed time.Duration, cause error) error {
	if errors.Is(cause, ErrPeerRefused) {
		return cause
	}
	return fmt.Errorf("%w: %s failed after %v: %w", ErrPeerDown, op, elapsed, cause)
}

func (l *peerLink) openCircuitLocked(cause error) {
	c := &l.mu.circuit
	if !c.open {
		l.peers.metrics.circuitOpen(l.node, l.class, 1)
	}
	c.fail(l.peers.clk.Now(), cause, l.peers.opts.jitter())
}

// dialer makes TCP connections, from local where that is given and fits: an address of loopback reaches only loopback.
func dialer(local netip.Addr) func(ctx context.Context, addr string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		var d net.Dialer // keep-alive and TCP_NODELAY are on by default
		if to, err := netip.ParseAddrPort(addr); err == nil && fits(local, to.Addr()) {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
		}
		return d.DialContext(ctx, "tcp", addr)
	}
}

// fits reports whether a connection to an address can leave from local.
func fits(local, to netip.Addr) bool {
	return local.IsValid() && local.IsLoopback() == to.IsLoopback() && local.Is4() == to.Is4()
}
