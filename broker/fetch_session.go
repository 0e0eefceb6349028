package broker

import (
	"math"
	"math/rand/v2"
	"time"

	"weir/internal/clock"
	"weir/internal/lockmeter"
)

// Fetch sessions (KIP-227): a client that fetches again and again names only what changed since its last request, and is
// told only what changed since its last response. The cache is bounded by
// max.incremental.fetch.session.cache.slots; without a slot a client gets session id 0 and sends whole requests.

const (
	sessionEpochInitial = 0  // make a new session
	sessionEpochFinal   = -1 // no session, and close the one named
	// sessionEvictAfter: a session that was used, and made, more recently than this is not evicted for a new one.
	sessionEvictAfter = 2 * time.Minute
)

// partKey names a partition in a session: by topic id from Fetch v13 on, by name before.
type partKey struct {
	name      string
	id        [16]byte
	partition int32
}

// fetchPart is one partition that a fetch asks for, and what its client was last told about it.
type fetchPart struct {
	partKey
	offset      int64
	maxBytes    int32
	leaderEpoch int32 // the client's idea of it, -1: none

	// For incremental responses: told to the client last; -1 before the first.
	highWatermark, logStart int64
}

// fetchSession is the state of one client's fetches. Its lock is held while a request reads or changes it,
// never while one waits.
type fetchSession struct {
	id     int32
	byID   bool // topics are named by id
	client string

	mu struct {
		lockmeter.Mutex
		epoch int32 // the next request must have it
		parts []*fetchPart
		byKey map[partKey]*fetchPart
	}

	// The cache's lock guards these.
	created, used time.Time
	size          int
}

func nextEpoch(epoch int32) int32 {
	if epoch == math.MaxInt32 {
		return 1
	}
	return epoch + 1
}

// update applies an incremental request: partitions added or changed, partitions forgotten.
func (s *fetchSession) updateLocked(parts []fetchPart, forget []partKey) {
	for i := range parts {
		in := &parts[i]
		old := s.mu.byKey[in.partKey]
		if old == nil {
			part := *in
			part.highWatermark, part.logStart = -1, -1
			s.mu.parts = append(s.mu.parts, &part)
			s.mu.byKey[part.partKey] = &part
			continue
		}
		old.offset, old.maxBytes, old.leaderEpoch = in.offset, in.maxBytes, in.leaderEpoch
	}
	if len(forget) == 0 {
		return
	}
	for _, key := range forget {
		delete(s.mu.byKey, key)
	}
	kept := s.mu.parts[:0]
	for _, part := range s.mu.parts {
		if s.mu.byKey[part.partKey] == part {
			kept = append(kept, part)
		}
	}
	clear(s.mu.parts[len(kept):])
	s.mu.parts = kept
}

// rotate moves the partitions that gave data in this response behind those that did not, so that a
// response that is full does not always starve the same ones.
func (s *fetchSession) rotate(gave func(*fetchPart) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var last []*fetchPart
	kept := s.mu.parts[:0]
	for _, part := range s.mu.parts {
		if gave(part) {
			last = append(last, part)
		} else {
			kept = append(kept, part)
		}
	}
	s.mu.parts = append(kept, last...)
}

// sessionCache holds the sessions of all clients.
type sessionCache struct {
	slots int
	clk   clock.Clock
	locks *lockmeter.Meter
	mu    struct {
		lockmeter.Mutex
		sessions  map[int32]*fetchSession
		evictions int64
	}
}

func newSessionCache(slots int, clk clock.Clock, locks *lockmeter.Meter) *sessionCache {
	c := &sessionCache{slots: slots, clk: clk, locks: locks}
	c.mu.MeterBy(locks, lockmeter.FetchSession)
	c.mu.sessions = map[int32]*fetchSession{}
	return c
}

// get returns a session and marks it used; nil if there is none.
func (c *sessionCache) get(id int32) *fetchSession {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.mu.sessions[id]
	if s != nil {
		s.used = c.clk.Now()
	}
	return s
}

// remove ends a session.
func (c *sessionCache) remove(id int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mu.sessions, id)
}

// create makes a session of these partitions, or returns nil if there is no slot for it.
func (c *sessionCache) create(client string, byID bool, parts []*fetchPart) *fetchSession {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clk.Now()
	if len(c.mu.sessions) >= c.slots && !c.evictLocked(now, len(parts)) {
		return nil
	}
	s := &fetchSession{client: client, byID: byID, created: now, used: now, size: len(parts)}
	for s.id == 0 || c.mu.sessions[s.id] != nil {
		s.id = rand.Int32N(math.MaxInt32) // unpredictable, so that a client's mistake does not meet another's session
	}
	s.mu.MeterBy(c.locks, lockmeter.FetchSession)
	s.mu.epoch = nextEpoch(sessionEpochInitial)
	s.mu.parts = parts
	s.mu.byKey = make(map[partKey]*fetchPart, len(parts))
	for _, part := range parts {
		s.mu.byKey[part.partKey] = part
	}
	c.mu.sessions[s.id] = s
	return s
}

// resized tells the cache how many partitions a session has now.
func (c *sessionCache) resized(s *fetchSession, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.size = size
}

// evictLocked makes room for a session of size partitions: the one unused for longest if that is long enough, else
// the smallest if it is smaller than the new one and old enough.
func (c *sessionCache) evictLocked(now time.Time, size int) bool {
	var oldest, smallest *fetchSession
	for _, s := range c.mu.sessions {
		if oldest == nil || s.used.Before(oldest.used) {
			oldest = s
		}
		if smallest == nil || s.size < smallest.size {
			smallest = s
		}
	}
	victim := oldest
	switch {
	case oldest == nil:
		return false // no slots at all
	case now.Sub(oldest.used) > sessionEvictAfter:
	case smallest.size < size && now.Sub(smallest.created) > sessionEvictAfter:
		victim = smallest
	default:
		return false
	}
	delete(c.mu.sessions, victim.id)
	c.mu.evictions++
	return true
}

// count is the number of sessions.
func (c *sessionCache) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.mu.sessions)
}
