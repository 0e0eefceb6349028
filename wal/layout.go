package wal

import (
	"cmp"
	"fmt"
	"slices"
)

// layout is what the headers of all slots say together.
type layout struct {
	fileBytes  int64   // 0: no file was ever begun
	live       []*slot // the log, in order, without gap
	free       []*slot // to be recycled, in the order of their last use
	generation uint64  // highest seen
	// proof is the highest durable LSN that group frames claim in a file whose own header is not good, and that would follow the last
	// live one. It is 0 normally.
	proof LSN
}

// makeLayout orders the slots. It fails with a *CorruptError if a file that is needed is not there or its header is damaged.
func makeLayout(slots []*slot, r reader) (*layout, error) {
	l := &layout{}
	var valid, other []*slot
	for _, s := range slots {
		if s.valid {
			valid = append(valid, s)
		} else {
			other = append(other, s)
		}
	}
	slices.SortFunc(valid, func(a, b *slot) int { return cmp.Compare(a.header.seq, b.header.seq) })
	if len(valid) > 0 {
		last := valid[len(valid)-1].header
		l.fileBytes = last.fileBytes
		oldest := uint64(last.oldest) / uint64(last.fileBytes)
		if last.oldest == 0 {
			oldest = last.seq
		}
		for _, s := range valid {
			l.generation = max(l.generation, s.header.generation)
			if s.header.seq < oldest {
				l.free = append(l.free, s)
			} else {
				l.live = append(l.live, s)
			}
		}
		if err := l.checkChain(oldest, other); err != nil {
			return nil, err
		}
	}
	if err := l.probe(other, r); err != nil {
		return nil, err
	}
	return l, nil
}

// checkChain verifies that the live files, from sequence oldest on, are complete and fit together.
func (l *layout) checkChain(oldest uint64, other []*slot) error {
	want := oldest
	for i, s := range l.live {
		h := s.header
		switch {
		case h.fileBytes != l.fileBytes:
			return &CorruptError{File: s.file.Name(), LSN: h.start(), Why: fmt.Sprintf("file size in header is %d, want %d as in newer files", h.fileBytes, l.fileBytes)}
		case h.seq < want:
			return &CorruptError{File: s.file.Name(), LSN: h.start(), Why: fmt.Sprintf("another file has sequence %d, too", h.seq)}
		case h.seq > want:
			return l.missing(want, h, other)
		case i > 0 && h.prevEnd == 0:
			return &CorruptError{File: s.file.Name(), LSN: h.start(), Why: "header says that it is the first file, but an older one is there"}
		case i > 0 && h.generation>>32 < l.live[i-1].header.generation>>32:
			return &CorruptError{File: s.file.Name(), LSN: h.start(), Why: fmt.Sprintf("generation %x is older than that of the file before, %x", h.generation, l.live[i-1].header.generation)}
		}
		want++
	}
	return nil
}

// missing describes a gap in the sequence before the file with header h. A damaged slot that holds the missing part is named.
func (l *layout) missing(want uint64, h fileHeader, other []*slot) error {
	e := &CorruptError{LSN: LSN(want) * LSN(l.fileBytes), Why: fmt.Sprintf("file with sequence %d is missing, but the one with sequence %d needs it", want, h.seq)}
	for _, s := range other {
		if s.group.lsn == e.LSN+blockBytes {
			e.File, e.Why = s.file.Name(), "header is damaged: "+s.why
		}
	}
	return e
}

// probe looks through the slots without a good header for groups that would follow the last live file. A group is written when the
// header is durable, and says so: then the header was damaged later.
func (l *layout) probe(other []*slot, r reader) error {
	next := LSN(0)
	if len(l.live) > 0 {
		h := l.live[len(l.live)-1].header
		next = h.start() + LSN(h.fileBytes)
	}
	for _, s := range other {
		l.free = append(l.free, s)
		if s.blank {
			continue
		}
		w := window{r: r, f: s.file, size: s.size &^ (blockBytes - 1)}
		g, err := newestGroup(&w)
		w.close()
		if err != nil {
			return err
		}
		if g.lsn < next || g.lsn == 0 {
			continue
		}
		l.generation = max(l.generation, g.generation)
		l.proof = max(l.proof, g.durable)
		if start := s.startFor(next, g); g.durable >= start+blockBytes {
			return &CorruptError{File: s.file.Name(), LSN: start, Why: fmt.Sprintf("header is damaged (%s), but the group at LSN %d proves that the log was durable up to LSN %d", s.why, g.lsn, g.durable)}
		}
	}
	return nil
}

// startFor is the LSN of the slot's first byte, judged by a group in it.
func (s *slot) startFor(next LSN, g groupHead) LSN {
	if s.group.lsn > blockBytes {
		return s.group.lsn - blockBytes
	}
	if next != 0 {
		return next
	}
	return g.lsn
}

// newestGroup returns the good group frame with the highest LSN, wherever it lies.
func newestGroup(w *window) (groupHead, error) {
	var newest groupHead
	for off := int64(blockBytes); off < w.size; off += blockBytes {
		b, err := w.at(off, blockBytes)
		if err != nil {
			return newest, err
		}
		if g, err := parseGroupFrame(b); err == nil && g.lsn > newest.lsn && g.lsn%blockBytes == 0 {
			newest = g
		}
	}
	return newest, nil
}
