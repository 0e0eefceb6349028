package segment

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"

	"weir/internal/damage"
	"weir/internal/record"
	"weir/internal/vfs"
)

// Repair makes a log that no Store has open whole again: every offset from its start to its end is in a good batch. Offsets whose
// records are damaged get an empty batch, as compaction leaves one: readers pass over it. The files that were changed stay behind
// under another name.

// damagedSuffix is that of files that a repair has set aside. A Store takes no notice of them.
const damagedSuffix = ".damaged"

// RepairOptions say how a log is repaired.
type RepairOptions struct {
	Checkpoint Checkpoint
	EpochEnd   int32 // as in InspectOptions
	// Batches of the write-ahead log for this log, verified and in order: they stand in for damaged ones.
	Batches []record.Batch
	// Followed says how many of them, the first ones, the files have, unless they were truncated: they are of use where files are damaged, not behind the end.
	Followed int
	// Append says to add those beyond the end, too, because the write-ahead log will not be replayed.
	Append bool
	// Cut is a truncation that lies before the batches. With Append the files follow it, else its replay is left to do. Gaps are where the log legally has no records: the first offset, by the one
	// behind.
	Cut  *RepairCut
	Gaps map[int64]int64
	// DryRun changes nothing; the result is what a real run would do.
	DryRun bool
	// Aside, if set, has the name of a file or directory before it is set aside as *.damaged.
	Aside func(name, as string)
}

// RepairResult is what a repair did.
type RepairResult struct {
	Lost     []damage.Range // offsets whose records are gone
	Restored []damage.Range // damaged, and taken from the write-ahead log
	Changed  []string       // files, in words
	State    Checkpoint     // what the checkpoint must say
}

// RepairLog repairs the log in dir, which need not exist if there are batches to append.
func RepairLog(fsys vfs.FS, dir string, o RepairOptions) (*RepairResult, error) {
	lf, err := listLog(fsys, dir)
	if errors.Is(err, fs.ErrNotExist) {
		lf, err = &fileList{sizes: map[int64]int64{}, names: map[string]bool{}}, nil
	}
	if err != nil {
		return nil, err
	}
	if len(lf.swaps) > 0 && !o.DryRun {
		for _, s := range lf.swaps {
			if err := s.finish(fsys, dir); err != nil {
				return nil, fmt.Errorf("repair %s: %w", dir, err)
			}
		}
		if lf, err = listLog(fsys, dir); err != nil {
			return nil, err
		}
	}
	r := &repair{fs: fsys, dir: dir, o: o, lf: lf, res: &RepairResult{State: o.Checkpoint}}
	if err := r.run(); err != nil {
		return nil, fmt.Errorf("repair %s: %w", dir, err)
	}
	return r.res, nil
}

type repair struct {
	fs  vfs.FS
	dir string
	o   RepairOptions
	lf  *fileList
	res *RepairResult
	end int64
}

func (r *repair) run() error {
	if r.o.Append {
		if err := r.cut(); err != nil {
			return err
		}
	}
	res, start := r.res, r.o.Checkpoint.LogStart
	switch {
	case len(r.lf.bases) > 0:
		if first := r.lf.bases[0]; first > start {
			var err error
			if start, err = r.withoutFirst(start, first); err != nil {
				return err
			}
		}
	case r.o.Checkpoint.RecoveryPoint > start:
		if err := r.withoutFiles(start); err != nil {
			return err
		}
		start = res.State.LogStart
	}
	res.State.LogStart = start
	gaps, _ := gapsBelow(r.fs, r.dir)
	r.end = max(r.end, start)
	for i := range r.lf.bases {
		if err := r.segment(i, gaps); err != nil {
			return err
		}
	}
	if err := r.append(); err != nil {
		return err
	}
	res.State.RecoveryPoint = max(res.State.RecoveryPoint, res.State.LogStart)
	if r.o.Append {
		res.State.RecoveryPoint = r.end
	}
	return nil
}

func (r *repair) change(format string, args ...any) {
	r.res.Changed = append(r.res.Changed, fmt.Sprintf(format, args...))
}

// lose notes that offsets are gone, except where the write-ahead log has them, and returns the batches that take their place.
func (r *repair) lose(from, to int64) []record.Batch {
	var out []record.Batch
	gone := func(from, to int64) {
		if from >= to {
			return
		}
		r.res.Lost = appendRange(r.res.Lost, from, r.wantedBelow(to))
		for ; from < to; from += math.MaxInt32 {
			out = append(out, emptyBatch(from, min(to, from+math.MaxInt32)))
		}
	}
	for _, b := range r.within(from, to) {
		gone(from, b.BaseOffset())
		r.res.Restored = append(r.res.Restored, damage.Range{From: b.BaseOffset(), To: b.NextOffset()})
		out = append(out, b)
		from = b.NextOffset()
	}
	gone(from, to)
	return out
}

