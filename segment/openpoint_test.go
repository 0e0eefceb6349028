package segment

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"

	"weir/internal/vfs"
)

// TestOpenTrustsTheCheckpoint: a log is opened without reading what lies below its recovery point, and everything is there all the same:
// records, timestamps, what is appended later.
func TestOpenTrustsTheCheckpoint(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	for i := range 400 {
		w.add(1, 1000, int64(100+i))
	}
	flushAll(t, s)
	crashed := fs.CrashClone(rand.New(rand.NewPCG(1, 1)), 0) // as after a kill: no index of the active segment was saved
	var read int
	crashed.SetHook(func(op, name string, _ int64, n int) error {
		if op == "read" && strings.HasSuffix(name, logSuffix) {
			read += n
		}
		return nil
	})
	o, _ = testOptions(crashed)
	again := openStore(t, o)
	l := openLog(t, again, "t-0", defaultConfig())
	crashed.SetHook(nil)
	if read != 0 {
		t.Errorf("%d bytes of the log were read to open it", read)
	}
	if l.End() != 400 || l.Size() != int64(len(w.want)) {
		t.Fatalf("end %d, %d bytes; want 400, %d", l.End(), l.Size(), len(w.want))
	}
	w2 := &writer{t: t, l: l, lsn: w.lsn, want: bytes.Clone(w.want)}
	w2.add(1, 1000, 50)
	for range 2 {
		if got := readAll(t, l, 0, l.End(), 64<<10); !bytes.Equal(got, w2.want) {
			t.Fatal("the log differs")
		}
		if got := readAll(t, l, 217, l.End(), 1000); !bytes.HasSuffix(w2.want, got) || len(got) == 0 {
			t.Error("reading from the middle differs")
		}
		if offset, ts, ok, err := l.FindByTimestamp(300); offset != 200 || ts != 300 || !ok || err != nil {
			t.Errorf("timestamp 300 is at offset %d (%d, %v, %v), want 200", offset, ts, ok, err)
		}
		if offset, ts, ok, err := l.MaxTimestamp(); offset != 399 || ts != 499 || !ok || err != nil {
			t.Errorf("greatest timestamp is %d at offset %d (%v, %v), want 499 at 399", ts, offset, ok, err)
		}
		flushAll(t, again)
	}
}

// TestOpenWithoutTrust: where the file is not what the checkpoint describes, the log is walked, and damage is found.
func TestOpenWithoutTrust(t *testing.T) {
	sum := summary{bytes: 1000, next: 10}
	good := ActivePoint{Base: 0, Position: 200_000, FirstTime: 1, MaxTime: 2, MaxTimeAt: 5}
	for name, c := range map[string]struct {
		change func(*ActivePoint)
		size   int64
		want   bool
	}{
		"as it was":              {func(*ActivePoint) {}, 200_000, true},
		"grown":                  {func(*ActivePoint) {}, 300_000, true},
		"file is shorter":        {func(*ActivePoint) {}, 199_999, false},
		"another segment":        {func(a *ActivePoint) { a.Base = 7 }, 200_000, false},
		"nothing known":          {func(a *ActivePoint) { *a = ActivePoint{} }, 200_000, false},
		"not worth it":           {func(a *ActivePoint) { a.Position = 1000 + openWalkMax }, 200_000, false},
		"less than the index":    {func(a *ActivePoint) { a.Position = 900 }, 200_000, false},
		"its greatest timestamp": {func(a *ActivePoint) { a.MaxTimeAt = -1 }, 200_000, false},
	} {
		a := good
		c.change(&a)
		got, ok := a.skip(&segment{base: 0}, c.size, 100, sum)
		if ok != c.want {
			t.Errorf("%s: trusted %v, want %v", name, ok, c.want)
		}
		if ok && (got.bytes != a.Position || got.next != 100) || !ok && got != sum {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, ok := good.skip(&segment{base: 0}, 200_000, 10, sum); ok {
		t.Error("a recovery point that the index covers is trusted")
	}
}

// TestCheckpointOfVersion1 is still read.
func TestCheckpointOfVersion1(t *testing.T) {
	text := "weir-recovery-points 1\n1\n7 3 \"a-0\"\n"
	m, err := decodeCheckpoint(fmt.Appendf([]byte(text), "crc32c %08x\n", crc32.Checksum([]byte(text), castagnoli)))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := m["a-0"], (Checkpoint{RecoveryPoint: 7, LogStart: 3}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
