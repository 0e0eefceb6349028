package segment

import (
	"crypto/sha256"
	"encoding/binary"

	"weir/internal/iobuf"
)

const (
	hashSize     = 16
	mapEntrySize = hashSize + 8
	mapSlotsMin  = 8
)

// offsetMap remembers the last offset of each key in a bounded memory outside the Go heap: open addressing over entries of a
// key's hash and an offset. Keys themselves are not kept, so two keys with the same hash would be taken for one and a live record lost: that
// is why the hash is cryptographic, 128 bits of SHA-256, which nobody can make collide on purpose either.
type offsetMap struct {
	buf   *iobuf.Buf
	mem   []byte
	slots uint64
	n     int64 // entries in use
	max   int64 // entries it takes
}

// newOffsetMap returns a map of at most bytes of memory, and of no more than keys keys need. load is the share of the slots that
// may be in use.
func newOffsetMap(bytes int64, load float64, keys int64) *offsetMap {
	slots := bytes / mapEntrySize
	if need := int64(float64(keys)/load) + 1; need < slots {
		slots = need
	}
	slots = max(slots, mapSlotsMin)
	m := &offsetMap{buf: iobuf.Get(int(slots * mapEntrySize)), slots: uint64(slots)}
	m.mem = m.buf.Bytes()
	clear(m.mem)
	m.max = min(max(int64(float64(slots)*load), 1), slots-1) // one slot stays free, so that a search ends
	return m
}

func (m *offsetMap) release() { m.buf.Release() }

// find returns the entry of the key's hash, or the free one where it belongs. Offsets are stored plus 1: 0 is a free entry.
func (m *offsetMap) find(key []byte) (entry []byte, hash [sha256.Size]byte, used bool) {
	hash = sha256.Sum256(key)
	at := binary.LittleEndian.Uint64(hash[:]) % m.slots
	for {
		entry = m.mem[at*mapEntrySize : (at+1)*mapEntrySize : (at+1)*mapEntrySize]
		switch {
		case binary.LittleEndian.Uint64(entry[hashSize:]) == 0:
			return entry, hash, false
		case string(entry[:hashSize]) == string(hash[:hashSize]):
			return entry, hash, true
		}
		if at++; at == m.slots {
			at = 0
		}
	}
}

// put notes that key is at offset. It returns false, and notes nothing, if the key is new and there is no room.
func (m *offsetMap) put(key []byte, offset int64) bool {
	entry, hash, used := m.find(key)
	if !used {
		if m.n >= m.max {
			return false
		}
		m.n++
		copy(entry, hash[:hashSize])
	}
	binary.LittleEndian.PutUint64(entry[hashSize:], uint64(offset)+1)
	return true
}

// last returns the offset noted for key, -1 if there is none.
func (m *offsetMap) last(key []byte) int64 {
	entry, _, used := m.find(key)
	if !used {
		return -1
	}
	return int64(binary.LittleEndian.Uint64(entry[hashSize:])) - 1
}
