package broker

import (
	"sync/atomic"

	"weir/internal/budget"
	"weir/internal/clock"
	"weir/internal/lockmeter"
	"weir/replica"
	"weir/segment"
)

// The purgatory is where fetches wait for min.bytes, or for memory, or their deadline. There is no central structure: a waiting fetch is
// registered at its partitions, or at the memory for reads, has one timer, and is known to its connection. Whatever comes first - data,
// memory, a deleted partition or one with a new leader, the timer, the end of the connection - claims it; the rest finds it claimed.

// parked is the part of a fetch that waits.
type parked struct {
	claimed atomic.Bool
	settled chan struct{} // closed when parking is over: until then, whoever has claimed it waits to answer. No lock: both read, perhaps from a file.
	waiters []replica.Waiter
	base    []*replica.Partition // where it is registered; not changed after the first registration
	counts  []int64              // CommittedBytes when the wait began
	epochs  []int32              // leader epochs when the wait began
	had     int64                // bytes there were when the wait began
	starved atomic.Bool          // it waits for memory: data alone is no reason to wake it
	timer   clock.Timer
}

// connState is what the broker knows of a connection.
type connState struct {
	reader   *segment.Reader  // what its responses hold of the memory for reads; the connection's reader goroutine makes it
	follower *followerSession // of the node that fetches on it as a follower; the reader goroutine's, too

	mu struct {
		lockmeter.Mutex
		closed bool
		parked map[*fetch]struct{}
	}
}

func newConnState(b *Broker) *connState {
	s := &connState{}
	s.mu.MeterBy(b.locks, lockmeter.Purgatory)
	return s
}

// share begins a fetch's part in the memory for reads. It is called by Handle.
func (s *connState) share(b *Broker) segment.Share {
	if s.reader == nil {
		s.reader = b.parts.NewReader()
	}
	return s.reader.Share()
}

// enter notes a waiting fetch; false if the connection is gone.
func (s *connState) enter(f *fetch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return false
	}
	if s.mu.parked == nil {
		s.mu.parked = map[*fetch]struct{}{}
	}
	s.mu.parked[f] = struct{}{}
	return true
}

func (s *connState) leave(f *fetch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.parked, f)
}

// close ends the waiting of everything the connection asked for.
func (s *connState) close() {
	s.mu.Lock()
	s.mu.closed = true
	parked := s.mu.parked
	s.mu.parked = nil
	s.mu.Unlock()
	for f := range parked {
		f.complete()
	}
	if s.follower != nil {
		s.follower.close()
	}
}

// park makes the fetch wait. size is what the last look found; after registering, a second look makes sure that nothing
// came in between.
func (f *fetch) park(size int64) {
	f.settled = make(chan struct{})
	defer close(f.settled)
	f.register(size)
	if !f.state.enter(f) || f.b.closing.Load() {
		f.complete()
		return
	}
	if f.lookAgain() {
		f.complete()
	}
}

// lookAgain reports whether there is something to answer now. If not, and it is for lack of memory, the fetch is registered for that.
func (f *fetch) lookAgain() bool {
	if f.claimed.Load() {
		return false // finish looks
	}
	results, size, final := f.read()
	release(results)
	if final || size >= f.minSize {
		return true
	}
	if !f.share.Starved() {
		return false
	}
	f.starved.Store(true)
	f.b.starved.Add(1)
	return size > 0 || !f.share.Wait(f.complete)
}

// register makes the fetch known to its partitions and arms its timer. A partition that cannot be found any more has no
// registration; the second look sees it.
func (f *fetch) register(size int64) {
	f.had = size
	f.b.waiting.Add(1)
	for _, part := range f.parts {
		if p, err := f.find(part); err == nil {
			f.base, f.counts, f.epochs = append(f.base, p), append(f.counts, p.CommittedBytes()), append(f.epochs, p.LeaderEpoch())
		}
	}
	f.waiters = make([]replica.Waiter, len(f.base))
	for i, p := range f.base {
		f.waiters[i].Wake = f.woken
		p.Wait(&f.waiters[i])
	}
	f.timer = f.b.clk.AfterFunc(f.wait, f.complete)
}

// woken runs on the WAL's thread whenever one of the partitions advances.
func (f *fetch) woken() {
	if f.claimed.Load() {
		return
	}
	if f.starved.Load() && !f.overtaken() {
		return
	}
	if f.minSize > 1 && !f.overtaken() {
		size := f.had
		for i, p := range f.base {
			size += p.CommittedBytes() - f.counts[i]
		}
		if size < f.minSize {
			return
		}
	}
	f.complete()
}

// overtaken reports whether the fetch is to be answered whatever there is: the node stops, or a partition has gone or has another leader.
func (f *fetch) overtaken() bool {
	if f.b.closing.Load() {
		return true
	}
	for i, p := range f.base {
		if p.Closed() || p.LeaderEpoch() != f.epochs[i] {
			return true
		}
	}
	return false
}

// complete answers the fetch with what there is, on a goroutine of its own; only the first call does.
func (f *fetch) complete() {
	if f.claimed.CompareAndSwap(false, true) {
		go f.finish()
	}
}

func (f *fetch) finish() {
	<-f.settled
	f.b.waiting.Add(-1)
	if f.starved.Load() {
		f.b.starved.Add(-1)
	}
	f.timer.Stop()
	for i := range f.waiters {
		f.waiters[i].Stop()
	}
	f.state.leave(f)
	f.lapParked()
	results, _, _ := f.read()
	f.r.Lap(budget.Read, f.b.clk.Now())
	f.respond(results)
}
