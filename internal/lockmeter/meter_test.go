package lockmeter

//lint:file-ignore SA2001 that a lock was held, and nothing else, is what is tested

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func TestEveryClassHasALabel(t *testing.T) {
	seen := map[string]bool{}
	for _, l := range Locks() {
		if l.String() == "" || seen[l.String()] || locks[l].every != all && locks[l].every != sampled {
			t.Errorf("class %d: label %q, every %d", l, l, locks[l].every)
		}
		seen[l.String()] = true
	}
}

// gather returns the metrics by name and lock.
func gather(t *testing.T, reg *prometheus.Registry) map[string]*dto.Metric {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]*dto.Metric{}
	for _, f := range families {
		for _, m := range f.Metric {
			got[f.GetName()+" "+m.Label[0].GetValue()] = m
		}
	}
	return got
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	meter, clk := newTest(t, Options{Registry: reg})
	var m Mutex
	m.MeterBy(meter, Group)
	m.Lock()
	done := inBackground(&m)
	awaitWaiter(&m, 1, true)
	clk.advance(2 * time.Millisecond)
	m.Unlock()
	<-done
	got := gather(t, reg)
	if len(got) != 3 {
		t.Errorf("%d metrics, want those of the one class that has a lock: %v", len(got), got)
	}
	hold, wait := got["weir_lock_hold_seconds group"].GetHistogram(), got["weir_lock_wait_seconds group"].GetHistogram()
	if hold.GetSampleCount() != 2 || wait.GetSampleCount() != 1 || hold.GetSampleSum() < 0.002 || hold.GetSampleSum() > 0.0021 {
		t.Errorf("hold %v\nwait %v", hold, wait)
	}
	below := map[float64]uint64{}
	for _, b := range hold.Bucket {
		below[b.GetUpperBound()] = b.GetCumulativeCount()
	}
	if len(below) != len(bounds) || below[0.000001] != 1 || below[0.001] != 1 || below[0.0025] != 2 || below[10] != 2 {
		t.Errorf("buckets %v", below)
	}
	if l := got["weir_lock_hold_longest_seconds group"].GetGauge().GetValue(); l < 0.002 || l > 0.0021 {
		t.Errorf("longest %v", l)
	}
}

// Locks of one class are counted together, in whichever shard.
func TestShards(t *testing.T) {
	meter, _ := newTest(t, Options{})
	many := make([]Mutex, 100)
	for i := range many {
		many[i].MeterBy(meter, Controller)
		many[i].Lock()
		many[i].Unlock()
	}
	if n := meter.classes[Controller].holds().count; n != 100 {
		t.Errorf("%d holds, want 100", n)
	}
	for i := range meter.classes[Controller].shards {
		if sum(&meter.classes[Controller].shards[i].hold).count == 0 {
			t.Errorf("shard %d has no lock", i)
		}
	}
}

// lines is a log that many may write to.
type lines struct {
	mu struct {
		sync.Mutex
		buf bytes.Buffer
	}
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.buf.Write(b)
}

func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	got := strings.Split(strings.TrimSpace(l.mu.buf.String()), "\n")
	l.mu.buf.Reset()
	return got
}

func holdFor(m *Mutex, clk *handClock, d time.Duration) {
	m.Lock()
	defer m.Unlock()
	clk.advance(d)
}

func TestLongHoldsAreLogged(t *testing.T) {
	var log lines
	meter, clk := newTest(t, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	var m, other Mutex
	m.MeterBy(meter, Metadata)
	other.MeterBy(meter, Controller)
	expect := func(when string, want ...string) {
		t.Helper()
		meter.slow.writing.Wait()
		got := log.take()
		if len(want) == 0 && len(got) == 1 && got[0] == "" {
			return
		}
		if len(got) != len(want) {
			t.Fatalf("%s: %d lines, want %d: %q", when, len(got), len(want), got)
		}
		for i := range want {
			for _, part := range strings.Split(want[i], "|") {
				if !strings.Contains(got[i], part) {
					t.Errorf("%s: %q does not have %q", when, got[i], part)
				}
			}
		}
	}
	holdFor(&m, clk, 9*time.Millisecond)
	expect("after a hold of 9 ms")
	holdFor(&m, clk, 12*time.Millisecond)
	expect("after one of 12 ms", `a lock was held for long|lock=metadata|held=12ms|lockmeter.holdFor:|"not logged"=0`)
	holdFor(&m, clk, 13*time.Millisecond)
	holdFor(&m, clk, 14*time.Millisecond)
	expect("within a minute")
	holdFor(&other, clk, 20*time.Millisecond)
	expect("of another class", "lock=controller")
	clk.advance(warnEvery)
	holdFor(&m, clk, 15*time.Millisecond)
	expect("a minute later", `held=15ms|"not logged"=2`)
	meter.Close()
	clk.advance(warnEvery)
	holdFor(&m, clk, 16*time.Millisecond)
	expect("after Close")
}
