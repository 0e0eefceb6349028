package wal

import (
	"fmt"
	"time"

	"weir/internal/iobuf"
	"weir/uring"
)

// group is one write, or several legs where the device is slow (load.go). Its op and buffer belong to the ring from Push to Released, its entries
// to the committer until they are reported; it is used again when both are over. A group stuck in the kernel is therefore never touched.
type group struct {
	c         *committer
	op        uring.Op
	buf       *iobuf.Buf
	data      []byte // of buf, to be written at off of op.File
	off       int64
	wrote     int // of data, by legs that have completed
	entries   []*Entry
	bytes     int64 // frames of the entries
	payload   int64 // their heads and bodies
	end       LSN
	submitted time.Time // the first leg
	leg       leg
	done      bool
	err       error
	held      bool // by the ring
	listed    bool // in flight or staged: not reported yet
}

func (c *committer) newGroup() *group {
	if n := len(c.spare); n > 0 {
		g := c.spare[n-1]
		c.spare = c.spare[:n-1]
		return g
	}
	g := &group{c: c}
	g.op.Kind = uring.OpWrite
	g.op.Timeout = c.w.o.WriteTimeout
	return g
}

// Two functions for all groups: the group is found through Op.Ctx.
func groupDone(op *uring.Op, n int, err error) { op.Ctx.(*group).completed(n, err) }
func groupReleased(op *uring.Op)               { op.Ctx.(*group).released() }

// push hands a group to the ring. False: the ring refused it. That it is full or the disk is stalled passes, or a deadline strikes;
// anything else poisons the log.
func (c *committer) push(g *group) bool {
	now := c.w.o.now()
	if c.flights == 0 {
		c.load.rested(now)
	}
	if err := c.pushLeg(g, now); err != nil {
		c.staged = g
		if c.flights == 0 || !passes(err) {
			c.fail(err)
		}
		return false
	}
	c.staged = nil
	g.submitted = now
	c.flight[c.flights] = g
	c.flights++
	m := c.w.o.Metrics
	if len(g.entries) > 0 {
		m.queueWait.Observe(now.Sub(c.since).Seconds())
		c.since = now // of what is left on the list: close enough, it came while this group waited
	}
	m.groupBytes.Observe(float64(len(g.data)))
	return true
}

func (g *group) completed(n int, err error) {
	if err == nil && n != len(g.op.Buf) {
		err = fmt.Errorf("wrote %d bytes of %d at %d of %s", n, len(g.op.Buf), g.op.Off, g.op.File.Name())
	}
	now := g.c.w.o.now()
	g.c.load.landed(&g.leg, now, err)
	g.wrote += n
	if err == nil && g.wrote < len(g.data) {
		return // continueGroups writes the rest
	}
	g.done, g.err = true, err
	g.c.w.o.Metrics.write.Observe(now.Sub(g.submitted).Seconds())
}

// released is called when the kernel no longer holds the buffer: with the completion, or long after a deadline.
func (g *group) released() {
	g.held = false
	g.recycle()
}

// reported ends the group's time on the committer's lists.
func (g *group) reported() {
	clear(g.entries)
	g.entries = g.entries[:0]
	g.listed = false
	g.recycle()
}

func (g *group) recycle() {
	if g.held || g.listed {
		return
	}
	g.buf.Release()
	g.buf = nil
	g.done, g.err, g.bytes, g.payload = false, nil, 0, 0
	g.op.File, g.op.Buf, g.data, g.wrote = nil, nil, nil, 0
	g.c.spare = append(g.c.spare, g)
}

// report acknowledges the contiguous prefix of completed groups, in order. A failed one poisons the log.
func (c *committer) report() {
	if c.poison != nil {
		return
	}
	for c.flights > 0 && c.flight[0].done && c.flight[0].err == nil {
		g := c.flight[0]
		c.unlist()
		c.durable = g.end
		c.w.durable.Store(uint64(g.end))
		c.account(g)
		if len(g.entries) > 0 {
			c.dirty = true
			c.w.o.OnCommit(g.entries, nil)
		}
		c.w.queue.reported(g.bytes)
		g.reported()
	}
	for _, g := range c.flight[:c.flights] {
		if g.err != nil {
			c.fail(g.err)
			return
		}
	}
}

// unlist takes the oldest group off the flight list.
func (c *committer) unlist() {
	copy(c.flight[:], c.flight[1:c.flights])
	c.flights--
	c.flight[c.flights] = nil
}

func (c *committer) account(g *group) {
	m := c.w.o.Metrics
	header := g.off == 0
	if !header {
		m.groups.Inc()
	}
	m.entries.Add(float64(len(g.entries)))
	m.bytes.Add(float64(g.payload))
	m.deviceBytes.Add(float64(len(g.data)))
	s := &c.w.stats.mu
	s.Lock()
	if !header {
		s.Groups++
	}
	s.Entries += uint64(len(g.entries))
	s.Bytes += uint64(g.payload)
	s.DeviceBytes += uint64(len(g.data))
	s.Unlock()
}

// fail poisons the log: nothing is written any more, and all that was not reported fails, in order, exactly once. Entries
// of groups that the disk may still be busy with are reported, too; their memory is the group's copy, which waits for the ring.
func (c *committer) fail(cause error) {
	if c.poison != nil {
		return
	}
	c.w.queue.setPoisoned(cause)
	c.poison = c.w.queue.poison()
	c.w.o.Metrics.poisoned.Set(1)
	c.w.o.Logger.Error("wal: poisoned, nothing more is accepted", "dir", c.w.o.Dir, "durable", c.durable, "end", c.end,
		"in_flight", c.flights, "error", cause)
	c.w.o.OnPoison(c.poison)
	for c.flights > 0 {
		g := c.flight[0]
		c.unlist()
		c.failGroup(g)
	}
	if g := c.staged; g != nil {
		c.staged = nil
		c.failGroup(g)
	}
	c.take()
	c.failWaiting(c.poison)
}

func (c *committer) failGroup(g *group) {
	if len(g.entries) > 0 {
		c.w.o.OnCommit(g.entries, c.poison)
	}
	c.w.queue.reported(g.bytes)
	g.reported()
}

// failWaiting reports the entries that are in no group.
func (c *committer) failWaiting(err error) {
	for c.head != nil {
		c.failing = c.failing[:0]
		bytes := int64(0)
		for e := c.head; e != nil && len(c.failing) < 1024; e = e.next {
			c.failing = append(c.failing, e)
			bytes += int64(e.frameSize())
		}
		c.head = c.failing[len(c.failing)-1].next
		c.bytes -= bytes
		c.w.o.OnCommit(c.failing, err)
		c.w.queue.reported(bytes)
	}
	c.tail = nil
	clear(c.failing)
}
