package faultdisk

import (
	"bytes"
	"math/rand/v2"
	"slices"
)

// blockBytes is the unit of a file system's metadata.
const blockBytes = 4096

// loss is what a power cut took.
type loss struct {
	Sectors int // that had unflushed content
	Lost    int // of those, how many do not have what was written last
}

// undo is what one write replaced within a block.
type undo struct {
	offset int64
	before []byte
}

// powerCut takes unflushed content away, sector by sector: each keeps what was written last with the probability keep. One
// that does not has its flushed content again where keep is 0, and else that or anything it held since, for a disk
// writes its cache back whenever it likes. The rest of the disk is untouched.
func (m *image) powerCut(rng *rand.Rand, keep float64) loss {
	m.mu.Lock()
	defer m.mu.Unlock()
	var lost loss
	uuid := m.metadataMarkLocked()
	blocks, order := m.undosLocked()
	for _, block := range order {
		undos := blocks[block]
		if uuid != nil && m.marked(block, undos, uuid) {
			m.lose(rng, keep, block*blockBytes, blockBytes, undos, &lost)
			continue
		}
		for at := block * blockBytes; at < (block+1)*blockBytes; at += sectorBytes {
			m.lose(rng, keep, at, sectorBytes, undos, &lost)
		}
	}
	m.mu.unflushed, m.mu.bytes = nil, 0
	m.mu.power++
	return lost
}

// undosLocked cuts what was unflushed at the borders of blocks: for each block what its writes replaced, newest first, and
// the blocks in an order that follows from the writes alone.
func (m *image) undosLocked() (blocks map[int64][]undo, order []int64) {
	blocks = map[int64][]undo{}
	for _, o := range slices.Backward(m.mu.unflushed) {
		for offset, before := o.offset, o.before; len(before) > 0; {
			block := offset / blockBytes
			n := min(int64(len(before)), (block+1)*blockBytes-offset)
			if blocks[block] == nil {
				order = append(order, block)
			}
			blocks[block] = append(blocks[block], undo{offset, before[:n]})
			offset, before = offset+n, before[n:]
		}
	}
	return blocks, order
}

// lose decides over a unit that is written in one piece: a sector, or a block.
func (m *image) lose(rng *rand.Rand, keep float64, at, size int64, undos []undo, lost *loss) {
	var mine []undo
	for _, u := range undos {
		if u.offset < at+size && at < u.offset+int64(len(u.before)) {
			mine = append(mine, u)
		}
	}
	if len(mine) == 0 {
		return
	}
	sectors := int(size / sectorBytes)
	lost.Sectors += sectors
	if rng.Float64() < keep {
		return
	}
	lost.Lost += sectors
	n := len(mine)
	if keep > 0 {
		n = 1 + rng.IntN(n)
	}
	for _, u := range mine[:n] {
		from := max(at, u.offset)
		to := min(at+size, u.offset+int64(len(u.before)))
		copy(m.content[from:to], u.before[from-u.offset:to-u.offset])
	}
}

// metadataMarkLocked is what an XFS writes into every block of its metadata, nil where there is none. XFS does not survive that such a
// block is torn: it logs only what changed in it, and does not even replay that where the block's head is new. So a disk
// that tears metadata at 512 bytes is none for XFS, and this one tears only what is not metadata.
func (m *image) metadataMarkLocked() []byte {
	const uuidOffset, uuidBytes = 32, 16 // in the superblock
	if !bytes.HasPrefix(m.content, []byte("XFSB")) {
		return nil
	}
	return bytes.Clone(m.content[uuidOffset : uuidOffset+uuidBytes])
}

// marked: the block is metadata, or was before one of its writes.
func (m *image) marked(block int64, undos []undo, mark []byte) bool {
	end := min((block+1)*blockBytes, m.size())
	return bytes.Contains(m.content[block*blockBytes:end], mark) ||
		slices.ContainsFunc(undos, func(u undo) bool { return bytes.Contains(u.before, mark) })
}
