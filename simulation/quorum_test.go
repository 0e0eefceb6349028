package simulation

import (
	"errors"
	"time"

	"weir/raftmeta"
)

var (
	errNotLeader = errors.New("not the leader of the metadata")
	errUnknown   = errors.New("it is unknown whether the change was made")
)

// quorum stands for raft: a log with one leader at a time. A change is committed if the leader reaches a majority then; whoever proposed it may
// never learn that it was. A new leader has everything that was committed.
type quorum struct {
	w       *world
	entries []committed // entry i has index i+1
	term    uint64
	leader  int32 // -1: none
	since   time.Time
}

type committed struct {
	img   *raftmeta.Image
	delta *raftmeta.Delta
}

const (
	electionMin = time.Second
	electionMax = 2 * time.Second
	quorumTick  = 50 * time.Millisecond
)

func newQuorum(w *world) *quorum { return &quorum{w: w, leader: -1} }

func (q *quorum) image(index int) *raftmeta.Image {
	if index == 0 {
		return raftmeta.NewImage()
	}
	return q.entries[index-1].img
}

func (q *quorum) newest() *raftmeta.Image { return q.image(len(q.entries)) }

// healthy reports whether a node could lead: it runs, its disk answers and a majority can be reached.
func (q *quorum) healthy(n *node) bool {
	if !n.up || n.paused || n.stalled {
		return false
	}
	reached := 0
	for _, m := range q.w.nodes {
		if m.up && !m.paused && !m.stalled && q.w.net.reaches(n.id, m.id) {
			reached++
		}
	}
	return reached > len(q.w.nodes)/2
}

// tick watches over the leader and elects another when it has failed for an election timeout.
func (q *quorum) tick() {
	q.w.after(quorumTick, "quorum", q.tick)
	if q.leader >= 0 && q.healthy(q.w.node(q.leader)) {
		q.since = time.Time{}
		return
	}
	if q.since.IsZero() {
		q.since = q.w.now.Add(q.w.between(electionMin, electionMax))
		q.leave()
	}
	if q.w.now.Before(q.since) {
		return
	}
	var able []*node
	for _, n := range q.w.nodes {
		if q.healthy(n) {
			able = append(able, n)
		}
	}
	if len(able) == 0 {
		return
	}
	q.elect(able[q.w.rng.IntN(len(able))])
}

// leave has the present leader learn, some time later, that it leads no more.
func (q *quorum) leave() {
	if q.leader < 0 {
		return
	}
	old := q.w.node(q.leader)
	term := q.term
	q.leader = -1
	old.do(q.w.between(0, 1200*time.Millisecond), "leaves office", func() { old.office(term, false) })
}

// crashed ends the leadership of a process that is gone, however soon the next one is there.
func (q *quorum) crashed(n *node) {
	if q.leader == n.id {
		q.leader, q.since = -1, q.w.now.Add(q.w.between(electionMin, electionMax))
	}
}

func (q *quorum) elect(n *node) {
	q.leave()
	q.term++
	q.leader, q.since = n.id, time.Time{}
	term := q.term
	q.w.note("node %d leads the metadata in term %d", n.id, term)
	n.do(q.w.between(0, 20*time.Millisecond), "takes office", func() {
		if q.term == term && q.leader == n.id {
			n.learn(len(q.entries))
			n.office(term, true)
		}
	})
}

// propose commits one entry, for the node that leads.
func (q *quorum) propose(n *node, cmds []raftmeta.Command, done func([]raftmeta.Result, error)) {
	if q.leader != n.id {
		n.do(time.Millisecond, "not proposed", func() { done(nil, errNotLeader) })
		return
	}
	term := q.term
	q.w.after(q.w.between(200*time.Microsecond, 8*time.Millisecond), "commit", func() {
		leads := q.term == term && q.leader == n.id
		switch {
		case leads && q.healthy(n) && !q.w.chance(150):
			results := q.commit(cmds)
			index := len(q.entries)
			n.do(0, "committed", func() {
				n.learn(index)
				done(results, nil)
			})
			return
		case leads && q.w.chance(2): // it is in the log of a majority, and nobody says so
			q.commit(cmds)
		}
		n.do(q.w.between(0, time.Second), "outcome unknown", func() { done(nil, errUnknown) })
	})
}

// commit appends an entry and tells the nodes, each when it can be reached.
func (q *quorum) commit(cmds []raftmeta.Command) []raftmeta.Result {
	next, delta, results := raftmeta.Apply(q.newest(), uint64(len(q.entries)+1), cmds...)
	q.entries = append(q.entries, committed{next, delta})
	q.w.note("entry %d: %T x %d", len(q.entries), cmds[0], len(cmds))
	q.w.model.metadata(next)
	for _, n := range q.w.nodes {
		q.tell(n)
	}
	return results
}

// tell lets a node learn what is committed, after a while.
func (q *quorum) tell(n *node) {
	if q.leader < 0 || !n.up {
		return
	}
	leader, index := q.leader, len(q.entries)
	n.do(q.w.between(time.Millisecond, 60*time.Millisecond), "hears of entries", func() {
		if q.w.net.reaches(leader, n.id) {
			n.learn(index)
		}
	})
}

// refresh is what a node's contact with the leader brings now and then.
func (q *quorum) refresh(n *node) {
	if q.leader >= 0 && q.w.net.reaches(q.leader, n.id) && q.healthy(q.w.node(q.leader)) {
		n.controllerID = q.leader
		n.learn(len(q.entries))
	}
}
