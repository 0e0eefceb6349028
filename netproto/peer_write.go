package netproto

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// writeLoop is the writer goroutine: it gathers what is queued into one writev per wake.
func (c *peerConn) writeLoop() {
	for {
		select {
		case <-c.gone:
			return
		case <-c.wake:
		}
		for c.take() {
			err := c.write()
			c.wrote(err)
			if err != nil {
				c.link.lost(c, "write", err)
				return
			}
		}
	}
}

// take moves calls from the link's queue to the open ones. From here on they count as sent.
func (c *peerConn) take() bool {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.mu.closed {
		return false
	}
	var bytes int64
	for len(c.batch) < writeCallsMax {
		call := l.mu.queue.head
		if call == nil || bytes > 0 && bytes+call.size > writeGatherBytes {
			break
		}
		l.mu.queue.remove(call)
		call.state = callSent
		c.mu.open[call.id] = call
		c.mu.order.push(call)
		c.batch = append(c.batch, call)
		c.held = append(c.held, call.frame)
		c.bufs = append(c.bufs, call.frame.Bytes())
		call.frame = nil
		bytes += call.size
	}
	return len(c.batch) > 0
}

// write sends the batch. A peer that takes nothing for WriteTimeout is given up, unless it answers meanwhile.
func (c *peerConn) write() error {
	limit := c.link.peers.opts.WriteTimeout
	c.vec = c.bufs // WriteTo consumes it; bufs keeps the whole for clearing
	for {
		now := c.link.peers.clk.Now()
		if c.until.Sub(now) < limit-limit/4 {
			c.until = now.Add(limit)
			if err := c.nc.SetWriteDeadline(c.until); err != nil {
				return err
			}
		}
		n, err := c.vec.WriteTo(c.nc)
		if n > 0 {
			c.lastWrite.Store(int64(c.age()))
		}
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		last := max(c.lastWrite.Load(), c.lastRead.Load(), int64(now.Sub(c.start)))
		if idle := c.age() - time.Duration(last); n == 0 && idle >= limit {
			return fmt.Errorf("%w: it took nothing for %v, %d bytes are left to send", ErrPeerTimeout, idle, vecSize(c.vec))
		}
		c.until = time.Time{}
	}
}

func vecSize(vec [][]byte) (n int) {
	for _, b := range vec {
		n += len(b)
	}
	return n
}

// wrote gives the batch's memory back and notes when it was sent.
func (c *peerConn) wrote(err error) {
	for _, b := range c.held {
		b.Release()
	}
	clear(c.held)
	clear(c.bufs)
	c.held, c.bufs = c.held[:0], c.bufs[:0]
	l := c.link
	now := l.peers.clk.Now()
	l.mu.Lock()
	for _, call := range c.batch {
		call.sentAt = now
	}
	if err == nil && !c.mu.closed && c.mu.order.n > 0 {
		c.armLocked(now, l.peers.opts.ResponseTimeout)
	}
	l.mu.Unlock()
	clear(c.batch)
	c.batch = c.batch[:0]
}
