package raftmeta

import (
	"errors"
	"fmt"
	"time"

	"weir/internal/clock"
	"weir/wal"
)

// Writes of the store: each waits until the wal says that it is durable, or the deadline has passed. A failure poisons the store for good.

// batch is what one write waits for.
type batch struct {
	left  int // entries not yet reported; the committer's
	err   error
	ended chan struct{}
}

// committed is the wal's OnCommit.
func committed(group []*wal.Entry, err error) {
	for _, e := range group {
		b := e.Owner.(*batch)
		if err != nil && b.err == nil {
			b.err = err
		}
		if b.left--; b.left == 0 {
			close(b.ended)
		}
	}
}

// commit appends what build returns, under the order lock, and waits. The entries stay the wal's if it times out.
func (s *store) commit(build func() []*wal.Entry) error {
	if err := s.poisoned(); err != nil {
		return err
	}
	began := s.o.clk.Now()
	b := &batch{ended: make(chan struct{})}
	if err := s.append(b, build); err != nil {
		return s.failed(err)
	}
	timeout := make(chan struct{})
	timer := clock.AfterRunning(s.o.clk, s.o.timeout, func() { close(timeout) })
	defer timer.Stop()
	select {
	case <-b.ended:
	case <-timeout:
		return s.failed(fmt.Errorf("%w: not durable after %s, oldest write in flight for %s", ErrStoreTimeout,
			s.o.timeout, s.wal.OldestIO().Round(time.Millisecond)))
	}
	s.o.metrics.storeSeconds.Observe(s.o.clk.Now().Sub(began).Seconds())
	if b.err != nil {
		return s.failed(b.err)
	}
	return nil
}

func (s *store) append(b *batch, build func() []*wal.Entry) error {
	wake, err := s.enqueue(b, build)
	if wake != nil {
		wake()
	}
	return err
}

func (s *store) enqueue(b *batch, build func() []*wal.Entry) (wake func(), err error) {
	s.order.Lock()
	defer s.order.Unlock()
	entries := build()
	b.left = len(entries)
	for _, e := range entries {
		e.Owner = b
	}
	return s.wal.EnqueueBatch(entries)
}

// failed turns the failure of a write into the poison, except where nothing was written and nothing is broken.
func (s *store) failed(err error) error {
	if errors.Is(err, wal.ErrTooLarge) {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	if errors.Is(err, wal.ErrClosed) {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	s.poison(err)
	return s.poisoned()
}

// poison latches the first failure.
func (s *store) poison(cause error) {
	s.mu.Lock()
	first := s.mu.poison == nil
	if first {
		s.mu.poison = fmt.Errorf("%w: %w", ErrPoisoned, cause)
	}
	err := s.mu.poison
	s.mu.Unlock()
	if first {
		s.o.metrics.poisoned.Set(1)
		s.o.log.Error("metadata log cannot be written, this node gives up its part in the metadata", "error", cause)
		s.o.onPoison(err)
	}
}

// poisoned is nil or why nothing is written any more.
func (s *store) poisoned() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.poison
}
