package replica

import "sync"

// rollWorkers is how many partitions are seen to at once after a segment of theirs was sealed.
const rollWorkers = 2

// rollQueue has the partitions of which a segment was sealed: time for a producer snapshot and for retention by size. Both do I/O of their
// own, so they do not run on the flusher's goroutine; thousands of partitions may roll together, so each does not get one either. A
// partition is queued once, however often it rolls meanwhile. Goroutines exist only while there is work.
type rollQueue struct {
	m  *Manager
	mu struct {
		sync.Mutex
		queue   []*Partition
		state   map[*Partition]rollState
		running int
	}
}

type rollState uint8

const (
	rollQueued rollState = iota + 1
	rollBusy
	rollAgain // busy, and another segment was sealed meanwhile
)

func (q *rollQueue) add(p *Partition) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch q.mu.state[p] {
	case rollQueued, rollAgain:
	case rollBusy:
		q.mu.state[p] = rollAgain
	default:
		q.queueLocked(p)
	}
}

func (q *rollQueue) queueLocked(p *Partition) {
	if q.mu.running < rollWorkers {
		if !q.m.background.enter() {
			return // closing, which writes every snapshot itself
		}
		q.mu.running++
		go q.run()
	}
	if q.mu.state == nil {
		q.mu.state = map[*Partition]rollState{}
	}
	q.mu.state[p] = rollQueued
	q.mu.queue = append(q.mu.queue, p)
}

func (q *rollQueue) run() {
	defer q.m.background.leave()
	for p := q.take(nil); p != nil; p = q.take(p) {
		p.writeSnapshot()
		p.retain()
	}
}

// take returns the next partition after done was seen to; nil ends the worker.
func (q *rollQueue) take(done *Partition) *Partition {
	q.mu.Lock()
	defer q.mu.Unlock()
	if done != nil {
		again := q.mu.state[done] == rollAgain
		delete(q.mu.state, done)
		if again {
			q.queueLocked(done)
		}
	}
	if q.m.ctx.Err() != nil {
		q.mu.queue, q.mu.state = nil, nil
	}
	if len(q.mu.queue) == 0 {
		q.mu.running--
		return nil
	}
	p := q.mu.queue[0]
	q.mu.queue = q.mu.queue[1:]
	q.mu.state[p] = rollBusy
	return p
}
