package netproto

import (
	"container/list"
	"sync"

	"weir/internal/iobuf"
)

// requestMemory bounds the memory of all requests from the first byte of their frame to their answer (queued.max.request.bytes). A
// connection takes room for a frame before it reads on; without room it waits, by event, and TCP tells the client.
//
// A large frame takes room as its bytes arrive, so that a length which a stranger only announces costs others nothing. Frames that have
// begun go before new ones. Should all room be taken by frames that have begun and want more, none would ever end: so one of them at a time
// may go beyond the bound, which therefore is exceeded by at most one frame.
type requestMemory struct {
	max     int64 // < 0: no bound
	metrics *Metrics
	mu      struct {
		sync.Mutex
		used     int64
		begun    list.List // of *roomWait: frames that want more
		new      list.List // of *roomWait: frames that have not begun
		overdraw bool      // a frame is beyond the bound
	}
}

// roomWait is a connection's place among those that wait. Its reader has one at a time.
type roomWait struct {
	conn *Conn
	held *room
	n    int64
	in   *list.List // nil: granted
	at   *list.Element
}

// room is what one request has taken.
type room struct {
	n        int64
	overdraw bool
}

func (m *requestMemory) fitsLocked(n int64) bool {
	return m.max < 0 || m.mu.used+n <= m.max || m.mu.used == 0
}

func (m *requestMemory) addLocked(h *room, n int64) {
	h.n += n
	m.mu.used += n
	m.metrics.requestBytes.Set(float64(m.mu.used))
}

// try takes n bytes more for h, which is 0 for a frame that has not begun. If there is no room it returns a place among those that wait.
func (m *requestMemory) try(c *Conn, h *room, n int64) *roomWait {
	m.mu.Lock()
	defer m.mu.Unlock()
	begun := h.n > 0
	queue := &m.mu.new
	if begun {
		queue = &m.mu.begun
	}
	if h.overdraw || m.mu.begun.Len()+queue.Len() == 0 && m.fitsLocked(n) {
		m.addLocked(h, n)
		return nil
	}
	if begun && !m.mu.overdraw {
		m.mu.overdraw, h.overdraw = true, true
		m.addLocked(h, n)
		return nil
	}
	m.metrics.requestWaits.Inc()
	w := &roomWait{conn: c, held: h, n: n, in: queue}
	w.at = queue.PushBack(w)
	return w
}

// granted reports whether the wait is over.
func (m *requestMemory) granted(w *roomWait) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return w.in == nil
}

// leave ends a wait that has become pointless. What was granted meanwhile is part of the room.
func (m *requestMemory) leave(w *roomWait) {
	m.mu.Lock()
	if w.in != nil {
		w.in.Remove(w.at)
		w.in = nil
	}
	wake := m.grantLocked()
	m.mu.Unlock()
	signalAll(wake)
}

// give returns a request's room and lets in who waits for it.
func (m *requestMemory) give(h room) {
	if h.n == 0 {
		return
	}
	m.mu.Lock()
	m.mu.used -= h.n
	if m.mu.used < 0 {
		m.mu.Unlock()
		panic("BUG: netproto: more request memory given back than taken")
	}
	m.metrics.requestBytes.Set(float64(m.mu.used))
	if h.overdraw {
		m.mu.overdraw = false
	}
	wake := m.grantLocked()
	m.mu.Unlock()
	signalAll(wake)
}

// grantLocked lets in those who wait, in order, frames that have begun before others.
func (m *requestMemory) grantLocked() (wake []*Conn) {
	for {
		queue := &m.mu.begun
		if queue.Len() == 0 {
			queue = &m.mu.new
		}
		e := queue.Front()
		if e == nil {
			return wake
		}
		w := e.Value.(*roomWait)
		if !m.fitsLocked(w.n) {
			if queue == &m.mu.new || m.mu.overdraw {
				return wake
			}
			m.mu.overdraw, w.held.overdraw = true, true
		}
		m.addLocked(w.held, w.n)
		queue.Remove(e)
		w.in = nil
		wake = append(wake, w.conn)
	}
}

func signalAll(conns []*Conn) {
	for _, c := range conns {
		signal(c.room)
	}
}

// takeRoom takes memory for the frame that is being read, and waits while there is none.
func (c *Conn) takeRoom(n int) error {
	m := &c.srv.memory
	w := m.try(c, &c.frameRoom, int64(n))
	if w == nil {
		return nil
	}
	for !m.granted(w) {
		c.mu.Lock()
		closed, draining := c.mu.closed, c.mu.draining
		c.mu.Unlock()
		if closed || draining {
			m.leave(w)
			if closed {
				return errPeerClosed
			}
			return ErrServerClosed
		}
		<-c.room
	}
	return nil
}

// giveRoom returns what the frame that is being read has taken: it will not become a request.
func (c *Conn) giveRoom() {
	c.srv.memory.give(c.frameRoom)
	c.frameRoom = room{}
}

// footprint is what a frame's own buffer of n bytes takes.
func footprint(n int) int { return iobuf.Footprint(n) }
