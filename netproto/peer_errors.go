package netproto

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrPeerDown: the peer cannot be reached: a dial failed, or the circuit is open because the last attempts did.
	ErrPeerDown = errors.New("peer down")
	// ErrPeerUnknown: there is no address for the node.
	ErrPeerUnknown = errors.New("peer unknown")
	// ErrPeerBusy: as many requests, or bytes of them, as are allowed are in flight to the peer in this class.
	ErrPeerBusy = errors.New("peer busy")
	// ErrPeerTimeout: no answer came in time.
	ErrPeerTimeout = errors.New("peer did not answer in time")
	// ErrPeerLost: the connection ended while the request was open.
	ErrPeerLost = errors.New("connection to peer lost")
	// ErrPeerClosed: Close was called.
	ErrPeerClosed = errors.New("peers closed")
	// ErrPeerRefused: Hello was refused, by us or by the peer: another cluster, another node, another protocol.
	ErrPeerRefused = errors.New("peer refused")
)

// PeerError says what became of a call that failed.
type PeerError struct {
	Node    int32
	Addr    string
	Class   Class
	Op      string // what it was at: resolve, queue, dial, write, response, ...
	Elapsed time.Duration
	Sent    bool // the request, or a part of it, was sent: it may have been executed
	Err     error
}

func (e *PeerError) Error() string {
	sent := "not sent"
	if e.Sent {
		sent = "sent"
	}
	return fmt.Sprintf("%s to node %d at %q (%v, request %s) after %v: %v", e.Op, e.Node, e.Addr, e.Class, sent, e.Elapsed, e.Err)
}

func (e *PeerError) Unwrap() error { return e.Err }
