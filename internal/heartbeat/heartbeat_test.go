package heartbeat

import (
	"bytes"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// beats runs f in a bubble with a heartbeat and returns how many beats there were meanwhile.
func beats(t *testing.T, o Options, f func(h *Heartbeat)) (n uint64, worst time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		o.Registry = reg
		h := Start(o)
		defer h.Stop()
		f(h)
		synctest.Wait()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		n, worst = families[0].Metric[0].Histogram.GetSampleCount(), h.Worst()
	})
	return n, worst
}

func TestBeatsSlowlyWithoutWork(t *testing.T) {
	n, worst := beats(t, Options{}, func(*Heartbeat) { time.Sleep(time.Second + DefaultInterval/2) })
	if want := uint64(time.Second / DefaultIdle); n != want || worst != 0 {
		t.Errorf("%d beats in a second, want %d; worst gap %s in a process that never stood still", n, want, worst)
	}
}

func TestBeatsFastWhileThereIsWork(t *testing.T) {
	n, worst := beats(t, Options{}, func(h *Heartbeat) {
		time.Sleep(time.Second + DefaultInterval/2) // 5 slow ones
		for range 10 {
			h.Touch() // at once fast: 10 beats until the next
			time.Sleep(10 * DefaultInterval)
		}
	})
	if n < 5+98 || n > 5+101 || worst != 0 {
		t.Errorf("%d beats, want about 5 slow ones and 100 fast ones; worst gap %s", n, worst)
	}
	n, _ = beats(t, Options{}, func(h *Heartbeat) {
		h.Touch()
		time.Sleep(10 * time.Second)
	})
	if n > uint64(linger/DefaultInterval)+52 || n < uint64(linger/DefaultInterval)+45 {
		t.Errorf("%d beats in the 10 s after one piece of work, want %d fast ones and some 49 slow ones", n, linger/DefaultInterval)
	}
}

// An operation that hangs is work without events.
func TestBeatsFastWhileBusy(t *testing.T) {
	var busy atomic.Bool
	busy.Store(true)
	n, _ := beats(t, Options{Busy: busy.Load}, func(h *Heartbeat) {
		h.Touch()
		time.Sleep(10 * time.Second)
		busy.Store(false)
		time.Sleep(10 * time.Second)
	})
	if n < 990 || n > 1100 {
		t.Errorf("%d beats, want some 1000 while it was busy and 50 after", n)
	}
}

func TestWorstGapIsForgottenAfterAMinute(t *testing.T) {
	var g gaps
	start := time.Unix(1000, 0)
	g.add(start, 3*time.Second)
	g.add(start.Add(5*time.Second), time.Second)
	g.add(start.Add(30*time.Second), 2*time.Second)
	for _, test := range []struct {
		after time.Duration
		want  time.Duration
	}{
		{0, 3 * time.Second}, {50 * time.Second, 3 * time.Second}, {70 * time.Second, 2 * time.Second}, {2 * time.Minute, 0}, {time.Hour, 0},
	} {
		if got := g.worst(start.Add(test.after)); got != test.want {
			t.Errorf("after %s: got %s, want %s", test.after, got, test.want)
		}
	}
}

func TestLongGapIsLoggedOncePerInterval(t *testing.T) {
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		h := Start(Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
		h.Stop()
		now := time.Now()
		h.observe(now, 100*time.Millisecond)
		h.observe(now, 8*time.Second)
		h.observe(now.Add(time.Second), 8*time.Second)
		h.observe(now.Add(time.Minute), 9*time.Second)
	})
	if n := strings.Count(out.String(), "stood still"); n != 2 {
		t.Errorf("%d warnings, want 2:\n%s", n, out.String())
	}
}

// BenchmarkTick measures what a process pays that does nothing else: CPU time per second of running.
func BenchmarkTick(b *testing.B) {
	for name, busy := range map[string]bool{"idle": false, "busy": true} {
		b.Run(name, func(b *testing.B) {
			h := Start(Options{Busy: func() bool { return busy }})
			defer h.Stop()
			if busy {
				h.Touch()
			}
			cpu := func() time.Duration {
				var u syscall.Rusage
				if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
					b.Fatal(err)
				}
				return time.Duration(u.Utime.Nano() + u.Stime.Nano())
			}
			before, start := cpu(), time.Now()
			for b.Loop() {
				time.Sleep(time.Second)
			}
			b.ReportMetric(float64(cpu()-before)/float64(time.Since(start))*100, "cpu%")
		})
	}
}
