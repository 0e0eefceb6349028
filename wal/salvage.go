package wal

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"weir/internal/vfs"
)

// ItemDamage is a stretch of the log that cannot be read: Offset, LSN and Bytes say which, Note what is wrong with it. Head and Body
// are what an entry seems to have begun with there; nothing vouches for them.
const ItemDamage ItemType = "damage"

// Salvage reads a log as Inspect does and does not stop at damage: it passes over what is damaged and goes on with what can be proven to
// belong to the log, single entries of damaged groups included, in LSN order. Without damage it yields what Replay
// would. Nothing is changed; reads have no deadline. damaged tells whether there was any.
func Salvage(fsys vfs.FS, dir string, fn func(Item) error) (damaged bool, err error) {
	var r plainReader
	slots, _, err := listSlots(fsys, dir, r)
	defer closeSlots(slots)
	if err != nil {
		return false, err
	}
	v := &salvage{fn: fn, r: r}
	if v.proof, v.why, err = readProof(fsys, dir, r); err != nil {
		return false, err
	}
	if err := v.order(slots); err != nil {
		return false, err
	}
	if err := v.walk(); err != nil {
		return v.damaged, err
	}
	return v.damaged, nil
}

type salvage struct {
	fn      func(Item) error
	r       reader
	proof   LSN   // of the proof file, and of groups in files whose header is lost
	why     error // what is wrong with the proof file
	live    []*slot
	bytes   LSN // of a file
	oldest  uint64
	damaged bool
}

// order finds the files that belong to the log, those with a damaged header included: their groups say where they belong.
func (v *salvage) order(slots []*slot) error {
	var headless []*slot
	for _, s := range slots {
		if s.valid {
			v.live = append(v.live, s)
		} else if !s.blank {
			headless = append(headless, s)
		}
	}
	slices.SortStableFunc(v.live, func(a, b *slot) int { return cmp.Compare(a.header.seq, b.header.seq) })
	newest := uint64(0)
	if n := len(v.live); n > 0 {
		h := v.live[n-1].header
		newest, v.bytes = h.seq, LSN(h.fileBytes)
		if v.oldest = uint64(h.oldest) / uint64(v.bytes); h.oldest == 0 {
			v.oldest = h.seq
		}
	}
	v.live = slices.DeleteFunc(v.live, func(s *slot) bool { return s.header.seq < v.oldest })
	v.live = slices.CompactFunc(v.live, func(a, b *slot) bool { return a.header.seq == b.header.seq })
	for _, s := range headless {
		h, err := v.headerFor(s)
		if err != nil {
			return err
		}
		known := slices.ContainsFunc(v.live, func(o *slot) bool { return o.header.seq == h.seq })
		if h.seq < max(v.oldest, 1) || known || h.seq > newest+1 && newest > 0 {
			continue
		}
		s.header = h
		v.live = append(v.live, s)
		v.bytes = LSN(h.fileBytes)
	}
	slices.SortFunc(v.live, func(a, b *slot) int { return cmp.Compare(a.header.seq, b.header.seq) })
	if v.oldest == 0 && len(v.live) > 0 {
		v.oldest = v.live[0].header.seq
	}
	return nil
}

// headerFor makes up the header of a slot whose own is damaged, from the groups in it. seq is 0 if there are none.
func (v *salvage) headerFor(s *slot) (fileHeader, error) {
	h := fileHeader{fileBytes: int64(v.bytes)}
	if h.fileBytes == 0 {
		h.fileBytes = s.size
	}
	w := window{r: v.r, f: s.file, size: s.size &^ (blockBytes - 1)}
	defer w.close()
	for off := int64(blockBytes); off < w.size; off += blockBytes {
		b, err := w.at(off, blockBytes)
		if err != nil {
			return h, err
		}
		g, err := parseGroupFrame(b)
		if err != nil || h.fileBytes == 0 || int64(g.lsn)%h.fileBytes != off {
			continue
		}
		if seq := uint64(g.lsn) / uint64(h.fileBytes); seq > h.seq || seq == h.seq && g.generation > h.generation {
			h.seq, h.generation = seq, g.generation
		}
	}
	return h, nil
}

