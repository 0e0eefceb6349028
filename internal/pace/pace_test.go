package pace

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"pgregory.net/rapid"
)

// disk serves what it is given in order, so many bytes a second.
type disk struct {
	mu struct {
		sync.Mutex
		rate float64
		free time.Time // when it has done what it was given
	}
}

func (d *disk) setRate(bytesPerSecond float64) {
	d.mu.Lock()
	d.mu.rate = bytesPerSecond
	d.mu.Unlock()
}

// write returns when n bytes are written, and says how long that took.
func (d *disk) write(n int64) time.Duration {
	d.mu.Lock()
	now := time.Now()
	if d.mu.free.Before(now) {
		d.mu.free = now
	}
	d.mu.free = d.mu.free.Add(time.Duration(float64(n) / d.mu.rate * float64(time.Second)))
	wait := d.mu.free.Sub(now)
	d.mu.Unlock()
	time.Sleep(wait)
	return wait
}

// background is everybody who writes behind the logs, as much as they can at once, until stop.
func background(p *Pace, d *disk, stop <-chan struct{}, sizes ...int64) (written func() []int64, all *sync.WaitGroup) {
	var mu sync.Mutex
	sums := make([]int64, len(sizes))
	all = new(sync.WaitGroup)
	for i, size := range sizes {
		all.Go(func() {
			for {
				step, ok := p.Begin(size, stop)
				if !ok {
					return
				}
				d.write(step.Bytes)
				step.End(nil)
				mu.Lock()
				sums[i] += step.Bytes
				mu.Unlock()
			}
		})
	}
	return func() []int64 {
		mu.Lock()
		defer mu.Unlock()
		return append([]int64(nil), sums...)
	}, all
}

var everybody = []int64{8 << 20, 8 << 20, 8 << 20, 1 << 20, 1 << 20, 40 << 10}

// TestDurableWriteIsNotBehindMuch: while everybody writes in the background as much as they may, a durable write of 4 KiB waits for little, on a slow
// disk as on a fast one. Without a pace it would wait 26 s at 1 MB/s.
func TestDurableWriteIsNotBehindMuch(t *testing.T) {
	for _, rate := range []float64{0.5e6, 1e6, 5e6, 50e6, 1e9} {
		lasts := 3 * time.Second
		if rate < 1e7 {
			lasts = time.Minute
		}
		t.Run(fmt.Sprintf("%.1f MB a second", rate/1e6), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, d, stop := New(nil, nil), &disk{}, make(chan struct{})
				d.setRate(rate)
				written, all := background(p, d, stop, everybody...)
				begun := time.Now()
				var first, worst time.Duration
				for time.Since(begun) < lasts {
					took := d.write(4096)
					if time.Since(begun) < 2*time.Second {
						first = max(first, took)
					} else {
						worst = max(worst, took)
					}
					time.Sleep(7 * time.Millisecond)
				}
				close(stop)
				all.Wait()
				// 4 KiB of its own, and Floor, or a probe of twice that, or what takes Slow, or twice that when the limit has just grown.
				most := max(2*Slow, time.Duration(2*Floor/rate*float64(time.Second))) + 10*time.Millisecond
				if worst > most {
					t.Errorf("a durable write took %v, want at most %v", worst, most)
				}
				if most := time.Duration(Start/rate*float64(time.Second)) + Slow + most; first > most {
					t.Errorf("a durable write took %v at first, want at most %v", first, most)
				}
				total := int64(0)
				for i, n := range written() {
					if total += n; n == 0 {
						t.Errorf("writer %d wrote nothing", i)
					}
				}
				if share := float64(total) / (rate * lasts.Seconds()); share < 0.85 && rate < 1e8 {
					t.Errorf("the background wrote %.0f %% of what the disk can", 100*share)
				}
				t.Logf("worst %v (at first %v), the background wrote %.1f MB", worst, first, float64(total)/1e6)
			})
		})
	}
}

// TestDiskBecomesSlow: a disk that becomes slow while little is written in the background makes nobody wait for long, whatever it was before.
func TestDiskBecomesSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := New(nil, nil), &disk{}
		d.setRate(1e9)
		for p.Limit() < BytesMax { // a busy time
			step, _ := p.Begin(BytesMax, nil)
			d.write(step.Bytes)
			step.End(nil)
		}
		time.Sleep(Rest + time.Millisecond)
		d.setRate(1e6)
		stop := make(chan struct{})
		_, all := background(p, d, stop, everybody...)
		synctest.Wait()
		if took := d.write(4096); took > 300*time.Millisecond {
			t.Errorf("a durable write took %v", took)
		}
		close(stop)
		all.Wait()
	})
}

