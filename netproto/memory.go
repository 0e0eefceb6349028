package netproto

import (
	"container/list"

	"weir/internal/iobuf"
	"weir/internal/lockmeter"
)

// requestMemory bounds the memory of all requests from the first byte of their frame to their answer (queued.max.request.bytes). A
// connection takes room for a frame before it reads on; without room it waits, by event, and TCP tells the client.
//
// A large frame takes room as its bytes arrive, so that a length which a stranger only announces costs others nothing. Frames that have
// begun go before new ones. Should all room be taken by frames that have begun and want more, none would ever end: so one of them at a time
// in each lane may go beyond the bound, which therefore is exceeded by at most one frame of each.
//
// There are two lanes: produce requests, which keep their memory for as long as the disk takes, and everything else, of which fetches keep theirs while they
// wait for data. Neither gets the last eighth, and each has its own order: producers that fill the memory of a stalled node hold up no metadata, no heartbeats and no
// fetches, and the other way round. One request of a lane always fits, however large.
type requestMemory struct {
	max     int64 // < 0: no bound
	metrics *Metrics
	mu      struct {
		lockmeter.Mutex
		used  int64
		lanes [laneCount]lane
	}
}

// lane is what the requests of one kind have taken, and those that wait for more.
type lane struct {
	used     int64
	begun    list.List // of *roomWait: frames that want more
	new      list.List // of *roomWait: frames that have not begun
	overdraw bool      // a frame is beyond the bound
}

const (
	laneOther = iota
	laneProduce
	laneCount
)

func laneOf(apiKey int16) uint8 {
	if apiKey == keyProduce {
		return laneProduce
	}
	return laneOther
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
	lane     uint8
	overdraw bool
}

// fitsLocked reports whether n bytes more may be taken in a lane. What another lane has beyond its own bound, with its one frame of any size, is not held against this one.
func (m *requestMemory) fitsLocked(l *lane, n int64) bool {
	if m.max < 0 || l.used == 0 {
		return true
	}
	most, all := m.max-m.max/laneReserve, l.used+n
	for i := range m.mu.lanes {
		if other := &m.mu.lanes[i]; other != l {
			all += min(other.used, most)
		}
	}
	return l.used+n <= most && all <= m.max
}

// laneReserve: one part in so many of the memory is not for one lane alone.
const laneReserve = 8

func (m *requestMemory) addLocked(h *room, n int64) {
	h.n += n
	m.mu.used += n
	m.mu.lanes[h.lane].used += n
	m.metrics.requestBytes.Set(float64(m.mu.used))
}

// try takes n bytes more for h, which is 0 for a frame that has not begun. If there is no room it returns a place among those that wait.
func (m *requestMemory) try(c *Conn, h *room, n int64) *roomWait {
	m.mu.Lock()
	defer m.mu.Unlock()
	begun, l := h.n > 0, &m.mu.lanes[h.lane]
	queue := &l.new
	if begun {
		queue = &l.begun
	}
	if h.overdraw || l.begun.Len()+queue.Len() == 0 && m.fitsLocked(l, n) {
		m.addLocked(h, n)
		return nil
	}
	if begun && !l.overdraw {
		l.overdraw, h.overdraw = true, true
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
	l := &m.mu.lanes[h.lane]
	m.mu.used -= h.n
	l.used -= h.n
	if l.used < 0 {
		m.mu.Unlock()
		panic("BUG: netproto: more request memory given back than taken")
	}
	m.metrics.requestBytes.Set(float64(m.mu.used))
	if h.overdraw {
		l.overdraw = false
	}
	wake := m.grantLocked()
	m.mu.Unlock()
	signalAll(wake)
}

// grantLocked lets in those who wait, in each lane in order, frames that have begun before others.
func (m *requestMemory) grantLocked() (wake []*Conn) {
	for i := range m.mu.lanes {
		l := &m.mu.lanes[i]
		for w := m.nextLocked(l); w != nil; w = m.nextLocked(l) {
			m.addLocked(w.held, w.n)
			w.in.Remove(w.at)
			w.in = nil
			wake = append(wake, w.conn)
		}
	}
	return wake
}

// nextLocked is the first that waits in the lane, nil if there is none or no room for it.
func (m *requestMemory) nextLocked(l *lane) *roomWait {
	queue := &l.begun
	if queue.Len() == 0 {
		queue = &l.new
	}
	e := queue.Front()
	if e == nil {
		return nil
	}
	w := e.Value.(*roomWait)
	switch {
	case m.fitsLocked(l, w.n):
	case queue == &l.new || l.overdraw:
		return nil
	default:
		l.overdraw, w.held.overdraw = true, true
	}
	return w
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
	began := c.srv.clk.Now()
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
	c.pausedSince(began)
	return nil
}

// giveRoom returns what the frame that is being read has taken: it will not become a request.
func (c *Conn) giveRoom() {
	c.srv.memory.give(c.frameRoom)
	c.frameRoom = room{}
}

// footprint is what a frame's own buffer of n bytes takes.
func footprint(n int) int { return iobuf.Footprint(n) }
