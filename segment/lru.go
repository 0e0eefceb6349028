package segment

// lruNode links an element into an lruList; it is part of the element, so that the list allocates nothing.
type lruNode[T any] struct {
	prev, next *lruNode[T]
	v          T
	in         bool
	cost       int64
}

// lruList keeps elements in order of use and the sum of their costs.
type lruList[T any] struct {
	root lruNode[T] // ring; next is the most recently used
	cost int64
	n    int
}

func (l *lruList[T]) init() {
	l.root.prev, l.root.next = &l.root, &l.root
}

func (l *lruList[T]) add(e *lruNode[T], v T, cost int64) {
	e.v, e.cost, e.in = v, cost, true
	l.cost += cost
	l.n++
	l.link(e)
}

func (l *lruList[T]) link(e *lruNode[T]) {
	e.prev, e.next = &l.root, l.root.next
	e.prev.next, e.next.prev = e, e
}

func (l *lruList[T]) touch(e *lruNode[T]) {
	e.prev.next, e.next.prev = e.next, e.prev
	l.link(e)
}

func (l *lruList[T]) remove(e *lruNode[T]) {
	if !e.in {
		return
	}
	e.prev.next, e.next.prev = e.next, e.prev
	l.cost -= e.cost
	l.n--
	*e = lruNode[T]{}
}

// oldest returns the least recently used element.
func (l *lruList[T]) oldest() (v T, ok bool) {
	if l.n == 0 {
		return v, false
	}
	return l.root.prev.v, true
}
