package wal

import (
	"fmt"

	"weir/internal/vfs"
)

// scanner walks the groups of one file.
type scanner struct {
	w      window
	header fileHeader
}

func newScanner(r reader, f vfs.File, h fileHeader) *scanner {
	return &scanner{w: window{r: r, f: f, size: h.fileBytes}, header: h}
}

func (s *scanner) close() { s.w.close() }

func (s *scanner) lsn(off int64) LSN { return s.header.start() + LSN(off) }

// verdict is what was found where a group could begin.
type verdict uint8

const (
	groupGood  verdict = iota
	groupEmpty         // zeroes
	groupStale         // a good group frame of an earlier life of the slot
	groupTorn          // anything else
)

// String names the verdict as a person reading a dump would.
func (v verdict) String() string {
	return [...]string{"good", "empty", "stale", "torn"}[v]
}

// group reads and verifies the group at off. b is the whole group if it is good. Otherwise dmg says what is wrong.
func (s *scanner) group(off int64) (g groupHead, b []byte, v verdict, dmg *damage, err error) {
	b, err = s.w.at(off, blockBytes)
	if err != nil {
		return g, nil, groupTorn, nil, err
	}
	g, perr := parseGroupFrame(b)
	if perr != nil {
		v = groupTorn
		if isZero(b) {
			v = groupEmpty
		}
		return g, nil, v, &damage{0, perr.Error()}, nil
	}
	if g.lsn != s.lsn(off) || g.generation != s.header.generation {
		why := fmt.Sprintf("group of LSN %d, generation %x, want LSN %d, generation %x", g.lsn, g.generation, s.lsn(off), s.header.generation)
		return g, nil, groupStale, &damage{0, why}, nil
	}
	n := padded(g.bytes)
	if int64(n) > s.w.size-off {
		return g, nil, groupTorn, &damage{0, fmt.Sprintf("group of %d bytes, only %d are left in the file", n, s.w.size-off)}, nil
	}
	if b, err = s.w.at(off, n); err != nil {
		return g, nil, groupTorn, nil, err
	}
	if dmg = checkGroup(b, g); dmg != nil {
		return g, nil, groupTorn, dmg, nil
	}
	return g, b, groupGood, nil, nil
}

// proof returns the highest durable LSN that a later group of this file claims, looking from off on, and that group's LSN. It stops at the
// first that claims more than beyond.
func (s *scanner) proof(off int64, beyond LSN) (durable, by LSN, err error) {
	for ; off < s.w.size; off += blockBytes {
		b, err := s.w.at(off, blockBytes)
		if err != nil {
			return durable, by, err
		}
		g, perr := parseGroupFrame(b)
		if perr != nil || g.lsn != s.lsn(off) || g.generation != s.header.generation {
			continue
		}
		if g.durable > durable {
			durable, by = g.durable, g.lsn
		}
		if durable > beyond {
			break
		}
	}
	return durable, by, nil
}

func (s *scanner) corrupt(off int64, d *damage, proof string) error {
	off += int64(d.at)
	return &CorruptError{File: s.w.f.Name(), Offset: off, LSN: s.lsn(off), Why: d.why + "; " + proof}
}

// entryFunc receives one recovered entry; the slices are valid during the call.
type entryFunc func(lsn LSN, kind Kind, head, body []byte) error

