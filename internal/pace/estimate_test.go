package pace

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// device says how long it takes until load bytes are written.
type device struct {
	rate    int64 // bytes per second
	latency time.Duration
}

func (d device) takes(load int64) time.Duration {
	return d.latency + time.Duration(float64(load)/float64(d.rate)*float64(time.Second))
}

// feed fills a device with as much as e allows, steps times.
func feed(e *Estimate, d device, steps int) {
	now := e.last
	for range steps {
		took := d.takes(e.Limit())
		now = now.Add(took)
		e.Observe(now, e.Limit(), took)
	}
}

func TestEstimateOfDevices(t *testing.T) {
	const mb = 1_000_000
	for _, c := range []struct {
		name        string
		d           device
		steps       int
		least, most int64
	}{
		{"fast: full speed after seven steps", device{1000 * mb, 100 * time.Microsecond}, 7, BytesMax, BytesMax},
		{"flushes take 5 ms", device{1000 * mb, 5 * time.Millisecond}, 8, BytesMax / 2, BytesMax},
		{"200 MB/s", device{200 * mb, time.Millisecond}, 100, 8 << 20, 20 << 20},
		{"20 MB/s", device{20 * mb, time.Millisecond}, 100, 512 << 10, 2 << 20},
		{"2 MB/s", device{2 * mb, time.Millisecond}, 100, 64 << 10, 256 << 10},
		{"1 MB/s: at the floor after one step", device{mb, time.Millisecond}, 1, Floor, Floor},
		{"1 MB/s", device{mb, time.Millisecond}, 100, Floor, 2 * Floor},
		{"1 MB/s, with as much again of somebody else in front", device{mb, 64 * time.Millisecond}, 200, Floor, 2 * Floor},
		{"100 KB/s", device{mb / 10, time.Millisecond}, 200, Floor, 2 * Floor},
		{"slow to answer, not to write", device{100 * mb, 150 * time.Millisecond}, 40, 1 << 20, 8 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := NewEstimate(BytesMax, Start, Rest)
			feed(&e, c.d, c.steps)
			if got := e.Limit(); got < c.least || got > c.most {
				t.Errorf("after %d steps the limit is %d bytes, want %d to %d", c.steps, got, c.least, c.most)
			}
		})
	}
}

// TestEstimateFollows: a device that becomes slow is known to be so after one step, and one that recovers is at full speed soon.
func TestEstimateFollows(t *testing.T) {
	fast, slow := device{1_000_000_000, 0}, device{1_000_000, 0}
	e := NewEstimate(BytesMax, Start, Rest)
	feed(&e, fast, 7)
	feed(&e, slow, 1)
	if e.Limit() != Floor {
		t.Errorf("the limit is %d after one slow step, want %d", e.Limit(), Floor)
	}
	if r := e.BytesPerSecond(); r <= 0 {
		t.Errorf("speed is %v", r)
	}
	feed(&e, slow, 40)
	if r := e.BytesPerSecond(); r < 0.99e6 || r > 1.1e6 {
		t.Errorf("speed of a device of 1 MB/s is %.0f", r)
	}
	feed(&e, fast, 9)
	if e.Limit() != BytesMax {
		t.Errorf("the limit is %d after nine fast steps, want %d", e.Limit(), BytesMax)
	}
}

// TestEstimateOfLittle: what was too little to tell changes nothing, and if it took long it is a warning only.
func TestEstimateOfLittle(t *testing.T) {
	now := time.Unix(0, 0)
	e := NewEstimate(BytesMax, Start, Rest)
	for range 100 {
		e.Observe(now, 4096, time.Millisecond)
	}
	if e.Limit() != Start {
		t.Errorf("the limit is %d after writes of 4 KiB, want %d", e.Limit(), Start)
	}
	feed(&e, device{1_000_000_000, 0}, 7)
	e.Observe(now, 4096, 3*time.Second)
	if e.Limit() != BytesMax/2 {
		t.Errorf("the limit is %d after 4 KiB took 3 s, want %d", e.Limit(), BytesMax/2)
	}
}

