package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sort"
)

// Both indexes live in memory exactly as they lie in their files: big-endian entries in ascending order,
// so that loading is one read and memory costs what disk costs. docs/format/segment.md shows the layout.
const (
	offsetEntrySize = 8  // relative offset u32, position u32
	timeEntrySize   = 12 // timestamp i64, relative offset u32
	footerSize      = 64

	indexMagic   = 0x57494458 // "WIDX"
	indexVersion = 1
)

type indexKind uint16

const (
	offsetIndex indexKind = 1
	timeIndex   indexKind = 2
)

func (k indexKind) entrySize() int {
	if k == offsetIndex {
		return offsetEntrySize
	}
	return timeEntrySize
}

func (k indexKind) suffix() string {
	if k == offsetIndex {
		return ".index"
	}
	return ".timeindex"
}

// errIndex: an index file is not what its log file needs. It is never shown to callers; the index is rebuilt.
var errIndex = errors.New("unusable index")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// summary is what is known about the first bytes of a segment without reading them.
type summary struct {
	bytes     int64 // how many bytes of the log file are covered
	next      int64 // offset after the last batch covered
	firstTime int64 // greatest timestamp of the first batch, ms; noTime without batches
	maxTime   int64 // greatest timestamp, ms; noTime: none
	maxTimeAt int64 // base offset of the first batch that has maxTime
}

// noTime is Kafka's "no timestamp".
const noTime = -1

// index is a segment's pair of sparse indexes. Entries are only ever appended, so a copy of the struct is an
// immutable snapshot.
type index struct {
	base    int64  // the segment's base offset
	offsets []byte // batch base offset -> position, for a batch about every index interval
	times   []byte // greatest timestamp so far -> base offset of the batch that brought it
}

// bytes is the memory held.
func (ix *index) bytes() int64 { return int64(cap(ix.offsets) + cap(ix.times)) }

func (ix *index) add(offset, position int64) {
	ix.offsets = binary.BigEndian.AppendUint32(ix.offsets, uint32(offset-ix.base))
	ix.offsets = binary.BigEndian.AppendUint32(ix.offsets, uint32(position))
}

func (ix *index) addTime(timestamp, offset int64) {
	if n := len(ix.times); n > 0 && ix.timeAt(n/timeEntrySize-1) >= timestamp {
		return
	}
	ix.times = binary.BigEndian.AppendUint64(ix.times, uint64(timestamp))
	ix.times = binary.BigEndian.AppendUint32(ix.times, uint32(offset-ix.base))
}

func (ix *index) len() int { return len(ix.offsets) / offsetEntrySize }

func (ix *index) entry(i int) (offset, position int64) {
	e := ix.offsets[i*offsetEntrySize:]
	return ix.base + int64(binary.BigEndian.Uint32(e)), int64(binary.BigEndian.Uint32(e[4:]))
}

func (ix *index) timeAt(i int) int64 {
	return int64(binary.BigEndian.Uint64(ix.times[i*timeEntrySize:]))
}

func (ix *index) timeOffset(i int) int64 {
	return ix.base + int64(binary.BigEndian.Uint32(ix.times[i*timeEntrySize+8:]))
}

// floor returns the last indexed batch that starts at or below offset; the segment's start if there is none.
func (ix *index) floor(offset int64) (at, position int64) {
	i := sort.Search(ix.len(), func(i int) bool { o, _ := ix.entry(i); return o > offset })
	if i == 0 {
		return ix.base, 0
	}
	return ix.entry(i - 1)
}

// cut returns the last indexed batch that starts at or below both position and offset: a place where a range may
// end. ok is false if there is none.
func (ix *index) cut(position, offset int64) (at, pos int64, ok bool) {
	i := sort.Search(ix.len(), func(i int) bool { o, p := ix.entry(i); return p > position || o > offset })
	if i == 0 {
		return 0, 0, false
	}
	at, pos = ix.entry(i - 1)
	return at, pos, true
}

// timeFloor returns an offset such that all records in batches below it are older than timestamp.
func (ix *index) timeFloor(timestamp int64) int64 {
	n := len(ix.times) / timeEntrySize
	i := sort.Search(n, func(i int) bool { return ix.timeAt(i) >= timestamp })
	if i == 0 {
		return ix.base
	}
	return ix.timeOffset(i - 1)
}

