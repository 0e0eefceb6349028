package segment

import (
	"bytes"
	"testing"

	"weir/internal/record"
	"weir/internal/vfs"
)

// TestRepairCut: where the write-ahead log is given up, a repair does to the files what its truncations say, and adds what came behind them.
func TestRepairCut(t *testing.T) {
	for _, c := range []struct {
		name string
		cut  RepairCut
		from int // batches that stay in front
	}{
		{"truncated", RepairCut{Offset: 9}, 9},
		{"where a file begins", RepairCut{Offset: 4}, 4},
		{"reset", RepairCut{Offset: 100, Reset: true}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := vfs.NewMem()
			o, _ := testOptions(mem)
			s := openStore(t, o)
			cfg := defaultConfig()
			cfg.SegmentBytes = 2000
			w := newWriter(t, openLog(t, s, "t-0", cfg))
			for range 14 {
				w.add(1, 400, 0)
			}
			flushAll(t, s)
			closeStore(t, s)
			points, err := InspectCheckpoint(mem, testDir)
			if err != nil {
				t.Fatal(err)
			}
			want := w.want[:0:0]
			if c.from > 0 {
				want = w.want[:w.ends[c.from-1]:w.ends[c.from-1]]
			}
			behind := []record.Batch{makeBatch(t, c.cut.Offset, 2, 30, 9), makeBatch(t, c.cut.Offset+2, 1, 60, 9)}
			for _, b := range behind {
				want = append(want, b...)
			}
			res, err := RepairLog(mem, testDir+"/t-0", RepairOptions{Checkpoint: points["t-0"], Batches: behind, Append: true, Cut: &c.cut})
			if err != nil || len(res.Lost) > 0 {
				t.Fatalf("lost %v, %v", res.Lost, err)
			}
			if err := WriteCheckpoint(mem, testDir, map[string]Checkpoint{"t-0": res.State}, nil); err != nil {
				t.Fatal(err)
			}
			s = openStore(t, o)
			l := openLog(t, s, "t-0", cfg)
			if end := c.cut.Offset + 3; l.End() != end {
				t.Fatalf("ends at offset %d, want %d", l.End(), end)
			}
			if got := readAll(t, l, l.LogStart(), l.End(), 3000); !bytes.Equal(got, want) {
				t.Error("bytes differ")
			}
		})
	}
}
