package segment

import (
	"container/list"
	"errors"

	"weir/internal/iobuf"
	"weir/internal/lockmeter"
)

// ErrReadMemory: the memory for ranges is taken by others, so that not even one batch could be read now. Share.Wait tells when to try again.
var ErrReadMemory = errors.New("memory for reads is in use")

const (
	// sharePart: a reader holds at most this part of what is free. With n readers that all take what they can, a part of
	// 1/(sharePart+n) of the budget is each one's and sharePart times that stays free, so that a newcomer always finds a share.
	sharePart = 8
	// copyBelow: a piece of at most this size that is a small part of its chunk is copied, so that it does not keep the chunk alive.
	copyBelow = 64 << 10
	copyPart  = 8
	// grantScanMax is how many waiting readers that do not fit are passed over for one that does.
	grantScanMax = 64
)

// readMemory bounds the memory that ranges keep alive: buffers of file reads and copies, by their whole size, and chunks of tails, each
// once however many ranges refer to it. A range that would exceed it is made smaller, down to one batch, and then not made at all.
//
// One batch always fits an empty budget, however large it is, as with the tail's.
//
// Followers of other nodes get what they ask for, as each has one answer under way, whose size is bounded; acknowledgements wait for them. A part of the
// budget is kept for them: it is not given to anybody else, and what they hold within it does not make others wait.
type readMemory struct {
	max     int64
	reserve int64 // of max, for followers
	metrics *Metrics
	mu      struct {
		lockmeter.Mutex
		used     int64
		followed int64     // what followers hold
		waiting  list.List // of *Share, first come first
	}
}

// Reader stands for whoever consumes ranges at a pace of his own, such as a connection: what he holds bounds what he gets.
type Reader struct {
	m        *readMemory
	follower bool
	held     int64 // guarded by m.mu
}

// NewReader makes a reader; it holds nothing and needs no closing.
func (s *Store) NewReader() *Reader { return &Reader{m: &s.memory} }

// NewFollowerReader is NewReader for another node that follows logs of this one.
func (s *Store) NewFollowerReader() *Reader { return &Reader{m: &s.memory, follower: true} }

// Share is one request's part in the memory for reads. Close ends it; ranges read through it stay valid.
type Share struct {
	r    *Reader
	need int64 // the least that would have done for a read that failed since Retry; 0: none failed

	// Guarded by r.m.mu.
	credit int64 // granted while waiting, not yet used
	wake   func()
	place  *list.Element
}

// Share begins a request of r.
func (r *Reader) Share() Share { return Share{r: r} }

// Starved reports whether a read through the share has failed with ErrReadMemory since Retry.
func (sh *Share) Starved() bool { return sh.need > 0 }

// Retry forgets the reads that failed.
func (sh *Share) Retry() { sh.need = 0 }

// lack notes that n bytes were not there.
func (sh *Share) lack(n int64) {
	if sh.need == 0 || n < sh.need {
		sh.need = n
	}
}

// Wait registers wake to be called, once and without locks, when there is memory for what a read lacked; that is then kept for
// this share until Close. false: there is some already, and wake will not be called.
func (sh *Share) Wait(wake func()) bool {
	m := sh.r.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.grantLocked(sh) {
		return false
	}
	m.metrics.ReadWaits.Inc()
	sh.wake = wake
	sh.place = m.mu.waiting.PushBack(sh)
	return true
}

// Close ends the waiting and gives back what was kept.
func (sh *Share) Close() {
	if sh.r == nil {
		return
	}
	m := sh.r.m
	m.mu.Lock()
	if sh.place != nil {
		m.mu.waiting.Remove(sh.place)
		sh.place = nil
	}
	n := sh.credit
	sh.credit = 0
	wakes := m.giveLocked(sh.r, n)
	m.mu.Unlock()
	callAll(wakes)
}

func callAll(fns []func()) {
	for _, fn := range fns {
		fn()
	}
}

