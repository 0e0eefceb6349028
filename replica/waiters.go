package replica

import "weir/internal/lockmeter"

// Waiter is one reader's registration at one partition. Wake is called without locks held, possibly more
// than once and from the WAL's thread: it must be quick and must not block.
type Waiter struct {
	Wake func()

	list       *waiterList
	prev, next *Waiter
}

// waiterList is an intrusive list of readers that wait for the high watermark.
type waiterList struct {
	mu struct {
		lockmeter.Mutex
		head  *Waiter
		spare []func() // reused between wakes, by the one that is waking
	}
}

func (l *waiterList) add(w *Waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.list, w.prev, w.next = l, nil, l.mu.head
	if w.next != nil {
		w.next.prev = w
	}
	l.mu.head = w
}

// Stop takes the registration back. A Wake under way in another goroutine may still come after it.
func (w *Waiter) Stop() {
	l := w.list
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.list == nil {
		return
	}
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.mu.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	}
	w.list, w.prev, w.next = nil, nil, nil
}

// wake calls every waiter's Wake. Registrations stay: a waiter that has enough calls Stop.
func (l *waiterList) wake() {
	l.mu.Lock()
	if l.mu.head == nil {
		l.mu.Unlock()
		return
	}
	calls := l.mu.spare[:0]
	l.mu.spare = nil
	for w := l.mu.head; w != nil; w = w.next {
		calls = append(calls, w.Wake)
	}
	l.mu.Unlock()
	for i, call := range calls {
		call()
		calls[i] = nil
	}
	l.mu.Lock()
	l.mu.spare = calls
	l.mu.Unlock()
}
