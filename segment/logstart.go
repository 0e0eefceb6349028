package segment

import "fmt"

// LogStartMove asks for the records of Log below Offset to go.
type LogStartMove struct {
	Log    *Log
	Offset int64

	// Err says why the log start was not moved: an *OffsetError, ErrClosed, or ErrTruncating, which passes.
	Err error
}

// AdvanceLogStarts raises log start offsets; one that is high enough already stays. Readers see the new starts when it returns. Whole
// segments below them are deleted later, in the background, when the starts are in a durable checkpoint: a crash may bring the old
// start back before that, never after.
//
// done is called once, on another goroutine: with nil when all starts are durable, moved now or before, or with what kept the
// checkpoint from being written. It is one checkpoint, however many moves there are. If no move is without Err, done is not called and
// any is false.
func (s *Store) AdvanceLogStarts(moves []LogStartMove, done func(error)) (any bool) {
	logs := make([]*Log, 0, len(moves))
	for i := range moves {
		m := &moves[i]
		if m.Err = m.Log.raiseStart(m.Offset); m.Err == nil {
			logs = append(logs, m.Log)
		}
	}
	if len(logs) == 0 {
		return false
	}
	s.checkpointDone(func(err error) {
		if err == nil {
			for _, l := range logs {
				s.trim(l)
			}
		}
		done(err)
	})
	return true
}

// AdvanceLogStart is AdvanceLogStarts for one log and for somebody who does not need to know when it is durable.
func (l *Log) AdvanceLogStart(offset int64) error {
	move := []LogStartMove{{Log: l, Offset: offset}}
	l.s.AdvanceLogStarts(move, func(error) {})
	return move[0].Err
}

// raiseStart moves the start in memory. When nothing is left before the log's end, the active segment is sealed, so that its room is
// freed like that of the others instead of when somebody fills it.
func (l *Log) raiseStart(offset int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.mu.closed:
		return fmt.Errorf("advance log start of %s: %w", l.dir, ErrClosed)
	case offset > l.mu.end:
		return fmt.Errorf("advance log start of %s: %w", l.dir, &OffsetError{Offset: offset, Start: l.mu.start, End: l.mu.end})
	case offset <= l.mu.start:
		return nil
	case l.fixedStartLocked():
		return fmt.Errorf("advance log start of %s to %d: %w", l.dir, offset, ErrTruncating)
	}
	l.mu.start = offset
	if g := l.activeLocked(); offset == l.mu.end && g.size > 0 && l.mu.tail.committedNext >= g.next {
		l.sealActiveLocked(g)
	}
	return nil
}

// sealActiveLocked begins a new segment behind the active one, g.
func (l *Log) sealActiveLocked(g *segment) {
	l.rollLocked()
	if g.flushed == g.size { // otherwise its flush finishes it
		l.s.background(func() { l.s.sealed(l, g) })
	}
}

// fixedStartLocked reports whether the log start must stay. While a truncation is prepared it was reckoned with. After a reset, and until
// a checkpoint says that it is over, the record in the WAL is what a replay takes the start from.
func (l *Log) fixedStartLocked() bool { return l.mu.cutting || l.mu.resetLSN != 0 }
