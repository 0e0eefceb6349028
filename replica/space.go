package replica

import (
	"fmt"
	"sync"

	"weir/internal/vfs"
)

// spaceGuard refuses produce before the disk is full, so that everything acknowledged also finds room in
// its segment. It knows the room left from the last look at the file system, and counts what was admitted
// since; the file system is asked again when half of the known room is used up, after deletions, and, while it refuses,
// by the requests that come (at most one look at a time). There is no timer.
type spaceGuard struct {
	look    func() (vfs.Space, error) // asks the file system; may block as long as its deadline
	percent int                       // refuse above this use
	roomy   func()                    // called when room has returned after it had run out; may be nil

	mu struct {
		sync.Mutex
		looking  bool
		err      error // the last look failed
		total    uint64
		room     int64 // bytes to admit until the reserve is reached, at the last look
		admitted int64 // since that look began
		short    bool  // room ran out, and roomy has not been called since
	}
}

func newSpaceGuard(percent int, look func() (vfs.Space, error), roomy func()) *spaceGuard {
	g := &spaceGuard{look: look, percent: percent, roomy: roomy}
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
	g.mu.short = true
	g.refreshSoonLocked()
}

// changed asks for a new look after something freed or took room by itself.
func (g *spaceGuard) changed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refreshSoonLocked()
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
	return g.mu.admitted >= g.mu.room
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
	returned = g.mu.short && g.mu.room > g.mu.admitted
	g.mu.short = g.mu.short && !returned
	return returned
}
