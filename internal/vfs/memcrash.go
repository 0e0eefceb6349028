package vfs

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
)

// sectorBytes is what a disk writes as a whole or not at all.
const sectorBytes = 512

// CrashClone returns the file system that a machine might find after losing power now. What was synced is there. Of the rest, each
// changed sector, each change of a file's size, and each creation, removal or rename is kept with probability keep, independently, as
// rng decides: 0 gives exactly what was promised, 1 all that was done. m stays as it is; the clone shares nothing with it,
// has no hook, and nobody holds its locks.
func (m *MemFS) CrashClone(rng *rand.Rand, keep float64) *MemFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := NewMem()
	maps.Copy(c.mu.dirs, m.mu.dirs)
	c.mu.capacity = m.mu.capacity
	kept := maps.Clone(m.mu.durable)
	for _, p := range m.mu.pending {
		if rng.Float64() < keep {
			p.apply(kept)
		}
	}
	clones := make(map[*memNode]*memNode) // a node may have two names when only half of what led there was kept
	for _, name := range sortedKeys(kept) {
		if !c.mu.dirs[path.Dir(name)] {
			continue
		}
		node := clones[kept[name]]
		if node == nil {
			node = kept[name].crashClone(rng, keep)
			clones[kept[name]] = node
		}
		c.mu.entries[name], c.mu.durable[name] = node, node
	}
	return c
}

func (n *memNode) crashClone(rng *rand.Rand, keep float64) *memNode {
	n.mu.RLock()
	defer n.mu.RUnlock()
	c := &memNode{}
	c.mu.size = n.crashSizeLocked(rng, keep)
	for i := int64(0); i < (c.mu.size+BlockSize-1)/BlockSize; i++ {
		block := n.durableLocked(i)
		if _, dirty := n.mu.dirty[i]; dirty {
			var now *memBlock
			if i < int64(len(n.mu.blocks)) {
				now = n.mu.blocks[i]
			}
			block = mixSectors(block, now, rng, keep)
		} else if block != nil {
			own := *block
			block = &own
		}
		if rest := c.mu.size - i*BlockSize; block != nil && rest < BlockSize {
			clear(block[rest:])
		}
		c.mu.blocks = append(c.mu.blocks, block)
	}
	c.mu.durSize, c.mu.durable = c.mu.size, slices.Clone(c.mu.blocks)
	return c
}

// crashSizeLocked decides how long the file is: as promised, as it was, or on the way from one to the other.
func (n *memNode) crashSizeLocked(rng *rand.Rand, keep float64) int64 {
	was, now := n.mu.durSize, n.mu.size
	if was == now || rng.Float64() >= keep {
		return was
	}
	if now < was || keep >= 1 || rng.IntN(2) == 0 {
		return now
	}
	sectors := (now - was) / sectorBytes
	return min(was+rng.Int64N(sectors+1)*sectorBytes, now)
}

// mixSectors takes each sector from now with probability keep, else from was.
func mixSectors(was, now *memBlock, rng *rand.Rand, keep float64) *memBlock {
	mixed := new(memBlock)
	for at := 0; at < BlockSize; at += sectorBytes {
		from := was
		if rng.Float64() < keep {
			from = now
		}
		if from != nil {
			copy(mixed[at:at+sectorBytes], from[at:])
		}
	}
	return mixed
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
