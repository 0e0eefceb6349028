package uring

// A ring's owner is awake, about to find a wake-up pending, or asleep in its backend. Only the step from asleep to pending
// costs a system call; a Wake of an owner that is busy is one atomic swap.
const (
	ownerAwake uint32 = iota
	ownerPending
	ownerAsleep
)

// Wake makes a present or the next blocking Wait return.
func (r *ring) Wake() {
	if r.wakeup.Swap(ownerPending) == ownerAsleep {
		r.b.interrupt()
	}
}

// fallAsleep announces that the owner is going to sleep; false if a wake-up is pending. An interrupt that comes
// between this and the sleep is kept by the backend.
func (r *ring) fallAsleep() bool {
	return r.wakeup.CompareAndSwap(ownerAwake, ownerAsleep)
}

// wakeUp ends sleep and reports whether it was by Wake.
func (r *ring) wakeUp() bool {
	return r.wakeup.Swap(ownerAwake) == ownerPending
}
