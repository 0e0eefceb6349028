package faultdisk

import (
	"sync"
	"syscall"
	"time"
)

// Kind is a set of kinds of requests to a disk.
type Kind int

// The kinds of requests. A durable write (FUA, O_DSYNC) reaches the disk as a write and a flush.
const (
	Read Kind = 1 << iota
	Write
	Flush

	All = Read | Write | Flush
)

// gate is what every request passes before it is carried out: it holds requests back, fails them, and fails all of them
// for ever once the power was cut.
type gate struct {
	mu struct {
		sync.Mutex
		stalled Kind
		until   time.Time // end of the stall; zero is until resume
		failing Kind
		errno   syscall.Errno
		cut     bool
		held    map[Kind]int
		changed chan struct{} // closed and replaced at every change
	}
}

func newGate() *gate {
	g := &gate{}
	g.mu.held = map[Kind]int{}
	g.mu.changed = make(chan struct{})
	return g
}

// pass waits while the kind is stalled and returns what the request fails with, 0 for nothing.
func (g *gate) pass(kind Kind) (held bool, errno syscall.Errno) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		if g.mu.cut {
			return held, syscall.EIO
		}
		if g.mu.stalled&kind == 0 || g.overLocked() {
			break
		}
		var timer <-chan time.Time
		if !g.mu.until.IsZero() {
			timer = time.After(time.Until(g.mu.until))
		}
		g.mu.held[kind]++
		if !held {
			held = true
			g.changeLocked()
		}
		changed := g.mu.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-timer:
		}
		g.mu.Lock()
		g.mu.held[kind]--
	}
	if g.mu.failing&kind != 0 {
		return held, g.mu.errno
	}
	return held, 0
}

func (g *gate) overLocked() bool { return !g.mu.until.IsZero() && !time.Now().Before(g.mu.until) }

func (g *gate) changeLocked() {
	close(g.mu.changed)
	g.mu.changed = make(chan struct{})
}

// stall holds requests of the kinds back for a time from now, or until resume where it is 0. It replaces an earlier stall.
func (g *gate) stall(kinds Kind, d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.stalled, g.mu.until = kinds, time.Time{}
	if d > 0 {
		g.mu.until = time.Now().Add(d)
	}
	g.changeLocked()
}

func (g *gate) fail(kinds Kind, errno syscall.Errno) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.failing, g.mu.errno = kinds, errno
}

// cut fails every request from now on, those held back too.
func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.cut = true
	g.changeLocked()
}

// holds is how many requests of the kinds are held back.
func (g *gate) holds(kinds Kind) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.holdsLocked(kinds)
}

func (g *gate) holdsLocked(kinds Kind) int {
	n := 0
	for kind, held := range g.mu.held {
		if kind&kinds != 0 {
			n += held
		}
	}
	return n
}

// awaitHeld waits until requests of the kinds are held back, and reports whether it happened in time.
func (g *gate) awaitHeld(kinds Kind, d time.Duration) bool {
	timer := time.After(d)
	for {
		g.mu.Lock()
		n, changed := g.holdsLocked(kinds), g.mu.changed
		g.mu.Unlock()
		if n > 0 {
			return true
		}
		select {
		case <-changed:
		case <-timer:
			return false
		}
	}
}
