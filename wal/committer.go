package wal

import (
	"crypto/rand"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"weir/internal/budget"
	"weir/internal/iobuf"
	"weir/internal/vfs"
	"weir/uring"
)

// committer owns the ring, every group and the newest file. It runs on one goroutine, which alone touches its fields.
//
// Its loop: take what was appended, turn it into groups and push them as far as the pipeline allows, let the ring work, report the
// completed prefix. It sleeps only inside the ring, and Append wakes it only if its entry lets a write start.
type committer struct {
	w    *WAL
	ring uring.Ring

	head, tail *Entry // appended, not in a group yet
	bytes      int64  // their frames
	since      time.Time
	closing    bool

	flight  [depthMax]*group // submitted and not reported, oldest first
	flights int
	load    load
	staged  *group // assembled, refused by the ring for now
	spare   []*group

	proof   prover
	file    *slot // nil before the first file of this generation
	pos     int64 // where the next group goes in file
	end     LSN   // where the log ends, what is in flight included
	durable LSN
	blocked bool // no file is free
	dirty   bool // something was committed since Start
	broken  bool // the ring itself
	poison  error

	failing []*Entry // reused to report entries that are in no group
}

func newCommitter(w *WAL, proof vfs.File) *committer {
	c := &committer{w: w, end: w.recovered, durable: w.recovered}
	c.load.init(&w.o)
	c.proof.file = proof
	c.proof.timer = time.AfterFunc(proofDelay, c.rung)
	c.proof.timer.Stop()
	return c
}

// newGeneration draws a generation that comes after old and that nobody can guess.
func newGeneration(old uint64) uint64 {
	var b [4]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	return (old>>32+1)<<32 | uint64(le.Uint32(b[:]))
}

// run is the committer's goroutine. The ring is made here, on the thread that will own it.
func (c *committer) run(ready chan<- error) {
	defer close(c.w.committer)
	o := c.w.o.Ring
	if c.w.o.LockThread {
		runtime.LockOSThread()
		if on := c.w.o.OnThread; on != nil {
			on() // what it changes must not come back to other goroutines: the thread stays locked and ends
		} else {
			defer runtime.UnlockOSThread()
		}
		o.Locked = true
	}
	ring, err := c.w.o.newRing(o)
	if err != nil {
		ready <- err
		return
	}
	c.ring = ring
	c.w.ring.Store(&ring)
	c.w.queue.start(ring.Wake)
	ready <- nil
	c.loop()
	c.proof.timer.Stop()
	c.w.ringErr = ring.Close()
}

func (c *committer) loop() {
	for {
		c.take()
		switch {
		case c.poison != nil && c.closing:
			return
		case c.broken:
			<-c.w.queue.closed
			continue
		case c.poison == nil:
			c.submit()
			if c.closing && c.finish() {
				return
			}
		}
		if err := c.ring.Wait(c.maySleep()); err != nil {
			c.broken = true
			c.fail(err)
		}
		c.report()
	}
}

// maySleep says whether there is nothing to do before the ring or the queue has news, and tells the queue what is news.
func (c *committer) maySleep() bool {
	wakeAt := int64(neverWake)
	pipeline := int64(c.w.o.PipelineBytes)
	switch {
	case c.poison != nil || c.blocked || c.staged != nil || c.flights == c.w.o.Depth || !c.roomy():
	case c.flights == 0:
		wakeAt = 1
	case c.bytes < pipeline:
		wakeAt = pipeline - c.bytes
	}
	return c.w.queue.sleep(wakeAt)
}

// finish ends a closing log, once nothing waits and nothing is in flight. An empty group proves that the last one before was
// durable. What waits for a file that nobody is making is failed.
func (c *committer) finish() bool {
	if c.poison == nil && c.blocked && c.flights == 0 && c.w.files.hopeless() {
		c.failWaiting(fmt.Errorf("%w: no file is free to write what is queued", ErrClosed))
	}
	if c.poison != nil || c.head != nil || c.staged != nil || c.flights > 0 {
		return false
	}
	if c.dirty = c.dirty && c.pos+blockBytes <= c.w.files.bytes; !c.dirty {
		return !c.prove()
	}
	c.dirty = false
	g := c.newGroup()
	c.fill(g, groupFrameBytes)
	c.push(g)
	return false
}

// take moves what was appended to the committer's own list.
func (c *committer) take() {
	t := c.w.queue.take()
	c.closing = c.closing || t.closing
	if t.head != nil {
		c.adopt(t)
	}
	if t.gaveUp && c.flights > 0 {
		c.fail(fmt.Errorf("%w: closing with the oldest write in flight for %s", uring.ErrDeadline, c.ring.OldestAge().Round(time.Millisecond)))
	}
}