// wantedBelow bounds what is lost of the files up to an offset: what the write-ahead log's replay will cut off is not.
func (r *repair) wantedBelow(to int64) int64 {
	switch c := r.o.Cut; {
	case c == nil || r.o.Append:
		return to
	case c.Reset:
		return 0
	default:
		return min(to, c.Offset)
	}
}

// within returns the batches of the write-ahead log that lie in a range of offsets.
func (r *repair) within(from, to int64) []record.Batch {
	i, _ := slices.BinarySearchFunc(r.o.Batches, from, func(b record.Batch, from int64) int { return cmp.Compare(b.BaseOffset(), from) })
	var out []record.Batch
	for ; i < len(r.o.Batches) && r.o.Batches[i].NextOffset() <= to; i++ {
		out = append(out, r.o.Batches[i])
	}
	return out
}

// emptyBatch stands for offsets without records, as Kafka's compaction leaves them.
func emptyBatch(from, to int64) record.Batch { return record.NewFiller(from, int32(to-from-1)) }

// withoutFirst handles a log whose oldest file is missing: it begins later, with what the write-ahead log still has of it.
func (r *repair) withoutFirst(start, first int64) (int64, error) {
	batches := r.lose(start, first)
	for len(batches) > 0 && batches[0].Count() == 0 {
		batches = batches[1:]
	}
	begin := first
	if len(batches) > 0 {
		begin = batches[0].BaseOffset()
		r.change("offsets %d to %d written into a new file", begin, first-1)
		if err := r.writeSegment(begin, batches); err != nil {
			return 0, err
		}
	}
	if begin > start {
		r.change("log start raised from %d to %d", start, begin)
	}
	return begin, nil
}

// withoutFiles handles a log whose records were flushed and whose files are all gone: it begins again where it ended, unless the
// write-ahead log reaches back.
func (r *repair) withoutFiles(start int64) error {
	point := r.o.Checkpoint.RecoveryPoint
	begin, err := r.withoutFirst(start, point)
	if err != nil {
		return err
	}
	r.res.State.LogStart, r.end = begin, point
	if begin < point {
		return nil
	}
	return r.writeSegment(point, nil) // its name tells where the log ended
}

// keptRun is a run of a segment file that is kept, followed by batches that come behind it.
type keptRun struct {
	from, to int64 // positions
	then     []record.Batch
}

// segment repairs one file.
func (r *repair) segment(i int, gaps int64) error {
	base := r.lf.bases[i]
	name := r.segmentPath(base)
	f, err := r.fs.OpenFile(name, vfs.ReadOnly)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	last := i == len(r.lf.bases)-1
	scan := &batchScan{w: fileWindow{f: f, size: r.lf.sizes[base]}, limit: r.lf.limit(i), epochEnd: r.o.EpochEnd, gaps: base < gaps}
	var parts []keptRun
	damaged := false
	var end int64
	end, err = scan.run(base, func(st Stretch) error {
		if st.Batch != nil {
			parts = keepRun(parts, st.Position, st.Position+st.Length)
			return nil
		}
		if last && !r.o.Append && st.From >= r.o.Checkpoint.RecoveryPoint {
			return errUnsynced
		}
		damaged = true
		if st.To != unknownEnd {
			parts = append(parts, keptRun{st.Position, st.Position, r.lose(st.From, st.To)})
		}
		return nil
	})
	if err != nil && !errors.Is(err, errUnsynced) {
		return err
	}
	if point := r.o.Checkpoint.RecoveryPoint; last && end < point {
		damaged = true
		parts = append(parts, keptRun{then: r.lose(end, point)})
		end = point
	}
	if !last {
		end = r.lf.limit(i)
	}
	r.end = max(r.end, end)
	if !damaged {
		return nil
	}
	return r.rewrite(name, base, f, parts)
}

// errUnsynced ends a walk where the broker will cut the newest file: what lies behind is in the write-ahead log.
var errUnsynced = errors.New("unsynced end")

// keepRun extends the last part by a run of bytes, or begins a new one.
func keepRun(parts []keptRun, from, to int64) []keptRun {
	if n := len(parts); n > 0 && parts[n-1].to == from && parts[n-1].to > 0 && len(parts[n-1].then) == 0 {
		parts[n-1].to = to
		return parts
	}
	return append(parts, keptRun{from: from, to: to})
}

func (r *repair) segmentPath(base int64) string { return path.Join(r.dir, r.lf.file(base)) }