// TestFastDiskHoldsNobodyBack: everybody gets all that they ask for, at once.
func TestFastDiskHoldsNobodyBack(t *testing.T) {
	p := New(nil, nil)
	for p.Limit() < BytesMax {
		step, _ := p.Begin(BytesMax, nil)
		step.End(nil)
	}
	var steps []Step
	for _, n := range everybody {
		step, ok := p.TryBegin(n)
		if !ok || step.Bytes != n || step.Limit != BytesMax {
			t.Fatalf("a step of %d bytes (%t, limit %d), want one of %d", step.Bytes, ok, step.Limit, n)
		}
		steps = append(steps, step)
	}
	for _, s := range steps {
		s.End(nil)
	}
}

// TestStepsInTurn: who comes first goes first, and a small step does not overtake a large one for ever.
func TestStepsInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil, nil)
		holder, _ := p.Begin(BytesMax, nil)
		if holder.Bytes != Start {
			t.Fatalf("the first step has %d bytes, want %d", holder.Bytes, Start)
		}
		var order []int64
		var mu sync.Mutex
		var all sync.WaitGroup
		for _, want := range []int64{8 << 20, 4096, 1 << 20} {
			all.Go(func() {
				step, _ := p.Begin(want, nil)
				mu.Lock()
				order = append(order, want)
				mu.Unlock()
				time.Sleep(3 * time.Second)
				step.End(nil)
			})
			synctest.Wait()
		}
		if _, ok := p.TryBegin(1); ok {
			t.Error("a step was begun before those who wait")
		}
		time.Sleep(time.Second)
		holder.End(nil)
		all.Wait()
		if fmt.Sprint(order) != fmt.Sprint([]int64{8 << 20, 4096, 1 << 20}) {
			t.Errorf("steps began in the order %v", order)
		}
	})
}

// TestNobodyWaitsForEver: a step that does not end holds the others back for WaitMax.
func TestNobodyWaitsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil, nil)
		stuck, _ := p.Begin(BytesMax, nil)
		begun := time.Now()
		step, ok := p.Begin(1<<20, nil)
		if !ok || step.Bytes != Floor || time.Since(begun) != WaitMax {
			t.Errorf("a step of %d bytes (%t) after %v, want %d after %v", step.Bytes, ok, time.Since(begun), Floor, WaitMax)
		}
		step.End(nil)
		stuck.End(errors.New("late"))
		if p.mu.inFlight != 0 || len(p.mu.waiting) != 0 {
			t.Errorf("%d bytes in flight, %d waiting", p.mu.inFlight, len(p.mu.waiting))
		}
	})
}

func TestStopEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop := New(nil, nil), make(chan struct{})
		holder, _ := p.Begin(BytesMax, nil)
		var all sync.WaitGroup
		all.Go(func() {
			if step, ok := p.Begin(1, stop); ok {
				t.Errorf("a step of %d bytes after stop", step.Bytes)
			}
		})
		all.Go(func() {
			synctest.Wait()
			close(stop)
		})
		all.Wait()
		holder.End(nil)
		if p.mu.inFlight != 0 || len(p.mu.waiting) != 0 {
			t.Errorf("%d bytes in flight, %d waiting", p.mu.inFlight, len(p.mu.waiting))
		}
	})
}

// TestFailuresSayLittle: a step that failed at once does not make the device fast, one that failed late makes it slow.
func TestFailuresSayLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil, nil)
		step, _ := p.Begin(BytesMax, nil)
		step.End(errors.New("no space"))
		if p.Limit() != Start {
			t.Errorf("the limit is %d, want %d", p.Limit(), Start)
		}
		step, _ = p.Begin(BytesMax, nil)
		time.Sleep(4 * time.Second)
		step.End(errors.New("late"))
		if p.Limit() != Floor {
			t.Errorf("the limit is %d, want %d", p.Limit(), Floor)
		}
	})
}

