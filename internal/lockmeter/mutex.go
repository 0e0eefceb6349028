package lockmeter

import (
	"sync"
	"sync/atomic"
)

// Mutex is a sync.Mutex that is measured.
//
// A hold that is not measured from its start is known only by those who wait for it. Why waited is right when it is used: whoever waits first adds
// itself to waiters, then finds the lock taken, then reads the clock and sets waited. Who takes the lock after the first step sees a waiter and is
// measured from its start. So a holder that is not, and that finds waited set when it leaves, is the one that was met in the second step, and has
// held the lock at least since the third. A waiter clears waited when it has the lock, after it may have set it.
type Mutex struct {
	mu      sync.Mutex
	meter   *shard       // nil: not measured
	waited  atomic.Int64 // since when the holder is known to hold it, by one who waits; 0: by none
	waiters atomic.Int32 // those who found it taken and do not have it yet

	// The holder's.
	skip  uint32 // this many holds from now one is measured
	since int64  // when the hold began, and in its lowest bits held or heldSampled; 0: not measured
}

const (
	held        = 1                // counts once
	heldSampled = 3                // counts for as many as are not measured
	clockBits   = ^int64(held | 2) // the rest is the time, to 4 ns
)

// MeterBy makes the lock one of a class. It is called before the lock is used; a nil Meter leaves it alone.
func (m *Mutex) MeterBy(meter *Meter, l Lock) {
	if m.meter = meter.shard(l); m.meter != nil {
		m.skip = 1 // the first one is measured
	}
}

// Lock locks m.
func (m *Mutex) Lock() {
	if !m.mu.TryLock() {
		m.lockSlow()
		return
	}
	if m.skip--; m.skip == 0 || m.waiters.Load() != 0 {
		m.begin()
	}
}

// TryLock tries to lock m and reports whether it did.
func (m *Mutex) TryLock() bool {
	if !m.mu.TryLock() {
		return false
	}
	if m.skip--; m.skip == 0 || m.waiters.Load() != 0 {
		m.begin()
	}
	return true
}

// Unlock unlocks m.
func (m *Mutex) Unlock() {
	if m.since != 0 || m.waiters.Load() != 0 {
		m.unlockSlow()
		return
	}
	m.mu.Unlock()
}

// begin starts the measurement of a hold that began without a wait.
func (m *Mutex) begin() {
	s := m.meter
	if s == nil {
		return // skip has come round
	}
	now := s.class.now()
	if m.skip == 0 {
		m.skip = s.class.distance(now)
		m.since = now&clockBits | heldSampled
		return
	}
	m.since = now&clockBits | held
}

// lockSlow waits for the lock.
func (m *Mutex) lockSlow() {
	s := m.meter
	if s == nil {
		m.mu.Lock()
		return
	}
	start := s.class.now()
	m.waiters.Add(1)
	if !m.mu.TryLock() {
		m.waited.CompareAndSwap(0, s.class.now()|1)
		m.mu.Lock()
	}
	now := s.class.now()
	m.waited.Store(0)
	m.waiters.Add(-1)
	m.since = now&clockBits | held
	s.class.wait.add(now-start, 1)
}

// unlockSlow ends a hold that is measured, or that others wait for.
func (m *Mutex) unlockSlow() {
	s, since := m.meter, m.since
	m.since = 0
	weight := uint64(1)
	switch {
	case since&heldSampled == heldSampled:
		weight = s.class.every
	case since == 0:
		since = m.waited.Load()
	}
	if since == 0 { // who waits has not come to say since when
		m.mu.Unlock()
		return
	}
	hold := s.class.now() - since&clockBits
	m.mu.Unlock()
	s.held(hold, weight)
}
