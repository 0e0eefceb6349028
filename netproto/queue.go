package netproto

import (
	"fmt"
	"time"

	"weir/internal/budget"
)

// inlineBytesMax is the largest response the reader writes itself; a larger one could block it while the peer is slow to take it.
const inlineBytesMax = 64 << 10

// waitForRoom blocks until a frame of size bytes may be taken: the bound on requests in flight, and on their bytes. One
// request always may, however large.
func (c *Conn) waitForRoom(size int) error {
	var began time.Time
	for {
		c.mu.Lock()
		switch {
		case c.mu.closed:
			c.mu.Unlock()
			return errPeerClosed
		case c.mu.draining:
			c.mu.Unlock()
			return ErrServerClosed
		case c.mu.inFlight == 0,
			c.mu.inFlight < c.srv.opts.MaxInFlight && c.mu.bytes+int64(size) <= c.srv.opts.MaxInFlightBytes:
			c.mu.waiting = false
			c.mu.Unlock()
			c.pausedSince(began)
			return nil
		}
		c.mu.waiting = true
		c.mu.Unlock()
		if began.IsZero() {
			began = c.srv.clk.Now()
			c.srv.metrics.stalls.Inc()
		}
		<-c.room
	}
}

// enqueue takes a request into the order of answers and marks it as being handled by the reader.
func (c *Conn) enqueue(r *Request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		return errPeerClosed
	}
	c.pushLocked(r)
	c.mu.inFlight++
	c.mu.bytes += int64(r.frameSize)
	c.mu.handling = r
	c.srv.metrics.inFlight.Inc()
	return nil
}

func (c *Conn) pushLocked(r *Request) {
	if c.mu.tail == nil {
		c.mu.head = r
	} else {
		c.mu.tail.next = r
	}
	c.mu.tail = r
}

// answer records a request's answer and wakes the writer if its turn has come. It is safe from any goroutine.
func (c *Conn) answer(r *Request, p *Payload, closing error) {
	now := c.srv.clk.Now()
	r.Budget.Lap(budget.Handle, budget.At(now))
	c.mu.Lock()
	if r.state != statePending {
		c.mu.Unlock()
		panic(fmt.Sprintf("BUG: netproto: %v answered twice", r))
	}
	if c.mu.closed {
		r.state, r.payload = stateDone, p
		c.mu.Unlock()
		c.forget(r)
		return
	}
	r.state, r.payload, r.closing = stateAnswered, p, closing
	if closing != nil {
		c.mu.draining = true // what the peer sends after it is not looked at
	}
	if c.srv.opts.AnyOrder && closing == nil {
		c.advanceLocked(r)
	}
	wake := c.mu.head == r && c.mu.handling != r && !c.mu.writing
	if wake {
		c.ensureWriterLocked()
	}
	c.mu.Unlock()
	if wake {
		signal(c.wake)
	}
}

// advanceLocked lets an answered request go before those that wait, behind those that were answered before it.
func (c *Conn) advanceLocked(r *Request) {
	var ahead *Request
	first := c.mu.head // of those that wait
	for first != r && first.state == stateAnswered {
		ahead, first = first, first.next
	}
	if first == r {
		return
	}
	prev := first
	for prev.next != r {
		prev = prev.next
	}
	if prev.next = r.next; prev.next == nil {
		c.mu.tail = prev
	}
	if r.next = first; ahead == nil {
		c.mu.head = r
	} else {
		ahead.next = r
	}
}

// afterHandle writes what the handler answered at once: the reader does it itself where that is cheap, and leaves it to the writer
// where more requests wait to be read or the peer could make the reader wait.
func (c *Conn) afterHandle(r *Request) error {
	c.mu.Lock()
	c.mu.handling = nil
	if c.mu.closed {
		c.mu.Unlock()
		return errPeerClosed
	}
	if c.mu.writing || c.mu.head == nil || c.mu.head.state != stateAnswered {
		draining := c.mu.draining
		c.mu.Unlock()
		return c.stopIf(draining)
	}
	inline := c.mu.head == r && c.mu.tail == r && !c.frames.buffered() &&
		(r.payload == nil || r.payload.frameSize() <= inlineBytesMax)
	if !inline {
		c.ensureWriterLocked()
		draining := c.mu.draining
		c.mu.Unlock()
		signal(c.wake)
		return c.stopIf(draining)
	}
	c.mu.writing = true
	c.mu.Unlock()
	c.writeReady(1)
	return c.stopIf(c.isDraining())
}

// stopIf ends the read loop of a draining connection.
func (c *Conn) stopIf(draining bool) error {
	if draining {
		return ErrServerClosed
	}
	return nil
}

// closeInTurn closes the connection once the requests before have been answered.
func (c *Conn) closeInTurn(cause error) {
	c.mu.Lock()
	if c.mu.closed {
		c.mu.Unlock()
		return
	}
	r := &Request{Conn: c, state: stateAnswered, closing: cause, APIKey: -1}
	c.pushLocked(r)
	wake := c.mu.head == r && !c.mu.writing
	if wake {
		c.ensureWriterLocked()
	}
	c.mu.Unlock()
	if wake {
		signal(c.wake)
	}
}
