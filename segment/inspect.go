package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"weir/internal/damage"
	"weir/internal/vfs"
)

// InspectOptions say what is known of a log from elsewhere.
type InspectOptions struct {
	Checkpoint Checkpoint // of the log; zero: nothing is known
	EpochEnd   int32      // the partition's leader epoch + 1; 0: not known
	// OnStretch, if set, sees every stretch of every segment in order.
	OnStretch func(file string, st Stretch) error
	Finding   func(damage.Finding)
}

// LogState is what a log's files hold.
type LogState struct {
	Dir      string
	Start    int64 // first offset that readers are to see
	End      int64 // after the last good batch
	Segments []SegmentState
	Side     []string // files that belong to the log's owner
}

// SegmentState is one segment file.
type SegmentState struct {
	Base, Next int64
	Bytes      int64
	Batches    int64
	Records    int64
	Damaged    []Stretch // without batches
	newest     bool
}

// fileList are the names in a log's directory, sorted into what they are.
type fileList struct {
	bases []int64
	sizes map[int64]int64
	names map[string]bool
	side  []string
	swaps []pendingSwap
}

// file is the name of the file that has the segment: while a compaction is being finished, the one that will be put in its place.
func (lf *fileList) file(base int64) string {
	for _, s := range lf.swaps {
		if s.base == base {
			return s.name
		}
	}
	return segmentName(base) + logSuffix
}

// supersede leaves out the segments that an interrupted compaction has replaced, and counts what it has replaced them with.
func (lf *fileList) supersede(fsys vfs.FS, dir string) error {
	lf.swaps = pendingSwaps(slices.Collect(maps.Keys(lf.names)))
	for _, s := range lf.swaps {
		info, err := fsys.Stat(path.Join(dir, s.name))
		if err != nil {
			return err
		}
		lf.bases = slices.DeleteFunc(lf.bases, func(b int64) bool { return b >= s.base && b < s.end })
		lf.bases = append(lf.bases, s.base)
		lf.sizes[s.base] = info.Size()
	}
	slices.Sort(lf.bases)
	return nil
}

