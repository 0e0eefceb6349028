package raftmeta

import (
	"fmt"

	"weir/internal/lockmeter"
)

// gate bounds and counts what is under way in raft, and shuts. Raft forgets those who wait for it when it is shut
// down, so that happens only when nothing is under way: for good after the gate is shut and has become idle, to be opened
// anew after it was drained. The time that takes is bounded by the store's and by ProposeTimeout.
type gate struct {
	max      int
	bytesMax int
	idle     chan struct{} // closed when shut and empty

	mu struct {
		lockmeter.Mutex
		inside   int
		emptied  chan struct{} // closed when nothing is under way, see drained; nil: nobody waits
		bytes    int
		shut     error
		poisoned error
	}
}

func newGate(limit, bytesMax int) *gate {
	return &gate{max: limit, bytesMax: bytesMax, idle: make(chan struct{})}
}

// enter lets a change of so many bytes in, which leaves with the same number. One larger than the bound gets in alone. What has no bytes is not a
// caller's change but the office's or the quorum's own, a handful at most, and always gets in: a controller that finds its callers there already
// must still be able to take office.
func (g *gate) enter(bytes int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.shut != nil {
		return g.mu.shut
	}
	if bytes > 0 && g.mu.inside >= g.max {
		return fmt.Errorf("%w: %d changes under way, at most %d", ErrBackpressure, g.mu.inside, g.max)
	}
	if bytes > 0 && g.mu.bytes > 0 && g.mu.bytes+bytes > g.bytesMax {
		return fmt.Errorf("%w: %d bytes of changes under way, %d more, at most %d", ErrBackpressure, g.mu.bytes, bytes, g.bytesMax)
	}
	g.mu.inside++
	g.mu.bytes += bytes
	return nil
}

func (g *gate) leave(bytes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.inside--
	g.mu.bytes -= bytes
	if g.mu.inside == 0 && g.mu.emptied != nil {
		close(g.mu.emptied)
		g.mu.emptied = nil
	}
	if g.mu.inside == 0 && g.mu.shut != nil {
		close(g.idle)
	}
}

// drained is closed as soon as nothing is under way for a moment. Only one goroutine asks.
func (g *gate) drained() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := make(chan struct{})
	if g.mu.inside == 0 {
		close(c)
	} else {
		g.mu.emptied = c
	}
	return c
}

// shutFor makes enter fail with err from now on; the first reason stays.
func (g *gate) shutFor(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.shut != nil {
		return
	}
	g.mu.shut = err
	if g.mu.inside == 0 {
		close(g.idle)
	}
}

// poison shuts the gate and keeps the reason, even if it was shut before.
func (g *gate) poison(err error) {
	g.mu.Lock()
	g.mu.poisoned = err
	g.mu.Unlock()
	g.shutFor(err)
}

func (g *gate) poisonReason() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.poisoned
}
