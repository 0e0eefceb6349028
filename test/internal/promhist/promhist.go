// Package promhist reads histograms out of a scrape of /metrics.
package promhist

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Histogram is one histogram of a scrape, or the difference of two.
type Histogram struct {
	Bounds []float64 // upper bounds of the buckets, rising; the last is +Inf
	Below  []float64 // how many observations are at most the bound
	Sum    float64
}

// Of finds the histogram name (without _bucket) in a scrape, which maps series as they are exposed to values. Of the series with the labels that are given
// ("lock=partition") it is the sum.
func Of(scrape map[string]float64, name string, labels ...string) (Histogram, error) {
	counts := map[float64]float64{}
	var h Histogram
	for series, v := range scrape {
		switch metric, has := parse(series); {
		case !carries(has, labels):
		case metric == name+"_sum":
			h.Sum += v
		case metric == name+"_bucket":
			bound, err := strconv.ParseFloat(has["le"], 64)
			if err != nil {
				return h, fmt.Errorf("%s: le: %w", series, err)
			}
			counts[bound] += v
		}
	}
	if len(counts) == 0 {
		return h, fmt.Errorf("no histogram %s with %v among %d series", name, labels, len(scrape))
	}
	h.Bounds = slices.Sorted(maps.Keys(counts))
	for _, b := range h.Bounds {
		h.Below = append(h.Below, counts[b])
	}
	if !math.IsInf(h.Bounds[len(h.Bounds)-1], 1) {
		return h, fmt.Errorf("%s %v has no bucket +Inf", name, labels)
	}
	return h, nil
}

// Values are the values that a label of the histogram has in a scrape, sorted.
func Values(scrape map[string]float64, name, label string) []string {
	found := map[string]bool{}
	for series := range scrape {
		if metric, has := parse(series); metric == name+"_bucket" && has[label] != "" {
			found[has[label]] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// Sub is what came after before, an earlier scrape of the same histogram; a zero before is nothing.
func (h Histogram) Sub(before Histogram) Histogram {
	if len(before.Bounds) == 0 {
		return h
	}
	d := Histogram{Bounds: h.Bounds, Below: slices.Clone(h.Below), Sum: h.Sum - before.Sum}
	for i := range d.Below {
		d.Below[i] -= before.Below[i]
	}
	return d
}

// Count is how many observations there are.
func (h Histogram) Count() float64 { return h.Below[len(h.Below)-1] }

// Above is how many observations are greater than bound, which has to be one of the buckets': nothing is guessed.
func (h Histogram) Above(bound float64) (float64, error) {
	i, found := slices.BinarySearch(h.Bounds, bound)
	if !found {
		return 0, fmt.Errorf("%v is not the bound of a bucket: %v", bound, h.Bounds)
	}
	return h.Count() - h.Below[i], nil
}

// Quantile estimates a quantile as Prometheus' histogram_quantile does: evenly spread within the bucket, and the greatest finite bound if it lies beyond that. NaN without observations.
func (h Histogram) Quantile(q float64) float64 {
	n := h.Count()
	if n == 0 {
		return math.NaN()
	}
	rank := q * n
	i, _ := slices.BinarySearch(h.Below, rank)
	for i < len(h.Below)-1 && h.Below[i] < rank {
		i++
	}
	if i == len(h.Bounds)-1 {
		return h.Bounds[max(i-1, 0)]
	}
	low, below := 0.0, 0.0
	if i > 0 {
		low, below = h.Bounds[i-1], h.Below[i-1]
	}
	if h.Below[i] == below {
		return h.Bounds[i]
	}
	return low + (h.Bounds[i]-low)*(rank-below)/(h.Below[i]-below)
}

// parse takes a series apart. The labels' values have no quotes or commas in this broker's histograms.
func parse(series string) (metric string, labels map[string]string) {
	metric, rest, _ := strings.Cut(series, "{")
	labels = map[string]string{}
	for pair := range strings.SplitSeq(strings.TrimSuffix(rest, "}"), ",") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			labels[name] = strings.Trim(value, `"`)
		}
	}
	return metric, labels
}

func carries(has map[string]string, want []string) bool {
	for _, w := range want {
		name, value, _ := strings.Cut(w, "=")
		if has[name] != value {
			return false
		}
	}
	return true
}
