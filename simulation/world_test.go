package simulation

import (
	"container/heap"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// world is one simulated history. Everything in it happens on one goroutine, in the order of the events' times; what is random comes from
// the seed. So the same seed is the same history, which hash stands for.
type world struct {
	seed   uint64
	rng    *rand.Rand
	now    time.Time
	queue  events
	seq    uint64
	steps  int
	hash   uint64
	log    []string // the last events, for a failure
	failed error

	nodes  []*node
	net    *network
	quorum *quorum
	model  *model
	calm   bool // no more faults
	quiet  bool // no more producing
}

const logMax = 400

type event struct {
	at   time.Time
	seq  uint64
	what string
	fn   func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].seq < q[j].seq
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}

func newWorld(seed uint64) *world {
	return &world{seed: seed, rng: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)), now: time.Unix(1_700_000_000, 0)}
}

// after has fn happen later.
func (w *world) after(d time.Duration, what string, fn func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now.Add(d), w.seq, what, fn})
}

// between draws a duration.
func (w *world) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)+1))
}

// chance is true once in n times.
func (w *world) chance(n int) bool { return w.rng.IntN(n) == 0 }

// run lets time pass.
func (w *world) run(d time.Duration) {
	for end := w.now.Add(d); w.failed == nil && len(w.queue) > 0 && !w.queue[0].at.After(end); {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		w.steps++
		w.line(e.what)
		e.fn()
	}
}

// note adds to the history's hash and to what a failure shows.
func (w *world) note(format string, args ...any) { w.line(fmt.Sprintf(format, args...)) }

func (w *world) line(line string) {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %d %s", w.hash, w.now.UnixNano(), line)
	w.hash = h.Sum64()
	if len(w.log) == 2*logMax {
		w.log = append(w.log[:0], w.log[logMax:]...)
	}
	w.log = append(w.log, w.now.Format("05.000000 ")+line)
}

// fail ends the history. Only the first failure counts.
func (w *world) fail(format string, args ...any) {
	if w.failed == nil {
		w.failed = fmt.Errorf("at %s, step %d: %s", w.now.Format("05.000000"), w.steps, fmt.Sprintf(format, args...))
	}
}
