package segment

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"weir/internal/record"
	"weir/internal/vfs"
)

// inTxn appends data of a transaction.
func (w *writer) inTxn(producer int64, at int64, pairs ...string) {
	w.t.Helper()
	w.putSpec(compactSpec{producer: producer, flags: record.TransactionalFlag, recs: parsePairs(at, pairs)})
}

// marker appends the end of a transaction.
func (w *writer) marker(producer int64, kind record.ControlType) {
	w.t.Helper()
	spec := record.NewSpec()
	spec.BaseOffset, spec.ProducerID, spec.ProducerEpoch = w.l.End(), producer, 0
	spec.Attributes = record.TransactionalFlag | record.ControlFlag
	key := binary.BigEndian.AppendUint16(make([]byte, 2), uint16(kind))
	b, err := record.Build(spec, []record.Record{{Timestamp: 1, Key: key, Value: make([]byte, 6)}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.append(b)
}

// content lists batches as "base:records", markers as "base:abort" or "base:commit", with a * where there is a delete horizon.
func content(t testing.TB, l *Log) []string {
	t.Helper()
	var out []string
	if err := l.ReadAll(l.LogStart(), func(b record.Batch) error {
		s := fmt.Sprintf("%d:%d", b.BaseOffset(), b.Count())
		if kind, ok, err := b.Control(); b.IsControl() && ok && err == nil {
			s = fmt.Sprintf("%d:%s", b.BaseOffset(), map[record.ControlType]string{record.ControlAbort: "abort", record.ControlCommit: "commit"}[kind])
		}
		if b.HasDeleteHorizon() {
			s += "*"
		}
		out = append(out, s)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCompactTransactions(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	cfg := compactConfig()
	cfg.SegmentBytes = 1 << 20
	l := openLog(t, s, "t-0", cfg)
	w := newWriter(t, l)
	w.put(1, "a=0")                       // 0
	w.inTxn(1, 1, "a=aborted", "x=never") // 1, 2
	w.inTxn(2, 1, "b=1")                  // 3
	w.marker(1, record.ControlAbort)      // 4
	w.marker(2, record.ControlCommit)     // 5
	w.inTxn(1, 1, "c=1")                  // 6: the same producer again, committed
	w.marker(1, record.ControlCommit)     // 7
	w.put(1, "end=1")                     // 8
	w.seal()
	compactAt := func(now int64, want ...string) {
		t.Helper()
		mustCompact(t, l, compactOptions(l, compactNow.Add(time.Duration(now)*time.Millisecond)))
		if got := content(t, l); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	hour := cfg.DeleteRetention.Milliseconds()
	// Aborted data goes at once, and hides nothing; its marker stays, and is dated when a run has found no data of it left.
	compactAt(0, "0:1", "3:1", "4:abort", "5:commit", "6:1", "7:commit", "8:1")
	w.put(1, "b=2") // 9
	w.seal()
	compactAt(1, "0:1", "4:abort*", "5:commit", "6:1", "7:commit", "8:1", "9:1")
	w.put(1, "z=1") // 10
	w.seal()
	compactAt(2, "0:1", "4:abort*", "5:commit*", "6:1", "7:commit", "8:1", "9:1", "10:1")
	compactAt(hour+1, "0:1", "5:commit*", "6:1", "7:commit", "8:1", "9:1", "10:1")
	compactAt(hour+2, "0:1", "6:1", "7:commit", "8:1", "9:1", "10:1")
	if got, want := shown(records(t, l)), "0:a=0 6:c=1 8:end=1 9:b=2 10:z=1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What a transaction without an end has written, and what follows it, stays as it is.
func TestCompactStopsAtAnOpenTransaction(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	cfg := compactConfig()
	l := openLog(t, s, "t-0", cfg)
	w := newWriter(t, l)
	w.put(1, "a=0", "a=1") // 0, 1
	w.seal()
	w.put(1, "a=2")      // 2
	w.inTxn(1, 1, "b=1") // 3: open
	w.seal()
	w.put(1, "a=3", "b=2") // 4, 5
	w.seal()
	stats := mustCompact(t, l, compactOptions(l, compactNow))
	if got, want := shown(records(t, l)), "1:a=1 2:a=2 3:b=1 4:a=3 5:b=2"; got != want || stats.FirstDirty != 2 {
		t.Errorf("got %s, dirty from %d, want %s, from 2", got, stats.FirstDirty, want)
	}
	w.marker(1, record.ControlAbort) // 6
	w.seal()
	stats = mustCompact(t, l, compactOptions(l, compactNow))
	if got, want := shown(records(t, l)), "4:a=3 5:b=2"; got != want || stats.FirstDirty != 7 {
		t.Errorf("got %s, dirty from %d, want %s, from 7", got, stats.FirstDirty, want)
	}
}

// A marker is all that a producer has left: it tells the epoch.
func TestCompactKeepsTheMarkerThatHasTheEpoch(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	cfg := compactConfig()
	l := openLog(t, s, "t-0", cfg)
	w := newWriter(t, l)
	w.marker(1, record.ControlCommit) // 0
	w.put(1, "a=1")                   // 1
	w.seal()
	opt := compactOptions(l, compactNow)
	opt.Producers = func() map[int64]LastBatch { return map[int64]LastBatch{1: {Offset: -1}} }
	mustCompact(t, l, opt)
	opt.Now = compactNow.Add(2 * cfg.DeleteRetention)
	mustCompact(t, l, opt)
	if got := content(t, l); !slices.Equal(got, []string{"0:0", "1:1"}) {
		t.Errorf("got %q, want the marker's batch without its record", got)
	}
}
