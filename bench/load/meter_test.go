package load

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestMeterCountsOnlyTheWindow(t *testing.T) {
	m := &Meter{}
	a, b := m.Shard(), m.Shard()
	a.Record(time.Second, 5, 500) // before
	m.Begin()
	a.Record(2*time.Millisecond, 1, 100)
	b.Record(4*time.Millisecond, 2, 200)
	b.Record(2*time.Hour, 1, 100) // beyond the histogram: its greatest value
	m.End()
	b.Record(time.Second, 7, 700) // after
	o := m.Outcome()
	if o.Messages != 4 || o.Bytes != 400 || o.Latency.TotalCount() != 3 || m.Total() != 16 {
		t.Fatalf("%d messages, %d bytes, %d latencies, total %d; want 4, 400, 3, 16", o.Messages, o.Bytes, o.Latency.TotalCount(), m.Total())
	}
	if p50 := o.Latency.ValueAtQuantile(50); p50 < 3990 || p50 > 4010 {
		t.Errorf("median %d us, want 4000", p50)
	}
	if longest := o.Latency.Max(); longest < latencyMaxUs/100*99 {
		t.Errorf("longest %d us, want about %d", longest, latencyMaxUs)
	}
}

func TestGroupReturnsTheFirstError(t *testing.T) {
	boom := errors.New("boom")
	g := newGroup(context.Background())
	g.run(func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	})
	g.run(func(context.Context) error { return boom })
	if err := g.wait(); !errors.Is(err, boom) {
		t.Fatalf("got %v, want %v", err, boom)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := newGroup(ctx).wait(); err != nil {
		t.Fatalf("the caller's end is reported as %v", err)
	}
}

func TestValuesAreOfTheirSize(t *testing.T) {
	v := newValues(100)
	for n := range 100_000 {
		if len(v.at(n)) != 100 {
			t.Fatalf("value %d has %d bytes", n, len(v.at(n)))
		}
	}
}
