package netproto

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"weir/internal/budget"
	"weir/internal/iobuf"
)

// callState is where a call stands; peerLink.mu guards it.
type callState uint8

const (
	callNew    callState = iota // has room, is not yet submitted
	callQueued                  // waits for the writer, or for a connection
	callSent                    // the writer has taken it: it counts as sent
	callEnded                   // answered, failed, or given up before it was sent
)

// peerCall is one request to a peer. It has exactly one outcome, which is decided under the link's lock and delivered without it.
type peerCall struct {
	link     *peerLink
	key      int16
	version  int16
	id       int32 // correlation id
	size     int64 // of its frame, as it counts against MaxInFlightBytes
	started  time.Time
	deadline time.Time                  // the caller's; zero: none
	done     func(*PeerResponse, error) // nil: somebody waits for ended
	ended    chan struct{}              // closed when the outcome is there
	trace    *budget.Trace              // what it carries; nil: none

	// Under the link's lock. After decided, resp and err do not change.
	frame      *iobuf.Buf // the encoded request, until the writer takes it
	state      callState
	decided    bool
	resp       PeerResponse
	err        error
	sentAt     time.Time   // when its last byte was handed to the system; zero: not yet
	stop       func() bool // ends the watch of ctx
	prev, next *peerCall   // in link.queue or conn.open
}

// callList is a list of calls in order.
type callList struct {
	head, tail *peerCall
	n          int
}

func (l *callList) push(c *peerCall) {
	c.prev, c.next = l.tail, nil
	if l.tail == nil {
		l.head = c
	} else {
		l.tail.next = c
	}
	l.tail = c
	l.n++
}

func (l *callList) remove(c *peerCall) {
	if c.prev == nil {
		l.head = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		l.tail = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
	l.n--
}

// requestFrameSize is how long the frame of a request is.
func requestFrameSize(key, version int16, clientID string, body ...[]byte) int {
	return tracedFrameSize(nil, key, version, clientID, body...)
}

// tracedFrameSize is that of a request that may carry a trace, where its header has a place for it.
func tracedFrameSize(trace *budget.Trace, key, version int16, clientID string, body ...[]byte) int {
	n := sizeBytes + headerBytesMin
	for _, piece := range body {
		n += len(piece)
	}
	if infoFor(key) != nil {
		n += 2 + len(clientID)
		if flexibleRequest(key, version) {
			n += tagBytes(trace)
		}
	}
	return n
}

// encodeRequest writes a request frame into b, which has the right size. A private API's header ends with the correlation id.
func encodeRequest(b []byte, key, version int16, id int32, clientID string, body ...[]byte) {
	encodeTraced(b, nil, key, version, id, clientID, body...)
}

// encodeTraced is encodeRequest for a frame of tracedFrameSize.
func encodeTraced(b []byte, trace *budget.Trace, key, version int16, id int32, clientID string, body ...[]byte) {
	binary.BigEndian.PutUint32(b, uint32(len(b)-sizeBytes))
	w := b[:sizeBytes]
	w = appendInt16(w, key)
	w = appendInt16(w, version)
	w = appendInt32(w, id)
	if infoFor(key) != nil {
		w = appendString(w, false, clientID)
		if flexibleRequest(key, version) {
			w = appendTags(w, trace)
		}
	}
	for _, piece := range body {
		w = append(w, piece...)
	}
	if len(w) != len(b) {
		panic(fmt.Sprintf("BUG: netproto: request of %d bytes encoded as %d", len(b), len(w)))
	}
}

// responseBody strips the rest of the response header.
func responseBody(key, version int16, rest []byte) ([]byte, error) {
	if !flexibleResponse(key, version) {
		return rest, nil
	}
	d := decoder{buf: rest}
	d.skipTags("response header")
	if d.err != nil {
		return nil, fmt.Errorf("response to %s v%d: %w", APIName(key), version, d.err)
	}
	return d.rest(), nil
}

// encode makes the frame of a call.
func (c *peerCall) encode(clientID string, body [][]byte) {
	c.frame = iobuf.Get(int(c.size))
	encodeTraced(c.frame.Bytes(), c.trace, c.key, c.version, c.id, clientID, body...)
}

// dropFrameLocked gives the frame back if the writer has not taken it.
func (c *peerCall) dropFrameLocked() {
	if c.frame != nil {
		c.frame.Release()
		c.frame = nil
	}
}

// deliver hands the outcome over. It is called once, by whoever decided it, without locks.
func (c *peerCall) deliver() {
	if c.stop != nil {
		c.stop()
	}
	p := c.link.peers
	if c.err != nil {
		p.metrics.failed(c.link.class, c.err)
	} else {
		p.metrics.answered(c.link.class, p.clk.Now().Sub(c.started))
	}
	if c.done == nil {
		close(c.ended)
		return
	}
	c.done(c.outcome())
}

// outcome is what the caller gets. The call was delivered.
func (c *peerCall) outcome() (*PeerResponse, error) {
	if c.err != nil {
		return nil, c.err
	}
	return &c.resp, nil
}

// ctxError is the error of a call whose context has ended.
func ctxError(ctx context.Context) error {
	if err := ctx.Err(); !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the caller gave up: %w", err)
	}
	return fmt.Errorf("%w: %w", ErrPeerTimeout, ctx.Err())
}

// roomWaiter is a call that waits for room in flight.
type roomWaiter struct {
	size    int64
	granted chan error // one value: nil with the room taken, or why there will be none
}