// truncate drops the entries of batches at or beyond a position and its offset. It changes ix only, not what it is a copy of.
func (ix *index) truncate(position, offset int64) {
	n := sort.Search(ix.len(), func(i int) bool { _, p := ix.entry(i); return p >= position })
	ix.offsets = ix.offsets[:n*offsetEntrySize]
	m := sort.Search(len(ix.times)/timeEntrySize, func(i int) bool { return ix.timeOffset(i) >= offset })
	ix.times = ix.times[:m*timeEntrySize]
}

// encodeIndex returns the content of an index file.
func encodeIndex(kind indexKind, base int64, entries []byte, sum summary) []byte {
	be := binary.BigEndian
	out := make([]byte, 0, len(entries)+footerSize)
	out = append(out, entries...)
	out = be.AppendUint32(out, indexMagic)
	out = be.AppendUint16(out, indexVersion)
	out = be.AppendUint16(out, uint16(kind))
	out = be.AppendUint64(out, uint64(base))
	out = be.AppendUint64(out, uint64(sum.bytes))
	out = be.AppendUint64(out, uint64(sum.next))
	out = be.AppendUint64(out, uint64(sum.firstTime))
	out = be.AppendUint64(out, uint64(sum.maxTime))
	out = be.AppendUint64(out, uint64(sum.maxTimeAt))
	out = be.AppendUint32(out, uint32(len(entries)/kind.entrySize()))
	return be.AppendUint32(out, crc32.Checksum(out, castagnoli))
}

// decodeIndex checks an index file's content and returns views of it.
func decodeIndex(kind indexKind, base int64, data []byte) (entries []byte, sum summary, err error) {
	bad := func(format string, args ...any) ([]byte, summary, error) {
		return nil, summary{}, fmt.Errorf("%w: %s", errIndex, fmt.Sprintf(format, args...))
	}
	if len(data) < footerSize {
		return bad("%d bytes, the footer alone has %d", len(data), footerSize)
	}
	be := binary.BigEndian
	entries = data[: len(data)-footerSize : len(data)-footerSize]
	f := data[len(entries):]
	if got := be.Uint32(f); got != indexMagic {
		return bad("magic %08x, want %08x", got, indexMagic)
	}
	if got, want := be.Uint32(f[footerSize-4:]), crc32.Checksum(data[:len(data)-4], castagnoli); got != want {
		return bad("checksum %08x, calculated %08x", got, want)
	}
	if v, k := be.Uint16(f[4:]), indexKind(be.Uint16(f[6:])); v != indexVersion || k != kind {
		return bad("version %d kind %d, want %d %d", v, k, indexVersion, kind)
	}
	if got := int64(be.Uint64(f[8:])); got != base {
		return bad("of base offset %d, want %d", got, base)
	}
	if n := int64(be.Uint32(f[56:])); n*int64(kind.entrySize()) != int64(len(entries)) {
		return bad("%d entries in %d bytes", n, len(entries))
	}
	sum = summary{
		bytes: int64(be.Uint64(f[16:])), next: int64(be.Uint64(f[24:])), firstTime: int64(be.Uint64(f[32:])),
		maxTime: int64(be.Uint64(f[40:])), maxTimeAt: int64(be.Uint64(f[48:])),
	}
	if sum.bytes < 0 || sum.next < base || (sum.bytes == 0) != (sum.next == base) {
		return bad("%d bytes up to offset %d from %d", sum.bytes, sum.next, base)
	}
	if err := checkEntries(kind, entries, base, sum); err != nil {
		return nil, summary{}, err
	}
	return entries, sum, nil
}

// checkEntries makes sure that binary search and what follows from it are safe, even if the writer was wrong.
func checkEntries(kind indexKind, entries []byte, base int64, sum summary) error {
	ix := index{base: base}
	if kind == timeIndex {
		ix.times = entries
		last := base - 1
		for i := range len(entries) / timeEntrySize {
			at := ix.timeOffset(i)
			if (i > 0 && ix.timeAt(i) <= ix.timeAt(i-1)) || at <= last || at >= sum.next {
				return fmt.Errorf("%w: time entry %d is out of order", errIndex, i)
			}
			last = at
		}
		return nil
	}
	ix.offsets = entries
	lastOffset, lastPosition := base, int64(0)
	for i := range ix.len() {
		o, p := ix.entry(i)
		if o <= lastOffset || p <= lastPosition || o >= sum.next || p >= sum.bytes {
			return fmt.Errorf("%w: entry %d (offset %d, position %d) is out of order", errIndex, i, o, p)
		}
		lastOffset, lastPosition = o, p
	}
	return nil
}