// closed replays a file whose end is known: every group below it was durable.
func (s *scanner) closed(end LSN, fn entryFunc) error {
	off := int64(blockBytes)
	for s.lsn(off) < end {
		g, b, _, dmg, err := s.group(off)
		if err != nil {
			return err
		}
		if dmg == nil && s.lsn(off+int64(len(b))) > end {
			dmg = &damage{0, fmt.Sprintf("group ends at LSN %d", s.lsn(off+int64(len(b))))}
		}
		if dmg != nil {
			return s.corrupt(off, dmg, fmt.Sprintf("the next file proves that the log was durable up to LSN %d", end))
		}
		if err := eachEntry(b, g, fn); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

// last replays the newest file up to its torn or clean end, and returns that. outside is a durable LSN claimed elsewhere.
func (s *scanner) last(outside LSN, fn entryFunc) (end LSN, v verdict, err error) {
	off := int64(blockBytes)
	v = groupEmpty
	for off < s.w.size {
		g, b, got, dmg, err := s.group(off)
		if err != nil {
			return 0, got, err
		}
		if dmg != nil {
			return s.cut(off, outside, got, dmg)
		}
		if err := eachEntry(b, g, fn); err != nil {
			return 0, got, err
		}
		off += int64(len(b))
	}
	return s.lsn(off), v, nil
}

// cut decides whether the log ends at off, where there is no good group.
func (s *scanner) cut(off int64, outside LSN, v verdict, dmg *damage) (LSN, verdict, error) {
	here := s.lsn(off)
	durable, by, err := s.proof(off+blockBytes, here)
	if err != nil {
		return 0, v, err
	}
	if durable > here {
		return 0, v, s.corrupt(off, dmg, fmt.Sprintf("the group at LSN %d proves that the log was durable up to LSN %d", by, durable))
	}
	if outside > here {
		return 0, v, s.corrupt(off, dmg, fmt.Sprintf("a later file, or the proof file, proves that the log was durable up to LSN %d", outside))
	}
	return here, v, nil
}

// Replay hands every recovered entry to fn in LSN order, once, between Open and Start. The slices are valid during the call. An error
// of fn ends it and is returned. Damage to acknowledged data is a *CorruptError; entries before it have been handed out.
func (w *WAL) Replay(fn func(lsn LSN, kind Kind, head, body []byte) error) error {
	if w.phase != phaseOpen {
		return fmt.Errorf("%w: Replay must be called once, between Open and Start", ErrMisuse)
	}
	l := w.files.layout
	for i, s := range l.live {
		sc := newScanner(w.io, s.file, s.header)
		err := w.replayFile(sc, l, i, fn)
		sc.close()
		if err != nil {
			return fmt.Errorf("replay wal %s: %w", w.o.Dir, err)
		}
	}
	if err := w.settle(l); err != nil {
		return fmt.Errorf("replay wal %s: %w", w.o.Dir, err)
	}
	w.end.Store(uint64(w.recovered))
	w.durable.Store(uint64(w.recovered))
	w.phase = phaseReplayed
	return nil
}

// RecoveredEnd is where the recovered log ends, between Open and Replay, for who must know that before; 0 if it is new, or damaged, which Replay tells. It reads
// the newest file.
func (w *WAL) RecoveredEnd() LSN {
	live := w.files.layout.live
	if w.phase != phaseOpen || len(live) == 0 {
		return 0
	}
	s := live[len(live)-1]
	sc := newScanner(w.io, s.file, s.header)
	defer sc.close()
	end, _, err := sc.last(w.files.layout.proof, func(LSN, Kind, []byte, []byte) error { return nil })
	if err != nil {
		return 0
	}
	return end
}

func (w *WAL) replayFile(sc *scanner, l *layout, i int, fn entryFunc) error {
	if i+1 < len(l.live) {
		return sc.closed(l.live[i+1].header.prevEnd, fn)
	}
	end, v, err := sc.last(l.proof, fn)
	if err != nil {
		return err
	}
	if err := lostEnd(end, l.proof); err != nil {
		return err
	}
	w.recovered = end
	if v != groupEmpty {
		w.o.Logger.Info("wal: log ends at a group that is not whole; nothing from there on was acknowledged",
			"dir", w.o.Dir, "file", sc.w.f.Name(), "offset", end-sc.header.start(), "lsn", end, "found", v.String())
	}
	return nil
}

// settle makes what was read durable: after a crash of the process alone, it may have come from the device's cache. The header of the
// next file will state that it is.
func (w *WAL) settle(l *layout) error {
	if len(l.live) == 0 {
		return nil
	}
	s := l.live[len(l.live)-1]
	if err := w.io.sync(s.file); err != nil {
		return fmt.Errorf("sync recovered file %s: %w", s.file.Name(), err)
	}
	return nil
}
