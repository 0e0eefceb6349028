package segment

import (
	"errors"
	"math/rand/v2"
	"path"
	"strings"
	"testing"

	"weir/internal/damage"
	"weir/internal/record"
	"weir/internal/vfs"
)

func TestCleanStateRoundTrip(t *testing.T) {
	for _, c := range []cleanState{{horizon: noHorizon}, {dirty: 5, gaps: 9, txns: true, horizon: 77}, lostCleanState()} {
		got, err := decodeCleanState(c.encode())
		if err != nil || got != c {
			t.Errorf("got %+v, %v, want %+v", got, err, c)
		}
	}
	good := cleanState{dirty: 5, gaps: 9, horizon: 77}.encode()
	for i := range good {
		for bit := range 8 {
			bad := append([]byte(nil), good...)
			bad[i] ^= 1 << bit
			if _, err := decodeCleanState(bad); !errors.Is(err, errCleanState) {
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			}
		}
	}
}

func FuzzDecodeCleanState(f *testing.F) {
	f.Add(cleanState{dirty: 5, gaps: 9, txns: true, horizon: 77}.encode())
	f.Add([]byte(cleanerVersion))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeCleanState(data)
		if err == nil && (c.dirty < 0 || c.gaps < c.dirty || string(c.encode()) != string(data)) {
			t.Errorf("%+v from %q", c, data)
		}
	})
}

func FuzzParseSwapName(f *testing.F) {
	f.Add(swapName(0, 1))
	f.Add("-.swap")
	f.Fuzz(func(t *testing.T, name string) {
		if base, end, ok := parseSwapName(name); ok && (base < 0 || end <= base || swapName(base, end) != name) {
			t.Errorf("%q: %d to %d", name, base, end)
		}
	})
}

// A damaged cleaner checkpoint costs a run, not the log: gaps are not taken for damage, and everything counts as dirty.
func TestDamagedCleanerCheckpoint(t *testing.T) {
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	s := openStore(t, o)
	cfg := compactConfig()
	l := openLog(t, s, "t-0", cfg)
	all := fillCompact(newWriter(t, l), rand.New(rand.NewPCG(1, 2)), 40)
	mustCompact(t, l, compactOptions(l, compactNow))
	closeStore(t, s)
	f, err := mem.OpenFile(path.Join(testDir, "t-0", cleanerFile), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("9"), int64(len(cleanerVersion)+13)); err != nil {
		t.Fatal(err)
	}
	checkCrashed(t, mem, cfg, all, compactNow, "damaged checkpoint")
}

// Where nothing was compacted a gap is damage.
func TestGapIsDamageWhereNothingWasCompacted(t *testing.T) {
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	s := openStore(t, o)
	cfg := compactConfig()
	l := openLog(t, s, "t-0", cfg)
	w := newWriter(t, l)
	first := w.put(1, "a=1")
	middle := w.put(1, "b=1")
	last := w.put(1, "c=1")
	w.seal()
	w.put(1, "d=1")
	closeStore(t, s)
	name := path.Join(testDir, "t-0", segmentName(0)+logSuffix)
	f, err := mem.OpenFile(name, vfs.Truncate)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(append(append([]byte(nil), first...), last...), 0); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, o)
	l = openLog(t, s, "t-0", cfg)
	var bad *CorruptError
	if err := l.ReadAll(0, func(record.Batch) error { return nil }); !errors.As(err, &bad) || bad.Offset != middle.BaseOffset() {
		t.Errorf("got %v, want damage at offset %d", err, middle.BaseOffset())
	}
	if err := l.Recovered(w.l.batchAt(t, l.End()+3), 99); err != nil {
		t.Error(err)
	}
	if err := l.Replayed(); !errors.Is(err, ErrGap) {
		t.Errorf("the WAL may not leave a gap, but %v", err)
	}
}

// batchAt makes a batch at an offset.
func (l *Log) batchAt(t testing.TB, offset int64) record.Batch {
	return compactSpec{recs: parsePairs(1, []string{"x=1"})}.build(t, offset)
}

// An exchange that was interrupted is told to the operator, nothing of it counts as lost, and a repair finishes it.
func TestToolsSeeAnInterruptedCompaction(t *testing.T) {
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	s := openStore(t, o)
	cfg := compactConfig()
	l := openLog(t, s, "t-0", cfg)
	all := fillCompact(newWriter(t, l), rand.New(rand.NewPCG(1, 2)), 40)
	dir := path.Join(testDir, "t-0")
	removed := 0
	mem.SetHook(func(op, name string, _ int64, _ int) error {
		if op == "remove" && strings.HasSuffix(name, logSuffix) {
			if removed++; removed == 2 {
				return errInjected // one of the old segments is gone, the others are there
			}
		}
		return nil
	})
	if _, err := l.Compact(t.Context(), compactOptions(l, compactNow)); !errors.Is(err, ErrHalfSwapped) {
		t.Fatalf("got %v, want ErrHalfSwapped", err)
	}
	mem.SetHook(nil)
	closeStore(t, s)
	look := func() (heals int) {
		t.Helper()
		_, err := InspectLog(mem, dir, InspectOptions{Finding: func(f damage.Finding) {
			if f.Severity != damage.Heals && f.Severity != damage.Note { // indexes are missing, as after any crash
				t.Errorf("finding: %v", f)
			}
			if strings.HasSuffix(f.File, swapSuffix) {
				heals++
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		return heals
	}
	if look() != 1 {
		t.Error("the interrupted compaction was not mentioned")
	}
	res, err := RepairLog(mem, dir, RepairOptions{})
	if err != nil || len(res.Lost) != 0 {
		t.Fatalf("repair lost %v, %v", res, err)
	}
	if look() != 0 {
		t.Error("the interrupted compaction was not finished")
	}
	checkCrashed(t, mem, cfg, all, compactNow, "after a repair")
}