func (v *salvage) walk() error {
	if len(v.live) == 0 {
		if v.proof > 0 {
			return v.lost(Item{LSN: 0, Bytes: int(v.proof), Note: lostWhy(v.proof)})
		}
		return nil
	}
	want := v.oldest
	for i, s := range v.live {
		if s.header.seq > want {
			from := LSN(want) * v.bytes
			it := Item{LSN: from, Bytes: int(s.header.start() - from), Note: fmt.Sprintf("files with sequence %d to %d are missing", want, s.header.seq-1)}
			if err := v.lost(it); err != nil {
				return err
			}
		}
		want = s.header.seq + 1
		if err := v.file(i, s); err != nil {
			return err
		}
	}
	return nil
}

func (v *salvage) lost(it Item) error {
	v.damaged = true
	it.Type = ItemDamage
	return v.fn(it)
}

// file walks through one file. Its end is known from the next one's header, or is where nothing more can be proven.
func (v *salvage) file(i int, s *slot) error {
	h, name := s.header, s.file.Name()
	item := Item{Type: ItemFile, File: name, LSN: h.start(), Generation: h.generation, PrevEnd: h.prevEnd, Oldest: h.oldest}
	if err := v.fn(item); err != nil {
		return err
	}
	if !s.valid {
		if err := v.lost(Item{File: name, LSN: h.start(), Bytes: blockBytes, Note: "header is damaged: " + s.why}); err != nil {
			return err
		}
	}
	sc := newScanner(v.r, s.file, h)
	defer sc.close()
	end, closed := h.start()+LSN(h.fileBytes), false
	if i+1 < len(v.live) {
		if next := v.live[i+1].header; next.prevEnd > h.start() && next.prevEnd <= end {
			end, closed = next.prevEnd, true
		}
	}
	for off := int64(blockBytes); sc.lsn(off) < end; {
		g, b, _, dmg, err := sc.group(off)
		if err != nil {
			return err
		}
		if dmg == nil && sc.lsn(off+int64(len(b))) <= end {
			if err := inspectGroup(name, off, g, b, v.fn); err != nil {
				return err
			}
			off += int64(len(b))
			continue
		}
		to, err := v.stop(sc, off, int64(end-h.start()), closed, i == len(v.live)-1)
		if err != nil {
			return err
		}
		if to == off {
			return v.fn(Item{Type: ItemEnd, File: name, Offset: off, LSN: sc.lsn(off), Generation: h.generation})
		}
		why := "a group ends beyond the end of the file"
		if dmg != nil {
			why = dmg.why
		}
		if err := v.region(sc, off, to, why); err != nil {
			return err
		}
		off = to
	}
	if i == len(v.live)-1 && end < v.proof {
		return v.lost(Item{LSN: end, Bytes: int(v.proof - end), Note: lostWhy(v.proof)})
	}
	return nil
}

// stop decides how far the damage at off reaches: to the next good group, or as far as the log is proven to have gone. It is
// off itself if the log just ends there.
func (v *salvage) stop(sc *scanner, off, limit int64, closed, newest bool) (int64, error) {
	for at := off + blockBytes; at < limit; at += blockBytes {
		b, err := sc.w.at(at, blockBytes)
		if err != nil {
			return 0, err
		}
		g, err := parseGroupFrame(b)
		if err != nil || g.lsn != sc.lsn(at) || g.generation != sc.header.generation {
			continue
		}
		// In the newest file a group behind a hole may be one that nobody was told of.
		if closed || !newest || g.durable > sc.lsn(off) {
			return at, nil
		}
	}
	switch {
	case closed:
		return limit, nil
	case v.proof > sc.lsn(off):
		return min(limit, int64(v.proof-sc.header.start())), nil
	}
	return off, nil
}

