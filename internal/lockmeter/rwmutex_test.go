package lockmeter

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestRWMutex(t *testing.T) {
	meter, clk := newTest(t, Options{})
	var m RWMutex
	m.MeterBy(meter, Partitions)
	c := &meter.classes[Partitions]

	m.Lock()
	clk.advance(2 * time.Millisecond)
	m.Unlock()
	requireBuckets(t, "a writer's hold", c.holds(), map[string]uint64{"2.5ms": 1})

	m.RLock()
	m.RLock()
	clk.advance(time.Minute)
	m.RUnlock()
	m.RUnlock()
	requireBuckets(t, "readers hold it for as long as they like while nobody waits", c.holds(), map[string]uint64{"2.5ms": 1})
	requireBuckets(t, "and do not wait", sum(&c.wait), map[string]uint64{})

	m.RLock()
	done := inBackground(&m)
	for m.mu.TryRLock() { // until the writer waits, readers get in
		m.mu.RUnlock()
		runtime.Gosched()
	}
	clk.advance(40 * time.Millisecond)
	m.RUnlock()
	<-done
	requireBuckets(t, "what a writer waits", sum(&c.wait), map[string]uint64{"50ms": 1})
	requireBuckets(t, "is a hold of the readers", c.holds(), map[string]uint64{"1µs": 1, "2.5ms": 1, "50ms": 1})
}

func TestRWMutexReaderWaits(t *testing.T) {
	meter, clk := newTest(t, Options{})
	var m RWMutex
	m.MeterBy(meter, Partitions)
	c := &meter.classes[Partitions]
	arrived := make(chan struct{}, 1)
	c.now = func() int64 { // the reader reads the clock when it has found the lock taken
		select {
		case arrived <- struct{}{}:
		default:
		}
		return clk.ns.Load()
	}
	m.Lock()
	<-arrived
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.RLock()
		defer m.RUnlock()
	}()
	<-arrived
	m.Unlock()
	<-done
	if got := sum(&c.wait); got.count != 1 {
		t.Errorf("%d waits, want 1", got.count)
	}
}

func TestRWMutexContention(t *testing.T) {
	meter := New(Options{})
	t.Cleanup(meter.Close)
	var m RWMutex
	m.MeterBy(meter, Raft)
	n, reads := 0, 0
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2000 {
				m.Lock()
				n++
				m.Unlock()
				m.RLock()
				if n > 0 {
					_ = reads
				}
				m.RUnlock()
			}
		})
	}
	wg.Wait()
	if n != 8000 {
		t.Fatalf("%d, want 8000", n)
	}
	if got := meter.classes[Raft].holds().count; got < 8000 {
		t.Errorf("%d holds of writers, want at least 8000", got)
	}
}
