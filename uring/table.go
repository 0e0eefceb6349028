package uring

// list is a doubly linked list through the slots, oldest first.
type list struct {
	first, last *slot
	n           int
}

func (l *list) add(s *slot) {
	if s.in != nil {
		panic("BUG: uring: slot is in a list already")
	}
	s.in, s.prev, s.next = l, l.last, nil
	if l.last != nil {
		l.last.next = s
	} else {
		l.first = s
	}
	l.last = s
	l.n++
}

func (l *list) remove(s *slot) {
	if s.in != l {
		panic("BUG: uring: slot is not in this list")
	}
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		l.first = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		l.last = s.prev
	}
	s.in, s.prev, s.next = nil, nil, nil
	l.n--
}

// heap is a binary heap of slots, the nearest deadline first. With equal timeouts, the usual case, a push moves nothing.
type heap []*slot

func (h *heap) push(s *slot) {
	*h = append(*h, s)
	s.heapAt = len(*h) - 1
	h.up(s.heapAt)
}

// remove takes s out; it must be in.
func (h *heap) remove(s *slot) {
	at, last := s.heapAt, len(*h)-1
	if (*h)[at] != s {
		panic("BUG: uring: slot is not in the deadline heap")
	}
	h.swap(at, last)
	(*h)[last] = nil
	*h = (*h)[:last]
	s.heapAt = -1
	if at < last {
		h.down(at)
		h.up(at)
	}
}

func (h heap) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapAt, h[j].heapAt = i, j
}

func (h heap) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if h[parent].deadline <= h[i].deadline {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h heap) down(i int) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(h); child++ {
			if h[child].deadline < h[least].deadline {
				least = child
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}
