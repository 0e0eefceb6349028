package segment

import (
	"errors"
	"fmt"
	"io/fs"

	"weir/internal/clock"
	"weir/internal/lockmeter"
)

// indexCache bounds the memory of sealed segments' indexes; the active segment's index always stays.
type indexCache struct {
	max int64
	mu  struct {
		lockmeter.Mutex
		lru lruList[*segment]
	}
}

func newIndexCache(limit int64, locks *lockmeter.Meter) *indexCache {
	c := &indexCache{max: limit}
	c.mu.MeterBy(locks, lockmeter.SegmentFiles)
	c.mu.lru.init()
	return c
}

// add makes g's index evictable and evicts others. The caller holds no log's lock.
func (c *indexCache) add(g *segment) {
	g.log.mu.Lock()
	if g.ix == nil || g.deleted {
		g.log.mu.Unlock()
		return
	}
	cost := g.ix.bytes() + 128
	g.log.mu.Unlock()
	var victims []*segment
	c.mu.Lock()
	if !g.ixLRU.in {
		c.mu.lru.add(&g.ixLRU, g, cost)
	}
	for c.mu.lru.cost > c.max && c.mu.lru.n > 1 {
		v, _ := c.mu.lru.oldest()
		c.mu.lru.remove(&v.ixLRU)
		victims = append(victims, v)
	}
	c.mu.Unlock()
	for _, v := range victims {
		v.log.mu.Lock()
		v.ix = nil
		v.log.mu.Unlock()
	}
}

func (c *indexCache) touch(g *segment) {
	c.mu.Lock()
	if g.ixLRU.in {
		c.mu.lru.touch(&g.ixLRU)
	}
	c.mu.Unlock()
}

func (c *indexCache) drop(g *segment) {
	c.mu.Lock()
	c.mu.lru.remove(&g.ixLRU)
	c.mu.Unlock()
}

// index returns a snapshot of g's index, loading or rebuilding it first if it is not in memory. Waiting is bounded by
// the I/O timeout; the work goes on in the background, and the next caller finds it done.
func (s *Store) index(g *segment) (index, error) {
	l := g.log
	l.mu.Lock()
	if ix, ok := g.indexLocked(); ok {
		sealed := g.indexSaved
		l.mu.Unlock()
		if sealed {
			s.indexes.touch(g)
		}
		return ix, nil
	}
	loading := g.loading
	if loading == nil {
		loading = make(chan struct{})
		g.loading = loading
		s.background(func() { s.loadIndex(g, loading) })
	}
	l.mu.Unlock()

	start := s.clock.Now()
	expired := make(chan struct{})
	timer := clock.AfterRunning(s.clock, s.opt.IOTimeout, func() { close(expired) })
	defer timer.Stop()
	select {
	case <-loading:
	case <-expired:
		return index{}, &DeadlineError{Op: "load index of", Target: g.name, Elapsed: s.clock.Now().Sub(start)}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if ix, ok := g.indexLocked(); ok {
		return ix, nil
	}
	if g.loadErr != nil {
		return index{}, g.loadErr
	}
	// Loaded and at once evicted: the memory bound is too small for the working set. Walk from the start.
	return index{base: g.base}, nil
}

func (g *segment) indexLocked() (index, bool) {
	if g.ix != nil {
		return *g.ix, true
	}
	return index{base: g.base}, !g.sealed
}

func (s *Store) loadIndex(g *segment, done chan struct{}) {
	ix, sum, err := s.readIndex(g)
	var damage *CorruptError
	if err != nil {
		ix, sum, err = s.rebuildIndex(g)
		if errors.As(err, &damage) {
			s.log.Error("segment is damaged", "file", damage.File, "position", damage.Position, "offset", damage.Offset, "error", damage.Err)
			err = nil
		}
	}
	if err != nil {
		err = g.gone(err)
	}
	l := g.log
	l.mu.Lock()
	if g.replaced {
		err = errReplaced // what was read may be its successor's
	}
	g.loading, g.loadErr = nil, err
	if err == nil {
		g.ix, g.sum, g.summed = &ix, sum, true
		if damage != nil {
			g.damage, g.damageAt, g.damageOf = damage, damage.Position, damage.Offset
		}
	}
	l.mu.Unlock()
	close(done)
	if err == nil {
		s.indexes.add(g)
	}
}

// readIndex loads both index files of a sealed segment and checks that they are whole, are this segment's, and
// describe all of it.
func (s *Store) readIndex(g *segment) (index, summary, error) {
	g.log.mu.Lock()
	size, next := g.size, g.next
	g.log.mu.Unlock()
	ix, sum, err := s.readIndexFiles(g)
	if err != nil {
		return index{}, summary{}, err
	}
	if sum.bytes != size || sum.next != next {
		return index{}, summary{}, fmt.Errorf("%w: covers %d bytes up to offset %d, segment has %d up to %d", errIndex, sum.bytes, sum.next, size, next)
	}
	return ix, sum, nil
}

func (s *Store) readIndexFiles(g *segment) (ix index, sum summary, err error) {
	ix.base = g.base
	var sums [2]summary
	for i, kind := range []indexKind{offsetIndex, timeIndex} {
		name := g.indexName(kind)
		data, err := s.readFile(name)
		var entries []byte
		if err == nil {
			entries, sums[i], err = decodeIndex(kind, g.base, data)
		}
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				s.log.Warn("index is unusable and will be rebuilt", "file", name, "error", err)
			}
			return index{}, summary{}, err
		}
		if kind == offsetIndex {
			ix.offsets = entries
		} else {
			ix.times = entries
		}
	}
	if sums[0] != sums[1] {
		return index{}, summary{}, fmt.Errorf("%w: offset and time index of %s disagree", errIndex, g.name)
	}
	return ix, sums[0], nil
}