// rewrite replaces a segment file by its good parts; the damaged file is set aside.
func (r *repair) rewrite(name string, base int64, f vfs.File, parts []keptRun) error {
	r.change("%s rewritten without its damaged bytes", name)
	if r.o.DryRun {
		return nil
	}
	tmp := name + tmpSuffix
	var at int64
	err := writeNew(r.fs, tmp, func(out vfs.File) error {
		for _, p := range parts {
			n, err := copyRun(out, at, f, p)
			if err != nil {
				return err
			}
			at += n
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := SetAside(r.fs, name, r.o.Aside); err != nil {
		return err
	}
	if err := r.fs.Rename(tmp, name); err != nil {
		return err
	}
	r.lf.sizes[base] = at
	return r.dropIndexes(base)
}

// dropIndexes removes a segment's index files: the broker makes them anew.
func (r *repair) dropIndexes(base int64) error {
	for _, kind := range []indexKind{offsetIndex, timeIndex} {
		if err := r.fs.Remove(strings.TrimSuffix(r.segmentPath(base), logSuffix) + kind.suffix()); ignoreNotExist(err) != nil {
			return err
		}
	}
	return r.fs.SyncDir(r.dir)
}

// copyRun writes a part at position at and returns its size.
func copyRun(out vfs.File, at int64, in vfs.File, p keptRun) (int64, error) {
	w := fileWindow{f: in, size: p.to}
	n := int64(0)
	for pos := p.from; pos < p.to; {
		b, err := w.at(pos, windowBytes)
		if err == nil && len(b) == 0 {
			err = fmt.Errorf("%s has become shorter", in.Name())
		}
		if err == nil {
			_, err = out.WriteAt(b, at+n)
		}
		if err != nil {
			return n, err
		}
		pos, n = pos+int64(len(b)), n+int64(len(b))
	}
	for _, b := range p.then {
		if _, err := out.WriteAt(b, at+n); err != nil {
			return n, err
		}
		n += int64(len(b))
	}
	return n, nil
}

// append writes the write-ahead log's batches beyond the end, in new files of at most appendBytesMax. What is missing between them is lost.
func (r *repair) append() error {
	if !r.o.Append {
		return nil
	}
	var batches []record.Batch
	next := r.end
	for _, b := range r.o.Batches[r.o.Followed:] {
		if b.NextOffset() <= next {
			continue
		}
		if len(r.lf.bases) == 0 && r.end == r.res.State.LogStart && len(batches) == 0 && b.BaseOffset() <= next {
			next = b.BaseOffset() // a log without files begins with the batch that holds its start
		}
		if b.BaseOffset() < next {
			return fmt.Errorf("%w: the write-ahead log has offsets %d to %d, the log ends at %d", ErrGap, b.BaseOffset(), b.LastOffset(), next)
		}
		lostTo := b.BaseOffset()
		if before, ok := r.o.Gaps[lostTo]; ok {
			lostTo = before
		}
		r.res.Lost = appendRange(r.res.Lost, next, lostTo)
		for ; next < b.BaseOffset(); next = min(b.BaseOffset(), next+math.MaxInt32) {
			filler := emptyBatch(next, min(b.BaseOffset(), next+math.MaxInt32))
			if lostTo < b.BaseOffset() {
				filler.SetLeaderEpoch(b.LeaderEpoch()) // as a follower fills a gap: its epoch begins where the gap does
			}
			batches = append(batches, filler)
		}
		batches = append(batches, b)
		next = b.NextOffset()
	}
	if len(batches) == 0 {
		return nil
	}
	r.change("%s: offsets %d to %d written from the write-ahead log", path.Base(r.dir), batches[0].BaseOffset(), next-1)
	r.end = next
	for len(batches) > 0 {
		n, size := 0, 0
		for n < len(batches) && (n == 0 || size+len(batches[n]) <= appendBytesMax && batches[n].LastOffset()-batches[0].BaseOffset() < math.MaxInt32) {
			size += len(batches[n])
			n++
		}
		if err := r.writeSegment(batches[0].BaseOffset(), batches[:n]); err != nil {
			return err
		}
		batches = batches[n:]
	}
	return nil
}

const appendBytesMax = 512 << 20

func appendRange(rs []damage.Range, from, to int64) []damage.Range {
	if from >= to {
		return rs
	}
	return append(rs, damage.Range{From: from, To: to})
}

// writeSegment makes a segment file of batches. One of that name can only be an empty one.
func (r *repair) writeSegment(base int64, batches []record.Batch) error {
	if r.o.DryRun {
		return nil
	}
	if err := r.fs.MkdirAll(r.dir); err != nil {
		return err
	}
	if err := r.fs.SyncDir(path.Dir(r.dir)); err != nil {
		return err
	}
	name := r.segmentPath(base)
	err := writeNew(r.fs, name+tmpSuffix, func(out vfs.File) error {
		_, err := copyRun(out, 0, nil, keptRun{then: batches})
		return err
	})
	if err != nil {
		return err
	}
	if err := r.fs.Rename(name+tmpSuffix, name); err != nil {
		return err
	}
	return r.dropIndexes(base)
}
