package uring

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestHeapGivesNearestDeadline(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var h heap
		var in []*slot
		rt.Repeat(map[string]func(*rapid.T){
			"push": func(rt *rapid.T) {
				s := &slot{heapAt: -1, deadline: rapid.Int64Range(0, 50).Draw(rt, "deadline")}
				in = append(in, s)
				h.push(s)
			},
			"remove": func(rt *rapid.T) {
				if len(in) == 0 {
					rt.Skip()
				}
				i := rapid.IntRange(0, len(in)-1).Draw(rt, "i")
				h.remove(in[i])
				if in[i].heapAt != -1 {
					rt.Fatalf("removed slot says it is at %d", in[i].heapAt)
				}
				in = slices.Delete(in, i, i+1)
			},
			"": func(rt *rapid.T) {
				if len(h) != len(in) {
					rt.Fatalf("%d in the heap, want %d", len(h), len(in))
				}
				for i, s := range h {
					if s.heapAt != i || s.deadline < h[0].deadline {
						rt.Fatalf("slot %d: at %d, deadline %d, first %d", i, s.heapAt, s.deadline, h[0].deadline)
					}
				}
			},
		})
	})
}

func TestListKeepsOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var l list
		var in []*slot
		rt.Repeat(map[string]func(*rapid.T){
			"add": func(*rapid.T) {
				s := &slot{}
				in = append(in, s)
				l.add(s)
			},
			"remove": func(rt *rapid.T) {
				if len(in) == 0 {
					rt.Skip()
				}
				i := rapid.IntRange(0, len(in)-1).Draw(rt, "i")
				l.remove(in[i])
				in = slices.Delete(in, i, i+1)
			},
			"": func(rt *rapid.T) {
				var got []*slot
				for s := l.first; s != nil; s = s.next {
					got = append(got, s)
				}
				if !slices.Equal(got, in) || l.n != len(in) || len(in) > 0 && l.last != in[len(in)-1] {
					rt.Fatalf("list of %d, want %d", len(got), len(in))
				}
			},
		})
	})
}
