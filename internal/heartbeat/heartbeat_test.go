package heartbeat

import (
	"bytes"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBeatsWithoutGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		h := Start(Options{Registry: reg})
		defer h.Stop()
		time.Sleep(time.Second + DefaultInterval/2)
		synctest.Wait()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		if n := families[0].Metric[0].Histogram.GetSampleCount(); n != uint64(time.Second/DefaultInterval) {
			t.Errorf("%d beats in a second, want %d", n, time.Second/DefaultInterval)
		}
		if w := h.Worst(); w != 0 {
			t.Errorf("worst gap %s in a process that never stood still", w)
		}
	})
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

// BenchmarkTick measures what an idle process pays: CPU time per second of running.
func BenchmarkTick(b *testing.B) {
	h := Start(Options{})
	defer h.Stop()
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
}
