package segment

import (
	"context"
	"testing"

	"weir/internal/record"
	"weir/internal/vfs"
)

// TestCutCompactedThenRestart: a follower whose log is cut where, or inside where, it has been compacted, and that is restarted.
func TestCutCompactedThenRestart(t *testing.T) {
	for _, c := range []struct {
		name      string
		at        int64
		noIndexes bool // the power went before the unsynced index files were on the disk
	}{
		{"behind it", 7, false},
		{"inside", 6, false},
		{"inside, index lost", 6, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := vfs.NewMem()
			o, _ := testOptions(mem)
			s := openStore(t, o)
			cfg := compactConfig()
			l := openLog(t, s, "t-0", cfg)
			w := newWriter(t, l)
			w.put(1, "a=1") // 0
			w.put(2, "b=1") // 1
			w.put(3, "b=2") // 2
			w.put(4, "b=3") // 3
			w.put(5, "b=4") // 4
			w.put(6, "c=1") // 5
			w.put(7, "d=1") // 6
			w.seal()
			mustCompact(t, l, compactOptions(l, compactNow))
			w.put(8, "a=7") // 7: not committed, another leader does not have it
			flushAll(t, s)
			cutTo(t, l, c.at, false, w.lsn+1)
			flushAll(t, s)
			waitIdle(t, s)
			want := shown(records(t, l))
			t.Logf("before: %s end %d segs %d", want, l.End(), l.Segments())
			closeStore(t, s)
			if c.noIndexes {
				list, _ := mem.List(o.Dir + "/t-0")
				for _, e := range list {
					if n := e.Name(); len(n) > 5 && n[len(n)-4:] != ".log" && n != cleanerFile {
						t.Log("remove", n)
						mem.Remove(o.Dir + "/t-0/" + n)
					}
				}
			}
			s, err := NewStore(o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close(context.Background())
			points, err := s.LoadCheckpoint()
			if err != nil {
				t.Fatal(err)
			}
			p := points["t-0"]
			l, err = s.Open("t-0", always(cfg), p.RecoveryPoint, p.LogStart)
			if err != nil {
				t.Fatalf("the start is refused: %v", err)
			}
			var got []rec
			if err := l.ReadAll(0, func(b record.Batch) error {
				return b.Each(func(r *record.Record) bool {
					got = append(got, rec{offset: r.Offset, key: string(r.Key), value: string(r.Value)})
					return true
				})
			}); err != nil {
				t.Errorf("after the restart: have %s, then: %v", shown(got), err)
			} else if shown(got) != want {
				t.Errorf("after the restart: %s, want %s", shown(got), want)
			}
			r, err := l.Read(0, l.End(), 1<<20, true)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("read: %d bytes, next %d, end %d", r.Size(), r.NextOffset(), l.End())
			next := r.NextOffset()
			r.Release()
			if next < l.End() {
				if r, err := l.Read(next, l.End(), 1<<20, true); err != nil {
					t.Errorf("read at %d: %v", next, err)
				} else {
					r.Release()
				}
			}
		})
	}
}
