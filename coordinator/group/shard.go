package group

import (
	"strconv"
	"sync/atomic"

	"weir/internal/lockmeter"
)

// shardState says whether a shard's groups are here.
type shardState uint8

const (
	notOwned shardState = iota
	loading
	active
)

// shard owns the groups of one partition of __consumer_offsets. Every transition of them runs under mu.
type shard struct {
	c         *Coordinator
	partition int32

	mu struct {
		lockmeter.Mutex
		state  shardState
		groups map[string]*group
		fx     effects
		gone   []goneTopic // topics that were deleted while loading
		failed bool        // the load of this epoch did, and is tried again
		epoch  int32       // the leader epoch in which the groups were, or are being, loaded
		least  int32       // a claim of an older leader epoch than this comes too late
		load   uint64      // counts claims and unloads: a load that took long must not install what is out of date

		// Appends in flight, oldest first; barriers wait for those before them.
		appends  []*pendingAppend
		barriers []barrier
		appended uint64
	}

	// completions are appends that ended and have not been worked off. Storage may report them while mu is held, even from
	// within Append, so they are queued and worked off by whoever has or gets mu.
	completions struct {
		lockmeter.Mutex
		list []completion
	}
	completed atomic.Int32 // length of the list
}

type pendingAppend struct {
	id   uint64
	done func(*effects, Code)
	over bool
	err  error
}

type completion struct {
	p   *pendingAppend
	err error
}

// goneTopic is a topic whose offsets are to go.
type goneTopic struct {
	name string
	id   [16]byte
}

// barrier is a read that waits for the appends up to id.
type barrier struct {
	id  uint64
	run func()
}

// transition runs f under the lock, carries out its effects and then replies. f decides with the shard's state whether
// it may do anything.
func (s *shard) transition(f func(fx *effects)) {
	s.mu.Lock()
	s.mu.fx.reset(s.c.clk.Now())
	f(&s.mu.fx)
	s.unlockAndReply()
}

// unlockAndReply carries out the effects of the transition under way, works off completed appends, releases the lock and
// replies.
func (s *shard) unlockAndReply() {
	s.performLocked(&s.mu.fx)
	for {
		for s.completed.Load() > 0 {
			s.completeLocked()
		}
		replies := s.mu.fx.replies
		s.mu.fx.replies = nil
		s.mu.Unlock()
		for _, r := range replies {
			r()
		}
		// A completion that came between the last look and the unlock found the lock taken and left.
		if s.completed.Load() == 0 || !s.mu.TryLock() {
			return
		}
		s.mu.fx.reset(s.c.clk.Now())
	}
}

// performLocked carries out timers and appends. Replies stay in fx.
func (s *shard) performLocked(fx *effects) {
	for _, op := range fx.timers {
		s.c.timers.set(op.t, op.at)
	}
	clear(fx.timers)
	fx.timers = fx.timers[:0]
	for _, g := range fx.removed {
		if s.mu.groups[g.id] == g {
			delete(s.mu.groups, g.id)
		}
	}
	fx.removed = nil
	for _, w := range fx.writes {
		s.mu.appended++
		p := &pendingAppend{id: s.mu.appended, done: w.done}
		s.mu.appends = append(s.mu.appends, p)
		var once atomic.Bool
		s.c.storage.Append(s.partition, s.mu.epoch, w.records, func(err error) {
			if !once.Swap(true) {
				s.complete(p, err)
			}
		})
	}
	clear(fx.writes)
	fx.writes = fx.writes[:0]
}

// complete takes the end of an append, from any goroutine.
func (s *shard) complete(p *pendingAppend, err error) {
	s.completions.Lock()
	s.completions.list = append(s.completions.list, completion{p, err})
	s.completed.Add(1)
	s.completions.Unlock()
	// Whoever holds the lock looks for completions before and after releasing it, so a failed TryLock loses nothing.
	if s.mu.TryLock() {
		s.mu.fx.reset(s.c.clk.Now())
		s.unlockAndReply()
	}
}

// completeLocked runs the transitions of the completed appends.
func (s *shard) completeLocked() {
	s.completions.Lock()
	list := s.completions.list
	s.completions.list = nil
	s.completed.Store(0)
	s.completions.Unlock()
	for _, e := range list {
		e.p.over, e.p.err = true, e.err
	}
	// In the order of the appends, whatever order they were reported in: the log is the truth, and the last write wins.
	for len(s.mu.appends) > 0 && s.mu.appends[0].over {
		p := s.mu.appends[0]
		s.mu.appends[0] = nil
		s.mu.appends = s.mu.appends[1:]
		code := codeOf(p.err)
		if code != OK {
			s.c.conf.metrics.failedWrites.Inc()
			s.c.conf.faults.Warn("a group's records were not written", strconv.Itoa(int(s.partition)), "partition", s.partition, "err", p.err)
		}
		p.done(&s.mu.fx, code)
		s.performLocked(&s.mu.fx)
	}
	s.releaseBarriersLocked()
}

// releaseBarriersLocked runs the reads whose appends are over.
func (s *shard) releaseBarriersLocked() {
	kept := s.mu.barriers[:0]
	for _, b := range s.mu.barriers {
		if len(s.mu.appends) == 0 || s.mu.appends[0].id > b.id {
			b.run()
		} else {
			kept = append(kept, b)
		}
	}
	clear(s.mu.barriers[len(kept):])
	s.mu.barriers = kept
}

// lookupLocked finds a group for an input that may change it.
func (s *shard) lookupLocked(id string) (*group, Code) {
	if code := s.stateCodeLocked(); code != OK {
		return nil, code
	}
	g := s.mu.groups[id]
	if g == nil {
		return nil, GroupIDNotFound
	}
	if g.deleting {
		return nil, CoordinatorLoadInProgress
	}
	return g, OK
}

func (s *shard) stateCodeLocked() Code {
	switch {
	case s.c.closed.Load():
		return CoordinatorNotAvailable
	case s.mu.state == loading:
		return CoordinatorLoadInProgress
	case s.mu.state == notOwned:
		return NotCoordinator
	}
	return OK
}

// createLocked adds a group. If it is still without anything after the transition, forgetIdleLocked removes it.
func (s *shard) createLocked(fx *effects, id string) *group {
	g := newGroup(id, &s.c.conf, fx.nowMs())
	s.mu.groups[id] = g
	return g
}

// forgetIdleLocked removes a group that was created for a request which was then refused.
func (s *shard) forgetIdleLocked(fx *effects, g *group) {
	if g.state != Dead && g.idle() && !g.logged && !g.deleting && len(fx.writes) == 0 {
		g.die(fx, UnknownMemberID)
		fx.removed = append(fx.removed, g)
	}
}

// fire is the input of a timer that was popped.
func (s *shard) fire(t *timer) {
	s.transition(func(fx *effects) {
		if s.c.timers.expired(t, fx.now) && t.group.state != Dead {
			t.group.onTimer(fx, t)
			s.forgetIdleLocked(fx, t.group)
		}
	})
}

// letGoLocked drops the shard's groups; whoever waits is told code. A load under way will find itself overtaken.
func (s *shard) letGoLocked(fx *effects, code Code) {
	for _, g := range s.mu.groups {
		g.die(fx, code)
	}
	s.mu.groups, s.mu.gone, s.mu.failed = nil, nil, false
	s.mu.state = notOwned
	s.mu.load++
}

func (s *shard) topicDeletedLocked(fx *effects, name string, id [16]byte) {
	for _, g := range s.mu.groups {
		if !g.deleting {
			g.topicDeleted(fx, name, id)
		}
	}
}
