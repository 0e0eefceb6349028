package netproto

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"weir/internal/budget"
	"weir/internal/clock"
	"weir/internal/faultlog"
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
		time.Sleep(faultlog.Every)
		l.warn("cause", "peer")
		lines := logs.lines()
		if len(lines) != 3 || !strings.Contains(lines[2], "suppressed=4") {
			t.Fatalf("log %q", lines)
		}
	})
}

func TestMetricsRegister(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	var b budget.Budget
	b.Begin(1)
	b.Lap(budget.Handle, 2)
	m.observe(0, &b)
	m.observe(-5, &b)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "weir_netproto_") && !strings.HasPrefix(f.GetName(), "weir_request_") {
			t.Errorf("metric %s", f.GetName())
		}
		if strings.HasPrefix(f.GetName(), "weir_request_") && len(f.Metric) != 2 {
			t.Errorf("%d series of %s, want those 2 that were used", len(f.Metric), f.GetName())
		}
	}
}
