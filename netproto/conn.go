package netproto

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	"weir/internal/budget"
	"weir/internal/clock"
	"weir/internal/iobuf"
	"weir/internal/lockmeter"
)

// Conn is one client connection. The reader goroutine owns frames and lastClientID; whoever holds the writing flag owns
// the out field; mu guards the queue of requests.
type Conn struct {
	// State is the handler's, to be used in Handle and Closed only.
	State any

	srv    *Server
	nc     net.Conn
	id     uint64
	remote string // address and port
	host   string // address, for rate-limited logs

	frames       *frameReader
	frameRoom    room // taken for the frame that is being read
	lastClientID string
	lastRead     time.Time // when the last read returned
	paused       pauses    // in which the frame that is being read waited for room
	readUntil    time.Time // the read deadline that is armed
	readInFrame  bool      // it was armed for the inside of a frame

	out          output
	lastActivity atomic.Int64 // clock.Ticks of the last write, for the idle timeout

	peer atomic.Pointer[peerIdentity] // who said Hello; nil: a client, or nobody yet

	wake chan struct{} // wakes the writer goroutine
	room chan struct{} // wakes the reader that waits for requests in flight to end
	gone chan struct{} // closed when the connection is

	mu struct {
		lockmeter.Mutex
		head, tail  *Request // requests in order of arrival whose response is not yet taken by a writer
		inFlight    int
		bytes       int64
		handling    *Request // the reader is in Handle with it and will look at its answer afterwards
		writing     bool     // somebody is writing: it will see what becomes ready meanwhile
		writer      bool     // the writer goroutine runs
		waiting     bool     // the reader waits for room
		draining    bool     // read nothing more
		closed      bool
		closedCause error
	}
}

// ID numbers the connection uniquely within the server.
func (c *Conn) ID() uint64 { return c.id }

// RemoteAddr is the peer's address and port.
func (c *Conn) RemoteAddr() string { return c.remote }

// RemoteHost is the peer's address without the port.
func (c *Conn) RemoteHost() string { return c.host }

// LocalAddr is the address the peer connected to.
func (c *Conn) LocalAddr() net.Addr { return c.nc.LocalAddr() }

func newConn(s *Server, nc net.Conn, id uint64) *Conn {
	c := &Conn{
		srv: s, nc: nc, id: id, remote: nc.RemoteAddr().String(),
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	host, _, err := net.SplitHostPort(c.remote)
	if err != nil {
		host = c.remote
	}
	c.host = host
	c.mu.MeterBy(s.opts.Locks, lockmeter.Connection)
	c.frames = newFrameReader(deadlineReader{c}, s.opts.MaxFrameBytes)
	if _, nodes := s.opts.Handler.(*peerHandler); nodes {
		c.frames.max, c.frames.limit = min(c.frames.max, helloFrameBytesMax), "before Hello"
	}
	c.frames.take = c.takeRoom
	c.lastRead = s.clk.Now()
	c.lastActivity.Store(clock.Ticks(c.lastRead))
	return c
}

// serve runs the reader until the connection is gone.
func (c *Conn) serve() {
	err := c.readLoop()
	if errors.Is(err, errPeerClosed) || c.isClosed() {
		c.close(err)
	} else {
		c.closeInTurn(err)
		if !c.srv.isStopped() { // nobody sees the client go any more, and what it asked for may wait for days
			t := c.srv.clk.AfterFunc(c.srv.opts.WriteTimeout, func() { c.close(err) })
			defer t.Stop()
		}
		<-c.gone // earlier responses go out first; they end by their deadlines, or at the latest with the server
	}
	c.frames.close()
	c.srv.opts.Handler.Closed(c)
}

// readLoop reads and handles requests until the connection shall end, and says why.
func (c *Conn) readLoop() error {
	for {
		size, err := c.frames.size()
		if err != nil {
			return c.readError(err)
		}
		if err := c.waitForRoom(size); err != nil {
			return err
		}
		key, err := c.frames.apiKey()
		if err != nil {
			return c.readError(err)
		}
		c.frameRoom.lane = laneOf(key)
		frame, buf, err := c.frames.frame(size)
		if err != nil {
			c.giveRoom()
			return c.readError(err)
		}
		c.srv.metrics.bytesIn.Add(float64(sizeBytes + size))
		if err := c.handle(frame, buf); err != nil {
			return err
		}
	}
}

// handle parses the header and gives the request to the handler.
func (c *Conn) handle(frame []byte, buf *iobuf.Buf) error {
	r := &Request{Buf: buf, Conn: c, Received: c.lastRead, frameSize: len(frame), room: c.frameRoom}
	c.frameRoom = room{}
	if err := r.parseHeader(frame, c.lastClientID); err != nil {
		r.release()
		return err
	}
	c.lastClientID = r.ClientID
	if err := c.enqueue(r); err != nil {
		r.release()
		return err
	}
	c.paused.begin(r, c.srv.clk.Now())
	c.srv.opts.Handler.Handle(r)
	return c.afterHandle(r)
}

// readError turns an error of the stream into the connection's cause of closing.
func (c *Conn) readError(err error) error {
	switch {
	case c.isDraining():
		return ErrServerClosed
	case errors.Is(err, ErrFrameSize), errors.Is(err, ErrTruncated), errors.Is(err, ErrFrameStalled), errors.Is(err, ErrIdle):
		return err
	}
	return errPeerClosed // EOF, reset: ordinary ends; a reset inside a frame is no more the client's fault than one between
}

// deadlineReader reads from the connection with the deadline that fits: idle between frames, progress inside one. The deadline is
// moved only when a quarter of it is used up, so that a busy connection does not pay for it with each read.
type deadlineReader struct{ c *Conn }

func (d deadlineReader) Read(b []byte) (int, error) {
	c := d.c
	for {
		limit, inFrame := c.srv.opts.IdleTimeout, c.frames.partial()
		if inFrame {
			limit = c.srv.opts.ReadTimeout
		}
		if err := c.armRead(limit, inFrame); err != nil {
			return 0, err
		}
		n, err := c.nc.Read(b)
		c.lastRead = c.srv.clk.Now()
		if n > 0 || err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		switch {
		case c.isDraining():
			return 0, ErrServerClosed
		case inFrame:
			return 0, fmt.Errorf("%w: no byte for %v", ErrFrameStalled, limit)
		case c.idleFor() >= limit:
			return 0, fmt.Errorf("%w: nothing for %v (connections.max.idle.ms)", ErrIdle, limit)
		}
	}
}

func (c *Conn) armRead(limit time.Duration, inFrame bool) error {
	// Between frames the time of the last read will do: should the deadline come too early, because much time went by in Handle,
	// Read sees that the connection has not been idle so long. That saves a reading of the clock for each request.
	now := c.lastRead
	if inFrame {
		now = c.srv.clk.Now()
	}
	if inFrame == c.readInFrame && c.readUntil.Sub(now) > limit-limit/4 {
		return nil
	}
	c.readUntil, c.readInFrame = now.Add(limit), inFrame
	if err := c.nc.SetReadDeadline(c.readUntil); err != nil {
		return err
	}
	if c.isDraining() { // drain may have set its deadline just before ours
		return ErrServerClosed
	}
	return nil
}

// idleFor is how long the connection has had nothing to do; 0 while requests are open.
func (c *Conn) idleFor() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.inFlight > 0 {
		return 0
	}
	// A write is activity; so is a read, but a read that came would have ended the wait, and would have put the deadline off.
	return time.Duration(clock.Ticks(c.lastRead) - c.lastActivity.Load())
}