// TestPaceModel: with any mix of writers on any disk, what is in flight stays within the limit or is one step of at most Floor, a step gets at most what it asked for
// and in blocks if less, and all end.
func TestPaceModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rate := rapid.Float64Range(1e5, 1e9).Draw(rt, "rate")
		writers := rapid.SliceOfN(rapid.SliceOfN(rapid.Int64Range(1, 16<<20), 1, 8), 1, 6).Draw(rt, "writers")
		synctest.Test(t, func(*testing.T) {
			p, d := New(nil, nil), &disk{}
			d.setRate(rate)
			var all sync.WaitGroup
			for _, wants := range writers {
				all.Go(func() {
					for _, want := range wants {
						for left := want; left > 0; {
							step, ok := p.Begin(left, nil)
							if !ok || step.Bytes < 1 || step.Bytes > left || step.Bytes < left && step.Bytes%blockBytes != 0 {
								rt.Errorf("a step of %d bytes (%t) of %d", step.Bytes, ok, left)
								return
							}
							p.mu.Lock()
							if n, limit := p.mu.inFlight, max(step.Limit, p.mu.est.Limit()); n > limit && step.load > step.Limit && step.Bytes > Floor {
								rt.Errorf("%d bytes in flight, the limit is %d", n, limit)
							}
							p.mu.Unlock()
							d.write(step.Bytes)
							step.End(nil)
							left -= step.Bytes
						}
					}
				})
			}
			all.Wait()
			if p.mu.inFlight != 0 || len(p.mu.waiting) != 0 {
				rt.Errorf("%d bytes in flight, %d waiting", p.mu.inFlight, len(p.mu.waiting))
			}
		})
	})
}

func valueOf(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetGauge().GetValue() + out.GetCounter().GetValue()
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		p := New(nil, NewMetrics(reg))
		holder, _ := p.Begin(BytesMax, nil)
		var all sync.WaitGroup
		all.Go(func() {
			step, _ := p.Begin(Floor, nil)
			step.End(nil)
		})
		synctest.Wait()
		time.Sleep(time.Second)
		for name, want := range map[string]float64{"in flight": Start, "limit": Start, "waits": 1} {
			got := map[string]float64{
				"in flight": valueOf(t, p.metrics.inFlight), "limit": valueOf(t, p.metrics.limit), "waits": valueOf(t, p.metrics.waits),
			}[name]
			if got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
		holder.End(nil)
		all.Wait()
		if got := valueOf(t, p.metrics.waited); got != 1 {
			t.Errorf("waited for %v s, want 1", got)
		}
		if got := valueOf(t, p.metrics.rate); got != Start {
			t.Errorf("speed is %v, want %d", got, Start)
		}
		if all, err := reg.Gather(); err != nil || len(all) != 5 {
			t.Errorf("%d metrics, %v", len(all), err)
		}
	})
}

// TestSmallDoesNotOvertake: there is room for a small step, but a large one has waited for longer.
func TestSmallDoesNotOvertake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil, nil)
		holder, _ := p.Begin(Start-8192, nil)
		var order []string
		var all sync.WaitGroup
		for _, w := range []struct {
			name string
			want int64
		}{{"large", 1 << 20}, {"small", 4096}} {
			all.Go(func() {
				step, _ := p.Begin(w.want, nil)
				order = append(order, w.name)
				time.Sleep(time.Second)
				step.End(nil)
			})
			synctest.Wait()
		}
		if len(order) != 0 {
			t.Errorf("%v began beside the first step", order)
		}
		time.Sleep(time.Second)
		holder.End(nil)
		all.Wait()
		if fmt.Sprint(order) != "[large small]" {
			t.Errorf("steps began in the order %v", order)
		}
	})
}

// TestTrim: what a step does not use is there for others, and does not count for what it took.
func TestTrim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil, nil)
		step, _ := p.Begin(BytesMax, nil)
		step.Trim(4096)
		other, ok := p.TryBegin(BytesMax)
		if step.Bytes != 4096 || !ok || other.Bytes != Start-4096 {
			t.Errorf("of %d bytes 4096 are used, and another step gets %d (%t)", Start, other.Bytes, ok)
		}
		step.End(nil)
		if p.Limit() != Start {
			t.Errorf("the limit is %d after a step of 4096 bytes, want %d", p.Limit(), Start)
		}
		other.Trim(BytesMax) // more than it has
		other.End(nil)
		if p.mu.inFlight != 0 {
			t.Errorf("%d bytes in flight", p.mu.inFlight)
		}
	})
}
