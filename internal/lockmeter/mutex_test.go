package lockmeter

//lint:file-ignore SA2001 that a lock was held, and nothing else, is what is tested

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// handClock is moved by the test.
type handClock struct{ ns atomic.Int64 }

func (c *handClock) advance(d time.Duration) { c.ns.Add(int64(d)) }

// newTest is a meter with a clock that stands still until the test moves it.
func newTest(t *testing.T, o Options) (*Meter, *handClock) {
	t.Helper()
	m, clk := New(o), &handClock{}
	clk.ns.Store(int64(time.Hour))
	for i := range m.classes {
		m.classes[i].now = clk.ns.Load
	}
	t.Cleanup(m.Close)
	return m, clk
}

// counted is which buckets have something, by their upper bounds.
func counted(ts totals) map[string]uint64 {
	got, before := map[string]uint64{}, uint64(0)
	for _, b := range bounds {
		if n := ts.cumulative[b.Seconds()]; n > before {
			got[b.String()], before = n-before, n
		}
	}
	if ts.count > before {
		got["more"] = ts.count - before
	}
	return got
}

func requireBuckets(t *testing.T, what string, ts totals, want map[string]uint64) {
	t.Helper()
	if got := counted(ts); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: buckets %v, want %v", what, got, want)
	}
}

// awaitWaiter returns when so many wait for the lock, and the first of them has said since when.
func awaitWaiter(m *Mutex, n int32, marked bool) {
	for m.waiters.Load() != n || marked && m.waited.Load() == 0 {
		runtime.Gosched()
	}
}

// inBackground takes the lock elsewhere and gives it back; the channel is closed then.
func inBackground(l sync.Locker) chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Lock()
		l.Unlock()
	}()
	return done
}

func TestHoldsAreMeasured(t *testing.T) {
	meter, clk := newTest(t, Options{})
	var m Mutex
	m.MeterBy(meter, Metadata)
	for _, d := range []time.Duration{0, time.Microsecond, 700 * time.Microsecond, time.Millisecond, time.Millisecond + 8, 3 * time.Millisecond, time.Minute} {
		m.Lock()
		clk.advance(d)
		m.Unlock()
	}
	c := &meter.classes[Metadata]
	requireBuckets(t, "holds", c.holds(), map[string]uint64{"1µs": 2, "1ms": 2, "2.5ms": 1, "5ms": 1, "more": 1})
	requireBuckets(t, "waits", sum(&c.wait), map[string]uint64{})
	if got := c.holds(); got.longest < time.Minute || got.longest > time.Minute+8 || got.seconds < 60.005 || got.seconds > 60.006 {
		t.Errorf("longest %v, in all %v s", got.longest, got.seconds)
	}
}

func TestTryLock(t *testing.T) {
	meter, clk := newTest(t, Options{})
	var m Mutex
	m.MeterBy(meter, Controller)
	if !m.TryLock() {
		t.Fatal("a free lock was not taken")
	}
	if m.TryLock() {
		t.Fatal("it was taken twice")
	}
	clk.advance(2 * time.Millisecond)
	m.Unlock()
	requireBuckets(t, "holds", meter.classes[Controller].holds(), map[string]uint64{"2.5ms": 1})
}

func TestWaitsAreMeasured(t *testing.T) {
	meter, clk := newTest(t, Options{})
	var m Mutex
	m.MeterBy(meter, Metadata)
	m.Lock()
	first := inBackground(&m)
	awaitWaiter(&m, 1, true)
	clk.advance(2 * time.Millisecond)
	second := inBackground(&m)
	awaitWaiter(&m, 2, true)
	clk.advance(20 * time.Millisecond)
	m.Unlock()
	<-first
	<-second
	c := &meter.classes[Metadata]
	requireBuckets(t, "waits", sum(&c.wait), map[string]uint64{"25ms": 2})
	requireBuckets(t, "holds", c.holds(), map[string]uint64{"1µs": 2, "25ms": 1})
	requireIdle(t, &m)
}

// requireIdle: nothing is left of the last episode that could be taken for a hold of the next.
func requireIdle(t *testing.T, m *Mutex) {
	t.Helper()
	if m.waited.Load() != 0 || m.waiters.Load() != 0 || m.since != 0 {
		t.Errorf("left behind: waited %d, %d waiters, since %d", m.waited.Load(), m.waiters.Load(), m.since)
	}
}

