package promhist

import (
	"math"
	"slices"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scrape has 100 observations under 1 ms, 8 up to 10 ms and 2 beyond, in two series of one lock, and another lock's.
func scrape() map[string]float64 {
	return map[string]float64{
		`h_seconds_bucket{lock="a",node="1",le="0.001"}`: 60, `h_seconds_bucket{lock="a",node="1",le="0.01"}`: 64, `h_seconds_bucket{lock="a",node="1",le="+Inf"}`: 65,
		`h_seconds_bucket{lock="a",node="2",le="0.001"}`: 40, `h_seconds_bucket{lock="a",node="2",le="0.01"}`: 44, `h_seconds_bucket{lock="a",node="2",le="+Inf"}`: 45,
		`h_seconds_bucket{lock="b",node="2",le="0.001"}`: 1, `h_seconds_bucket{lock="b",node="2",le="0.01"}`: 1, `h_seconds_bucket{lock="b",node="2",le="+Inf"}`: 1,
		`h_seconds_sum{lock="a",node="1"}`: 0.5, `h_seconds_sum{lock="a",node="2"}`: 0.25, `h_seconds_count{lock="a",node="1"}`: 65,
		`other_bucket{lock="a",le="0.001"}`: 7, `gauge`: 3,
	}
}

func TestHistogram(t *testing.T) {
	h, err := Of(scrape(), "h_seconds", "lock=a")
	if err != nil {
		t.Fatal(err)
	}
	if h.Count() != 110 || h.Sum != 0.75 {
		t.Fatalf("%v observations, sum %v; want 110 and 0.75", h.Count(), h.Sum)
	}
	if n, err := h.Above(0.001); n != 10 || err != nil {
		t.Fatalf("%v above 1 ms, %v; want 10", n, err)
	}
	if n, err := h.Above(0.01); n != 2 || err != nil {
		t.Fatalf("%v above 10 ms, %v; want 2", n, err)
	}
	if _, err := h.Above(0.002); err == nil {
		t.Fatal("a bound that no bucket has was answered")
	}
	for q, want := range map[float64]float64{0: 0, 0.5: 0.00055, 104.0 / 110: 0.0055, 1: 0.01} {
		if got := h.Quantile(q); math.Abs(got-want) > 1e-9 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
}

func TestDifference(t *testing.T) {
	before, err := Of(scrape(), "h_seconds", "lock=a")
	if err != nil {
		t.Fatal(err)
	}
	later := scrape()
	later[`h_seconds_bucket{lock="a",node="1",le="+Inf"}`] += 3
	after, err := Of(later, "h_seconds", "lock=a")
	if err != nil {
		t.Fatal(err)
	}
	d := after.Sub(before)
	if n, err := d.Above(0.01); d.Count() != 3 || n != 3 || err != nil {
		t.Fatalf("3 slow ones came; the difference has %v, of which %v slow, %v", d.Count(), n, err)
	}
	if !math.IsNaN(before.Sub(before).Quantile(0.99)) {
		t.Fatal("a quantile of nothing")
	}
	if after.Sub(Histogram{}).Count() != 113 {
		t.Fatal("less than everything since nothing")
	}
}

func TestNames(t *testing.T) {
	if got := Values(scrape(), "h_seconds", "lock"); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatalf("labels %v, want a and b", got)
	}
	if _, err := Of(scrape(), "h_seconds", "lock=c"); err == nil {
		t.Fatal("a histogram that is not there was found")
	}
}
