package segment

import (
	"fmt"
	"os"
	"sync"

	"weir/internal/vfs"
)

// handle is an open segment file and its mapping. It is counted: the cache holds one reference, every user
// another, and the last one to go closes it. Deleting the file does not hurt its users.
type handle struct {
	s    *Store
	file vfs.File
	refs int // guarded by the cache's lock

	mu struct {
		sync.Mutex
		maps []vfs.Mapping // the last one is the largest; the others may still be in use
		size int64         // of the last one
	}
}

// handleCache keeps the most recently used segment files open, at most max unless all are in use.
type handleCache struct {
	s   *Store
	max int
	mu  struct {
		sync.Mutex
		lru    lruList[*segment]
		closed bool
	}
}

func newHandleCache(s *Store, limit int) *handleCache {
	c := &handleCache{s: s, max: limit}
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
	c.mu.Unlock()
	flag := vfs.Flag(0)
	if create {
		flag = vfs.Create
	}
	f, err := c.s.fs.OpenFile(g.name, flag)
	if err != nil {
		return nil, fmt.Errorf("open segment: %w", g.gone(asDeadline(err)))
	}
	return c.install(g, &handle{s: c.s, file: f, refs: 1})
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
	for _, d := range dead {
		c.s.closeHandle(d)
	}
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
	dead := c.dropLocked(g, nil)
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

// release gives one reference back. It does no I/O: closing and unmapping happen in the background.
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

// closeHandle unmaps and closes h in the background: munmap may wait for a fault that waits for the disk.
func (s *Store) closeHandle(h *handle) {
	s.background(func() {
		err := s.meta.do("close", h.file.Name(), func() error {
			h.mu.Lock()
			maps := h.mu.maps
			h.mu.maps = nil
			h.mu.Unlock()
			var first error
			for _, m := range maps {
				if err := m.Close(); err != nil && first == nil {
					first = err
				}
			}
			if err := h.file.Close(); err != nil && first == nil {
				first = err
			}
			return first
		})
		if err != nil {
			s.log.Warn("closing a segment file failed", "file", h.file.Name(), "error", err)
		}
	})
}

// mapping returns a mapping of at least need bytes; a new one covers capacity bytes, so that a growing file is
// mapped once.
func (h *handle) mapping(need, capacity int64) (vfs.Mapping, error) {
	h.mu.Lock()
	if n := len(h.mu.maps); n > 0 && h.mu.size >= need {
		m := h.mu.maps[n-1]
		h.mu.Unlock()
		return m, nil
	}
	h.mu.Unlock()
	page := int64(os.Getpagesize())
	size := (max(need, capacity) + page - 1) / page * page
	// The late result of a map call that outlived its deadline is unmapped again.
	m, err := call(h.s.meta, "map", h.file.Name(), func() (vfs.Mapping, error) { return h.file.Map(size) },
		func(m vfs.Mapping) { _ = m.Close() })
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if size >= h.mu.size {
		h.mu.maps, h.mu.size = append(h.mu.maps, m), size
	} else {
		h.mu.maps = append([]vfs.Mapping{m}, h.mu.maps...)
	}
	return m, nil
}
