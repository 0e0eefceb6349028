// Package budget is where a request's time went: a request carries a Budget, and the code that does a stage of its work says so when the stage ends.
//
// A Budget is a list of laps: everything between one mark and the next is one stage's. So the stages of a request follow each other without gaps, and
// together they are its whole time, whatever the code forgets to name: that is in the stage that is named next. A request of several
// partitions has the laps of the one that was done last, not the longest of each kind: only those of one partition follow each
// other, and it is the one that the client waited for.
package budget

import (
	"time"

	"weir/internal/clock"
)

// Stage is a part of a request's way.
type Stage uint8

// The stages, in about the order in which a request passes them.
const (
	Room         Stage = iota // waiting for room: requests in flight, memory for requests, for records or for reads, disk space
	Queue                     // received, and waiting for those of its connection that came before
	Handle                    // the broker's own work: parsing, checking, making the answer, and whatever has no stage of its own
	Lock                      // waiting for the partition's lock
	WALQueue                  // in the WAL's queue, behind the writes in flight
	WALWrite                  // being written, until it and all that came before are durable
	Replicate                 // durable here, and not yet on every in-sync replica
	Forward                   // sent to another node, until its answer came
	Read                      // reading the log
	Wait                      // waiting because the request says so: for min.bytes, for the other members of a group
	Propose                   // a change of the metadata: committed by raft and applied by the controller
	Settle                    // the leaders of new partitions learn of them
	Apply                     // the node that was asked applies the change
	RespondQueue              // answered, and waiting for earlier answers on the connection, or for its writer
	RespondWrite              // being written to the client's socket
	Other                     // laps that a Budget had no place for
	StageCount   = iota
)

var names = [StageCount]string{
	"room", "queue", "handle", "lock", "wal_queue", "wal_write", "replicate", "forward", "read", "wait", "propose", "settle", "apply",
	"respond_queue", "respond_write", "other",
}

// String is the stage's name in metrics, logs and traces.
func (s Stage) String() string { return names[s] }

// Mark is a point in time, in ticks of the clock that nobody sets. 0 is no time.
type Mark int64

// At is the mark of a time.
func At(t time.Time) Mark { return Mark(clock.Ticks(t)) }

// Time is when a mark was, by the wall clock as it is now.
func (m Mark) Time(now time.Time) time.Time { return now.Add(time.Duration(m - At(now))) }

// lapsMax is enough for the longest way there is, with two laps to spare.
const lapsMax = 14

// Budget is the laps of one request. It is a plain value without pointers: whoever has the request has it, one at a time.
type Budget struct {
	start Mark
	at    [lapsMax]Mark
	stage [lapsMax]Stage
	n     uint8
}

// Begin starts the clock.
func (b *Budget) Begin(at Mark) { *b = Budget{start: at} }

// Lap says that everything since the last mark was stage s, until now. A mark before the last one, or none, adds nothing: clocks of two threads may
// differ by that little.
func (b *Budget) Lap(s Stage, until Mark) {
	if until <= b.End() {
		return
	}
	switch n := b.n; {
	case n > 0 && b.stage[n-1] == s:
		b.at[n-1] = until
	case n == lapsMax:
		b.at[n-1], b.stage[n-1] = until, Other
	default:
		b.at[n], b.stage[n] = until, s
		b.n++
	}
}

// Start is when the clock was started.
func (b *Budget) Start() Mark { return b.start }

// End is the last mark.
func (b *Budget) End() Mark {
	if b.n == 0 {
		return b.start
	}
	return b.at[b.n-1]
}

// Total is the time from the start to the last mark.
func (b *Budget) Total() time.Duration { return time.Duration(b.End() - b.start) }

// Laps is how many laps there are.
func (b *Budget) Laps() int { return int(b.n) }

// Lapped returns the i-th lap.
func (b *Budget) Lapped(i int) (s Stage, from, to Mark) {
	from = b.start
	if i > 0 {
		from = b.at[i-1]
	}
	return b.stage[i], from, b.at[i]
}

// Spent is the time by stage.
type Spent [StageCount]time.Duration

// Spent adds the laps up. The bits of seen say which stages there were.
func (b *Budget) Spent() (spent Spent, seen uint32) {
	last := b.start
	for i := range b.n {
		s := b.stage[i]
		spent[s] += time.Duration(b.at[i] - last)
		seen |= 1 << s
		last = b.at[i]
	}
	return spent, seen
}

// Waited is the time in Wait, which the client asked for: it does not make a request slow.
func (b *Budget) Waited() (d time.Duration) {
	last := b.start
	for i := range b.n {
		if b.stage[i] == Wait {
			d += time.Duration(b.at[i] - last)
		}
		last = b.at[i]
	}
	return d
}
