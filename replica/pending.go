package replica

import (
	"sync"
	"time"

	"weir/wal"
)

// pending is a batch between Append and the WAL's report. It, not the Append, is what the WAL holds: whoever waits for the Append can be
// given an answer early - its own deadline, a stalled disk - while the batch stays where it is, with its offset, in the WAL's order. It will
// be durable, or fail, as if nobody had ever waited: an acknowledgement is lost by that, never a record, and the log has no hole. To the
// client the outcome is unknown until it asks again; an idempotent producer's retry finds its batch by the sequence number.
type pending struct {
	entry wal.Entry
	p     *Partition
	last  int64   // last offset
	a     *Append // who waits; nil: nobody any more
	next  *pending
}

var pendings = sync.Pool{New: func() any { return &pending{} }}

// recycle gives a batch's record back when the WAL has reported it. Partition.take has dropped it from the queue.
func (b *pending) recycle() {
	*b = pending{}
	pendings.Put(b)
}

// pendingQueue has a partition's pending batches in the order of their offsets, which is the WAL's.
type pendingQueue struct{ head, tail *pending }

func (q *pendingQueue) add(b *pending) {
	if q.tail == nil {
		q.head = b
	} else {
		q.tail.next = b
	}
	q.tail = b
}

// appends is a list of Appends to be answered, in order.
type appends struct{ head, tail *Append }

func (l *appends) add(a *Append) {
	a.next = nil
	if l.tail == nil {
		l.head = a
	} else {
		l.tail.next = a
	}
	l.tail = a
}

// done answers all with err, or, if that is nil, with what is in them. Each may be reused from then on.
func (l *appends) done(err error) {
	for a := l.head; a != nil; {
		next := a.next
		a.next = nil
		if err != nil {
			a.fail(err)
		} else {
			a.Done(a)
		}
		a = next
	}
}

// ackQueue has the Appends with AcksAll whose batch is durable here and not yet below the high watermark, in the order of their offsets.
type ackQueue struct{ head, tail *Append }

func (q *ackQueue) add(a *Append) {
	a.acks, a.next, a.prev = true, nil, q.tail
	if q.tail == nil {
		q.head = a
	} else {
		q.tail.next = a
	}
	q.tail = a
}

func (q *ackQueue) remove(a *Append) {
	if a.prev == nil {
		q.head = a.next
	} else {
		a.prev.next = a.next
	}
	if a.next == nil {
		q.tail = a.prev
	} else {
		a.next.prev = a.prev
	}
	a.acks, a.next, a.prev = false, nil, nil
}

// takeBelowLocked drops the batches that end below offset from the queue and returns who waits for them. Those with AcksAll may have to go on waiting.
func (p *Partition) takeBelowLocked(offset int64, now time.Time, to *appends) {
	q, hw := &p.mu.pending, p.highWatermark.Load()
	for q.head != nil && q.head.last < offset {
		b := q.head
		if q.head = b.next; q.head == nil {
			q.tail = nil
		}
		b.next = nil
		b.durableLocked(now)
		if a := b.a; a != nil && a.AcksAll && a.last >= hw {
			b.a, a.batch = nil, nil
			p.mu.acks.add(a)
			continue
		}
		b.answerLocked(to)
	}
}

// takeAckedLocked returns who waited for the high watermark, or for the batch that they repeat, and need not any more. last is the node whose progress
// that is.
func (p *Partition) takeAckedLocked(last int32, to *appends) {
	for hw := p.highWatermark.Load(); p.mu.acks.head != nil && p.mu.acks.head.last < hw; {
		a := p.mu.acks.head
		p.mu.acks.remove(a)
		a.Times.Last = last
		to.add(a)
	}
	for link := &p.mu.retries; *link != nil; {
		a := *link
		if !p.reachedLocked(a) {
			link = &a.next
			continue
		}
		*link = a.next
		to.add(a)
	}
}

// takeAcksAllLocked takes everybody who waits for the other replicas. The batches stay.
func (p *Partition) takeAcksAllLocked() (waiting appends) {
	for p.mu.acks.head != nil {
		a := p.mu.acks.head
		p.mu.acks.remove(a)
		a.Times.Last = p.lastLocked()
		waiting.add(a)
	}
	for b := p.mu.pending.head; b != nil; b = b.next {
		if b.a != nil && b.a.AcksAll {
			b.answerLocked(&waiting)
		}
	}
	for link := &p.mu.retries; *link != nil; {
		a := *link
		if !a.AcksAll {
			link = &a.next
			continue
		}
		*link = a.next
		waiting.add(a)
	}
	return waiting
}

// answerLocked moves who waits for the batch, if anybody does, to the list.
func (b *pending) answerLocked(to *appends) {
	if a := b.a; a != nil {
		b.a, a.batch = nil, nil
		a.Times.Began = b.entry.Began()
		to.add(a)
	}
}

// waitersLocked takes everybody who waits for a batch of the partition, retries included. The batches stay.
func (p *Partition) waitersLocked() (waiting appends) {
	waiting = p.takeAcksAllLocked()
	for b := p.mu.pending.head; b != nil; b = b.next {
		b.answerLocked(&waiting)
	}
	for p.mu.retries != nil {
		a := p.mu.retries
		p.mu.retries = a.next
		waiting.add(a)
	}
	return waiting
}

// GiveUp answers a with err if it still waits; its batch stays in the log and will be durable if the disk allows. It reports whether
// it did: Done has been called then. The caller makes sure that a is not reused meanwhile.
func (p *Partition) GiveUp(a *Append, err error) bool {
	p.mu.Lock()
	found := a.batch != nil || a.acks
	switch {
	case a.batch != nil:
		a.Times.Began = a.batch.entry.Began()
		a.batch.a, a.batch = nil, nil
	case a.acks:
		p.mu.acks.remove(a)
		a.Times.Last = p.lastLocked()
	default:
		for link := &p.mu.retries; *link != nil; link = &(*link).next {
			if *link == a {
				*link, a.next, found = a.next, nil, true
				break
			}
		}
	}
	p.mu.Unlock()
	if found {
		a.fail(err)
	}
	return found
}

// giveUpAll answers with err everybody who waits for a batch. Appends that come later meet Manager.down.
func (m *Manager) giveUpAll(err error) {
	for _, p := range m.all() {
		p.mu.Lock()
		waiting := p.waitersLocked()
		p.mu.Unlock()
		waiting.done(err)
	}
}
