package segment

import (
	"errors"
	"fmt"
	"syscall"

	"weir/internal/lockmeter"
	"weir/internal/vfs"
)

// handle is an open segment file. It is counted: the cache holds one reference, every user
// another, and the last one to go closes it. Deleting the file does not hurt its users.
type handle struct {
	s     *Store
	file  vfs.File
	state *fileState // of the segment's file
	refs  int        // guarded by the cache's lock
}

// handleCache keeps the most recently used segment files open, at most max unless all are in use.
type handleCache struct {
	s   *Store
	max int
	mu  struct {
		lockmeter.Mutex
		lru    lruList[*segment]
		closed bool
	}
}

func newHandleCache(s *Store, limit int) *handleCache {
	c := &handleCache{s: s, max: limit}
	c.mu.MeterBy(s.opt.Locks, lockmeter.SegmentFiles)
	c.mu.lru.init()
	return c
}

// acquire returns the open file of g with one reference for the caller, opening it if need be, and creating it with create.
func (c *handleCache) acquire(g *segment, create bool) (*handle, error) {
	c.mu.Lock()
	if h := g.handle; h != nil {
		h.refs++
		c.mu.lru.touch(&g.lru)
		c.mu.Unlock()
		return h, nil
	}
	if h := g.pinned; h != nil {
		h.refs++
		c.mu.Unlock()
		return h, nil
	}
	c.mu.Unlock()
	flag := vfs.Flag(0)
	if create {
		flag = vfs.Create
	}
	f, err := c.s.openFile(g.name, flag)
	if err != nil {
		return nil, fmt.Errorf("open segment: %w", g.gone(asDeadline(err)))
	}
	h := &handle{s: c.s, file: f, state: g.state, refs: 1}
	if g.isReplaced() { // what was opened may be its successor, which has the same name
		c.s.closeHandle(h)
		return nil, fmt.Errorf("open segment: %w", errReplaced)
	}
	return c.install(g, h)
}

func (c *handleCache) install(g *segment, mine *handle) (*handle, error) {
	var dead []*handle
	c.mu.Lock()
	h := mine
	switch {
	case c.mu.closed:
		c.mu.Unlock()
		c.s.closeHandle(mine)
		return nil, ErrClosed
	case g.handle != nil: // somebody was faster
		h = g.handle
		h.refs++
		c.mu.lru.touch(&g.lru)
		dead = append(dead, mine)
	case g.uncached: // its last users go without the cache, which would hold a deleted file open
	default:
		h.refs++
		g.handle = h
		c.mu.lru.add(&g.lru, g, 1)
		c.s.metrics.OpenFiles.Inc()
		for c.mu.lru.n > c.max {
			victim, _ := c.mu.lru.oldest()
			dead = c.dropLocked(victim, dead)
		}
	}
	c.mu.Unlock()
	c.s.closeFiles(dead)
	return h, nil
}

// dropLocked takes g's handle out of the cache and appends it to dead if nobody uses it.
func (c *handleCache) dropLocked(g *segment, dead []*handle) []*handle {
	h := g.handle
	if h == nil {
		return dead
	}
	g.handle = nil
	c.mu.lru.remove(&g.lru)
	c.s.metrics.OpenFiles.Dec()
	if h.refs--; h.refs == 0 {
		dead = append(dead, h)
	}
	return dead
}

// drop forgets g's file.
func (c *handleCache) drop(g *segment) {
	c.mu.Lock()
	g.uncached = true
	dead := c.dropLocked(g, nil)
	if h := g.pinned; h != nil {
		g.pinned = nil
		if h.refs--; h.refs == 0 {
			dead = append(dead, h)
		}
	}
	c.mu.Unlock()
	for _, d := range dead {
		c.s.closeHandle(d)
	}
}

func (c *handleCache) retain(h *handle) {
	c.mu.Lock()
	h.refs++
	c.mu.Unlock()
}

// release gives one reference back. It does no I/O: files are closed in the background.
func (c *handleCache) release(h *handle) {
	c.mu.Lock()
	h.refs--
	dead := h.refs == 0
	c.mu.Unlock()
	if dead {
		c.s.closeHandle(h)
	}
}

// close empties the cache; later acquires fail.
func (c *handleCache) close() {
	var dead []*handle
	c.mu.Lock()
	c.mu.closed = true
	for g, ok := c.mu.lru.oldest(); ok; g, ok = c.mu.lru.oldest() {
		dead = c.dropLocked(g, dead)
	}
	c.mu.Unlock()
	for _, d := range dead {
		c.s.closeHandle(d)
	}
}

// relieve closes up to n files that nobody uses, the least recently used first, and waits for it and for those that are being closed
// already. It returns how many that were.
func (c *handleCache) relieve(n int) (closed int) {
	dead := c.s.closes.steal()
	c.mu.Lock()
	for len(dead) < n {
		victim, ok := c.mu.lru.oldest()
		if !ok {
			break
		}
		dead = c.dropLocked(victim, dead)
	}
	c.mu.Unlock()
	c.s.closeFiles(dead)
	return len(dead) + c.s.closes.wait()
}

// relieveFiles is how many files are closed to be able to open one.
const relieveFiles = 16

// openFile opens a file. If the process has as many open as it may, files that are only cached make room: connections and other
// parts of the process share the limit, and running into it must not look like a failing disk.
func (s *Store) openFile(name string, flag vfs.Flag) (vfs.File, error) {
	tooMany := func(err error) bool { return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) }
	for {
		f, err := s.fs.OpenFile(name, flag)
		if !tooMany(err) {
			return f, err
		}
		s.relief <- struct{}{} // one at a time: what another one closes makes room for all
		f, err = s.fs.OpenFile(name, flag)
		closed := 0
		if tooMany(err) {
			closed = s.handles.relieve(relieveFiles)
		}
		<-s.relief
		if closed == 0 {
			return f, err
		}
	}
}

// closeWorkers is how many files are closed at once.
const closeWorkers = 4

// closeHandle closes h in the background.
func (s *Store) closeHandle(h *handle) { s.closes.add(h) }

func (s *Store) closeFiles(list []*handle) {
	for _, h := range list {
		if err := h.file.Close(); err != nil {
			s.log.Warn("closing a segment file failed", "file", h.file.Name(), "error", err)
		}
	}
}
