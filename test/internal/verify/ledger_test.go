package verify

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
	newTestLedger := func() *Ledger {
		l := New("topic", 1)
		for number, gapless := range map[int32]bool{whole: true, gaps: false} {
			l.Streams[number] = Stream{Source: &records.Source{Seed: 7, ValueMax: 50, ValueMin: 5, Timestamp: 1000}, Gapless: gapless}
		}
		for offset, which := range []ID{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}} {
			l.Ack(0, int64(offset), which)
		}
		return l
	}
	type change func(r *kgo.Record)
	cases := map[string]struct {
		log    []ID
		change change
		want   string // "" for fine
		saw    map[int64]ID
	}{
		"all there":                      {log: []ID{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}}},
		"more than was acknowledged":     {log: []ID{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}, {gaps, 5}, {whole, 2}}},
		"the end is missing":             {log: []ID{{whole, 0}, {gaps, 0}, {whole, 1}}, want: "LOST"},
		"one is missing":                 {log: []ID{{whole, 0}, {whole, 1}, {gaps, 1}, {gaps, 2}}, want: "LOST"},
		"another is there":               {log: []ID{{whole, 0}, {gaps, 3}, {whole, 1}, {gaps, 4}}, want: "LOST"},
		"a gap where there must be none": {log: []ID{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}, {whole, 3}}, want: "LOST"},
		"twice":                          {log: []ID{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}, {gaps, 1}}, want: "DUPLICATE"},
		"out of order":                   {log: []ID{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}, {gaps, 5}, {gaps, 4}}, want: "OUT OF ORDER"},
		"of nobody":                      {log: []ID{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}, {9, 0}}, want: "nobody sends"},
		"a value of another length":      {log: []ID{{whole, 0}}, change: func(r *kgo.Record) { r.Value = r.Value[1:] }, want: "DAMAGED"},
		"a bit of the value":             {log: []ID{{whole, 0}}, change: func(r *kgo.Record) { r.Value[2] ^= 4 }, want: "DAMAGED"},
		"a bit of the key":               {log: []ID{{whole, 0}}, change: func(r *kgo.Record) { r.Key[0] ^= 4 }, want: "DAMAGED"},
		"another timestamp":              {log: []ID{{whole, 0}}, change: func(r *kgo.Record) { r.Timestamp = r.Timestamp.Add(time.Second) }, want: "DAMAGED"},
		"a header less, or one too many": {log: []ID{{whole, 0}}, change: func(r *kgo.Record) { r.Headers = make([]kgo.RecordHeader, 5) }, want: "DAMAGED"},
		"another header":                 {log: []ID{{whole, 0}}, change: func(r *kgo.Record) { r.Headers[0].Value = []byte("x") }, want: "DAMAGED"},
		"an offset acknowledged for two": {log: []ID{{whole, 0}}, change: nil, want: "was acknowledged for"},
		"an epoch that goes back": {log: []ID{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}}, want: "EPOCH", change: func(r *kgo.Record) {
			r.LeaderEpoch = []int32{3, 4, 3, 4}[r.Offset]
		}},
		"epochs that rise": {log: []ID{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}}, change: func(r *kgo.Record) { r.LeaderEpoch = []int32{0, 4, 4, 7}[r.Offset] }},
		"what was read and not acknowledged is there": {log: []ID{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}, {whole, 2}}, saw: map[int64]ID{1: {gaps, 0}, 4: {whole, 2}}},
		"what was read is another":                    {log: []ID{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}, {whole, 2}}, saw: map[int64]ID{4: {gaps, 2}}, want: "UNCOMMITTED"},
		"what was read is not there":                  {log: []ID{{whole, 0}, {gaps, 0}, {whole, 1}, {gaps, 1}}, saw: map[int64]ID{4: {whole, 2}}, want: "UNCOMMITTED"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			l := newTestLedger()
			if strings.HasPrefix(c.want, "was acknowledged") {
				l.Ack(0, 1, ID{gaps, 9})
			}
			for offset, which := range c.saw {
				l.Saw(0, offset, which)
			}
			err := checkLog(l, c.log, c.change)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("found %v, want %q", err, c.want)
			}
		})
	}
}

// checkLog does what verify does, on a log that is given.
func checkLog(l *Ledger, log []ID, change func(r *kgo.Record)) error {
	if _, err := l.Acknowledged(); err != nil {
		return err
	}
	s := NewScan()
	source := &records.Source{Seed: 7, ValueMax: 50, ValueMin: 5, Timestamp: 1000}
	for offset, which := range log {
		r := ToRecord(l.Topic, 0, source.At(which.Stream, which.Seq))
		r.Offset = int64(offset)
		if change != nil {
			change(r)
		}
		if err := l.Check(s, r); err != nil {
			return err
		}
	}
	return l.LostBeyond(0, int64(len(log)))
}

// TestLedgerForgets: what is below a log start is not missed, what is above is; and a reader that is told two things of one offset was told a lie.
func TestLedgerForgets(t *testing.T) {
	l := New("topic", 1)
	for offset := range int64(10) {
		l.Ack(0, offset, ID{1, offset})
		l.Saw(0, offset, ID{1, offset})
	}
	if n := l.Seen(); n != 10 {
		t.Errorf("%d seen, want 10", n)
	}
	l.Forget(0, 8)
	if err := l.LostBeyond(0, 9); err == nil || !strings.Contains(err.Error(), "; 1 acknowledged") {
		t.Errorf("of 8 and 9 one is lost at end 9; found %v", err)
	}
	if n := l.Seen(); n != 2 {
		t.Errorf("%d seen, want 2", n)
	}
	l.Saw(0, 8, ID{1, 8})
	if _, err := l.Acknowledged(); err != nil {
		t.Error(err)
	}
	l.Saw(0, 8, ID{1, 9})
	if _, err := l.Acknowledged(); err == nil || !strings.Contains(err.Error(), "UNCOMMITTED") {
		t.Errorf("an offset was read as two records; found %v", err)
	}
}
