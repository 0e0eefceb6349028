package lockmeter

import (
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// slowAfter is the hold from which on who held the lock is logged.
const slowAfter = 10 * time.Millisecond

// warnEvery is how often a class may be written about.
const warnEvery = time.Minute

// slowNote keeps a class's lines apart.
type slowNote struct {
	next    atomic.Int64 // not before; of the class's clock
	skipped atomic.Int64 // long holds since the last line
}

// slowLog tellsof long holds. Who ends one may hold other locks, so the line is written by a goroutine of its own.
type slowLog struct {
	log *slog.Logger
	mu  struct {
		sync.Mutex
		closed bool
	}
	writing sync.WaitGroup
}

func (s *slowLog) close() {
	s.mu.Lock()
	s.mu.closed = true
	s.mu.Unlock()
	s.writing.Wait()
}

// note tells of a hold that has just ended. It is called by whoever held the lock.
func (s *slowLog) note(c *class, hold time.Duration) {
	now, next := c.now(), c.warned.next.Load()
	if next != 0 && now < next || !c.warned.next.CompareAndSwap(next, (now+int64(warnEvery))|1) {
		c.warned.skipped.Add(1)
		return
	}
	s.mu.Lock()
	closed := s.mu.closed
	if !closed {
		s.writing.Add(1)
	}
	s.mu.Unlock()
	if closed {
		return
	}
	who, more := caller(), c.warned.skipped.Swap(0)
	go func() {
		defer s.writing.Done()
		s.log.Warn("a lock was held for long", "lock", c.lock.String(), "held", hold.Round(time.Microsecond), "by", who, "not logged", more)
	}()
}

// caller is who ended the hold: the first function that is neither a lock's nor of sync.
func caller() string {
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "sync.") && !strings.Contains(f.Function, "/internal/lockmeter.(*") {
			return fmt.Sprintf("%s:%d", f.Function, f.Line)
		}
		if !more {
			return "unknown"
		}
	}
}
