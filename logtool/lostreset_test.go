package logtool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"testing"

	"weir/internal/damage"
	"weir/internal/record"
	"weir/internal/vfs"
	"weir/replica"
	"weir/segment"
	"weir/wal"
)

// script is what a WAL has of one partition, in order.
type script []step

type step struct {
	op     replica.WALOp
	offset int64
	next   int64 // of a batch
	damage bool
}

func (sc script) batch(base, next int64) script { return append(sc, step{offset: base, next: next}) }
func (sc script) truncate(at int64) script {
	return append(sc, step{op: replica.WALTruncate, offset: at})
}
func (sc script) reset(at int64) script { return append(sc, step{op: replica.WALReset, offset: at}) }
func (sc script) damaged() script       { return append(sc, step{damage: true}) }

// survey reads it as writeAhead does.
func (sc script) survey(t *testing.T, disk vfs.FS, point segment.Checkpoint) (*survey, *partition) {
	t.Helper()
	s := &survey{o: &Options{FS: disk, Dir: dataDir}, logs: map[string]*partition{}, byID: map[partitionID]*partition{}}
	p := s.add(replica.DirName("x", 0, followedID), partitionID{followedID, 0})
	s.points = map[string]segment.Checkpoint{p.dir: point}
	for i, st := range sc {
		it := wal.Item{LSN: wal.LSN(1000 + i), File: "wal", Offset: int64(i), Bytes: 100}
		it.Head = binary.BigEndian.AppendUint32(append(it.Head, followedID[:]...), 0)
		if st.op != replica.WALBatch {
			it.Head = binary.BigEndian.AppendUint64(append(it.Head, byte(st.op)), uint64(st.offset))
		}
		switch {
		case st.damage:
			it.Head = nil
			s.damaged(it)
			s.walDamaged = true
			continue
		case st.op == replica.WALBatch:
			recs := make([]record.Record, st.next-st.offset)
			spec := record.NewSpec()
			spec.BaseOffset = st.offset
			b, err := record.Build(spec, recs)
			must(t, err)
			it.Body = b
		}
		s.entry(it)
	}
	s.settle()
	return s, p
}

// TestLostReset: a checkpoint says that the files of a log which begins anew at offset 100 are being deleted, and the WAL's record of that is damaged. What
// lies before the damage is not brought back, what lies behind it is kept, and what may be either is said to be.
func TestLostReset(t *testing.T) {
	was := script{}.truncate(73).batch(73, 80)
	for _, c := range []struct {
		name    string
		wal     script
		file    int64 // base of the first segment
		point   segment.Checkpoint
		cut     string
		entries string
		doubt   string
	}{
		{"nothing behind it", was.damaged(), 0, segment.Checkpoint{LogStart: 100, Resetting: 1}, "&{100 true}", "", "[]"},
		{"what it had follows", was.damaged().batch(102, 105), 0, segment.Checkpoint{LogStart: 100, Resetting: 1}, "&{100 true}", "102-105 ", "[]"},
		{"to an offset the log had", was.batch(80, 110).damaged().batch(110, 112), 0, segment.Checkpoint{LogStart: 100, Resetting: 1}, "&{100 true}", "110-112 ", "[]"},
		{"between two places", was.damaged().batch(95, 99).batch(99, 110).damaged().batch(112, 115), 0, segment.Checkpoint{LogStart: 100, Resetting: 1}, "&{100 true}",
			"99-110 112-115 ", "[100 to 109]"},
		{"an older one is there", script{}.reset(50).batch(50, 60).damaged(), 0, segment.Checkpoint{LogStart: 100, Resetting: 1}, "&{100 true}", "", "[]"},
		{"a newer one is there", was.damaged().reset(50).batch(50, 60), 0, segment.Checkpoint{LogStart: 100, Resetting: 1}, "&{50 true}", "50-60 ", "[]"},
		{"another between two places", was.damaged().reset(50).batch(50, 60).damaged(), 0, segment.Checkpoint{LogStart: 100, Resetting: 1}, "&{50 true}", "50-60 ", "[50 to 59]"},
		{"it is there", was.reset(100).batch(100, 104).damaged(), 0, segment.Checkpoint{LogStart: 100, Resetting: 1}, "&{100 true}", "100-104 ", "[]"},
		{"the files begin there", was.damaged().batch(104, 105), 100, segment.Checkpoint{LogStart: 100, Resetting: 1}, "<nil>", "104-105 ", "[]"},
		{"the start has risen", was.batch(80, 110), 0, segment.Checkpoint{LogStart: 100}, "&{100 true}", "80-110 ", "[]"},
		{"no damage", was, 0, segment.Checkpoint{LogStart: 10}, "&{73 false}", "73-80 ", "[]"},
		{"no reset", was.damaged(), 0, segment.Checkpoint{LogStart: 10}, "&{73 false}", "73-80 ", "[]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := vfs.NewMem()
			dir := path.Join(dataDir, "topics", replica.DirName("x", 0, followedID))
			must(t, disk.MkdirAll(dir))
			f, err := disk.OpenFile(path.Join(dir, fmt.Sprintf("%020d.log", c.file)), vfs.Create)
			must(t, errors.Join(err, f.Close()))
			_, p := c.wal.survey(t, disk, c.point)
			entries := ""
			for _, e := range p.entries {
				entries += fmt.Sprintf("%d-%d ", e.base, e.next)
			}
			if cut := fmt.Sprint(p.cut); cut != c.cut || entries != c.entries || fmt.Sprint(p.doubtful) != c.doubt || p.unsure != (c.cut == "<nil>") {
				t.Errorf("cut %v, entries %s, doubtful %v, unsure %v; want %s, %s, %s", cut, entries, p.doubtful, p.unsure, c.cut, c.entries, c.doubt)
			}
		})
	}
}

// TestRestoredMayBeCut: what the WAL has and the files have followed is of use where they are damaged, but it may have been truncated since.
func TestRestoredMayBeCut(t *testing.T) {
	point := segment.Checkpoint{RecoveryPoint: 14, Cut: 1001}
	for _, c := range []struct {
		wal  script
		want string
	}{
		{script{}.batch(10, 12).damaged().batch(12, 14), "true false"},
		{script{}.damaged().batch(10, 12).batch(12, 14), "false false"},
		{script{}.batch(10, 12).batch(12, 14), "false false"},
	} {
		s, p := c.wal.survey(t, vfs.NewMem(), point)
		r := &repairer{survey: s, rep: &RepairReport{}}
		if got := fmt.Sprint(r.maybeCut(p, damage.Range{From: 10, To: 11}), r.maybeCut(p, damage.Range{From: 12, To: 14})); got != c.want {
			t.Errorf("%v: %s, want %s", c.wal, got, c.want)
		}
	}
}

// TestWALGivenUp: its LSNs begin anew, so no recovery point may name an old one, not even of a log that is not repaired.
func TestWALGivenUp(t *testing.T) {
	s, _ := script{}.damaged().survey(t, vfs.NewMem(), segment.Checkpoint{LogStart: 5, Cut: 7})
	r := &repairer{survey: s, rep: &RepairReport{}, o: RepairOptions{DryRun: true}}
	must(t, r.logs())
	if len(r.rep.Changed) > 0 {
		t.Errorf("without giving it up: %v", r.rep.Changed)
	}
	r.skip = true
	must(t, r.logs())
	for dir, c := range s.points {
		if c.Cut != 0 || c.LogStart != 5 || len(r.rep.Changed) == 0 {
			t.Errorf("%s: %+v, changed %v", dir, c, r.rep.Changed)
		}
	}
}