// adopt puts entries behind those at hand.
func (c *committer) adopt(t taken) {
	if c.head == nil {
		c.head, c.since = t.head, t.since
	} else {
		c.tail.next = t.head
	}
	c.tail = t.tail
	c.bytes += t.bytes
}

// submit starts writes as far as the pipeline allows: at once when none is in flight, else when PipelineBytes wait for it.
func (c *committer) submit() {
	c.continueGroups()
	c.prove()
	for c.poison == nil && c.flights < c.w.o.Depth && c.roomy() {
		if c.staged != nil {
			if !c.push(c.staged) {
				return
			}
			continue
		}
		if c.head == nil || (c.flights > 0 && c.bytes < int64(c.w.o.PipelineBytes)) {
			return
		}
		if !c.placeFor(c.head.frameSize()) {
			return
		}
		if !c.push(c.assemble()) {
			return
		}
	}
}

// placeFor makes sure that a group with an entry of frame size n fits the current file, or begins a new one. False: not now.
func (c *committer) placeFor(n int) bool {
	if c.file != nil && c.pos+int64(padded(groupFrameBytes+n)) <= c.w.files.bytes {
		return c.pos > blockBytes || c.flights == 0
	}
	// The new file's header will state that everything before it is durable.
	if c.flights > 0 {
		return false
	}
	c.begin()
	return false
}

// begin makes a free slot the newest file and writes its header, alone: until that is durable, the header on disk is the slot's last
// one, and the file that was released before may still be named as needed by its successor. A group written over it
// now would look like damage to that file after a crash.
func (c *committer) begin() {
	h := fileHeader{generation: c.w.generation, fileBytes: c.w.files.bytes, prevEnd: c.end}
	h.seq = uint64(c.end-1)/uint64(h.fileBytes) + 1
	if h.seq == 1 {
		h.prevEnd = 0
	}
	s := c.w.files.take(h)
	if s == nil {
		c.block()
		return
	}
	c.blocked = false
	c.file, c.pos = s, 0
	g := c.newGroup()
	c.stage(g, blockBytes)
	s.header.put(g.data)
	c.w.files.kick()
	c.press()
	c.push(g)
}

// block notes, once, that the log has to wait for a free file.
func (c *committer) block() {
	if c.blocked {
		return
	}
	c.blocked = true
	c.w.files.kick()
	c.w.o.Metrics.blocked.Inc()
	c.w.stats.mu.Lock()
	c.w.stats.mu.Blocked++
	c.w.stats.mu.Unlock()
	c.press()
}

func (c *committer) press() {
	if oldest, scarce := c.w.files.pressure(); scarce {
		c.w.o.Metrics.pressure.Inc()
		c.w.o.OnPressure(oldest)
	}
}

// assemble makes one group of the entries at hand, as many as GroupBytesMax, the file and the device allow, at least one.
func (c *committer) assemble() *group {
	limit := c.w.files.bytes - c.pos
	limit = min(limit, int64(max(c.w.o.GroupBytesMax, 2*blockBytes)), c.load.room())
	size := groupFrameBytes
	g := c.newGroup()
	for e := c.head; e != nil; e = e.next {
		n := e.frameSize()
		if len(g.entries) > 0 && int64(padded(size+n)) > limit {
			break
		}
		g.entries = append(g.entries, e)
		size += n
	}
	c.fill(g, size)
	return g
}

// stage gives the group a buffer of total bytes and the next place in the file.
func (c *committer) stage(g *group, total int) {
	g.listed = true
	g.buf = iobuf.Get(total)
	g.op.File, g.data, g.off = c.file.file, g.buf.Bytes(), c.pos
	c.pos += int64(total)
	g.end = c.file.header.start() + LSN(c.pos)
	c.end = g.end
	c.w.end.Store(uint64(g.end))
}

// fill encodes the group of size bytes and takes its entries off the list.
func (c *committer) fill(g *group, size int) {
	start := c.file.header.start() + LSN(c.pos)
	c.stage(g, padded(size))
	b := g.data
	at := groupFrameBytes
	began := int64(budget.At(time.Now()))
	for _, e := range g.entries {
		e.LSN = start + LSN(at)
		atomic.StoreInt64(&e.began, began)
		n := copy(b[at+frameBytes:], e.Head)
		n += copy(b[at+frameBytes+n:], e.Body)
		putFrame(b[at:], frame{length: n, lsn: e.LSN, generation: c.w.generation, kind: e.Kind, headBytes: len(e.Head)})
		at += frameBytes + n
		g.payload += int64(n)
		g.bytes += int64(frameBytes + n)
	}
	clear(b[size:])
	putGroupFrame(b, groupHead{lsn: start, generation: c.w.generation, durable: c.durable, bytes: size, entries: len(g.entries)})
	if n := len(g.entries); n > 0 {
		c.head = g.entries[n-1].next
		c.bytes -= g.bytes
		if c.head == nil {
			c.tail = nil
		}
	}
}
