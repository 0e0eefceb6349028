package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"weir/internal/record"
)

const logSuffix = ".log"

// positionMax bounds a segment file, because the index holds positions in 32 bits and Kafka's are signed.
const positionMax = 1<<31 - 1

// segment is one file of a log: Kafka batches from base on, without gaps. Positions below flushed are in the file and
// synced, the rest up to size is in the log's tail. All fields but the constant ones are guarded by the log's lock.
type segment struct {
	log  *Log   // constant
	base int64  // constant: offset of the first record
	name string // constant: path of the log file

	size        int64 // bytes, the tail included
	next        int64 // offset after the last batch, the tail included
	flushed     int64 // bytes in the file and synced
	flushedNext int64 // offset at flushed
	written     int64 // bytes that this process may have written to the file, synced or not
	indexed     int64 // bytes covered by the index files as last written
	sinceEntry  int64 // bytes since the last index entry
	sum         summary
	summed      bool // sum is known; a sealed segment's is read when first asked for
	sealed      bool // takes no more appends
	created     bool // the file exists and its directory entry is synced
	deleted     bool // no longer part of the log
	indexSaved  bool // sealed and its final index files are written
	settled     bool // nothing writes its files any more: it may be compacted
	replaced    bool // deleted by a compaction: its offsets are in another segment now

	// gapsEnd is constant: of a segment that compaction has written it is the offset after it, else 0. Where it is not 0, batches need not
	// follow each other without gaps.
	gapsEnd int64

	began   time.Time // when it was begun, or this process opened it
	touched time.Time // of one without timestamps: when it was last appended to

	damage   error // what a rebuild of the index found at damageAt; reads end there
	damageAt int64
	damageOf int64 // the offset there

	ix      *index        // nil: not in memory (sealed segments only)
	loading chan struct{} // closed when the load under way ends; nil: none
	loadErr error         // of the last load

	state *fileState // constant: of the file; a segment that takes over a part of another one's file shares it

	handle   *handle // guarded by the handle cache: the cached open file
	pinned   *handle // guarded by the handle cache: the open file of a segment that has another name on disk as yet
	uncached bool    // guarded by the handle cache: dropped from it for good
	lru      lruNode[*segment]
	ixLRU    lruNode[*segment]
}

func segmentName(base int64) string { return fmt.Sprintf("%020d", base) }

// parseSegmentName returns the base offset in a log file's name.
func parseSegmentName(name string) (int64, bool) {
	digits, ok := strings.CutSuffix(name, logSuffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	base, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || base < 0 || segmentName(base) != digits {
		return 0, false
	}
	return base, true
}

func newSegment(l *Log, base int64) *segment {
	now := l.s.clock.Now()
	return &segment{
		began: now, touched: now,
		log: l, base: base, name: path.Join(l.path, segmentName(base)+logSuffix),
		next: base, flushedNext: base, sum: emptySummary(base), summed: true,
		state: &fileState{},
	}
}

// fileState counts what is under way to a file.
type fileState struct {
	writes atomic.Int64 // writes that the kernel has not let go of, those that were given up on included
}

func emptySummary(base int64) summary {
	return summary{next: base, firstTime: noTime, maxTime: noTime, maxTimeAt: base}
}

// indexName is the path of one of the segment's index files.
func (g *segment) indexName(kind indexKind) string {
	return strings.TrimSuffix(g.name, logSuffix) + kind.suffix()
}

// noteLocked records a batch of n bytes that begins at the segment's present end.
func (g *segment) noteLocked(b record.Batch, n int64, interval int64) {
	if g.ix == nil {
		g.ix = &index{base: g.base}
	}
	g.sum.note(g.ix, b, n, &g.sinceEntry, interval)
	g.size, g.next = g.sum.bytes, g.sum.next
	if g.sum.maxTime < 0 {
		g.touched = g.log.s.clock.Now()
	}
}

// note extends a summary and an index by the batch b of n bytes. An entry is made before the first batch that
// begins more than interval bytes after the last entry, as Kafka does.
func (s *summary) note(ix *index, b record.Batch, n int64, sinceEntry *int64, interval int64) {
	base, latest := b.BaseOffset(), b.MaxTimestamp()
	if b.Count() == 0 {
		latest = noTime // compaction has left nothing that has the time that the header names
	}
	if s.bytes == 0 {
		s.firstTime = latest
	} else if *sinceEntry > interval {
		ix.add(base, s.bytes)
		if s.maxTime >= 0 {
			ix.addTime(s.maxTime, s.maxTimeAt)
		}
		*sinceEntry = 0
	}
	if latest > s.maxTime {
		s.maxTime, s.maxTimeAt = latest, base
	}
	s.bytes += n
	s.next = b.NextOffset()
	*sinceEntry += n
}

// corrupt describes damage at a position of the segment's file.
func (g *segment) corrupt(position, offset int64, err error) error {
	return &CorruptError{File: g.name, Position: position, Offset: offset, Err: err}
}

// checkHeader verifies what a header says against its place: it starts at offset next, with room bytes up to the
// end. In a segment that compaction has written (gapsEnd > 0) it may start later, but must end there. hdr has at least HeaderSize bytes.
func checkHeader(hdr record.Batch, next, room, gapsEnd int64) error {
	if hdr.Magic() != record.Magic {
		return fmt.Errorf("%w: magic %d, want %d", record.ErrMagic, hdr.Magic(), record.Magic)
	}
	size, err := record.PeekSize(hdr)
	if err != nil {
		return err
	}
	if int64(size) > room {
		return fmt.Errorf("%w: %d bytes where %d are left", record.ErrShort, size, room)
	}
	base := hdr.BaseOffset()
	if hdr.LastOffsetDelta() < 0 || base != next && (base < next || base >= gapsEnd) {
		return fmt.Errorf("%w: batch of offsets %d to %d where %d is expected", record.ErrInvalid, base, hdr.LastOffset(), next)
	}
	if gapsEnd > 0 && int64(hdr.LastOffsetDelta()) >= gapsEnd-base {
		return fmt.Errorf("%w: batch of offsets %d to %d in a segment that ends at %d", record.ErrInvalid, base, hdr.LastOffset(), gapsEnd)
	}
	return nil
}

// gone turns the failure to open a deleted segment into what the reader should have been told.
func (g *segment) gone(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	if g.replaced {
		return errReplaced
	}
	if g.deleted {
		return &OffsetError{Offset: g.base, Start: g.log.mu.start, End: g.log.mu.end}
	}
	return err
}
