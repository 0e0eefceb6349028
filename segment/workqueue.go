package segment

import "sync"

// workQueue does work that nobody waits for, with a bounded number of goroutines that exist only while there is some: deleting
// ten thousand logs must not be ten thousand goroutines that fight for the file system with the flusher. The queue itself is
// unbounded: what is in it is small, and there is at most one item for each file or log that was open.
type workQueue[T any] struct {
	s       *Store
	workers int
	batch   int // items handed over at once, at most
	do      func(batch []T)

	mu struct {
		sync.Mutex
		items   []T
		running int
		ended   chan struct{} // closed when a goroutine has ended; nil: nobody waits
	}
}

// add queues an item. It does not wait.
func (q *workQueue[T]) add(item T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mu.items = append(q.mu.items, item)
	if q.mu.running < q.workers {
		q.mu.running++
		q.s.background(q.run)
	}
}

func (q *workQueue[T]) run() {
	for batch := q.take(); len(batch) > 0; batch = q.take() {
		q.do(batch)
	}
}

func (q *workQueue[T]) take() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.mu.items), q.batch)
	if n == 0 {
		q.mu.items = nil
		q.mu.running--
		if q.mu.ended != nil {
			close(q.mu.ended)
			q.mu.ended = nil
		}
		return nil
	}
	batch := q.mu.items[:n:n]
	q.mu.items = q.mu.items[n:]
	return batch
}

// steal takes the items that no goroutine has begun with.
func (q *workQueue[T]) steal() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.mu.items
	q.mu.items = nil
	return items
}

// wait waits until one of the goroutines has run out of work, and returns how many there were.
func (q *workQueue[T]) wait() int {
	q.mu.Lock()
	n := q.mu.running
	if n == 0 {
		q.mu.Unlock()
		return 0
	}
	if q.mu.ended == nil {
		q.mu.ended = make(chan struct{})
	}
	ended := q.mu.ended
	q.mu.Unlock()
	<-ended
	return n
}
