package segment

import (
	"fmt"
	"io/fs"
	"path"

	"weir/internal/damage"
	"weir/internal/vfs"
)

// indexCheck collects, while a segment is read, what its indexes must say.
type indexCheck struct {
	base  int64
	at    map[int64]int64 // base offset of each batch -> its position
	times map[int64]int64 // base offset of each batch that raised the greatest timestamp -> that
	max   int64
}

func newIndexCheck(base int64) *indexCheck {
	return &indexCheck{base: base, at: map[int64]int64{}, times: map[int64]int64{}, max: noTime}
}

func (c *indexCheck) note(st Stretch) {
	c.at[st.From] = st.Position
	if t := st.Batch.MaxTimestamp(); t > c.max {
		c.max = t
		c.times[st.From] = t
	}
}

// entries holds an index's entries against the batches. Entries of batches that are damaged cannot be judged; a newest segment's
// index may be of bytes that are no longer there.
func (c *indexCheck) entries(kind indexKind, entries []byte, sum summary) error {
	ix := index{base: c.base, offsets: entries, times: entries}
	if kind == offsetIndex {
		for i := range ix.len() {
			offset, position := ix.entry(i)
			if at, ok := c.at[offset]; ok && at != position {
				return fmt.Errorf("%w: entry %d says offset %d is at %d, it is at %d", errIndex, i, offset, position, at)
			}
		}
		return nil
	}
	for i := range len(entries) / timeEntrySize {
		offset, t := ix.timeOffset(i), ix.timeAt(i)
		if _, ok := c.at[offset]; ok && c.times[offset] != t {
			return fmt.Errorf("%w: entry %d says that timestamp %d came with offset %d", errIndex, i, t, offset)
		}
	}
	return nil
}

// IndexEntry is an entry of a segment's offset index, or of its time index.
type IndexEntry struct {
	Time      bool  `json:"time"`
	Offset    int64 `json:"offset"`
	Position  int64 `json:"position,omitempty"`  // offset index
	Timestamp int64 `json:"timestamp,omitempty"` // time index, ms
}

// InspectIndex hands out the entries of one index file; base is the segment's base offset.
func InspectIndex(fsys vfs.FS, name string, base int64, time bool, fn func(IndexEntry) error) error {
	data, err := readPlain(fsys, name)
	if err != nil {
		return err
	}
	kind := offsetIndex
	if time {
		kind = timeIndex
	}
	entries, _, err := decodeIndex(kind, base, data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	ix := index{base: base, offsets: entries, times: entries}
	for i := range len(entries) / kind.entrySize() {
		e := IndexEntry{Time: time}
		if time {
			e.Offset, e.Timestamp = ix.timeOffset(i), ix.timeAt(i)
		} else {
			e.Offset, e.Position = ix.entry(i)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// InspectCheckpoint reads the recovery points of a data directory that no Store has open. Damage is a *CorruptError.
func InspectCheckpoint(fsys vfs.FS, dir string) (map[string]Checkpoint, error) {
	name := CheckpointPath(dir)
	data, err := readPlain(fsys, name)
	if err != nil {
		return nil, err
	}
	m, err := decodeCheckpoint(data)
	if err != nil {
		return nil, &CorruptError{File: name, Err: err}
	}
	return m, nil
}

// OffsetsOf is the range of a damaged stretch, as findings have it.
func (st Stretch) OffsetsOf() damage.Range {
	if st.To == unknownEnd {
		return damage.Range{From: st.From, To: damage.Unknown}
	}
	return damage.Range{From: st.From, To: st.To}
}

// FirstOffset is the base offset of the first segment file in dir, 0 if there is none.
func FirstOffset(fsys vfs.FS, dir string) int64 {
	lf, err := listLog(fsys, dir)
	if err != nil || len(lf.bases) == 0 {
		return 0
	}
	return lf.bases[0]
}

// ReadSmall returns the content of a small file, such as a side file, of a log that no Store has open.
func ReadSmall(fsys vfs.FS, name string) ([]byte, error) { return readPlain(fsys, name) }

// InspectFile reads one segment file, whatever is around it.
func InspectFile(fsys vfs.FS, name string, fn func(Stretch) error) error {
	base, ok := parseSegmentName(path.Base(name))
	if !ok {
		return fmt.Errorf("%s: %w: a segment is named by 20 digits and %s", name, fs.ErrInvalid, logSuffix)
	}
	f, err := fsys.OpenFile(name, vfs.ReadOnly)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	size, err := f.Size()
	if err != nil {
		return err
	}
	scan := &batchScan{w: fileWindow{f: f, size: size}, limit: unknownEnd, gaps: true}
	_, err = scan.run(base, fn)
	return err
}
