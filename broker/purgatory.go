package broker

import (
	"slices"
	"sync"
	"sync/atomic"

	"weir/internal/clock"
	"weir/replica"
	"weir/segment"
)

// The purgatory is where fetches wait for min.bytes, or for memory, or their deadline. There is no central structure: a waiting fetch is
// registered at its partitions, or at the memory for reads, has one timer, and is known to its connection. Whatever comes first - data,
// memory, a deleted partition, the timer, the end of the connection - claims it; the rest finds it claimed.

// parked is the part of a fetch that waits.
type parked struct {
	claimed atomic.Bool
	mu      sync.Mutex // held while registering and while finishing
	waiters []replica.Waiter
	base    []*replica.Partition // where it is registered; not changed after the first registration
	counts  []int64              // CommittedBytes when the wait began
	had     int64                // bytes there were when the wait began
	starved atomic.Bool          // it waits for memory: data alone is no reason to wake it
	timer   clock.Timer
}

// connState is what the broker knows of a connection.
type connState struct {
	reader *segment.Reader // what its responses hold of the memory for reads; the connection's reader goroutine makes it

	mu struct {
		sync.Mutex
		closed bool
		parked map[*fetch]struct{}
	}
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
}

// park makes the fetch wait. size is what the last look found; after registering, a second look makes sure that nothing
// came in between.
func (f *fetch) park(size int64) {
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
	f.mu.Lock() // the share is not for two at a time
	defer f.mu.Unlock()
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
	f.mu.Lock()
	defer f.mu.Unlock()
	f.had = size
	f.b.waiting.Add(1)
	for _, part := range f.parts {
		if p, err := f.find(part); err == nil {
			f.base, f.counts = append(f.base, p), append(f.counts, p.CommittedBytes())
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
	if f.starved.Load() && !f.b.closing.Load() && !slices.ContainsFunc(f.base, (*replica.Partition).Closed) {
		return
	}
	if f.minSize > 1 && !f.b.closing.Load() {
		size := f.had
		for i, p := range f.base {
			if p.Closed() {
				size = f.minSize
			}
			size += p.CommittedBytes() - f.counts[i]
		}
		if size < f.minSize {
			return
		}
	}
	f.complete()
}

// complete answers the fetch with what there is, on a goroutine of its own; only the first call does.
func (f *fetch) complete() {
	if f.claimed.CompareAndSwap(false, true) {
		go f.finish()
	}
}

func (f *fetch) finish() {
	f.mu.Lock() // until register is done
	defer f.mu.Unlock()
	f.b.waiting.Add(-1)
	if f.starved.Load() {
		f.b.starved.Add(-1)
	}
	f.timer.Stop()
	for i := range f.waiters {
		f.waiters[i].Stop()
	}
	f.state.leave(f)
	results, _, _ := f.read()
	f.respond(results)
}
