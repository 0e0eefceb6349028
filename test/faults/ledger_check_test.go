package faults

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/records"
)

// TestLedgerSees: what the crash tests rely on finds each kind of wrong.
func TestLedgerSees(t *testing.T) {
	const whole, gaps = 1, 2 // streams
	newTestLedger := func() *ledger {
		l := newLedger("topic", 1)
		for number, gapless := range map[int32]bool{whole: true, gaps: false} {
			l.streams[number] = stream{source: &records.Source{Seed: 7, ValueMax: 50, ValueMin: 5, Timestamp: 1000}, gapless: gapless}
		}
		for offset, which := range []id{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}} {
			l.ack(0, int64(offset), which)
		}
		return l
	}
	type change func(r *kgo.Record)
	cases := map[string]struct {
		log    []id
		change change
		want   string // "" for fine
	}{
		"all there":                      {log: []id{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}}},
		"more than was acknowledged":     {log: []id{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}, {gaps, 5}, {whole, 2}}},
		"the end is missing":             {log: []id{{whole, 0}, {gaps, 0}, {whole, 1}}, want: "LOST"},
		"one is missing":                 {log: []id{{whole, 0}, {whole, 1}, {gaps, 1}, {gaps, 2}}, want: "LOST"},
		"another is there":               {log: []id{{whole, 0}, {gaps, 3}, {whole, 1}, {gaps, 4}}, want: "LOST"},
		"a gap where there must be none": {log: []id{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}, {whole, 3}}, want: "LOST"},
		"twice":                          {log: []id{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}, {gaps, 1}}, want: "DUPLICATE"},
		"out of order":                   {log: []id{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}, {gaps, 5}, {gaps, 4}}, want: "OUT OF ORDER"},
		"of nobody":                      {log: []id{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}, {9, 0}}, want: "nobody sends"},
		"a value of another length":      {log: []id{{whole, 0}}, change: func(r *kgo.Record) { r.Value = r.Value[1:] }, want: "DAMAGED"},
		"a bit of the value":             {log: []id{{whole, 0}}, change: func(r *kgo.Record) { r.Value[2] ^= 4 }, want: "DAMAGED"},
		"a bit of the key":               {log: []id{{whole, 0}}, change: func(r *kgo.Record) { r.Key[0] ^= 4 }, want: "DAMAGED"},
		"another timestamp":              {log: []id{{whole, 0}}, change: func(r *kgo.Record) { r.Timestamp = r.Timestamp.Add(time.Second) }, want: "DAMAGED"},
		"a header less, or one too many": {log: []id{{whole, 0}}, change: func(r *kgo.Record) { r.Headers = make([]kgo.RecordHeader, 5) }, want: "DAMAGED"},
		"an offset acknowledged for two": {log: []id{{whole, 0}}, change: nil, want: "was acknowledged for"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			l := newTestLedger()
			if strings.HasPrefix(c.want, "was acknowledged") {
				l.ack(0, 1, id{gaps, 9})
			}
			err := checkLog(l, c.log, c.change)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("found %v, want %q", err, c.want)
			}
		})
	}
}

// checkLog does what verify does, on a log that is given.
func checkLog(l *ledger, log []id, change func(r *kgo.Record)) error {
	if _, err := l.acknowledged(); err != nil {
		return err
	}
	s := &scan{last: map[int32]int64{}}
	source := &records.Source{Seed: 7, ValueMax: 50, ValueMin: 5, Timestamp: 1000}
	for offset, which := range log {
		r := toRecord(l.topic, 0, source.At(which.stream, which.seq))
		r.Offset = int64(offset)
		if change != nil {
			change(r)
		}
		if err := l.check(s, r); err != nil {
			return err
		}
	}
	return l.lostBeyond(0, int64(len(log)))
}

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
