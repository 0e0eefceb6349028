//go:build invariants

package iobuf

import (
	"runtime/debug"
	"sync"
)

// poison fills released memory, so that a reader through a dead reference sees nonsense at once.
const poison = 0xDB

type invariantState struct {
	mu    sync.Mutex
	stack []byte
}

func (s *invariantState) got(*Buf) {
	s.mu.Lock()
	s.stack = nil
	s.mu.Unlock()
}

func (s *invariantState) released(b *Buf) {
	full := b.b[:cap(b.b)]
	for i := range full {
		full[i] = poison
	}
	s.mu.Lock()
	s.stack = debug.Stack()
	s.mu.Unlock()
}

func (s *invariantState) where() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "; first released at:\n" + string(s.stack)
}
