package segment

import "time"

// TryReserve is Reserve for somebody who cannot wait: false means that there is no room now.
func (s *Store) TryReserve(n int) (bool, error) {
	return s.reserved(n, s.budget.tryReserve)
}

// TryReserveKept is TryReserve for what must not stand behind the producers that fill the budget, such as the commits of groups: a sixteenth on top of
// the budget is kept for it.
func (s *Store) TryReserveKept(n int) (bool, error) {
	return s.reserved(n, s.budget.tryReserveKept)
}

func (s *Store) reserved(n int, try func(int64) (bool, error)) (bool, error) {
	ok, err := try(int64(n))
	if ok {
		s.metrics.TailBytes.Add(float64(n))
	}
	if err == nil && (!ok || s.budget.pressed()) {
		s.flusher.press()
	}
	return ok, err
}

// TailBytes is how much of the budget is reserved: what is in memory and not yet in a file.
func (s *Store) TailBytes() int64 { return s.budget.used() }

// OldestLSN returns the bound below which no log needs the WAL any more, among what was committed before the call; any is false if
// nothing committed is unflushed.
func (s *Store) OldestLSN() (lsn uint64, any bool) { return s.flusher.oldest() }

// OldestIO is the age of the oldest write or flush in flight, 0 if there is none.
func (s *Store) OldestIO() time.Duration { return s.engine.OldestAge() }
