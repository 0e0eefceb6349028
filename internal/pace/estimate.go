package pace

import "time"

const (
	// Floor is the least that may be in flight, however slow the device is: below it a write costs more than its bytes.
	Floor = 64 << 10
	// Target is the device's time that background bytes in flight may take: they grow while they take no more, ...
	Target = 50 * time.Millisecond
	// Slow ... and shrink when they take longer than this.
	Slow = 2 * Target
	// probeEvery so many slow steps at Floor one of twice the size asks whether that is slower at all.
	probeEvery = 16
	// probeMargin is how much longer it may take. Floor bytes more in this time are 5 MB/s, five times what would take Slow.
	probeMargin = Target / 4
)

// Estimate says how many bytes a device may be given at once so that it has them done within about Target, judging by how long it took before. One
// goroutine uses it at a time.
//
// It grows by doubling, when what filled at least half of it took at most Target: ten steps from Floor to BytesMax. So for a moment it may be what takes twice Slow. It shrinks at once, in
// proportion, when something took longer than Slow. It changes once for all that were in flight together: each of them would say the same.
//
// A device may also be slow to answer without being slow to write: each flush takes 120 ms, of 4 KiB as of 4 MiB. Small steps would not make anybody wait
// less there, they would only take its throughput away. So at Floor a larger step is tried now and then, and if that took no longer the time that a
// flush takes is deducted from then on, until something shrinks again.
type Estimate struct {
	limit, max int64
	start      int64
	rest       time.Duration
	last       time.Time // when the last step ended
	changed    time.Time // when limit did
	shrunk     time.Time
	slow       int           // slow steps at Floor, in a row
	atFloor    time.Duration // what they take, averaged
	latency    time.Duration // deducted from what a step takes: bytes have no part in it
	rate       float64       // bytes per second, averaged
}

// NewEstimate begins with start bytes, also when nothing was in flight for longer than rest, and never goes beyond most, or Floor if
// that is more. start is a multiple of 4096.
func NewEstimate(most, start int64, rest time.Duration) Estimate {
	most = max(most-most%blockBytes, Floor)
	start = min(max(start, Floor), most)
	return Estimate{limit: start, max: most, start: start, rest: rest}
}

// Limit is how many bytes may be in flight, a multiple of 4096.
func (e *Estimate) Limit() int64 {
	if e.probing() {
		return min(2*Floor, e.max)
	}
	return e.limit
}

func (e *Estimate) probing() bool { return e.slow > 0 && e.slow%probeEvery == 0 }

// BytesPerSecond is what the device did lately while it was busy with this; 0 if nothing is known.
func (e *Estimate) BytesPerSecond() float64 { return e.rate }

// Rested says that nothing is in flight at present. If that has been so for a while the device is tried anew.
func (e *Estimate) Rested(now time.Time) {
	if !e.last.IsZero() && now.Sub(e.last) > e.rest {
		e.limit = min(e.limit, e.start)
	}
}

// Observe takes what was seen: something took so long to be written, with load bytes in flight when it began, itself included.
func (e *Estimate) Observe(now time.Time, load int64, took time.Duration) {
	e.last = now
	began := now.Add(-took)
	e.average(load, took)
	probe := e.probing() && load > Floor
	if took < e.latency {
		e.latency -= (e.latency - took) / 8
	}
	took -= e.latency
	switch {
	case took <= Target:
		e.slow = 0
		if 2*load >= e.limit && !began.Before(e.changed) {
			e.limit, e.changed = min(2*e.limit, e.max), now
		}
	case took <= Slow:
		e.slow = 0
	case probe && took <= e.atFloor+probeMargin:
		e.slow, e.latency, e.limit, e.changed = 0, e.atFloor, min(2*Floor, e.max), now
	case began.Before(e.shrunk):
	case e.limit > Floor:
		e.shrink(load, took)
		e.changed, e.shrunk = now, now
	case probe:
		e.slow++ // it was no better, as was to be expected
	default:
		e.noteFloor(took)
	}
}

// noteFloor counts a slow step at Floor.
func (e *Estimate) noteFloor(took time.Duration) {
	if e.slow == 0 {
		e.atFloor = took
	}
	e.atFloor += (took - e.atFloor) / 4
	e.slow++
}

// shrink goes to what would have taken Target. A little that took long says that something is slow but not how slow.
func (e *Estimate) shrink(load int64, took time.Duration) {
	want := e.limit / 2
	if 2*load >= e.limit {
		want = min(want, int64(float64(load)*float64(Target)/float64(took)))
	}
	want -= want % blockBytes
	e.limit, e.latency, e.slow = max(want, Floor), 0, 0
}

func (e *Estimate) average(load int64, took time.Duration) {
	if took <= 0 {
		return
	}
	rate := float64(load) / took.Seconds()
	if e.rate == 0 {
		e.rate = rate
	}
	e.rate += (rate - e.rate) / 4
}
