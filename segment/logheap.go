package segment

import "container/heap"

// The heaps that a dirtyLog may be in.
const (
	slotAll = iota
	slotIdle
	slotLarge
	heapSlots
)

// logHeap has the dirty log of the lowest LSN first. A log knows where it is in each heap, plus one: 0 is nowhere.
type logHeap struct {
	list []*dirtyLog
	slot int
}

func (h *logHeap) first() *dirtyLog { return h.list[0] }

func (h *logHeap) has(d *dirtyLog) bool { return d.at[h.slot] > 0 }

func (h *logHeap) add(d *dirtyLog) { heap.Push(h, d) }

// fix restores the order after d's LSN changed; nothing happens if d is not in h.
func (h *logHeap) fix(d *dirtyLog) {
	if h.has(d) {
		heap.Fix(h, d.at[h.slot]-1)
	}
}

// remove takes d out if it is in h.
func (h *logHeap) remove(d *dirtyLog) {
	if h.has(d) {
		heap.Remove(h, d.at[h.slot]-1)
	}
}

// Len is heap.Interface's, like the four that follow.
func (h *logHeap) Len() int           { return len(h.list) }
func (h *logHeap) Less(i, j int) bool { return h.list[i].lsn < h.list[j].lsn }

func (h *logHeap) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].at[h.slot], h.list[j].at[h.slot] = i+1, j+1
}

// Push appends.
func (h *logHeap) Push(x any) {
	d := x.(*dirtyLog)
	h.list = append(h.list, d)
	d.at[h.slot] = len(h.list)
}

// Pop removes the last one.
func (h *logHeap) Pop() any {
	last := len(h.list) - 1
	d := h.list[last]
	h.list[last] = nil
	h.list = h.list[:last]
	d.at[h.slot] = 0
	return d
}