// A hold that was not to be measured, and that others come to wait for, is measured from then on.
func TestHoldThatIsWaitedForIsMeasured(t *testing.T) {
	meter, clk := newTest(t, Options{})
	var m Mutex
	m.MeterBy(meter, Partition)
	m.skip = 1000
	m.Lock()
	clk.advance(5 * time.Millisecond)
	done := inBackground(&m)
	awaitWaiter(&m, 1, true)
	clk.advance(20 * time.Millisecond)
	m.Unlock()
	<-done
	c := &meter.classes[Partition]
	requireBuckets(t, "holds", c.holds(), map[string]uint64{"1µs": 1, "25ms": 1})
	requireBuckets(t, "waits", sum(&c.wait), map[string]uint64{"25ms": 1})
	requireIdle(t, &m)

	m.Lock() // not measured, and nobody waits: the old mark must not count
	clk.advance(time.Minute)
	m.Unlock()
	requireBuckets(t, "holds after a hold that nobody waited for", c.holds(), map[string]uint64{"1µs": 1, "25ms": 1})
}

// A waiter that was held up after it had found the lock taken must not say so of another holder.
func TestHolderIsNotTakenForTheOneBefore(t *testing.T) {
	meter, clk := newTest(t, Options{})
	var m Mutex
	m.MeterBy(meter, Partition)
	m.skip = 1000
	found, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	m.Lock()
	meter.classes[Partition].now = func() int64 {
		now := clk.ns.Load()
		once.Do(func() { // the waiter, when it has found the lock taken
			close(found)
			<-goOn
		})
		return now
	}
	done := inBackground(&m)
	<-found
	clk.advance(10 * time.Millisecond)
	m.Unlock()
	m.Lock()
	close(goOn)
	awaitWaiter(&m, 1, true)
	clk.advance(2 * time.Millisecond)
	m.Unlock()
	<-done
	c := &meter.classes[Partition]
	requireBuckets(t, "holds", c.holds(), map[string]uint64{"1µs": 1, "2.5ms": 1})
	requireBuckets(t, "waits", sum(&c.wait), map[string]uint64{"25ms": 1})
}

// One that took the lock from under those who wait is measured from its start.
func TestHoldBeforeThoseWhoWaitIsMeasured(t *testing.T) {
	meter, clk := newTest(t, Options{})
	var m Mutex
	m.MeterBy(meter, Partition)
	m.skip = 1000
	m.waiters.Add(1) // one that has not been woken yet
	m.Lock()
	clk.advance(3 * time.Millisecond)
	m.Unlock()
	m.waiters.Add(-1)
	requireBuckets(t, "holds", meter.classes[Partition].holds(), map[string]uint64{"5ms": 1})
}

// Whoever holds the lock while a waiter has not said since when yet is not measured, rather than wrongly.
func TestWaiterWithoutAMark(t *testing.T) {
	meter, clk := newTest(t, Options{})
	var m Mutex
	m.MeterBy(meter, Partition)
	m.skip = 1000
	m.Lock()
	m.waiters.Add(1)
	clk.advance(time.Minute)
	m.Unlock()
	m.waiters.Add(-1)
	requireBuckets(t, "holds", meter.classes[Partition].holds(), map[string]uint64{})
}

// Work in step: every so many holds a long one. None of the steps is one that sampling does not see, and counts stay about right.
func TestSamplingSeesWorkInStep(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for step := 2; step <= 17; step++ {
		for phase := range step {
			meter, clk := newTest(t, Options{})
			var m Mutex
			m.MeterBy(meter, Partition)
			const n = 10_000
			for i := range n {
				m.Lock()
				if i%step == phase {
					clk.advance(2 * time.Millisecond)
				}
				m.Unlock()
				clk.advance(time.Duration(rnd.IntN(1000)) + 100) // a real clock's last digits are as good as random
			}
			got := meter.classes[Partition].holds()
			if got.count < n*8/10 || got.count > n*12/10 {
				t.Fatalf("step %d: %d holds counted of %d", step, got.count, n)
			}
			long, want := got.count-got.cumulative[0.001], uint64(n/step)
			if long < want/3 || long > want*3 {
				t.Errorf("step %d, phase %d: %d long holds counted of %d", step, phase, long, want)
			}
		}
	}
}

