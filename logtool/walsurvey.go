package logtool

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"weir/internal/damage"
	"weir/internal/record"
	"weir/replica"
	"weir/segment"
	"weir/wal"
)

// What the write-ahead log says of the partitions: batches that the segments may not have, and truncations that they may not have followed.

// writeAhead reads the WAL and notes which batches of which partition it has.
func (s *survey) writeAhead() error {
	s.o.progress("write-ahead log", 0)
	if _, err := s.o.FS.Stat(s.o.wal()); errors.Is(err, fs.ErrNotExist) {
		s.find(damage.Finding{Severity: damage.Note, File: s.o.wal(), What: "the directory is missing", Do: "nothing, where no broker has run yet; else what was not yet in the segments is lost"})
		return nil
	}
	damaged, err := wal.Salvage(s.o.FS, s.o.wal(), func(it wal.Item) error {
		switch it.Type {
		case wal.ItemEntry:
			s.entry(it)
		case wal.ItemDamage:
			s.damaged(it)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write-ahead log: %w", err)
	}
	if s.walDamaged = s.walDamaged || damaged; s.walDamaged {
		s.settle()
		return nil
	}
	// What the broker would say must not be missed.
	err = wal.Inspect(s.o.FS, s.o.wal(), func(wal.Item) error { return nil })
	if c, ok := errors.AsType[*wal.CorruptError](err); ok {
		s.walDamaged = true
		s.places++
		s.settle()
		s.find(damage.Finding{Severity: damage.Lost, File: cmp.Or(c.File, s.o.wal()), Position: c.Offset, LSN: uint64(c.LSN), What: c.Why, Do: doWAL})
		return nil
	}
	s.settle()
	return err
}

const doWAL = "weir log repair --skip-wal puts the rest into the segments"

func (s *survey) entry(it wal.Item) {
	s.report.Entries++
	h, err := replica.ParseWALHead(it.Head)
	id, index := h.TopicID, h.Partition
	if err == nil && !h.Op.HasBatch() {
		if p := s.byID[partitionID{id, index}]; p != nil {
			s.cut(p, h, s.followed(p, it.LSN))
		}
		return
	}
	var b record.Batch
	if err == nil {
		b, _, err = record.Next(it.Body)
	}
	if err == nil {
		err = b.Check()
	}
	if err != nil {
		s.find(damage.Finding{Severity: damage.Lost, File: it.File, Position: it.Offset, LSN: uint64(it.LSN), What: "entry is no batch: " + err.Error(), Do: doWAL})
		s.walDamaged = true
		s.places++
		return
	}
	p := s.byID[partitionID{id, index}]
	if p == nil && s.meta != nil && s.meta.Lost() > 0 {
		// The topic's creation may be what the metadata has lost.
		p = s.add(replica.DirName("recovered-"+base64.RawURLEncoding.EncodeToString(id[:]), index, id), partitionID{id, index})
		p.orphan = true
	}
	if p == nil {
		return // of a topic that was deleted
	}
	e := walRef{base: b.BaseOffset(), next: b.NextOffset(), epoch: b.LeaderEpoch(), place: s.places, inFiles: s.followed(p, it.LSN), before: b.BaseOffset(),
		file: it.File, position: it.Offset + wal.FrameBytes + int64(len(it.Head)), length: len(it.Body)}
	if h.Op == replica.WALAfterGap {
		e.before = min(h.Offset, e.base)
	}
	if n := len(p.entries); n > 0 && e.before < p.entries[n-1].next {
		s.lostCut(p, e)
	}
	p.entries = append(p.entries, e)
}

// followed reports whether the files have followed all truncations up to an entry of the WAL, and have what it has, too.
func (s *survey) followed(p *partition, lsn wal.LSN) bool {
	return uint64(lsn) <= uint64(s.points[p.dir].Cut)
}

// lostCut takes a truncation whose record is damaged from what came in the place of what was truncated: it was at e or before it.
func (s *survey) lostCut(p *partition, e walRef) {
	s.cut(p, replica.WALEntry{Op: replica.WALTruncate, Offset: e.before}, e.inFiles)
	if e.inFiles {
		return
	}
	from := s.points[p.dir].LogStart
	if p.cut.Reset {
		from = p.cut.Offset
	}
	if from >= e.before {
		return // nothing lies before it
	}
	p.doubtful = append(p.doubtful, damage.Range{From: from, To: e.before})
	s.find(damage.Finding{
		Severity: damage.Note, File: e.file, Position: e.position, Log: p.dir, Offsets: damage.Range{From: from, To: e.before},
		What: "the log was cut here or before, and the record of that is damaged: what lies before it may be of a history that was given up",
		Do:   "let the node fetch this partition anew, if another replica lives",
	})
}

// lostCuts finds truncations whose records are damaged where the files have what was truncated: the WAL has a newer epoch in its place.
func (s *survey) lostCuts(p *partition) {
	if !s.walDamaged || p.state == nil {
		return
	}
	for _, e := range slices.Clone(p.entries) {
		if e.inFiles || p.cut != nil && (p.cut.Reset || e.before >= p.cut.Offset) || e.before >= p.state.End {
			continue
		}
		if was := p.epochs.At(e.base); was >= 0 && was < e.epoch {
			entries := p.entries
			s.lostCut(p, e)
			p.entries = entries
			return
		}
	}
}

// cut takes an entry after which a log ends, or begins anew, at an offset: what the entries before it brought there is no longer wanted. inFiles: the
// files have followed it.
func (s *survey) cut(p *partition, h replica.WALEntry, inFiles bool) {
	reset := h.Op == replica.WALReset
	p.entries = slices.DeleteFunc(p.entries, func(e walRef) bool { return reset || e.next > h.Offset })
	if inFiles {
		return
	}
	if reset {
		p.resets = append(p.resets, seenReset{offset: h.Offset, place: s.places})
		p.doubtful = nil // that was the log before
	}
	if p.cut == nil || reset || h.Offset < p.cut.Offset {
		p.cut = &segment.RepairCut{Offset: h.Offset, Reset: reset || p.cut != nil && p.cut.Reset}
	}
}

// damaged reports damage of the WAL. What the bytes still seem to say names the partition and the offsets.
func (s *survey) damaged(it wal.Item) {
	s.places++
	f := damage.Finding{Severity: damage.Lost, File: cmp.Or(it.File, s.o.wal()), Position: it.Offset, Length: int64(it.Bytes), LSN: uint64(it.LSN), What: it.Note, Do: doWAL}
	h, err := replica.ParseWALHead(it.Head)
	p := s.byID[partitionID{h.TopicID, h.Partition}]
	if err == nil && p != nil && len(it.Body) >= record.HeaderSize {
		b := record.Batch(it.Body)
		if r := (damage.Range{From: b.BaseOffset(), To: b.NextOffset()}); r.From >= 0 && r.To > r.From {
			p.seeming = append(p.seeming, r)
			f.Log, f.Offsets = p.dir, r
			f.What += " (the offsets are what the damaged bytes seem to say)"
		}
	}
	if f.Log == "" && it.Bytes > wal.BlockBytes/64 {
		s.unnamed++
	}
	s.find(f)
}