// region salvages the entries of a damaged stretch, and reports what is between them.
func (v *salvage) region(sc *scanner, from, to int64, why string) error {
	b := make([]byte, to-from) // what a file that was cut does not have reads as zeroes
	if _, err := sc.w.f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %s at %d: %w", sc.w.f.Name(), from, err)
	}
	bad, groupEnd, reported := 0, -1, false
	piece := func(lo, hi int) error {
		if lo >= hi {
			return nil
		}
		reported = true
		return v.gap(sc, from+int64(lo), b[lo:hi], why)
	}
	report := func(at int) error {
		if groupEnd < 0 { // where the group ended is not known: zeroes up to the end of its block are taken for padding
			if gap := b[bad:at]; bad > 0 && at%blockBytes == 0 && len(gap) < blockBytes && isZero(gap) {
				return nil
			}
			return piece(bad, at)
		}
		lo := max(bad, groupEnd)
		hi := min(at, padded(groupEnd))
		if lo >= hi || !isZero(b[lo:hi]) {
			return piece(bad, at)
		}
		return errors.Join(piece(bad, lo), piece(hi, at))
	}
	for at := 0; at+frameBytes <= len(b); {
		f, ok := entryAt(b[at:], sc.lsn(from+int64(at)), sc.header.generation)
		if !ok {
			at++
			continue
		}
		if err := report(at); err != nil {
			return err
		}
		p := b[at+frameBytes : at+frameBytes+f.length]
		off := from + int64(at)
		if f.kind == kindGroup {
			if g, err := parseGroupFrame(b[at:]); err == nil {
				groupEnd = at + g.bytes
			}
		}
		at += frameBytes + f.length
		bad = at
		if f.kind == kindGroup {
			continue
		}
		it := Item{Type: ItemEntry, File: sc.w.f.Name(), Offset: off, LSN: f.lsn, Generation: f.generation, Bytes: f.length, Kind: f.kind, Head: p[:f.headBytes], Body: p[f.headBytes:]}
		if err := v.fn(it); err != nil {
			return err
		}
	}
	if err := report(len(b)); err != nil || reported {
		return err
	}
	return v.lost(Item{File: sc.w.f.Name(), Offset: from, LSN: sc.lsn(from), Bytes: len(b), Note: why})
}

// gap reports damaged bytes, in pieces where frames seem to have begun.
func (v *salvage) gap(sc *scanner, off int64, b []byte, why string) error {
	begins := []int{0}
	for at := 1; at+frameBytes <= len(b); at++ {
		if LSN(le.Uint64(b[at+8:])) == sc.lsn(off+int64(at)) && le.Uint64(b[at+16:]) == sc.header.generation {
			begins = append(begins, at)
		}
	}
	for i, at := range begins {
		end := len(b)
		if i+1 < len(begins) {
			end = begins[i+1]
		}
		lsn := sc.lsn(off + int64(at))
		it := Item{File: sc.w.f.Name(), Offset: off + int64(at), LSN: lsn, Bytes: end - at, Note: why}
		it.Head, it.Body = seeming(b[at:end], lsn, sc.header.generation)
		if err := v.lost(it); err != nil {
			return err
		}
	}
	return nil
}

// entryAt returns the frame at the start of b if it is whole and belongs just there.
func entryAt(b []byte, lsn LSN, generation uint64) (frame, bool) {
	if LSN(le.Uint64(b[8:])) != lsn || le.Uint64(b[16:]) != generation {
		return frame{}, false
	}
	f, err := parseFrame(b)
	if err != nil || f.headBytes > f.length {
		return frame{}, false
	}
	return f, f.kind == kindGroup || checkPayload(f.kind, b[frameBytes+f.headBytes:frameBytes+f.length]) == nil
}

// seeming takes b for an entry's frame and returns what its head and body would be.
func seeming(b []byte, lsn LSN, generation uint64) (head, body []byte) {
	if len(b) < frameBytes || LSN(le.Uint64(b[8:])) != lsn && le.Uint64(b[16:]) != generation || Kind(b[24]) == kindGroup {
		return nil, nil
	}
	n, heads, p := int64(le.Uint32(b[4:])), int(b[25]), b[frameBytes:]
	if n < int64(len(p)) && n >= int64(heads) {
		p = p[:n]
	}
	if heads > HeadBytesMax || heads > len(p) {
		return nil, nil
	}
	return p[:heads], p[heads:]
}