// rebuildIndex makes a sealed segment's index from its batches. With a *CorruptError, which is the first damage, it returns what there is
// besides; that is not saved, so that the damage is found again.
func (s *Store) rebuildIndex(g *segment) (index, summary, error) {
	s.metrics.IndexRebuilds.Inc()
	g.log.mu.Lock()
	size, next := g.size, g.next
	g.log.mu.Unlock()
	interval := g.log.cfg().indexInterval()
	ix, sum := index{base: g.base}, emptySummary(g.base)
	h, err := s.handles.acquire(g, false)
	if err != nil {
		return ix, sum, err
	}
	defer s.handles.release(h)
	if err := s.indexBatches(fileView{g: g, end: size, next: next}, h, &ix, &sum, interval); err != nil {
		return ix, sum, err
	}
	if sum.next != next {
		return ix, sum, g.corrupt(sum.bytes, sum.next, fmt.Errorf("segment ends at offset %d, the next one begins at %d", sum.next, next))
	}
	if err := s.writeIndex(g, ix, sum, s.writeFile); err != nil {
		s.log.Warn("saving a rebuilt index failed", "file", g.name, "error", err)
	}
	return ix, sum, nil
}

// saveIndex writes the index files of what is flushed. The greatest timestamp of an active segment may then be one of its
// tail, which a crash can lose: it is an upper bound, and who looks for that record must cope with its absence.
func (s *Store) saveIndex(l *Log, g *segment) error { return s.saveIndexBy(l, g, s.writeFile) }

func (s *Store) saveIndexBy(l *Log, g *segment, write func(name string, data []byte) error) error {
	l.mu.Lock()
	ix, ok := g.indexLocked()
	sum := g.sum
	if !ok || g.deleted || g.flushed == 0 {
		l.mu.Unlock()
		return nil
	}
	sum.bytes, sum.next = g.flushed, g.flushedNext
	g.indexed = sum.bytes
	l.mu.Unlock()
	ix.truncate(sum.bytes, sum.next)
	return s.writeIndex(g, ix, sum, write)
}

// writeIndex writes both index files, unless g is no longer part of its log.
func (s *Store) writeIndex(g *segment, ix index, sum summary, write func(name string, data []byte) error) error {
	if !g.log.beginIndexing(g) {
		return nil
	}
	defer g.log.endIndexing()
	if err := write(g.indexName(offsetIndex), encodeIndex(offsetIndex, g.base, ix.offsets, sum)); err != nil {
		return err
	}
	return write(g.indexName(timeIndex), encodeIndex(timeIndex, g.base, ix.times, sum))
}
