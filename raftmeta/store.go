package raftmeta

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"weir/internal/clock"
	"weir/internal/lockmeter"
	"weir/wal"
)

// store is raft's LogStore and StableStore on one wal. All entries since the last snapshot are also in memory, where reads
// come from; raft's snapshots bound them.
//
// Writes go to the wal and wait until they are durable or storeOptions.timeout has passed. Any failure poisons the store for good: every
// later write fails at once. This is what makes a leader with a hung disk step down; without it hashicorp/raft goes on
// sending heartbeats and nobody else is elected.
type store struct {
	o   storeOptions
	wal *wal.WAL

	// order makes "append to the wal" and "remember what the wal's last word is" one step. Raft stores from its main goroutine and
	// deletes prefixes from its snapshot goroutine; these two meet here. Taken before mu.
	order struct {
		lockmeter.Mutex
		stable  map[string][]byte // values in the order of the wal, durable or not
		storing int               // StoreLogs whose entries are in the wal's hands but not yet in mu.entries
	}

	mu struct {
		lockmeter.RWMutex
		first     uint64 // index of entries[0]
		entries   []storedLog
		deleted   uint64  // highest index ever deleted as a prefix: a snapshot must cover it
		deletion  wal.LSN // of the record that says so, 0 if there is none
		stable    map[string]stableValue
		voting    uint64 // the term of the vote that is being stored, 0: none is
		poison    error
		triggered bool // onGrown was called since the last prefix deletion
	}
}

type storedLog struct {
	raft.Log
	lsn wal.LSN
}

type stableValue struct {
	val []byte
	lsn wal.LSN
}

type storeOptions struct {
	wal        wal.Options // without the callbacks
	timeout    time.Duration
	grownBytes int64 // onGrown is called when so many bytes of the wal cannot be recycled
	onGrown    func()
	onPoison   func(error)
	covered    func() uint64 // index of the newest snapshot
	anchor     func() (index, term uint64)
	clk        clock.Clock
	log        *slog.Logger
	metrics    *Metrics
}

// openStore opens the wal and replays it.
func openStore(o storeOptions) (*store, error) {
	s := &store{o: o}
	s.order.MeterBy(o.wal.Locks, lockmeter.Raft)
	s.mu.MeterBy(o.wal.Locks, lockmeter.Raft)
	s.mu.stable = make(map[string]stableValue)
	s.order.stable = make(map[string][]byte)
	o.wal.OnCommit = committed
	o.wal.OnPoison = s.poison
	o.wal.OnPressure = func(wal.LSN) { o.onGrown() }
	w, err := wal.Open(o.wal)
	if err != nil {
		return nil, err
	}
	s.wal = w
	err = w.Replay(s.replay)
	if err == nil {
		err = w.Start()
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	// What earlier lives released is only known to the wal as far as it has begun a file since.
	w.Release(s.needed())
	s.report()
	return s, nil
}

// needed is the position of the first record that a replay must see.
func (s *store) needed() wal.LSN {
	s.mu.RLock()
	defer s.mu.RUnlock()
	first := s.wal.End()
	if s.mu.deletion != 0 {
		first = min(first, s.mu.deletion)
	}
	if len(s.mu.entries) > 0 {
		first = min(first, s.mu.entries[0].lsn)
	}
	for _, v := range s.mu.stable {
		first = min(first, v.lsn)
	}
	return first
}

// replay takes one record of the wal. Records are those of former lives, of which the wal has cut what was never acknowledged.
func (s *store) replay(lsn wal.LSN, kind wal.Kind, head, body []byte) error {
	if err := s.replayRecord(lsn, kind, head, body); err != nil {
		return fmt.Errorf("%w: metadata log at LSN %d: %w", ErrCorrupt, lsn, err)
	}
	return nil
}

func (s *store) replayRecord(lsn wal.LSN, kind wal.Kind, head, body []byte) error {
	if kind != wal.KindInline || len(head) == 0 {
		return fmt.Errorf("record of kind %d with a head of %d bytes", kind, len(head))
	}
	switch head[0] {
	case recordLog:
		l, err := parseLog(head, body)
		if err != nil {
			return err
		}
		return s.insert([]storedLog{{*l, lsn}})
	case recordStable:
		key, val, err := parseStable(head, body)
		if err != nil {
			return err
		}
		s.remember(key, val, lsn)
		s.order.stable[key] = val
	case recordDeletePrefix, recordDeleteSuffix:
		index, err := parseDelete(head, body)
		if err != nil {
			return err
		}
		if head[0] == recordDeletePrefix {
			s.dropPrefix(index, lsn)
		} else {
			s.dropSuffix(index)
		}
	default:
		return fmt.Errorf("%w: record type %d", ErrVersion, head[0])
	}
	return nil
}

// insert adds entries that are durable. They must continue the log.
func (s *store) insert(logs []storedLog) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range logs {
		index := logs[i].Index
		if want := s.mu.first + uint64(len(s.mu.entries)); len(s.mu.entries) > 0 && index != want {
			return fmt.Errorf("entry %d does not continue the log, want %d", index, want)
		}
		if len(s.mu.entries) == 0 {
			s.mu.first = index
		}
		s.mu.entries = append(s.mu.entries, logs[i])
	}
	return nil
}

