package lockmeter

import "sync"

// RWMutex is a sync.RWMutex that is measured: the holds of writers, the waits of all, and as a hold what a writer waits.
type RWMutex struct {
	mu    sync.RWMutex
	meter *shard // nil: not measured
	since int64  // the writer's: when it began
}

// MeterBy makes the lock one of a class. It is called before the lock is used; a nil Meter leaves it alone.
func (m *RWMutex) MeterBy(meter *Meter, l Lock) { m.meter = meter.shard(l) }

// Lock locks m for writing.
func (m *RWMutex) Lock() {
	s := m.meter
	if s == nil {
		m.mu.Lock()
		return
	}
	if m.mu.TryLock() {
		m.since = s.class.now()
		return
	}
	start := s.class.now()
	m.mu.Lock()
	m.since = s.class.now()
	s.class.wait.add(m.since-start, 1)
	s.hold.add(m.since-start, 1) // the readers', which is not measured where it begins
}

// Unlock ends writing.
func (m *RWMutex) Unlock() {
	s := m.meter
	if s == nil {
		m.mu.Unlock()
		return
	}
	hold := s.class.now() - m.since
	m.mu.Unlock()
	s.held(hold, 1)
}

// RLock locks m for reading.
func (m *RWMutex) RLock() {
	if m.mu.TryRLock() {
		return
	}
	s := m.meter
	if s == nil {
		m.mu.RLock()
		return
	}
	start := s.class.now()
	m.mu.RLock()
	s.class.wait.add(s.class.now()-start, 1)
}

// RUnlock ends reading.
func (m *RWMutex) RUnlock() { m.mu.RUnlock() }