// grantLocked keeps what sh needs for it, if there is room.
func (m *readMemory) grantLocked(sh *Share) bool {
	if !m.fitsLocked(sh.r, sh.need) {
		return false
	}
	sh.credit += sh.need
	m.addLocked(sh.r, sh.need)
	return true
}

// fitsLocked: a reader that holds nothing gets its first batch wherever there is room; more only within its part.
func (m *readMemory) fitsLocked(r *Reader, n int64) bool {
	free := m.freeLocked()
	switch {
	case m.mu.used == 0:
		return true
	case n > free:
		return false
	}
	return r.held == 0 || n <= free/sharePart-r.held
}

// freeLocked is what is left for those who are not followers.
func (m *readMemory) freeLocked() int64 {
	return m.max - m.reserve + min(m.mu.followed, m.reserve) - m.mu.used
}

// holdLocked notes that r, which may be nobody, holds n bytes more.
func (m *readMemory) holdLocked(r *Reader, n int64) {
	if r == nil {
		return
	}
	r.held += n
	if r.follower {
		m.mu.followed += n
	}
}

// bounded reports whether reads through sh are held to what is free.
func (sh *Share) bounded() bool { return sh != nil && !sh.r.follower }

func (m *readMemory) addLocked(r *Reader, n int64) {
	m.mu.used += n
	m.holdLocked(r, n)
	m.metrics.RangeBytes.Set(float64(m.mu.used))
}

// take gets memory for a read through sh: want bytes if that is within its part, else less, but not less than least. 0: not even that
// fits. A nil share is nobody's: it is counted and not bounded, and so is a follower's.
func (m *readMemory) take(sh *Share, least, want int64) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !sh.bounded() {
		var r *Reader
		if sh != nil {
			r = sh.r
		}
		m.addLocked(r, want)
		return want
	}
	least = max(least, min(want, sh.credit))
	m.useCreditLocked(sh)
	free := m.freeLocked()
	n := min(want, max(free, 0)/sharePart-sh.r.held)
	if n < least {
		if !m.fitsLocked(sh.r, least) {
			sh.lack(least)
			return 0
		}
		n = least
	}
	m.addLocked(sh.r, n)
	return n
}

// give returns memory and wakes who can go on with it.
func (m *readMemory) give(r *Reader, n int64) {
	if n == 0 {
		return
	}
	m.mu.Lock()
	wakes := m.giveLocked(r, n)
	m.mu.Unlock()
	callAll(wakes)
}

func (m *readMemory) giveLocked(r *Reader, n int64) (wakes []func()) {
	m.addLocked(r, -n)
	if m.mu.used < 0 || r != nil && r.held < 0 {
		panic("BUG: segment: more read memory given back than taken")
	}
	passed := 0
	for e := m.mu.waiting.Front(); e != nil && passed < grantScanMax; {
		sh := e.Value.(*Share)
		next := e.Next()
		if m.grantLocked(sh) {
			m.mu.waiting.Remove(e)
			sh.place = nil
			wakes = append(wakes, sh.wake)
		} else {
			passed++
		}
		e = next
	}
	return wakes
}

// inUse is what is taken.
func (m *readMemory) inUse() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.used
}

// chunk is a buffer of its own that a range, or a read that is still under way, keeps alive.
type chunk struct {
	m    *readMemory
	r    *Reader
	buf  *iobuf.Buf
	refs int32 // guarded by m.mu
}

// newChunk makes a chunk of n bytes, which the caller has taken from the budget as iobuf.Footprint(n).
func (m *readMemory) newChunk(sh *Share, n int) *chunk {
	c := &chunk{m: m, buf: iobuf.Get(n), refs: 1}
	if sh != nil {
		c.r = sh.r
	}
	return c
}

func (c *chunk) retain() {
	c.m.mu.Lock()
	c.refs++
	c.m.mu.Unlock()
}

func (c *chunk) release() {
	c.m.mu.Lock()
	c.refs--
	last := c.refs == 0
	c.m.mu.Unlock()
	if last {
		n := int64(c.buf.Cap())
		c.buf.Release()
		c.m.give(c.r, n)
	}
}