// dropPrefix forgets entries up to and including index, and the array that held them. The record of it is at lsn.
func (s *store) dropPrefix(index uint64, lsn wal.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.deleted = max(s.mu.deleted, index)
	s.mu.deletion = lsn
	s.mu.triggered = false
	if len(s.mu.entries) == 0 || index < s.mu.first {
		return
	}
	n := min(index-s.mu.first+1, uint64(len(s.mu.entries)))
	s.mu.entries = slices.Clone(s.mu.entries[n:])
	s.mu.first += n
}

// dropSuffix forgets entries from index on.
func (s *store) dropSuffix(index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index >= s.mu.first+uint64(len(s.mu.entries)) {
		return
	}
	keep := uint64(0)
	if index > s.mu.first {
		keep = index - s.mu.first
	}
	clear(s.mu.entries[keep:])
	s.mu.entries = s.mu.entries[:keep]
}

// close commits nothing that was not asked for and frees everything.
func (s *store) close() error { return s.wal.Close() }

// FirstIndex is the index of the oldest entry, 0 if there is none.
func (s *store) FirstIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.mu.entries) == 0 {
		return 0, nil
	}
	return s.mu.first, nil
}

// LastIndex is the index of the newest entry, 0 if there is none.
func (s *store) LastIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.mu.entries) == 0 {
		return 0, nil
	}
	return s.mu.first + uint64(len(s.mu.entries)) - 1, nil
}

// GetLog reads one entry, from memory.
func (s *store) GetLog(index uint64, l *raft.Log) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if index < s.mu.first || index-s.mu.first >= uint64(len(s.mu.entries)) {
		// The place and term of the newest snapshot's last entry are known; raft asks for no more where it compares logs there.
		if at, term := s.o.anchor(); index > 1 && index == at {
			*l = raft.Log{Index: index, Term: term, Type: raft.LogNoop}
			return nil
		}
		return raft.ErrLogNotFound
	}
	*l = s.mu.entries[index-s.mu.first].Log
	return nil
}

// IsMonotonic tells raft that the log has no gaps.
func (s *store) IsMonotonic() bool { return true }

// StoreLog is StoreLogs of one entry.
func (s *store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs appends entries and returns when all of them are durable. Raft calls it from one goroutine.
func (s *store) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	if last, _ := s.LastIndex(); last != 0 && logs[0].Index != last+1 {
		return fmt.Errorf("store entry %d: does not continue the log, want %d", logs[0].Index, last+1)
	}
	entries := make([]*wal.Entry, len(logs))
	for i, l := range logs {
		entries[i] = logRecord(l)
	}
	defer s.stored()
	err := s.commit(func() []*wal.Entry {
		s.order.storing++
		return entries
	})
	if err != nil {
		return fmt.Errorf("store entries %d to %d: %w", logs[0].Index, logs[len(logs)-1].Index, err)
	}
	stored := make([]storedLog, len(logs))
	for i, l := range logs {
		stored[i] = storedLog{*l, entries[i].LSN}
	}
	if err := s.insert(stored); err != nil {
		s.poison(err) // it is on disk already: the next start would stop there
		return s.poisoned()
	}
	s.report()
	s.checkGrown()
	return nil
}

