package raftmeta

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// What hashicorp/raft gets wrong when a snapshot is installed, and what is done about it here.
//
// A leader sends a snapshot if nothing in its log agrees with the follower's. Then
//
//   - the snapshot may be one that the follower has already: an attempt whose answer got lost, and which raft took late. Installing it would take
//     the image back, and entries with it that were acknowledged since. It is answered as installed.
//   - the follower's log may go further than the snapshot, with entries of a leader that was cut off. They are void. The library deletes them, but
//     goes on in the belief that they are its last: it votes by them, refuses the next entries, and panics when they are committed. So
//     from the moment it begins to install such a snapshot this node says and answers nothing; when the file is written, raft is opened anew
//     over what is on disk.
//   - a crash may come between the snapshot and the deletion of the log: that is finished at the next start (dropReplaced).

// And a leader that has heard "installed" goes on behind its snapshot, where a follower that is further may have cut its log: it could not say whether it agrees
// there, and would get the snapshot again, for ever. What is applied here is committed, so every leader agrees with it: such a request is
// shortened to what lies behind (shorten).

// errTorn says that raft is being opened anew.
var errTorn = errors.New("raft is being opened anew")

// errHave says that a snapshot is not needed.
var errHave = errors.New("the snapshot is applied already")

// verdict is what becomes of one snapshot.
type verdict struct {
	t    *transport
	req  *raft.InstallSnapshotRequest
	have atomic.Bool
	torn atomic.Bool
}

// reach runs on raft's main goroutine, so nothing else happens to the log meanwhile.
func (v *verdict) reach() error {
	r := v.t.raft.Load()
	switch {
	case r.AppliedIndex() >= v.req.LastLogIndex:
		v.have.Store(true)
		return errHave
	case r.LastIndex() >= v.req.LastLogIndex:
		v.torn.Store(true)
		v.t.mute()
		v.t.onTorn() // opening anew begins with a shutdown, which waits for this
		v.t.o.log.Warn("the metadata log of this node has gone astray and is replaced by a snapshot", "last", r.LastIndex(), "snapshot", v.req.LastLogIndex)
	}
	return nil
}

// answer is what the leader hears.
func (v *verdict) answer(resp any, err error) (any, error) {
	if v.torn.Load() {
		return nil, errTorn
	}
	if err != nil && v.have.Load() {
		return &raft.InstallSnapshotResponse{Term: v.req.Term, Success: true}, nil
	}
	return resp, err
}

func (t *transport) mute() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.muted = true
	t.mu.torn++
}

// unmute ends the silence, unless raft was torn anew since.
func (t *transport) unmute(torn uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.muted = t.mu.torn != torn
}

func (t *transport) tears() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.torn
}

// newRaft opens raft over what is on disk.
func (m *Meta) newRaft() (*raft.Raft, error) {
	m.fsm.apply, m.fsm.snaps = thread{on: m.o.Threads.Apply}, &thread{on: m.o.Threads.Snapshots} // no raft runs
	m.fsm.restart()
	log := &raftLog{store: m.store, main: thread{on: m.o.Threads.Main}}
	r, err := raft.NewRaft(m.o.raftConfig(), m.fsm, log, m.store, m.snaps, m.trans)
	if err != nil {
		return nil, errors.Join(err, m.fsm.cause) // raft only logs why a snapshot could not be restored
	}
	m.beginWatch()
	return r, nil
}

// reopen replaces raft, which must be muted, by one that knows what the files say. It runs on the lead goroutine.
func (m *Meta) reopen() bool {
	torn := m.trans.tears()
	m.trans.lapse() // who is held for a term that is over would keep raft from shutting down
	select {
	case <-m.gate.drained(): // raft forgets those whose committed change still waits to be applied
	case <-m.failed:
		return false
	case <-m.closing:
		return false
	}
	if err := m.raft().Shutdown().Error(); err != nil {
		m.o.Logger.Error("raft did not shut down", "error", err)
	}
	list, err := m.snaps.List()
	if err == nil && len(list) > 0 {
		err = m.dropReplaced(list[0])
	}
	var r *raft.Raft
	if err == nil {
		r, err = m.newRaft()
	}
	if err != nil {
		m.poison(fmt.Errorf("%w: raft cannot be opened anew: %w", ErrPoisoned, err))
		return false
	}
	m.trans.raft.Store(r)
	m.trans.unmute(torn)
	return true
}

// dropReplaced deletes a log that a snapshot of another leader has replaced: one that does not reach it, or has another entry in its place.
func (m *Meta) dropReplaced(snap *raft.SnapshotMeta) error {
	first, _ := m.store.FirstIndex()
	last, _ := m.store.LastIndex()
	if first == 0 || first > snap.Index {
		return nil
	}
	var l raft.Log
	if last >= snap.Index {
		if err := m.store.GetLog(snap.Index, &l); err != nil {
			return err
		}
		if l.Term == snap.Term {
			return nil
		}
	}
	if err := m.snaps.sync(); err != nil {
		return err
	}
	m.o.Logger.Warn("metadata log is dropped: a snapshot has replaced it", "first", first, "last", last, "snapshot", snap.Index, "term", snap.Term)
	return m.store.DeleteRange(first, last)
}

// shorten takes out of a request what lies before the place up to which everything is applied here, if the log cannot be asked about it any more.
func (m *Meta) shorten(a *raft.AppendEntriesRequest) {
	r := m.raft()
	if r == nil {
		return
	}
	applied := r.AppliedIndex()
	first, _ := m.store.FirstIndex()
	if first != 0 && a.PrevLogEntry >= first || a.PrevLogEntry >= applied || a.Term < r.CurrentTerm() {
		return
	}
	var l raft.Log
	if m.store.GetLog(applied, &l) != nil {
		snap := m.snaps.last.Load()
		if snap == nil || snap.Index != applied {
			return
		}
		l.Term = snap.Term
	}
	keep := slices.IndexFunc(a.Entries, func(e *raft.Log) bool { return e.Index > applied })
	if keep < 0 {
		keep = len(a.Entries)
	}
	a.Entries = a.Entries[keep:]
	a.PrevLogEntry, a.PrevLogTerm = applied, l.Term
}
