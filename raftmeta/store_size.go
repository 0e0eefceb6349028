package raftmeta

import "weir/wal"

// How large the log is, in positions of the wal: groups are padded to 4 KiB and a restart begins a new file, so a few small
// entries can hold many files. What cannot be recycled begins at the first entry.

// heldBytes is how much of the wal the entries hold.
func (s *store) heldBytes() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.heldLocked()
}

func (s *store) heldLocked() int64 {
	if len(s.mu.entries) == 0 {
		return 0
	}
	return s.distance(s.mu.entries[0].lsn)
}

func (s *store) distance(lsn wal.LSN) int64 { return max(0, int64(s.wal.End())-int64(lsn)) }

// trailing is how many of the newest entries, at most entriesMax, hold at most bytesMax: so many may stay behind a snapshot, for
// followers that lag a little.
func (s *store) trailing(entriesMax int, bytesMax int64) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := 0
	for i := len(s.mu.entries) - 1; i >= 0 && n < entriesMax && s.distance(s.mu.entries[i].lsn) <= bytesMax; i-- {
		n++
	}
	return uint64(n)
}

// prefixDeleted is the highest index that a snapshot must cover.
func (s *store) prefixDeleted() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.deleted
}

// checkGrown asks for a snapshot, once until the log is shortened or the snapshot has failed.
func (s *store) checkGrown() {
	s.mu.Lock()
	grown := !s.mu.triggered && s.heldLocked() >= s.o.grownBytes
	s.mu.triggered = s.mu.triggered || grown
	s.mu.Unlock()
	if grown {
		s.o.onGrown()
	}
}

// askAgain lets checkGrown ask anew.
func (s *store) askAgain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.triggered = false
}

func (s *store) report() {
	s.mu.RLock()
	n, held := len(s.mu.entries), s.heldLocked()
	s.mu.RUnlock()
	s.o.metrics.logEntries.Set(float64(n))
	s.o.metrics.logBytes.Set(float64(held))
}
