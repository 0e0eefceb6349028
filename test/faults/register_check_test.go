package faults

import "testing"

func TestRegisterSees(t *testing.T) {
	type step struct{ begin, settle string }
	cases := map[string]struct {
		steps []step
		there string
		lost  bool
	}{
		"acknowledged":                        {steps: []step{{"a", "a"}}, there: "a"},
		"acknowledged, gone":                  {steps: []step{{"a", "a"}}, there: "", lost: true},
		"acknowledged, the one before":        {steps: []step{{"a", "a"}, {"b", "b"}}, there: "a", lost: true},
		"not acknowledged, there":             {steps: []step{{"a", "a"}, {"b", "?"}}, there: "b"},
		"not acknowledged, not there":         {steps: []step{{"a", "a"}, {"b", "?"}}, there: "a"},
		"superseded, there":                   {steps: []step{{"a", "?"}, {"b", "b"}}, there: "a", lost: true},
		"never asked for":                     {steps: []step{{"a", "a"}}, there: "c", lost: true},
		"deletion acknowledged, still there":  {steps: []step{{"a", "a"}, {"", ""}}, there: "a", lost: true},
		"deletion not acknowledged, is there": {steps: []step{{"a", "a"}, {"", "?"}}, there: "a"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := register{name: "it"}
			for _, s := range c.steps {
				r.begin(s.begin)
				if s.settle != "?" {
					r.settle(s.settle)
				}
			}
			if err := r.see(c.there); (err != nil) != c.lost {
				t.Fatalf("%q: %v, lost: want %v", c.there, err, c.lost)
			}
			if !c.lost && (r.settled != c.there || len(r.pending) > 0) {
				t.Fatalf("what was seen is not settled: %+v", r)
			}
		})
	}
}
