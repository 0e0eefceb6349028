package replica

import (
	"fmt"
	"sync"
	"time"

	"weir/internal/clock"
	"weir/internal/vfs"
)

// spaceGuard refuses produce before the disk is full, so that everything acknowledged also finds room in
// its segment. It knows the room left from the last look at the file system, and counts what was admitted
// since; the file system is asked again when half of the known room is used up, after deletions, and, while it refuses,
// by the requests that come (at most one look at a time).
//
// A write can find no room although the file system says that there is some: a quota, no inodes, blocks kept for others. Then produce is
// refused all the same, and the write is tried again when something was freed or written, or after a while, which is the one timer here.
type spaceGuard struct {
	look    func() (vfs.Space, error) // asks the file system; may block as long as its deadline
	percent int                       // refuse above this use
	roomy   func()                    // called when room has returned after it had run out; may be nil
	clk     clock.Clock

	mu struct {
		sync.Mutex
		looking  bool
		err      error // the last look failed
		total    uint64
		room     int64 // bytes to admit until the reserve is reached, at the last look
		admitted int64 // since that look began
		short    bool  // room ran out, and roomy has not been called since
		met      bool  // a write met a full file system since then
		seen     bool  // and a look has found no room since
		timer    clock.Timer
		armed    bool          // the timer runs: the next try is due then
		delay    time.Duration // of the next try
		closed   bool
	}
}

// A write that contradicts what the file system says is tried again after retryMin, later less often.
const (
	retryMin = time.Second
	retryMax = 30 * time.Second
)

func newSpaceGuard(percent int, clk clock.Clock, look func() (vfs.Space, error), roomy func()) *spaceGuard {
	g := &spaceGuard{look: look, percent: percent, roomy: roomy, clk: clk}
	g.refresh()
	return g
}

// admit takes n bytes of the room, or says why there is none.
func (g *spaceGuard) admit(n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if left := g.mu.room - g.mu.admitted; int64(n) > left {
		g.mu.short = true
		g.refreshSoonLocked()
		if g.mu.err != nil {
			return fmt.Errorf("%w: cannot read the room left: %w", ErrStorage, g.mu.err)
		}
		return fmt.Errorf("%w: over %d%% of %d bytes are in use; delete topics, lower retention or grow the file system", ErrDiskFull, g.percent, g.mu.total)
	}
	if g.mu.met {
		if !g.mu.armed {
			g.refreshSoonLocked()
		}
		return fmt.Errorf("%w: a write found no room, although the file system reports some: a quota, or no inodes", ErrDiskFull)
	}
	g.mu.admitted += int64(n)
	if g.mu.admitted > g.mu.room/2 {
		g.refreshSoonLocked()
	}
	return nil
}

// ranOut notes that a write met a full file system.
func (g *spaceGuard) ranOut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.short, g.mu.met, g.mu.seen = true, true, false
	g.refreshSoonLocked()
}

// changed asks for a new look after something was freed or written: what met a full file system before may find room now.
func (g *spaceGuard) changed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.delay, g.mu.met = 0, false
	g.refreshSoonLocked()
}

// tryAgain is the timer's.
func (g *spaceGuard) tryAgain() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.closed {
		return
	}
	g.mu.armed, g.mu.met = false, false
	g.refreshSoonLocked()
}

func (g *spaceGuard) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.closed = true
	if g.mu.timer != nil {
		g.mu.timer.Stop()
	}
}

func (g *spaceGuard) refreshSoonLocked() {
	if !g.mu.looking {
		g.mu.looking = true
		go g.refresh()
	}
}

// full reports whether even one byte would be refused.
func (g *spaceGuard) full() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.met || g.mu.admitted >= g.mu.room
}

func (g *spaceGuard) refresh() {
	g.mu.Lock()
	g.mu.looking = true
	before := g.mu.admitted
	g.mu.Unlock()
	s, err := g.look()
	if g.took(s, err, before) && g.roomy != nil {
		g.roomy()
	}
}

// took stores what a look found; before was admitted when it began. It reports whether room has returned.
func (g *spaceGuard) took(s vfs.Space, err error, before int64) (returned bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.looking = false
	if g.mu.err = err; err != nil {
		g.mu.room, g.mu.admitted = 0, 0
		return false
	}
	reserve := s.Total / 100 * uint64(100-g.percent)
	g.mu.total = s.Total
	g.mu.room = int64(s.Available) - int64(reserve)
	g.mu.admitted -= before
	room := g.mu.room > g.mu.admitted
	g.mu.seen = g.mu.seen || !room
	switch {
	case !g.mu.short || !room:
		return false
	case g.mu.met && !g.mu.seen:
		g.tryLaterLocked()
		return false
	}
	g.mu.short, g.mu.met = false, false
	return true
}

func (g *spaceGuard) tryLaterLocked() {
	if g.mu.armed || g.mu.closed {
		return
	}
	g.mu.armed = true
	g.mu.delay = min(max(2*g.mu.delay, retryMin), retryMax)
	if g.mu.timer == nil {
		g.mu.timer = g.clk.AfterFunc(g.mu.delay, g.tryAgain)
	} else {
		g.mu.timer.Reset(g.mu.delay)
	}
}
