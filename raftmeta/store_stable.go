package raftmeta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"weir/wal"
)

// The StableStore half of store: raft's term and vote. There are a handful of keys, so all of them stay in memory.
//
// Raft stores a vote as two values, first the term and then the candidate. A crash between them would leave the new term with the candidate of
// an older vote, and raft, asked by that one in that term, would take it for a repetition and say yes, however little of the log it has: entries
// that were acknowledged could be lost. So both are written as one, with the second; the first alone is no vote yet.

// Raft's keys for the term and for its vote, and ours for the whole vote.
const (
	keyCurrentTerm  = "CurrentTerm"
	keyLastVoteTerm = "LastVoteTerm"
	keyLastVoteCand = "LastVoteCand"
	keyVote         = "Vote" // term u64 big-endian, candidate
)

// Set stores a value; Get after it, in this life or a later one, returns it.
func (s *store) Set(key, val []byte) error {
	if len(key) > stableKeyMax {
		return fmt.Errorf("set key of %d bytes, want at most %d", len(key), stableKeyMax)
	}
	switch string(key) {
	case keyLastVoteTerm:
		return s.beginVote(val)
	case keyLastVoteCand:
		key, val = []byte(keyVote), s.vote(val)
	}
	k, v := string(key), slices.Clone(val)
	s.mu.RLock()
	old, has := s.mu.stable[k]
	s.mu.RUnlock()
	if has && slices.Equal(old.val, v) {
		return s.poisoned() // raft sets the same term at every start
	}
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

// beginVote keeps the term of a vote until the candidate comes.
func (s *store) beginVote(term []byte) error {
	if len(term) != 8 {
		return fmt.Errorf("set %s: %d bytes, want 8", keyLastVoteTerm, len(term))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.voting = binary.BigEndian.Uint64(term)
	return s.mu.poison
}

// vote is the whole of a vote for a candidate.
func (s *store) vote(candidate []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	term := binary.BigEndian.AppendUint64(nil, s.mu.voting)
	if old := s.mu.stable[keyVote].val; s.mu.voting == 0 && len(old) >= 8 {
		term = slices.Clone(old[:8])
	}
	s.mu.voting = 0
	return append(term, candidate...)
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
	if vote, ok := s.mu.stable[keyVote]; ok && len(vote.val) >= 8 { // else raft's own keys, of a release that stored them apart
		switch string(key) {
		case keyLastVoteTerm:
			return slices.Clone(vote.val[:8]), nil
		case keyLastVoteCand:
			return slices.Clone(vote.val[8:]), nil
		}
	}
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
