package raftmeta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"weir/wal"
)

// The StableStore half of store: raft's term and vote. There are a handful of keys, so all of them stay in memory.

// Set stores a value; Get after it, in this life or a later one, returns it.
func (s *store) Set(key, val []byte) error {
	if len(key) > stableKeyMax {
		return fmt.Errorf("set key of %d bytes, want at most %d", len(key), stableKeyMax)
	}
	if old, err := s.Get(key); err == nil && old != nil && slices.Equal(old, val) {
		return s.poisoned() // raft sets the same term at every start
	}
	k, v := string(key), slices.Clone(val)
	e := stableRecord(k, v)
	err := s.commit(func() []*wal.Entry {
		s.order.stable[k] = v
		return []*wal.Entry{e}
	})
	if err != nil {
		return fmt.Errorf("set %s: %w", k, err)
	}
	s.remember(k, v, e.LSN)
	return nil
}

func (s *store) remember(key string, val []byte, lsn wal.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.stable[key] = stableValue{val, lsn}
}

// Get returns the value of a key, nil if it has none.
func (s *store) Get(key []byte) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v, ok := s.mu.stable[string(key)]
	if !ok {
		return nil, nil
	}
	return slices.Clone(v.val), nil
}

// SetUint64 stores a number. Raft panics when it cannot store its term. So for the term, and only once the store is poisoned
// or closed, SetUint64 keeps the value in memory and reports success. That is safe: such a store accepts neither a vote (those are
// under other keys, whose failure raft handles) nor an entry, so the node takes no part in the term that it will have
// forgotten after a restart. Raft is shut down right after.
func (s *store) SetUint64(key []byte, val uint64) error {
	if old, err := s.GetUint64(key); err == nil && old == 0 && val == 0 {
		return nil // a fresh store has term 0 without a write
	}
	b := binary.BigEndian.AppendUint64(nil, val)
	err := s.Set(key, b)
	if err != nil && string(key) == keyCurrentTerm && (errors.Is(err, ErrPoisoned) || errors.Is(err, ErrClosed)) {
		s.remember(keyCurrentTerm, b, 0)
		return nil
	}
	return err
}

// GetUint64 returns a number, 0 if it was never set.
func (s *store) GetUint64(key []byte) (uint64, error) {
	b, _ := s.Get(key)
	switch len(b) {
	case 0:
		return 0, nil
	case 8:
		return binary.BigEndian.Uint64(b), nil
	}
	return 0, fmt.Errorf("%w: value of %s has %d bytes, want 8", ErrCorrupt, key, len(b))
}
