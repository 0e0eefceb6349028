package segment

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"testing"
	"time"

	"weir/internal/damage"
	"weir/internal/record"
	"weir/internal/vfs"
)

// repairLog makes a log of several closed segments and returns its batches by base offset.
func repairLog(t *testing.T, fsys vfs.FS) (batches []record.Batch, point Checkpoint) {
	t.Helper()
	o, _ := testOptions(fsys)
	s := openStore(t, o)
	c := defaultConfig()
	c.SegmentBytes = 40 << 10
	w := newWriter(t, openLog(t, s, "a-0", c))
	for range 120 {
		batches = append(batches, slices.Clone(w.add(3, 300, 1000)))
	}
	flushAll(t, s)
	closeStore(t, s)
	points, err := InspectCheckpoint(fsys, testDir)
	if err != nil {
		t.Fatal(err)
	}
	return batches, points["a-0"]
}

func inspectAll(t *testing.T, fsys vfs.FS, point Checkpoint) (found []damage.Finding, state *LogState) {
	t.Helper()
	state, err := InspectLog(fsys, path.Join(testDir, "a-0"), InspectOptions{Checkpoint: point, Finding: func(f damage.Finding) {
		if f.Severity != damage.Note {
			found = append(found, f)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	return found, state
}

// TestInspectCleanLog: nothing is wrong with a log that nothing is wrong with.
func TestInspectCleanLog(t *testing.T) {
	fsys := vfs.NewMem()
	batches, point := repairLog(t, fsys)
	found, state := inspectAll(t, fsys, point)
	if len(found) > 0 {
		t.Fatalf("findings in a clean log: %v", found)
	}
	var records int64
	for _, g := range state.Segments {
		records += g.Records
	}
	if want := int64(len(batches) * 3); state.End != want || records != want || len(state.Segments) < 3 {
		t.Errorf("%d records up to %d in %d segments, want %d", records, state.End, len(state.Segments), want)
	}
}

// damageFile changes a file's bytes.
func damageFile(t *testing.T, fsys vfs.FS, name string, fn func([]byte) []byte) {
	t.Helper()
	writeFS(t, fsys, name, fn(slices.Clone(readFS(t, fsys, name))))
}

// TestRepairLog: whatever is done to a log's files, inspection names just the offsets that are gone, repair says the same, and then a store
// opens it, reads all that is left and goes on where the log ended.
func TestRepairLog(t *testing.T) {
	clean := vfs.NewMem()
	batches, _ := repairLog(t, clean)
	lf, err := listLog(clean, path.Join(testDir, "a-0"))
	if err != nil {
		t.Fatal(err)
	}
	files := lf.bases
	name := func(i int) string { return path.Join(testDir, "a-0", segmentName(files[i])+logSuffix) }
	newest := len(files) - 1
	size := int(lf.sizes[files[0]])
	flip := func(at int) func([]byte) []byte { return func(b []byte) []byte { b[at] ^= 0x10; return b } }
	for _, tc := range []struct {
		name string
		do   func(fsys vfs.FS)
		lost []damage.Range
	}{
		{"payload", func(m vfs.FS) { damageFile(t, m, name(0), flip(400)) }, []damage.Range{{From: 0, To: 3}}},
		{"length", func(m vfs.FS) { damageFile(t, m, name(0), flip(len(batches[0])+10)) }, []damage.Range{{From: 3, To: 6}}},
		{"base offset", func(m vfs.FS) { damageFile(t, m, name(1), flip(7)) }, []damage.Range{{From: files[1], To: files[1] + 3}}},
		{"magic", func(m vfs.FS) { damageFile(t, m, name(newest), flip(16)) }, []damage.Range{{From: files[newest], To: files[newest] + 3}}},
		{"two places", func(m vfs.FS) { damageFile(t, m, name(1), flip(100)); damageFile(t, m, name(1), flip(5000)) }, []damage.Range{
			{From: files[1], To: files[1] + 3}, batchAt(batches, files[1], 5000)}},
		{"sealed file cut", func(m vfs.FS) { damageFile(t, m, name(0), func(b []byte) []byte { return b[:size-1] }) }, []damage.Range{{From: files[1] - 3, To: files[1]}}},
		{"newest file cut", func(m vfs.FS) { damageFile(t, m, name(newest), func(b []byte) []byte { return b[:1] }) }, []damage.Range{{From: files[newest], To: 360}}},
		{"sealed file empty", func(m vfs.FS) { damageFile(t, m, name(1), func(b []byte) []byte { return nil }) }, []damage.Range{{From: files[1], To: files[2]}}},
		{"first file gone", func(m vfs.FS) { remove(t, m, name(0)) }, []damage.Range{{From: 0, To: files[1]}}},
		{"middle file gone", func(m vfs.FS) { remove(t, m, name(1)) }, []damage.Range{{From: files[1], To: files[2]}}},
		{"newest file gone", func(m vfs.FS) { remove(t, m, name(newest)) }, []damage.Range{{From: files[newest], To: 360}}},
		{"all gone", func(m vfs.FS) {
			for i := range files {
				remove(t, m, name(i))
			}
		}, []damage.Range{{From: 0, To: 360}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fsys := vfs.NewMem()
			batches, point := repairLog(t, fsys)
			tc.do(fsys)
			found, _ := inspectAll(t, fsys, point)
			var named []damage.Range
			for _, f := range found {
				if f.Severity == damage.Lost {
					named = append(named, f.Offsets)
				}
			}
			if fmt.Sprint(named) != fmt.Sprint(tc.lost) {
				t.Errorf("inspection names offsets %v, want %v\n%v", named, tc.lost, found)
			}
			dir := path.Join(testDir, "a-0")
			dry, err := RepairLog(fsys, dir, RepairOptions{Checkpoint: point, DryRun: true})
			if err != nil {
				t.Fatal(err)
			}
			res, err := RepairLog(fsys, dir, RepairOptions{Checkpoint: point})
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(res.Lost) != fmt.Sprint(tc.lost) || fmt.Sprintf("%+v", res) != fmt.Sprintf("%+v", dry) {
				t.Errorf("repair says that %v are lost, before it did %v; want %v", res.Lost, dry.Lost, tc.lost)
			}
			if err := WriteCheckpoint(fsys, testDir, map[string]Checkpoint{"a-0": res.State}, nil); err != nil {
				t.Fatal(err)
			}
			checkRepaired(t, fsys, batches, tc.lost)
			found, _ = inspectAll(t, fsys, res.State)
			for _, f := range found {
				if f.Severity == damage.Lost {
					t.Errorf("after the repair: %s", f)
				}
			}
		})
	}
}

// batchAt is the range of the batch at a position of the segment that begins at base.
func batchAt(batches []record.Batch, base, position int64) damage.Range {
	for _, b := range batches {
		if b.BaseOffset() < base {
			continue
		}
		if position < int64(len(b)) {
			return damage.Range{From: b.BaseOffset(), To: b.NextOffset()}
		}
		position -= int64(len(b))
	}
	return damage.Range{}
}

func remove(t *testing.T, fsys vfs.FS, name string) {
	t.Helper()
	if err := fsys.Remove(name); err != nil {
		t.Fatal(err)
	}
}

// checkRepaired opens the log and compares what it reads with what was written, less what was lost.
func checkRepaired(t *testing.T, fsys vfs.FS, batches []record.Batch, lost []damage.Range) {
	t.Helper()
	o, _ := testOptions(fsys)
	s := openStore(t, o)
	defer closeStore(t, s)
	l := openLog(t, s, "a-0", defaultConfig())
	gone := func(b record.Batch) bool {
		return slices.ContainsFunc(lost, func(r damage.Range) bool { return r.From <= b.BaseOffset() && b.NextOffset() <= r.To })
	}
	want := slices.DeleteFunc(slices.Clone(batches), gone)
	i := 0
	err := l.ReadAll(l.LogStart(), func(b record.Batch) error {
		if b.Count() == 0 {
			return nil
		}
		if i == len(want) || string(b) != string(want[i]) {
			return fmt.Errorf("batch of offsets %d to %d is not what was written", b.BaseOffset(), b.LastOffset())
		}
		i++
		return nil
	})
	if err != nil || i != len(want) {
		t.Errorf("read %d batches of %d: %v", i, len(want), err)
	}
	if end := batches[len(batches)-1].NextOffset(); l.End() != end {
		t.Errorf("the log ends at %d, want %d: offsets must not be given twice", l.End(), end)
	}
}

// TestRepairFromWAL: batches that the write-ahead log still has are put back.
func TestRepairFromWAL(t *testing.T) {
	fsys := vfs.NewMem()
	batches, point := repairLog(t, fsys)
	dir := path.Join(testDir, "a-0")
	damageFile(t, fsys, path.Join(dir, segmentName(0)+logSuffix), func(b []byte) []byte { b[500] ^= 1; b[1500] ^= 1; return b })
	res, err := RepairLog(fsys, dir, RepairOptions{Checkpoint: point, Batches: batches[1:10]})
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(res.Lost, res.Restored) != fmt.Sprint([]damage.Range{{From: 0, To: 3}}, []damage.Range{{From: 3, To: 6}}) {
		t.Fatalf("lost %v, restored %v", res.Lost, res.Restored)
	}
	checkRepaired(t, fsys, batches, res.Lost)
}

// TestRepairAppends: what only the write-ahead log has is written into the log, what lies between is lost and said to be.
func TestRepairAppends(t *testing.T) {
	fsys := vfs.NewMem()
	batches, point := repairLog(t, fsys)
	more := []record.Batch{makeBatch(t, 360, 2, 50, 5), makeBatch(t, 370, 4, 50, 5)}
	res, err := RepairLog(fsys, path.Join(testDir, "a-0"), RepairOptions{Checkpoint: point, Batches: append(slices.Clone(batches[100:]), more...), Append: true})
	if err != nil {
		t.Fatal(err)
	}
	lost := []damage.Range{{From: 362, To: 370}}
	if fmt.Sprint(res.Lost) != fmt.Sprint(lost) || res.State.RecoveryPoint != 374 {
		t.Fatalf("lost %v, recovery point %d", res.Lost, res.State.RecoveryPoint)
	}
	if err := WriteCheckpoint(fsys, testDir, map[string]Checkpoint{"a-0": res.State}, nil); err != nil {
		t.Fatal(err)
	}
	checkRepaired(t, fsys, append(batches, more...), lost)
}

// TestRepairAnything damages a log at random and repairs it: what is read after that was written, and what is missing was named.
func TestRepairAnything(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 4))
	clean := vfs.NewMem()
	batches, point := repairLog(t, clean)
	for round := range 60 {
		fsys := clean.CrashClone(rng, 1)
		lf, err := listLog(fsys, path.Join(testDir, "a-0"))
		if err != nil {
			t.Fatal(err)
		}
		base := lf.bases[rng.IntN(len(lf.bases))]
		damageFile(t, fsys, path.Join(testDir, "a-0", segmentName(base)+logSuffix), func(b []byte) []byte {
			at, n := rng.IntN(len(b)), 1+rng.IntN(3000)
			switch rng.IntN(4) {
			case 0:
				b[at] ^= 1 << rng.IntN(8)
			case 1:
				clear(b[at:min(at+n, len(b))])
			case 2:
				m := min(n, len(b)-at)
				from := rng.IntN(len(b) - m + 1)
				copy(b[at:at+m], slices.Clone(b[from:from+m]))
			case 3:
				return b[:at]
			}
			return b
		})
		res, err := RepairLog(fsys, path.Join(testDir, "a-0"), RepairOptions{Checkpoint: point})
		if err != nil {
			t.Fatal(err)
		}
		if err := WriteCheckpoint(fsys, testDir, map[string]Checkpoint{"a-0": res.State}, nil); err != nil {
			t.Fatal(err)
		}
		if epochsDiffer(t, fsys, batches) {
			continue // the store knows what it should be only from the metadata
		}
		checkRepaired(t, fsys, batches, res.Lost)
		if t.Failed() {
			t.Fatalf("seed %d, round %d, segment %d, lost %v", seed, round, base, res.Lost)
		}
	}
}

// epochsDiffer: nothing but leader epochs was changed in some batch. Without the metadata that cannot be told.
func epochsDiffer(t *testing.T, fsys vfs.FS, batches []record.Batch) (differ bool) {
	t.Helper()
	written := map[int64]record.Batch{}
	for _, b := range batches {
		written[b.BaseOffset()] = b
	}
	_, err := InspectLog(fsys, path.Join(testDir, "a-0"), InspectOptions{OnStretch: func(_ string, st Stretch) error {
		if b := written[st.From]; st.Batch != nil && b != nil && st.Batch.LeaderEpoch() != b.LeaderEpoch() {
			differ = true
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return differ
}