func listLog(fsys vfs.FS, dir string) (*fileList, error) {
	list, err := fsys.List(dir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	lf := &fileList{sizes: map[int64]int64{}, names: map[string]bool{}}
	for _, e := range list {
		name := e.Name()
		lf.names[name] = true
		if base, ok := parseSegmentName(name); ok {
			info, err := fsys.Stat(path.Join(dir, name))
			if err != nil {
				return nil, err
			}
			lf.bases = append(lf.bases, base)
			lf.sizes[base] = info.Size()
			continue
		}
		if !strings.HasSuffix(name, tmpSuffix) && !strings.HasSuffix(name, cleanedSuffix) && !strings.HasSuffix(name, swapSuffix) && !strings.HasSuffix(name, damagedSuffix) &&
			!strings.HasSuffix(name, offsetIndex.suffix()) && !strings.HasSuffix(name, timeIndex.suffix()) {
			lf.side = append(lf.side, name)
		}
	}
	return lf, lf.supersede(fsys, dir)
}

// limit is the offset at which the segment i must end, where the next begins.
func (lf *fileList) limit(i int) int64 {
	if i+1 < len(lf.bases) {
		return lf.bases[i+1]
	}
	return unknownEnd
}

// InspectLog reads a log that no Store has open, every byte of it, and reports what is wrong. It changes nothing. The error is one of
// reading; damage is a finding.
func InspectLog(fsys vfs.FS, dir string, o InspectOptions) (*LogState, error) {
	lf, err := listLog(fsys, dir)
	if err != nil {
		return nil, err
	}
	in := &inspection{fs: fsys, dir: dir, o: o, lf: lf, state: &LogState{Dir: path.Base(dir), Start: o.Checkpoint.LogStart, Side: lf.side}}
	for _, s := range lf.swaps {
		in.find(damage.Finding{Severity: damage.Heals, File: path.Join(dir, s.name), What: "a compaction was interrupted at its last step", Do: "nothing: the next start finishes it"})
	}
	for name := range lf.names {
		if strings.HasSuffix(name, damagedSuffix) {
			in.find(damage.Finding{Severity: damage.Note, File: path.Join(dir, name), What: "damaged bytes that a repair kept", Do: "delete it when you need it no more"})
		}
	}
	if len(lf.bases) == 0 {
		return in.noSegments(), nil
	}
	if first := lf.bases[0]; first > in.state.Start {
		in.find(damage.Finding{
			Severity: damage.Lost, File: path.Join(dir, segmentName(in.state.Start)+logSuffix), Offsets: damage.Range{From: in.state.Start, To: first},
			What: fmt.Sprintf("the file is missing, the first one there begins at offset %d", first), Do: doRepair,
		})
	}
	in.state.Start = max(in.state.Start, lf.bases[0])
	if in.gaps, err = gapsBelow(fsys, dir); err != nil {
		in.find(damage.Finding{Severity: damage.Heals, File: path.Join(dir, cleanerFile), What: err.Error(), Do: "nothing: the log is compacted anew"})
	}
	for i := range lf.bases {
		if err := in.segment(i); err != nil {
			return nil, err
		}
	}
	in.end()
	return in.state, nil
}

const doRepair = "see weir log repair"

type inspection struct {
	fs    vfs.FS
	dir   string
	o     InspectOptions
	lf    *fileList
	gaps  int64 // segments that begin below may have gaps between their batches
	state *LogState
}

// gapsBelow is the offset below which segments of a log in dir may have gaps between their batches.
func gapsBelow(fsys vfs.FS, dir string) (int64, error) {
	data, err := readPlain(fsys, path.Join(dir, cleanerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	var c cleanState
	if err == nil {
		c, err = decodeCleanState(data)
	}
	if err != nil {
		return lostCleanState().gaps, err
	}
	return c.gaps, nil
}

func (in *inspection) find(f damage.Finding) {
	f.Log = in.state.Dir
	if in.o.Finding != nil {
		in.o.Finding(f)
	}
}

func (in *inspection) noSegments() *LogState {
	st := in.state
	st.End = st.Start
	if point := in.o.Checkpoint.RecoveryPoint; point > st.Start {
		in.find(damage.Finding{
			Severity: damage.Lost, File: in.dir, Offsets: damage.Range{From: st.Start, To: point},
			What: "the directory has no segment file, but records were flushed", Do: doRepair,
		})
	}
	return st
}

func (in *inspection) segment(i int) error {
	base := in.lf.bases[i]
	name := path.Join(in.dir, in.lf.file(base))
	f, err := in.fs.OpenFile(name, vfs.ReadOnly)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	g := SegmentState{Base: base, Bytes: in.lf.sizes[base], newest: i == len(in.lf.bases)-1}
	check := newIndexCheck(base)
	scan := &batchScan{w: fileWindow{f: f, size: g.Bytes}, limit: in.lf.limit(i), epochEnd: in.o.EpochEnd, gaps: base < in.gaps}
	g.Next, err = scan.run(base, func(st Stretch) error {
		if st.Batch == nil {
			g.Damaged = append(g.Damaged, st)
		} else {
			g.Batches++
			g.Records += int64(st.Batch.Count())
			check.note(st)
		}
		if in.o.OnStretch != nil {
			return in.o.OnStretch(name, st)
		}
		return nil
	})
	if err != nil {
		return err
	}
	in.damaged(name, &g)
	in.indexes(i, path.Join(in.dir, segmentName(base)+logSuffix), &g, check)
	in.state.Segments = append(in.state.Segments, g)
	return nil
}

// damaged reports a segment's damage. What the newest file holds beyond the recovery point is in the WAL, too: the broker cuts there.
func (in *inspection) damaged(name string, g *SegmentState) {
	for _, st := range g.Damaged {
		f := damage.Finding{
			Severity: damage.Lost, File: name, Position: st.Position, Length: st.Length,
			Offsets: damage.Range{From: st.From, To: st.To}, What: st.Err.Error(), Do: doRepair,
		}
		switch point := in.o.Checkpoint.RecoveryPoint; {
		case g.newest && st.From >= point:
			f.Severity, f.Offsets = damage.Note, damage.Range{}
			f.What = "unsynced end of the log: " + f.What
			f.Do = "nothing: the broker cuts it, and has what was acknowledged in the write-ahead log"
		case st.To == unknownEnd:
			f.Offsets.To = max(point, st.From)
		}
		in.find(f)
	}
}

// end compares the log's end with what is known to be synced.
func (in *inspection) end() {
	st := in.state
	g := st.Segments[len(st.Segments)-1]
	st.End = g.Next
	point := in.o.Checkpoint.RecoveryPoint
	if n := len(g.Damaged); n > 0 && g.Damaged[n-1].To == unknownEnd {
		return // said
	}
	if st.End < point {
		in.find(damage.Finding{
			Severity: damage.Lost, File: path.Join(in.dir, segmentName(g.Base)+logSuffix), Position: g.Bytes,
			Offsets: damage.Range{From: st.End, To: point}, What: "the file ends too early, records behind it were flushed", Do: doRepair,
		})
	}
}

// indexes checks a segment's index files against its batches.
func (in *inspection) indexes(i int, name string, g *SegmentState, check *indexCheck) {
	var sums [2]summary
	found := 0
	for k, kind := range []indexKind{offsetIndex, timeIndex} {
		file := strings.TrimSuffix(name, logSuffix) + kind.suffix()
		data, err := readPlain(in.fs, file)
		if errors.Is(err, fs.ErrNotExist) {
			if !g.newest {
				in.find(damage.Finding{Severity: damage.Note, File: file, What: "the file is missing, as after a crash", Do: doIndex})
			}
			continue
		}
		var entries []byte
		if err == nil {
			entries, sums[k], err = decodeIndex(kind, g.Base, data)
		}
		if err == nil {
			err = check.entries(kind, entries, sums[k])
		}
		if err == nil && !g.newest && len(g.Damaged) == 0 && (sums[k].bytes != g.Bytes || sums[k].next != in.lf.limit(i)) {
			err = fmt.Errorf("%w: covers %d bytes up to offset %d, the segment has %d up to %d", errIndex, sums[k].bytes, sums[k].next, g.Bytes, in.lf.limit(i))
		}
		if err == nil {
			found++
			if g.newest && sums[k].bytes > g.Bytes {
				in.find(damage.Finding{
					Severity: damage.Lost, File: name, Position: g.Bytes, Offsets: damage.Range{From: g.Next, To: max(g.Next, sums[k].next)},
					What: fmt.Sprintf("the file has %d bytes, its index covers %d", g.Bytes, sums[k].bytes), Do: doRepair,
				})
			}
			continue
		}
		in.find(damage.Finding{Severity: damage.Heals, File: file, What: err.Error(), Do: doIndex})
	}
	if found == 2 && sums[0] != sums[1] {
		in.find(damage.Finding{Severity: damage.Heals, File: strings.TrimSuffix(name, logSuffix) + offsetIndex.suffix(), What: "offset and time index disagree", Do: doIndex})
	}
}

const doIndex = "nothing: the broker makes it anew from the segment"

// readPlain returns a small file's content.
func readPlain(fsys vfs.FS, name string) ([]byte, error) {
	f, err := fsys.OpenFile(name, vfs.ReadOnly)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > fileBytesMax {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", name, size, fileBytesMax)
	}
	w := fileWindow{f: f, size: size}
	return w.at(0, int(size))
}
