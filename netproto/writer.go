package netproto

import (
	"fmt"
	"net"
	"time"

	"weir/internal/budget"

	"weir/internal/clock"
)

const (
	// writeBytesMax is how much one write carries at most: the write deadline is for that much, so that a slow peer is one that does
	// not take writeBytesMax within WriteTimeout, however large the response.
	writeBytesMax = 1 << 20
	// writePiecesMax is how many pieces one writev takes (IOV_MAX is 1024).
	writePiecesMax = 512
	// batchRequestsMax bounds how many responses are taken at once.
	batchRequestsMax = 128
	// outputKept is how many slots of the scratch slices survive between writes.
	outputKept = 1024
)

// output is what the current writer works with. It belongs to whoever holds Conn.mu.writing.
type output struct {
	batch  []*Request
	pieces [][]byte
	bufs   [][]byte
	vec    net.Buffers
	until  time.Time // the write deadline that is armed
}

// ensureWriterLocked starts the writer goroutine if it is not running.
func (c *Conn) ensureWriterLocked() {
	if !c.mu.writer {
		c.mu.writer = true
		c.srv.wg.Add(1)
		go c.writeLoop()
	}
}

// writeLoop is the writer goroutine: it sleeps until a response is ready.
func (c *Conn) writeLoop() {
	defer c.srv.wg.Done()
	for {
		select {
		case <-c.gone:
			return
		case <-c.wake:
		}
		c.mu.Lock()
		free := !c.mu.writing && !c.mu.closed
		if free {
			c.mu.writing = true
		}
		c.mu.Unlock()
		if free {
			c.writeReady(0)
		}
	}
}

// writeReady writes the responses whose turn has come, until there are none or after the given number of rounds (0: no
// bound), when it leaves the rest to the writer goroutine. The caller has set the writing flag; it is cleared on return.
func (c *Conn) writeReady(rounds int) {
	for round := 1; ; round++ {
		batch := c.takeReady()
		if len(batch) == 0 {
			return
		}
		cause := c.writeBatch(batch)
		c.finishBatch(batch)
		if cause != nil {
			c.close(cause)
			c.dropWriting()
			return
		}
		if round == rounds {
			c.handOver()
			return
		}
	}
}

// takeReady takes the consecutive answered requests off the queue. If there are none it clears the writing flag.
func (c *Conn) takeReady() []*Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	batch := c.out.batch[:0]
	for r := c.mu.head; r != nil && r.state == stateAnswered && len(batch) < batchRequestsMax; r = r.next {
		batch = append(batch, r)
		if r.closing != nil {
			break
		}
	}
	if len(batch) == 0 || c.mu.closed {
		c.mu.writing = false
		return nil
	}
	last := batch[len(batch)-1]
	if c.mu.head = last.next; c.mu.head == nil {
		c.mu.tail = nil
	}
	for _, r := range batch {
		r.next = nil
		r.state = stateDone
	}
	c.out.batch = batch
	return batch
}

// writeBatch sends the responses and returns why the connection must end, if it must.
func (c *Conn) writeBatch(batch []*Request) error {
	start := c.srv.clk.Now()
	var closing error
	pieces := c.out.pieces[:0]
	for _, r := range batch {
		if r.payload != nil {
			pieces = r.payload.appendBuffers(pieces)
		}
		if r.closing != nil {
			closing = r.closing
			if r.frameSize > 0 {
				closing = fmt.Errorf("%w; request: %v", r.closing, r)
			}
		}
	}
	err := c.send(pieces, start)
	clear(pieces)
	c.out.pieces = pieces[:0]
	if cap(pieces) > outputKept {
		c.out.pieces = nil
	}
	end := c.srv.clk.Now()
	c.lastActivity.Store(clock.Ticks(end))
	for _, r := range batch {
		if r.frameSize > 0 {
			r.written(budget.At(start), budget.At(end))
		}
	}
	if err != nil {
		return err
	}
	return closing
}

// send writes pieces in order, at most writeBytesMax and writePiecesMax in one system call.
func (c *Conn) send(pieces [][]byte, now time.Time) error {
	bufs, size := c.out.bufs[:0], 0
	defer func() {
		clear(bufs)
		c.out.bufs = bufs[:0]
	}()
	for _, b := range pieces {
		for len(b) > 0 {
			n := min(len(b), writeBytesMax-size)
			bufs, size = append(bufs, b[:n]), size+n
			b = b[n:]
			if size == writeBytesMax || len(bufs) == writePiecesMax {
				if err := c.flush(bufs, size, now); err != nil {
					return err
				}
				now = c.srv.clk.Now()
				bufs, size = bufs[:0], 0
			}
		}
	}
	if size == 0 {
		return nil
	}
	return c.flush(bufs, size, now)
}

// flush writes bufs before the write deadline.
func (c *Conn) flush(bufs [][]byte, size int, now time.Time) error {
	limit := c.srv.opts.WriteTimeout
	if c.out.until.Sub(now) < limit-limit/4 {
		c.out.until = now.Add(limit)
		if err := c.nc.SetWriteDeadline(c.out.until); err != nil {
			return fmt.Errorf("%w: %w", ErrWrite, err)
		}
	}
	var n int64
	var err error
	if len(bufs) == 1 {
		var m int
		m, err = c.nc.Write(bufs[0])
		n = int64(m)
	} else {
		c.out.vec = bufs // in the connection, because WriteTo would move a local one to the heap
		n, err = c.out.vec.WriteTo(c.nc)
		c.out.vec = nil
	}
	c.srv.metrics.writes.Inc()
	c.srv.metrics.bytesOut.Add(float64(n))
	if err != nil {
		return fmt.Errorf("%w: %d of %d bytes written within %v: %w", ErrWrite, n, size, limit, err)
	}
	return nil
}

// finishBatch releases what was written and makes room for the reader.
func (c *Conn) finishBatch(batch []*Request) {
	count, bytes := 0, 0
	for _, r := range batch {
		if r.frameSize > 0 {
			count++
			bytes += r.frameSize
		}
		r.release()
	}
	clear(batch)
	c.srv.metrics.inFlight.Sub(float64(count))
	c.mu.Lock()
	c.mu.inFlight -= count
	c.mu.bytes -= int64(bytes)
	waiting := c.mu.waiting
	c.mu.Unlock()
	if waiting {
		signal(c.room)
	}
}

// handOver clears the writing flag and leaves what is ready to the writer goroutine.
func (c *Conn) handOver() {
	c.mu.Lock()
	c.mu.writing = false
	more := c.mu.head != nil && c.mu.head.state == stateAnswered && !c.mu.closed
	if more {
		c.ensureWriterLocked()
	}
	c.mu.Unlock()
	if more {
		signal(c.wake)
	}
}

func (c *Conn) dropWriting() {
	c.mu.Lock()
	c.mu.writing = false
	c.mu.Unlock()
}
