package netproto

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"weir/internal/clock"
)

func metricValue(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	if out.Gauge != nil {
		return out.Gauge.GetValue()
	}
	return out.Counter.GetValue()
}

func TestLimitedLogSaysWhatItSuppressed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs logLines
		l := newLimitedLog(logs.logger(), clock.Real{})
		for range 5 {
			l.warn("cause", "peer")
		}
		l.warn("cause", "other peer")
		time.Sleep(logEvery)
		l.warn("cause", "peer")
		lines := logs.lines()
		if len(lines) != 3 || !strings.Contains(lines[2], "suppressed=4") {
			t.Fatalf("log %q", lines)
		}
	})
}

func TestLimitedLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs logLines
		l := newLimitedLog(logs.logger(), clock.Real{})
		for i := range 10 * logKeysMax {
			l.warn("cause", fmt.Sprint(i))
		}
		if n := len(l.mu.seen); n > logKeysMax+1 {
			t.Fatalf("%d entries kept", n)
		}
		if n := len(logs.lines()); n > logKeysMax+1 {
			t.Fatalf("%d lines", n)
		}
	})
}

func TestMetricsRegister(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	m.observe(0, stageHandle, time.Millisecond)
	m.observe(-5, stageWrite, time.Millisecond)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "weir_netproto_") {
			t.Errorf("metric %s", f.GetName())
		}
		if f.GetName() == "weir_netproto_request_duration_seconds" && len(f.Metric) != 2 {
			t.Errorf("%d series of request durations, want those 2 that were used", len(f.Metric))
		}
	}
}
