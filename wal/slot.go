package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"weir/internal/iobuf"
	"weir/internal/vfs"
)

const (
	slotsMax   = 10000 // four digits in a name
	slotPrefix = "wal-"
	slotSuffix = ".log"
	tmpSuffix  = ".tmp" // a slot being prewritten; renamed when it is whole
)

// slot is one file of the log. Which part of the log it holds changes each time it is recycled.
type slot struct {
	index  int
	file   vfs.File
	size   int64 // of the file; recovery only
	direct bool

	valid  bool // header below is good; recovery only
	header fileHeader
	group  groupHead // first group frame, if there is a good one; recovery only
	why    string    // what is wrong with the header
	blank  bool      // nothing in the first two blocks: never used
}

func slotName(index int) string { return fmt.Sprintf("%s%04d%s", slotPrefix, index, slotSuffix) }

// parseSlotName returns the index that a name stands for.
func parseSlotName(name string) (int, bool) {
	digits, found := strings.CutPrefix(name, slotPrefix)
	if !found {
		return 0, false
	}
	digits, found = strings.CutSuffix(digits, slotSuffix)
	if !found || len(digits) != 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	return int(n), err == nil
}

// openSlot opens a file for committing: direct and durable writes, without direct where the file system cannot.
func openSlot(fsys vfs.FS, name string) (vfs.File, bool, error) {
	f, err := fsys.OpenFile(name, vfs.Direct|vfs.DSync)
	if errors.Is(err, vfs.ErrNoDirect) {
		f, err = fsys.OpenFile(name, vfs.DSync)
		return f, false, err
	}
	return f, err == nil, err
}

// inspect reads the first two blocks and fills in what they say.
func (s *slot) inspect(r reader) error {
	b := iobuf.Get(2 * blockBytes)
	defer b.Release()
	clear(b.Bytes())
	if _, err := r.readAt(s.file, b, 2*blockBytes, 0); err != nil {
		return fmt.Errorf("read header of %s: %w", s.file.Name(), err)
	}
	p := b.Bytes()
	s.blank = isZero(p)
	if s.blank {
		s.why = "the file was never used"
		return nil
	}
	h, err := parseHeader(p)
	if err == nil {
		s.header, s.valid = h, true
		return nil
	}
	s.why = err.Error()
	if g, err := parseGroupFrame(p[blockBytes:]); err == nil {
		s.group = g
	}
	return nil
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// listSlots opens and inspects the slots in dir, by index, and returns the names of half-made files.
func listSlots(fsys vfs.FS, dir string, r reader) (slots []*slot, tmps []string, err error) {
	entries, err := fsys.List(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("list %s: %w", dir, err)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), slotPrefix) && strings.HasSuffix(e.Name(), slotSuffix+tmpSuffix) {
			tmps = append(tmps, name)
			continue
		}
		index, ok := parseSlotName(e.Name())
		if !ok {
			continue
		}
		s := &slot{index: index}
		if s.file, s.direct, err = openSlot(fsys, name); err != nil {
			return slots, tmps, fmt.Errorf("open %s: %w", name, err)
		}
		slots = append(slots, s)
		if s.size, err = s.file.Size(); err != nil {
			return slots, tmps, fmt.Errorf("size of %s: %w", name, err)
		}
		if err := s.inspect(r); err != nil {
			return slots, tmps, err
		}
	}
	return slots, tmps, nil
}

// closeSlots closes what listSlots has opened, for somebody who has only read.
func closeSlots(slots []*slot) {
	for _, s := range slots {
		if s.file != nil {
			s.file.Close() //nolint:errcheck // only read
		}
	}
}

// removeIfThere deletes a file; that it is gone already is no error.
func removeIfThere(fsys vfs.FS, name string) error {
	if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
