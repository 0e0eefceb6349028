package replica

import "sync"

// background counts the manager's goroutines, so that closing it waits for them and lets no new one begin.
type background struct {
	closing chan struct{} // closed when the manager closes
	mu      struct {
		sync.Mutex
		closed bool
		wg     sync.WaitGroup
	}
}

// enter reports whether work may begin; then leave must follow.
func (b *background) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.closed {
		return false
	}
	b.mu.wg.Add(1)
	return true
}

func (b *background) leave() { b.mu.wg.Done() }

// close lets nothing new begin and waits for what runs.
func (b *background) close() {
	b.mu.Lock()
	if !b.mu.closed {
		b.mu.closed = true
		close(b.closing)
	}
	b.mu.Unlock()
	b.mu.wg.Wait()
}