// TestEstimateRests: what was known of a device is forgotten after a while, but not that it is slow.
func TestEstimateRests(t *testing.T) {
	now := time.Unix(0, 0)
	e := NewEstimate(BytesMax, Start, Rest)
	e.Rested(now)
	for range 7 {
		now = now.Add(time.Millisecond)
		e.Observe(now, e.Limit(), time.Millisecond)
	}
	e.Rested(now.Add(Rest))
	if e.Limit() != BytesMax {
		t.Errorf("the limit is %d after %v, want %d", e.Limit(), Rest, BytesMax)
	}
	e.Rested(now.Add(Rest + 1))
	if e.Limit() != Start {
		t.Errorf("the limit is %d after a rest, want %d", e.Limit(), Start)
	}
	now = now.Add(10 * time.Second)
	e.Observe(now, Start, 10*time.Second)
	e.Rested(now.Add(time.Hour))
	if e.Limit() != Floor {
		t.Errorf("the limit is %d after the rest of a slow device, want %d", e.Limit(), Floor)
	}
}

// TestEstimateBounds: whatever is seen, the limit stays within its bounds and a multiple of a block.
func TestEstimateBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.SampledFrom([]int64{1, Floor, Start, 8 << 20, BytesMax}).Draw(t, "max")
		e := NewEstimate(most, Start, Rest)
		now := time.Unix(0, 0)
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			took := time.Duration(rapid.Int64Range(0, int64(5*time.Second)).Draw(t, "took"))
			now = now.Add(took)
			e.Observe(now, rapid.Int64Range(1, 2*BytesMax).Draw(t, "load"), took)
			if got := e.Limit(); got < Floor || got > max(most, Floor) || got%blockBytes != 0 {
				t.Fatalf("the limit is %d, want %d to %d", got, Floor, max(most, Floor))
			}
		}
	})
}

// TestEstimateOfManyAtOnce: what was in flight together says the same and counts once, growing and shrinking.
func TestEstimateOfManyAtOnce(t *testing.T) {
	e := NewEstimate(BytesMax, Start, Rest)
	began := time.Unix(0, 0)
	for i := range 4 {
		now := began.Add(time.Duration(i+1) * time.Millisecond)
		e.Observe(now, Start, now.Sub(began))
	}
	if e.Limit() != 2*Start {
		t.Errorf("the limit is %d after four fast steps at once, want %d", e.Limit(), 2*Start)
	}
	e = NewEstimate(BytesMax, 8<<20, Rest)
	for i := range 4 {
		now := began.Add(200*time.Millisecond + time.Duration(i))
		e.Observe(now, 8<<20, now.Sub(began))
	}
	if e.Limit() != 2<<20 {
		t.Errorf("the limit is %d after four slow steps at once, want %d", e.Limit(), 2<<20)
	}
}

// TestEstimateProbes: at the floor a larger step is tried once in a while, and it decides whether the device is slow to write or to answer.
func TestEstimateProbes(t *testing.T) {
	for _, c := range []struct {
		took time.Duration // of the larger step
		want int64
	}{
		{150 * time.Millisecond, 2 * Floor},
		{150*time.Millisecond + probeMargin, 2 * Floor},
		{150*time.Millisecond + probeMargin + 1, Floor},
		{214 * time.Millisecond, Floor},
	} {
		e := NewEstimate(BytesMax, Floor, Rest)
		now := time.Unix(0, 0)
		for i := range probeEvery {
			if e.Limit() != Floor {
				t.Fatalf("the limit is %d before step %d, want %d", e.Limit(), i, Floor)
			}
			now = now.Add(150 * time.Millisecond)
			e.Observe(now, Floor, 150*time.Millisecond)
		}
		if e.Limit() != 2*Floor {
			t.Fatalf("the limit is %d after %d slow steps, want %d", e.Limit(), probeEvery, 2*Floor)
		}
		e.Observe(now.Add(c.took), 2*Floor, c.took)
		if e.Limit() != c.want {
			t.Errorf("the limit is %d after twice the size took %v instead of 150ms, want %d", e.Limit(), c.took, c.want)
		}
	}
}
