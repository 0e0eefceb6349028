package segment

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path"
	"testing"

	"weir/internal/record"
	"weir/internal/vfs"
)

// readFS and writeFS work on a file behind the store's back.
func readFS(t testing.TB, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.OpenFile(name, vfs.ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if n, _ := f.ReadAt(b, 0); int64(n) != size {
		t.Fatalf("read %d of %d bytes of %s", n, size, name)
	}
	return b
}

func writeFS(t testing.TB, fs vfs.FS, name string, data []byte) {
	t.Helper()
	f, err := fs.OpenFile(name, vfs.Create|vfs.Truncate)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if len(data) > 0 {
		if _, err := f.WriteAt(data, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := fs.SyncDir(path.Dir(name)); err != nil {
		t.Fatal(err)
	}
}

func segFile(dir string, base int64, suffix string) string {
	return path.Join(testDir, dir, segmentName(base)+suffix)
}

func TestReopen(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	c := defaultConfig()
	c.SegmentBytes = 30_000
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", c))
	for range 50 {
		w.add(2, 1000, 5)
	}
	if err := w.l.AdvanceLogStart(3); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)

	s = openStore(t, o)
	l := openLog(t, s, "t-0", c)
	if l.LogStart() != 3 || l.End() != 100 || l.Flushed() != 100 || l.Segments() < 3 {
		t.Fatalf("start %d end %d flushed %d segments %d", l.LogStart(), l.End(), l.Flushed(), l.Segments())
	}
	if got := readAll(t, l, 3, 100, 8000); !bytes.Equal(got, w.want[w.ends[0]:]) {
		t.Fatal("bytes differ after reopening")
	}
	w2 := &writer{t: t, l: l, lsn: w.lsn, want: w.want[w.ends[0]:]}
	for range 10 {
		w2.add(2, 1000, 5)
	}
	flushAll(t, s)
	if got := readAll(t, l, 3, 120, 1<<20); !bytes.Equal(got, w2.want) {
		t.Fatal("bytes differ after appending to a reopened log")
	}
}

// TestTornTail cuts the last file at each byte of the last batch, and damages each of its bytes.
func TestTornTail(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	for range 3 {
		w.add(2, 40, 5)
	}
	closeStore(t, s)
	name := segFile("t-0", 0, logSuffix)
	good := readFS(t, fs, name)
	last := makeBatch(t, 6, 2, 40, 5)
	open := func(content []byte, recoveryPoint int64) (*Store, *Log, error) {
		writeFS(t, fs, name, content)
		s, err := NewStore(o)
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Open("t-0", always(defaultConfig()), recoveryPoint, 0)
		return s, l, err
	}
	for n := range len(last) {
		damaged := append([]byte(nil), last...)
		damaged[n] ^= 0x40
		for kind, tail := range map[string][]byte{"torn": last[:n], "damaged": damaged} {
			if kind == "damaged" && n >= 12 && n < 16 {
				continue // the leader epoch is not covered by any checksum
			}
			s, l, err := open(append(good[:len(good):len(good)], tail...), 6)
			if err != nil {
				t.Fatalf("%s at byte %d: %v", kind, n, err)
			}
			if l.End() != 6 || l.Size() != int64(len(good)) {
				t.Fatalf("%s at byte %d: end %d size %d, want 6 and %d", kind, n, l.End(), l.Size(), len(good))
			}
			// The WAL brings it back, skipping what is there.
			for _, b := range []record.Batch{makeBatch(t, 4, 2, 40, 5), last} {
				if err := l.Recovered(b, 77); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(l.Replayed(), l.Recovered(makeBatch(t, 9, 1, 1, 1), 78)); err != nil {
				t.Fatal(err)
			}
			if err := l.Replayed(); !errors.Is(err, ErrGap) {
				t.Fatalf("gap: %v", err)
			}
			closeStore(t, s)
			if got := readFS(t, fs, name); !bytes.Equal(got, append(good[:len(good):len(good)], last...)) {
				t.Fatalf("%s at byte %d: file differs after recovery", kind, n)
			}
			// The same below the recovery point is never cut. (Payload damage there is found by who reads it.)
			s, _, err = open(append(good[:len(good):len(good)], tail...), 8)
			var ce *CorruptError
			if header := kind == "torn" || n < 20 && n != 8 && n != 9 && n != 10 && n != 11; header && n != 17 && n != 18 && n != 19 {
				if !errors.As(err, &ce) || ce.Position != int64(len(good)) || ce.Offset != 6 || ce.File != name {
					t.Fatalf("%s at byte %d below the recovery point: %v", kind, n, err)
				}
			}
			closeStore(t, s)
			if got := readFS(t, fs, name); !bytes.Equal(got, append(good[:len(good):len(good)], tail...)) {
				t.Fatalf("%s at byte %d: file below the recovery point was changed", kind, n)
			}
		}
	}
}

func TestMissingFilesAreCorruption(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	s := openStore(t, o)
	if _, err := s.Open("gone-0", always(defaultConfig()), 10, 5); !errors.Is(err, ErrCorrupt) {
		t.Errorf("missing directory below the recovery point: %v", err)
	}
	c := defaultConfig()
	c.SegmentBytes = 1000
	w := newWriter(t, openLog(t, s, "t-0", c))
	for range 9 {
		w.add(1, 400, 5)
	}
	closeStore(t, s)
	if err := fs.Remove(segFile("t-0", 2, logSuffix)); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, o)
	l := openLog(t, s, "t-0", c)
	if _, err := l.Read(1, 100, 100, true); err == nil {
		// offsets 0 and 1 are in the first segment, which no longer joins the next
		r, err := l.Read(2, 100, 100, true)
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("reading where a segment is missing: %v, %+v", err, r)
		}
	}
}

func TestRecoveredBeginsInsideFirstBatch(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	l, err := s.Open("t-0", always(defaultConfig()), 0, 5)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 3, 6} { // 0..2 is deleted, 3..5 holds the start, 6..8 is above
		if err := l.Recovered(makeBatch(t, at, 3, 10, 0), uint64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if l.LogStart() != 5 || l.End() != 9 {
		t.Fatalf("start %d end %d, want 5 and 9", l.LogStart(), l.End())
	}
	flushAll(t, s)
	r, err := l.Read(5, 9, 1<<20, true)
	if err != nil {
		t.Fatal(err)
	}
	if r.FirstOffset() != 3 || r.NextOffset() != 9 {
		t.Errorf("read %d to %d", r.FirstOffset(), r.NextOffset())
	}
	r.Release()
}

// TestCrash loses power at random places while logs are written, and checks that files and WAL together have all that was committed.
func TestCrash(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 3))
		crashOnce(t, seed, rng)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

type walEntry struct {
	lsn   uint64
	batch record.Batch
}

// crashOnce crashes and recovers one log several times. Log starts may fall back to an earlier one, as the next checkpoint carries
// them, but never further than what was once reported durable.
func crashOnce(t *testing.T, seed uint64, rng *rand.Rand) {
	fs := vfs.NewMem()
	c := defaultConfig()
	c.SegmentBytes, c.IndexIntervalBytes = 3000, 512
	var wal []walEntry
	var all []record.Batch
	lsn, asked := uint64(1), int64(0)
	for range 4 {
		o, ev := testOptions(fs)
		o.FlushBytes = 700
		s := openStore(t, o)
		l := openLog(t, s, "t-0", c)
		for _, e := range wal {
			if err := l.Recovered(e.batch, e.lsn); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		checkRecovered(t, seed, l, all, asked)
		w := &writer{t: t, l: l, lsn: lsn}
		for range rng.IntN(40) {
			b := w.add(1+rng.IntN(3), rng.IntN(300), 9)
			all = append(all, b)
			wal = append(wal, walEntry{w.lsn, b})
			switch rng.IntN(10) {
			case 0:
				s.FlushBelow(w.lsn)
			case 1:
				asked = max(asked, rng.Int64N(l.Flushed()+1))
				if err := l.AdvanceLogStart(asked); err != nil {
					t.Fatal(err)
				}
			}
		}
		lsn = w.lsn
		fs, wal = powerLoss(rng, fs, ev, wal)
		closeStore(t, s)
	}
}

// powerLoss is the disk and the WAL after a crash now: what the WAL was told it may release is gone.
func powerLoss(rng *rand.Rand, fs *vfs.MemFS, ev *events, wal []walEntry) (*vfs.MemFS, []walEntry) {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	crashed := fs.CrashClone(rng, rng.Float64())
	if n := len(ev.flushed); n > 0 {
		for len(wal) > 0 && wal[0].lsn < ev.flushed[n-1] {
			wal = wal[1:]
		}
	}
	return crashed, wal
}

func checkRecovered(t *testing.T, seed uint64, l *Log, all []record.Batch, asked int64) {
	t.Helper()
	start := l.LogStart()
	if start > asked {
		t.Fatalf("seed %d: log start %d, only %d was asked for", seed, start, asked)
	}
	var want []byte
	for _, b := range all {
		if b.NextOffset() > start {
			want = append(want, b...)
		}
	}
	if got := readAll(t, l, start, l.End(), 1<<20); !bytes.Equal(got, want) {
		t.Fatalf("seed %d: %d bytes from offset %d to %d after recovery, want %d", seed, len(got), start, l.End(), len(want))
	}
	next := start
	if err := l.ReadAll(start, func(b record.Batch) error { next = b.NextOffset(); return nil }); err != nil || next != l.End() {
		t.Fatalf("seed %d: ReadAll ended at %d of %d: %v", seed, next, l.End(), err)
	}
}

func TestOpenRefusesNames(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	for _, dir := range []string{"", ".", "..", "a/b", "x.deleted", checkpointFile, "a\x00"} {
		if _, err := s.Open(dir, always(defaultConfig()), 0, 0); err == nil {
			t.Errorf("Open(%q) succeeded", dir)
		}
	}
	l := openLog(t, s, "t-0", defaultConfig())
	if _, err := s.Open("t-0", always(defaultConfig()), 0, 0); err == nil {
		t.Error("opened twice")
	}
	s.Remove(l)
}
