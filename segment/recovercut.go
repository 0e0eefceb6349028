package segment

import (
	"context"
	"errors"
	"fmt"
)

// The replay of a log that was truncated. The WAL has batches that are gone, records of truncations, and what was appended behind them; the
// files may be older than all that, or newer, or half cut. So:
//
//   - A truncation is done again when its record comes, also where the files have newer data already: all of that follows in the WAL, because
//     the WAL is only ever released from its beginning.
//   - A batch that does not fit, since the files have newer data in its place, is passed over. It was truncated, so a record follows that says
//     so: it cuts the log below it. If none comes, records are missing: that is ErrGap, said at the end.
//   - When a truncation's work on the files is done, and everything before it flushed, the checkpoint names its LSN, and what the WAL has up to
//     there is not looked at any more.
//
// By induction over the truncations in the WAL: after each, the log below the lowest offset of those that follow is what it was then. In the
// end none follows.

// inFiles reports whether what the WAL has at lsn is in the files, or was truncated.
func (l *Log) inFiles(lsn uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return lsn <= l.mu.cutDone
}

// noteGap notes that a batch was passed over.
func (l *Log) noteGap(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.gap == nil {
		l.mu.gap = err
	}
}

// RecoveredTruncate takes the record of a truncation from the WAL at start-up, in LSN order: the log ends at offset, and with reset begins
// there, too. It may read; the files follow when the log is flushed.
func (l *Log) RecoveredTruncate(offset int64, reset bool, lsn uint64) error {
	if l.inFiles(lsn) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*l.s.opt.IOTimeout)
	defer cancel()
	if start := l.LogStart(); !reset && offset < start {
		// The start has risen since, durably; what lies below it is not wanted any more.
		offset, reset = start, true
	}
	c, err := l.prepare(ctx, offset, reset)
	if errors.Is(err, ErrCorrupt) {
		// Files may be missing here because a later truncation was deleting them.
		l.noteGap(fmt.Errorf("replay of LSN %d: %w", lsn, err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("replay of LSN %d: %w", lsn, err)
	}
	if c != nil {
		refill := c.gap && c.end < offset
		c.Apply(lsn)
		if refill {
			// Compaction has taken away what lay before the cut. The log did end there.
			epoch, err := l.LastEpoch()
			if err == nil {
				err = l.fill(c.end, offset, epoch)
			}
			if err != nil {
				return fmt.Errorf("replay of LSN %d: %w", lsn, err)
			}
			l.Commit(offset, lsn)
		}
	}
	if !l.clearGap(offset) {
		l.noteGap(fmt.Errorf("recover %s: %w: WAL says that it was cut at offset %d (LSN %d), it ends at %d", l.dir, ErrGap, offset, lsn, l.End()))
	}
	return nil
}

// clearGap forgets the batches that were passed over if the log ends at offset: it is what it was when it was cut there.
func (l *Log) clearGap(offset int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.end != offset {
		return false
	}
	l.mu.gap = nil
	return true
}

// Replayed says that the WAL was replayed. ErrGap: it lacks what the log needs.
func (l *Log) Replayed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.resetting = false
	return l.mu.gap
}

// ForgetCuts makes the store forget, before logs are opened, the truncations that a checkpoint names and that the WAL, which ends at end, cannot
// know: it is another one, and its LSNs mean nothing to them. end is called only if there are truncations.
func (s *Store) ForgetCuts(end func() uint64) {
	s.points.mu.Lock()
	any := false
	for _, c := range s.points.mu.known {
		any = any || c.Cut != 0
	}
	s.points.mu.Unlock()
	if !any {
		return
	}
	last := end() // reads
	s.points.mu.Lock()
	defer s.points.mu.Unlock()
	for dir, c := range s.points.mu.known {
		if uint64(c.Cut) >= last {
			c.Cut = 0
			s.points.mu.known[dir] = c
		}
	}
}