// drain makes the reader stop; the requests in flight are still answered.
func (c *Conn) drain() {
	c.mu.Lock()
	c.mu.draining = true
	c.mu.Unlock()
	signal(c.room)
	if err := c.nc.SetReadDeadline(time.Unix(1, 0)); err != nil {
		c.close(err)
	}
}

func (c *Conn) isDraining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.draining
}

func (c *Conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.closed
}

// reset closes the connection so that the peer sees a reset at once and nothing waits for unsent data.
func (c *Conn) reset(cause error) {
	if t, ok := c.nc.(interface{ SetLinger(int) error }); ok {
		_ = t.SetLinger(0) // fails only on a dead socket, which is what we want
	}
	c.close(cause)
}

// close ends the connection now and drops what was not written. Only the first call does something.
func (c *Conn) close(cause error) {
	c.mu.Lock()
	if c.mu.closed {
		c.mu.Unlock()
		return
	}
	c.mu.closed, c.mu.closedCause = true, cause
	dropped := c.mu.head
	c.mu.head, c.mu.tail = nil, nil
	var answered []*Request
	for r := dropped; r != nil; r = r.next {
		// Those still with the handler are released when it answers.
		if r.state == stateAnswered {
			r.state = stateDone
			answered = append(answered, r)
		}
	}
	c.mu.Unlock()
	for _, r := range answered {
		c.forget(r)
	}
	_ = c.nc.Close() // an error leaves nothing to do: the descriptor is gone
	c.srv.connClosed(c, cause)
	close(c.gone)
	signal(c.room)
}

// forget releases a request that will not be written.
func (c *Conn) forget(r *Request) {
	if r.frameSize > 0 {
		c.srv.metrics.inFlight.Dec()
		r.dropped = true
		r.Budget.Lap(budget.RespondQueue, budget.At(c.srv.clk.Now()))
		r.account()
	}
	r.release()
}

// logAttrs describe the connection in a log line.
func (c *Conn) logAttrs(err error) []slog.Attr {
	return []slog.Attr{slog.String("error", err.Error()), slog.String("remote", c.remote), slog.Uint64("connection", c.id)}
}

// signal wakes whoever waits on ch, or will.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
