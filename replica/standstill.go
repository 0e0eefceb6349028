package replica

import "time"

// absence is a time in which the process did not run.
type absence struct{ from, to time.Time }

// absences are the last of them. What an operation has been through of them is not the disk's.
type absences struct {
	last [8]absence // one that is forgotten counts as the disk's again, which errs on the side of a stall
	next int
}

func (a *absences) add(from, to time.Time) {
	a.last[a.next%len(a.last)] = absence{from, to}
	a.next++
}

// without is how much of its age, as of now, an operation in flight had while the process ran.
func (a *absences) without(age time.Duration, now time.Time) time.Duration {
	if age == 0 {
		return 0
	}
	began, left := now.Add(-age), age
	for _, x := range a.last {
		from := x.from
		if from.Before(began) {
			from = began
		}
		left -= max(x.to.Sub(from), 0)
	}
	return max(left, 1)
}
