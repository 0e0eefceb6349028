package group

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"weir/internal/clock"
	"weir/internal/record"
)

// fakeClock moves only by Advance, which runs what comes due, in order, on the caller's goroutine.
type fakeClock struct {
	mu     sync.Mutex
	now    time.Time
	timers []*fakeTimer
	armed  int // how often a timer was set
}

type fakeTimer struct {
	c  *fakeClock
	at time.Time
	f  func()
	on bool
}

func newFakeClock() *fakeClock { return &fakeClock{now: time.UnixMilli(1_700_000_000_000)} }

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) AfterFunc(d time.Duration, f func()) clock.Timer {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &fakeTimer{c: c, at: c.now.Add(d), f: f, on: true}
	c.timers = append(c.timers, t)
	c.armed++
	return t
}

func (t *fakeTimer) Stop() bool {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	was := t.on
	t.on = false
	return was
}

func (t *fakeTimer) Reset(d time.Duration) bool {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	was := t.on
	t.at, t.on = t.c.now.Add(d), true
	t.c.armed++
	return was
}

// next is the earliest timer due by until.
func (c *fakeClock) next(until time.Time) *fakeTimer {
	c.mu.Lock()
	defer c.mu.Unlock()
	var best *fakeTimer
	for _, t := range c.timers {
		if t.on && !t.at.After(until) && (best == nil || t.at.Before(best.at)) {
			best = t
		}
	}
	if best != nil {
		best.on = false
		if best.at.After(c.now) {
			c.now = best.at
		}
	}
	return best
}

func (c *fakeClock) Advance(d time.Duration) {
	end := c.Now().Add(d)
	for t := c.next(end); t != nil; t = c.next(end) {
		t.f()
	}
	c.mu.Lock()
	c.now = end
	c.mu.Unlock()
}

// fakeStorage keeps each partition's records in memory. Appends complete at once, or, held, when told to.
type fakeStorage struct {
	mu      sync.Mutex
	held    bool
	pending []fakeAppend
	logs    map[int32][]record.Record // durable
	onWrite func(p int32, rs []record.Record)
	fail    error
	epoch   int32 // the leader's
}

type fakeAppend struct {
	p    int32
	rs   []record.Record
	done func(error)
}

func newFakeStorage() *fakeStorage { return &fakeStorage{logs: map[int32][]record.Record{}} }

func (s *fakeStorage) Append(p, epoch int32, rs []record.Record, done func(error)) {
	s.mu.Lock()
	if epoch != s.epoch {
		s.mu.Unlock()
		done(fmt.Errorf("epoch %d, it is %d: %w", epoch, s.epoch, ErrNotLeader))
		return
	}
	if s.onWrite != nil {
		s.onWrite(p, rs)
	}
	if s.held {
		s.pending = append(s.pending, fakeAppend{p, rs, done})
		s.mu.Unlock()
		return
	}
	err := s.fail
	if err == nil {
		s.store(p, rs)
	}
	s.mu.Unlock()
	done(err)
}

func (s *fakeStorage) store(p int32, rs []record.Record) {
	for _, r := range rs {
		r.Offset = int64(len(s.logs[p]))
		s.logs[p] = append(s.logs[p], r)
	}
}

// complete ends the n oldest held appends (all: n < 0).
func (s *fakeStorage) complete(n int, err error) int {
	s.mu.Lock()
	if n < 0 || n > len(s.pending) {
		n = len(s.pending)
	}
	todo := slices.Clone(s.pending[:n])
	s.pending = slices.Clone(s.pending[n:])
	if err == nil {
		for _, a := range todo {
			s.store(a.p, a.rs)
		}
	}
	s.mu.Unlock()
	for _, a := range todo {
		a.done(err)
	}
	return n
}

// survive takes all held appends, and stores the n oldest.
func (s *fakeStorage) survive(n int, stored func([]record.Record)) []fakeAppend {
	s.mu.Lock()
	defer s.mu.Unlock()
	todo := s.pending
	s.pending = nil
	for _, a := range todo[:min(n, len(todo))] {
		s.store(a.p, a.rs)
		stored(a.rs)
	}
	return todo
}

func (s *fakeStorage) Load(p, epoch int32, fn func(*record.Record) error) error {
	s.mu.Lock()
	log := slices.Clone(s.logs[p])
	leads := epoch == s.epoch
	s.mu.Unlock()
	if !leads {
		return ErrNotLeader
	}
	for i := range log {
		if err := fn(&log[i]); err != nil {
			return err
		}
	}
	return nil
}

var errFake = errors.New("disk says no")

func counterID() func() string {
	n := 0
	return func() string { n++; return fmt.Sprint(n) }
}