func (s *store) stored() {
	s.order.Lock()
	defer s.order.Unlock()
	s.order.storing = 0
}

// DeleteRange deletes entries from lo to hi, which raft does at one end of the log only: at the start once a snapshot
// covers them, at the end when another leader's entries replace them.
func (s *store) DeleteRange(lo, hi uint64) error {
	first, _ := s.FirstIndex()
	last, _ := s.LastIndex()
	switch {
	case first == 0 || lo > hi || hi < first || lo > last:
		return nil
	case lo <= first && hi >= last:
		return s.deleteAll(first, last)
	case lo <= first && hi == first:
		return nil
	case lo <= first:
		// One entry more than asked for is kept: the snapshot's last. A follower that has it can say that it agrees with a leader up to
		// there; raft knows a snapshot's place only while nothing follows it.
		return s.deletePrefix(hi - 1)
	case hi >= last:
		return s.deleteSuffix(lo)
	}
	return fmt.Errorf("delete entries %d to %d of %d to %d: not at an end of the log", lo, hi, first, last)
}

// deleteAll deletes what a snapshot has replaced. What goes further than the snapshot is void and not covered by it.
func (s *store) deleteAll(first, last uint64) error {
	covered := s.o.covered()
	if covered < last {
		if err := s.deleteSuffix(max(first, covered+1)); err != nil {
			return err
		}
	}
	if covered < first {
		return nil
	}
	return s.deletePrefix(min(last, covered))
}

func (s *store) deleteSuffix(lo uint64) error {
	err := s.commit(func() []*wal.Entry { return []*wal.Entry{deleteRecord(recordDeleteSuffix, lo)} })
	if err != nil {
		return fmt.Errorf("delete entries from %d: %w", lo, err)
	}
	s.dropSuffix(lo)
	s.report()
	return nil
}

// deletePrefix records the deletion, moves stable values out of the way, and lets the wal recycle what lies before.
func (s *store) deletePrefix(hi uint64) error {
	var (
		keep    wal.LSN
		keys    []string
		entries []*wal.Entry
		safe    bool
	)
	err := s.commit(func() []*wal.Entry {
		keep, safe = s.firstNeeded(hi)
		// With no entry left, the wal is needed from this record on, unless entries before it are not in memory yet.
		safe = safe || s.order.storing == 0
		keys = s.stableBelow(keep)
		entries = append(entries, deleteRecord(recordDeletePrefix, hi))
		for _, k := range keys {
			entries = append(entries, stableRecord(k, s.order.stable[k]))
		}
		return entries
	})
	if err != nil {
		return fmt.Errorf("delete entries up to %d: %w", hi, err)
	}
	for i, k := range keys {
		s.moved(k, entries[i+1].LSN)
	}
	s.dropPrefix(hi, entries[0].LSN)
	if safe {
		s.wal.Release(min(keep, entries[0].LSN))
	}
	s.report()
	return nil
}

// firstNeeded is the position of the first entry that is left when those up to hi are gone, and whether there is one.
func (s *store) firstNeeded(hi uint64) (wal.LSN, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if n := hi + 1 - s.mu.first; n < uint64(len(s.mu.entries)) {
		return s.mu.entries[n].lsn, true
	}
	return ^wal.LSN(0), false
}

func (s *store) stableBelow(lsn wal.LSN) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var keys []string
	for k, v := range s.mu.stable {
		if v.lsn < lsn {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// moved notes that a stable value was written again.
func (s *store) moved(key string, lsn wal.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.mu.stable[key]
	v.lsn = max(v.lsn, lsn)
	s.mu.stable[key] = v
}
