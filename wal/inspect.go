package wal

import (
	"fmt"

	"weir/internal/vfs"
)

// ItemType is what an Item of Inspect stands for.
type ItemType string

const (
	ItemFile  ItemType = "file"  // a file of the log; its header fields are set
	ItemFree  ItemType = "free"  // a slot that is not part of the log; Note says why
	ItemGroup ItemType = "group" // a good group
	ItemEntry ItemType = "entry" // an entry of it
	ItemEnd   ItemType = "end"   // where the log ends; Note says what was found there
)

// Item is one thing found in a log, for people and tools. Slices are valid during the call.
type Item struct {
	Type       ItemType
	File       string
	Offset     int64
	LSN        LSN
	Generation uint64
	PrevEnd    LSN // file
	Oldest     LSN // file
	Durable    LSN // group
	Bytes      int // group: with padding; entry: head and body
	Entries    int // group
	Kind       Kind
	Head, Body []byte
	Note       string
}

// Inspect reads the log in dir from its oldest needed byte to its end, without changing anything, and calls fn for each thing found. It
// is for offline tools: its reads have no deadline. It fails with a *CorruptError where Open or Replay would, after fn
// has seen what comes before.
func Inspect(fsys vfs.FS, dir string, fn func(Item) error) error {
	var r plainReader
	slots, _, err := listSlots(fsys, dir, r)
	defer closeSlots(slots)
	if err != nil {
		return err
	}
	l, err := makeLayout(slots, r)
	if err != nil {
		return err
	}
	proof, _, err := readProof(fsys, dir, r)
	if err != nil {
		return err
	}
	if l.proof = max(l.proof, proof); len(l.live) == 0 && proof > 0 {
		return lostEnd(0, proof)
	}
	for _, s := range l.free {
		note := s.why
		if s.valid {
			note = fmt.Sprintf("released; held file sequence %d", s.header.seq)
		}
		if err := fn(Item{Type: ItemFree, File: s.file.Name(), Note: note}); err != nil {
			return err
		}
	}
	for i, s := range l.live {
		if err := inspectFile(r, l, i, s, fn); err != nil {
			return err
		}
	}
	return nil
}

func inspectFile(r reader, l *layout, i int, s *slot, fn func(Item) error) error {
	h, name := s.header, s.file.Name()
	err := fn(Item{Type: ItemFile, File: name, LSN: h.start(), Generation: h.generation, PrevEnd: h.prevEnd, Oldest: h.oldest})
	if err != nil {
		return err
	}
	sc := newScanner(r, s.file, h)
	defer sc.close()
	limit := h.start() + LSN(h.fileBytes)
	if i+1 < len(l.live) {
		limit = l.live[i+1].header.prevEnd
	}
	for off := int64(blockBytes); sc.lsn(off) < limit; {
		g, b, _, dmg, err := sc.group(off)
		if err != nil {
			return err
		}
		if dmg != nil {
			break // whether it is damage or the end is decided below
		}
		if err := inspectGroup(name, off, g, b, fn); err != nil {
			return err
		}
		off += int64(len(b))
	}
	nothing := func(LSN, Kind, []byte, []byte) error { return nil }
	if i+1 < len(l.live) {
		return sc.closed(limit, nothing)
	}
	end, v, err := sc.last(l.proof, nothing)
	if err == nil {
		err = lostEnd(end, l.proof)
	}
	if err != nil {
		return err
	}
	return fn(Item{Type: ItemEnd, File: name, Offset: int64(end - h.start()), LSN: end, Generation: h.generation, Note: v.String()})
}

func inspectGroup(name string, off int64, g groupHead, b []byte, fn func(Item) error) error {
	err := fn(Item{Type: ItemGroup, File: name, Offset: off, LSN: g.lsn, Generation: g.generation, Durable: g.durable,
		Bytes: len(b), Entries: g.entries})
	if err != nil {
		return err
	}
	return eachEntry(b, g, func(lsn LSN, kind Kind, head, body []byte) error {
		return fn(Item{Type: ItemEntry, File: name, Offset: off + int64(lsn-g.lsn), LSN: lsn, Generation: g.generation,
			Bytes: len(head) + len(body), Kind: kind, Head: head, Body: body})
	})
}

const (
	// FrameBytes is the size of an entry's frame, in front of its head and body: Item.Offset names where the frame begins.
	FrameBytes = frameBytes
	// BlockBytes is what groups are padded to.
	BlockBytes = blockBytes
)