// The clock's low bits must be spread over the distances also where it is coarse.
func TestDistances(t *testing.T) {
	c := &class{every: 8}
	seen := map[uint32]int{}
	for i := range int64(15_000) {
		seen[c.distance(i*100)]++
	}
	for d := range uint32(17) {
		if n := seen[d]; (n > 700 && n < 1300) != (d >= 1 && d <= 15) {
			t.Errorf("distance %d came %d times in 15000", d, n)
		}
	}
	if d := (&class{every: 1}).distance(12345); d != 1 {
		t.Errorf("a class of which all holds are measured has a distance of %d", d)
	}
}

// A lock without a meter is a lock.
func TestUnmeasured(t *testing.T) {
	var m Mutex
	m.MeterBy(nil, Partition)
	for _, skip := range []uint32{0, 1, 2} {
		m.skip = skip
		m.Lock()
		done := inBackground(&m)
		m.Unlock()
		<-done
	}
	requireIdle(t, &m)
	var rw RWMutex
	rw.MeterBy(nil, Partitions)
	rw.RLock()
	done := inBackground(&rw)
	rw.RUnlock()
	<-done
	rw.Lock()
	read := make(chan struct{})
	go func() {
		defer close(read)
		rw.RLock()
		defer rw.RUnlock()
	}()
	rw.Unlock()
	<-read
	(*Meter)(nil).Close()
}

func TestCond(t *testing.T) {
	meter, _ := newTest(t, Options{})
	var mu struct {
		Mutex
		ready, seen bool
	}
	mu.MeterBy(meter, SegmentFlush)
	cond := sync.NewCond(&mu)
	done := make(chan struct{})
	go func() {
		defer close(done)
		mu.Lock()
		defer mu.Unlock()
		for !mu.ready {
			cond.Wait()
		}
		mu.seen = true
	}()
	mu.Lock()
	mu.ready = true
	cond.Broadcast()
	mu.Unlock()
	<-done
	if !mu.seen || meter.classes[SegmentFlush].holds().count == 0 {
		t.Fatal("nobody was woken, or nothing measured")
	}
}

func TestNoAllocations(t *testing.T) {
	meter := New(Options{})
	var m Mutex
	m.MeterBy(meter, Metadata)
	var rw RWMutex
	rw.MeterBy(meter, Partitions)
	if n := testing.AllocsPerRun(1000, func() {
		m.Lock()
		m.Unlock()
		rw.Lock()
		rw.Unlock()
		rw.RLock()
		rw.RUnlock()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Under contention the lock is one, and no hold is made longer than it was: the clock counts its readings and gives others the CPU at each,
// so that everything comes between the steps of those who wait.
func TestContention(t *testing.T) {
	for _, l := range []Lock{Partition, Metadata} {
		t.Run(l.String(), func(t *testing.T) {
			meter := New(Options{})
			t.Cleanup(meter.Close)
			var ticks, longest atomic.Int64
			for i := range meter.classes {
				meter.classes[i].now = func() int64 {
					runtime.Gosched()
					return ticks.Add(int64(time.Nanosecond) * 64)
				}
			}
			var m Mutex
			m.MeterBy(meter, l)
			var wg sync.WaitGroup
			n := 0
			const workers, rounds = 8, 3000
			for range workers {
				wg.Go(func() {
					for i := range rounds {
						before := ticks.Load()
						m.Lock()
						n++
						if i%5 == 0 {
							runtime.Gosched()
						}
						m.Unlock()
						took := ticks.Load() - before
						for old := longest.Load(); took > old && !longest.CompareAndSwap(old, took); old = longest.Load() {
						}
					}
				})
			}
			wg.Wait()
			if n != workers*rounds {
				t.Fatalf("%d rounds were counted under the lock, want %d", n, workers*rounds)
			}
			c := &meter.classes[l]
			if got := c.holds(); int64(got.longest) > longest.Load()+64 {
				t.Errorf("a hold of %d was counted; nobody had the lock, or waited for it, for more than %d", got.longest, longest.Load())
			}
			if waits := sum(&c.wait); waits.count == 0 {
				t.Error("nobody waited: the test tests nothing")
			}
			requireIdle(t, &m)
		})
	}
}
