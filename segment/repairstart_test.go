package segment

import (
	"bytes"
	"fmt"
	"testing"

	"weir/internal/damage"
	"weir/internal/record"
	"weir/internal/vfs"
)

// TestRepairBelowStart: a log whose files end below its log start, because it was begun anew or because they never had the rest, begins with what the
// write-ahead log has there. No file is left whose end is not where the next begins.
func TestRepairBelowStart(t *testing.T) {
	for _, c := range []struct {
		name     string
		point    Checkpoint // with the recovery point that the files have, where that is -1
		cut      *RepairCut
		batches  []int64 // where they begin, and the end of the last
		followed int
		start    int64 // of the log then
		want     string
		lost     string
	}{
		{"begun anew", Checkpoint{LogStart: 134, Cut: 7, Resetting: 1}, nil, nil, 0, 134, "134-134", "[]"},
		{"begun anew after a truncation", Checkpoint{LogStart: 134, Cut: 7, Resetting: 1}, &RepairCut{Offset: 9}, []int64{9, 12}, 0, 134, "134-134", "[]"},
		{"truncated, the start has risen", Checkpoint{LogStart: 12}, &RepairCut{Offset: 9}, []int64{9, 11, 13, 16}, 0, 11, "11-16", "[]"},
		{"truncated at the start", Checkpoint{LogStart: 9}, &RepairCut{Offset: 9}, []int64{9, 11}, 0, 9, "9-11", "[]"},
		{"not flushed up to the start", Checkpoint{RecoveryPoint: -1, LogStart: 20}, nil, []int64{14, 18, 22, 24}, 0, 18, "18-24", "[]"},
		{"not flushed, and lost", Checkpoint{RecoveryPoint: -1, LogStart: 20}, nil, []int64{22, 24}, 0, 20, "20-24", "[20 to 21]"},
		{"truncated since, in the files", Checkpoint{RecoveryPoint: -1, Cut: 2000}, nil, []int64{12, 16}, 1, 0, "0-14", "[]"},
		{"truncated since, at the end", Checkpoint{RecoveryPoint: -1, Cut: 2000}, nil, []int64{14, 16}, 1, 0, "0-14", "[]"},
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
			if c.point.RecoveryPoint < 0 {
				c.point.RecoveryPoint = 14
			}
			want := []byte{}
			if c.start == 0 {
				want = append(want, w.want...)
			}
			ro := RepairOptions{Checkpoint: c.point, Append: true, Cut: c.cut, Followed: c.followed, DryRun: true}
			for i := 1; i < len(c.batches); i++ {
				b := makeBatch(t, c.batches[i-1], int(c.batches[i]-c.batches[i-1]), 30, 9)
				if ro.Batches = append(ro.Batches, b); c.followed == 0 && b.BaseOffset() >= c.start {
					want = append(want, b...)
				}
			}
			plan, err := RepairLog(mem, testDir+"/t-0", ro)
			if err != nil {
				t.Fatal(err)
			}
			ro.DryRun = false
			res, err := RepairLog(mem, testDir+"/t-0", ro)
			if err != nil || fmt.Sprint(res.Lost) != c.lost || fmt.Sprint(res) != fmt.Sprint(plan) {
				t.Fatalf("%+v, %v; want %s lost, and what the dry run said: %+v", res, err, c.lost, plan)
			}
			_, err = InspectLog(mem, testDir+"/t-0", InspectOptions{Checkpoint: res.State, Finding: func(f damage.Finding) {
				if f.Severity == damage.Lost {
					t.Errorf("after the repair: %v", f)
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			if err := WriteCheckpoint(mem, testDir, map[string]Checkpoint{"t-0": res.State}, nil); err != nil {
				t.Fatal(err)
			}
			s = openStore(t, o)
			l := openLog(t, s, "t-0", cfg)
			if got := fmt.Sprintf("%d-%d", min(l.LogStart(), c.start), l.End()); got != c.want {
				t.Fatalf("offsets %s (start %d), want %s", got, l.LogStart(), c.want)
			}
			var got []byte
			if l.End() > c.start {
				got = withoutFillers(t, readAll(t, l, l.LogStart(), l.End(), 3000))
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes, want %d", len(got), len(want))
			}
		})
	}
}

func withoutFillers(t *testing.T, data []byte) (out []byte) {
	for len(data) > 0 {
		b, rest, err := record.Next(data)
		if err != nil {
			t.Fatal(err)
		}
		if data = rest; b.Count() > 0 {
			out = append(out, b...)
		}
	}
	return out
}

// TestRepairGapEpoch: the offsets that a leader's log does not have are of the epoch of the batch behind them.
func TestRepairGapEpoch(t *testing.T) {
	mem := vfs.NewMem()
	first, behind := makeBatch(t, 0, 5, 30, 9), makeBatch(t, 9, 2, 30, 9)
	first.SetLeaderEpoch(4)
	behind.SetLeaderEpoch(5)
	res, err := RepairLog(mem, testDir+"/t-0", RepairOptions{Batches: []record.Batch{first, behind}, Append: true, Gaps: map[int64]int64{9: 5}})
	if err != nil || len(res.Lost) > 0 {
		t.Fatalf("lost %v, %v", res.Lost, err)
	}
	got := ""
	_, err = InspectLog(mem, testDir+"/t-0", InspectOptions{Checkpoint: res.State, OnStretch: func(_ string, st Stretch) error {
		got += fmt.Sprintf("%d-%d of %d; ", st.From, st.To, st.Batch.LeaderEpoch())
		return nil
	}})
	if want := "0-5 of 4; 5-9 of 5; 9-11 of 5; "; err != nil || got != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
}
