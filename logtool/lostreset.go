package logtool

import (
	"fmt"
	"path"
	"slices"

	"weir/internal/damage"
	"weir/segment"
)

// A log that was reset, and the record of that is damaged. While its files are being deleted, the checkpoint says where it begins now; else what is left
// of the files and of the WAL before the damage, all of it given up, would be taken for the log.

// seenReset is a reset that the WAL has and the files may not have followed.
type seenReset struct {
	offset int64
	place  int // damaged places of the WAL before it
}

// settle holds the truncations that the WAL has against the log starts, which the checkpoint has.
func (s *survey) settle() {
	for _, p := range s.all() {
		s.lostReset(p)
		start := s.points[p.dir].LogStart
		if c := p.cut; c != nil && !c.Reset && c.Offset <= start {
			// The start has risen since, or the log was reset later: as a replay does.
			p.resetAt(start)
		}
	}
}

// resetAt has the log begin at an offset, with what the WAL has from there on.
func (p *partition) resetAt(offset int64) {
	p.cut = &segment.RepairCut{Offset: offset, Reset: true}
	p.entries = slices.DeleteFunc(p.entries, func(e walRef) bool { return e.next <= offset })
	p.doubtful = slices.DeleteFunc(p.doubtful, func(r damage.Range) bool { return r.To <= offset })
	for i := range p.doubtful {
		p.doubtful[i].From = max(p.doubtful[i].From, offset)
	}
}

// lostReset takes from the checkpoint a reset whose record is damaged. The record was in one of the damaged places: what the WAL has before the first is of
// the history that was given up, and what it has behind the last is not.
func (s *survey) lostReset(p *partition) {
	point := s.points[p.dir]
	at := point.LogStart
	if s.places == 0 || point.Resetting == 0 || slices.ContainsFunc(p.resets, func(r seenReset) bool { return r.offset == at }) {
		return
	}
	f := damage.Finding{
		Severity: damage.Note, File: path.Join(s.o.topics(), p.dir), Log: p.dir,
		What: fmt.Sprintf("the log was begun anew at offset %d, and the record of that in the write-ahead log is damaged", at),
		Do:   doWAL + ", from that offset on",
	}
	if n := len(p.resets); n > 0 && p.resets[n-1].place > 0 {
		if last := p.resets[n-1]; last.place < s.places { // before it or behind it
			p.doubt(&f, last.offset, p.entries)
		}
		s.find(f)
		return
	}
	p.entries = slices.DeleteFunc(p.entries, func(e walRef) bool { return e.place == 0 })
	cut := p.cut
	p.resetAt(at)
	if segment.FirstOffset(s.o.FS, f.File) == at && (cut == nil || cut.Reset || cut.Offset <= at) {
		// The files of before are gone, and these hold what the damage has taken; or the log was begun anew where it had begun before.
		p.cut, p.unsure = nil, true
	}
	p.doubt(&f, at, slices.DeleteFunc(slices.Clone(p.entries), func(e walRef) bool { return e.place == s.places }))
	s.find(f)
}

// sayUnsure says of a log that its files may have been given up.
func (s *survey) sayUnsure(p *partition) {
	if !p.unsure || p.state.End <= p.state.Start {
		return
	}
	r := damage.Range{From: p.state.Start, To: p.state.End}
	p.doubtful = append(p.doubtful, r)
	s.find(damage.Finding{
		Severity: damage.Note, File: path.Join(s.o.topics(), p.dir), Log: p.dir, Offsets: r,
		What: "it is not known whether the files are from before the log was begun anew or from after that",
		Do:   "let the node fetch this partition anew, if another replica lives",
	})
}

// doubt notes that entries which begin at an offset may be of a history that was given up.
func (p *partition) doubt(f *damage.Finding, from int64, entries []walRef) {
	if n := len(entries); n > 0 && entries[n-1].next > from {
		f.Offsets = damage.Range{From: from, To: entries[n-1].next}
		f.What += ": these offsets may be of the history before"
		p.doubtful = append(p.doubtful, f.Offsets)
	}
}
