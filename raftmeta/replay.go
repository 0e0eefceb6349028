package raftmeta

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/raft"

	"weir/wal"
)

// replay is what records of a log that may have holes add up to.
type replay struct {
	entries []storedLog // by index, with holes
	stable  map[string][]byte
	deleted uint64
	term    uint64 // greatest seen
}

func newReplay() *replay { return &replay{stable: map[string][]byte{}} }

// record takes the next record. An entry that does not continue the log stands behind a hole, or replaces a suffix whose deletion is lost.
func (r *replay) record(it wal.Item) error {
	if it.Kind != wal.KindInline || len(it.Head) == 0 {
		return fmt.Errorf("record of kind %d with a head of %d bytes", it.Kind, len(it.Head))
	}
	switch it.Head[0] {
	case recordLog:
		l, err := parseLog(it.Head, it.Body)
		if err != nil {
			return err
		}
		r.dropSuffix(l.Index)
		r.entries = append(r.entries, storedLog{*l, it.LSN})
		r.term = max(r.term, l.Term)
	case recordStable:
		key, val, err := parseStable(it.Head, it.Body)
		if err != nil {
			return err
		}
		r.stable[key] = val
		if key == keyCurrentTerm && len(val) == 8 {
			r.term = max(r.term, binary.BigEndian.Uint64(val))
		}
	case recordDeletePrefix, recordDeleteSuffix:
		index, err := parseDelete(it.Head, it.Body)
		if err != nil {
			return err
		}
		if it.Head[0] == recordDeleteSuffix {
			r.dropSuffix(index)
			return nil
		}
		r.deleted = max(r.deleted, index)
		for len(r.entries) > 0 && r.entries[0].Index <= index {
			r.entries = r.entries[1:]
		}
	default:
		return fmt.Errorf("%w: record type %d", ErrVersion, it.Head[0])
	}
	return nil
}

func (r *replay) dropSuffix(index uint64) {
	for n := len(r.entries); n > 0 && r.entries[n-1].Index >= index; n-- {
		r.entries = r.entries[:n-1]
	}
}

// dropReplaced forgets a log that a snapshot of another leader has replaced, as a start does (Meta.dropReplaced).
func (r *replay) dropReplaced(snap *raft.SnapshotMeta) {
	for i := range r.entries {
		if r.entries[i].Index == snap.Index && r.entries[i].Term != snap.Term {
			r.entries = nil
			return
		}
	}
}

// whole returns the log from the entry behind covered on, with entries that do nothing in the holes. missing are their indexes.
func (r *replay) whole(covered uint64) (logs []*raft.Log, missing []uint64) {
	next, term := covered+1, uint64(1)
	if n := len(r.entries); n == 0 || r.entries[n-1].Index < covered {
		return nil, nil // the snapshot goes further
	}
	term = r.entries[0].Term
	next = min(next, r.entries[0].Index)
	for i := range r.entries {
		l := r.entries[i].Log
		for ; next < l.Index; next++ {
			logs = append(logs, &raft.Log{Index: next, Term: term, Type: raft.LogNoop})
			missing = append(missing, next)
		}
		logs, next, term = append(logs, &l), l.Index+1, l.Term
	}
	return logs, missing
}
