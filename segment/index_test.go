package segment

import (
	"bytes"
	"errors"
	"testing"

	"weir/internal/record"
	"weir/internal/vfs"
)

// TestIndexDamage: whatever happens to index files, reads and timestamps stay right and the files come back.
func TestIndexDamage(t *testing.T) {
	spoil := map[string]func([]byte) []byte{
		"truncated": func(b []byte) []byte { return b[:len(b)/2] },
		"empty":     func([]byte) []byte { return nil },
		"flipped":   func(b []byte) []byte { b[3] ^= 1; return b },
		"footer":    func(b []byte) []byte { b[len(b)-20] ^= 1; return b },
		"grown":     func(b []byte) []byte { return append(b, 0) },
		"missing":   nil,
		"other": func([]byte) []byte { // valid, but for other content
			return encodeIndex(offsetIndex, 0, nil, summary{bytes: 10, next: 1})
		},
	}
	for name, change := range spoil {
		for _, suffix := range []string{".index", ".timeindex"} {
			t.Run(name+suffix, func(t *testing.T) {
				fs := vfs.NewMem()
				o, _ := testOptions(fs)
				c := defaultConfig()
				c.SegmentBytes, c.IndexIntervalBytes = 20_000, 512
				s := openStore(t, o)
				w := newWriter(t, openLog(t, s, "t-0", c))
				for i := range 100 {
					w.add(1, 500, int64(1000+i))
				}
				closeStore(t, s)
				file := segFile("t-0", 0, suffix)
				good := readFS(t, fs, file)
				if change == nil {
					if err := fs.Remove(file); err != nil {
						t.Fatal(err)
					}
				} else {
					writeFS(t, fs, file, change(append([]byte(nil), good...)))
				}
				s = openStore(t, o)
				l := openLog(t, s, "t-0", c)
				if got := readAll(t, l, 0, l.End(), 3000); !bytes.Equal(got, w.want) {
					t.Fatal("bytes differ")
				}
				if off, ts, ok, err := l.FindByTimestamp(1010); off != 10 || ts != 1010 || !ok || err != nil {
					t.Fatalf("FindByTimestamp: %d %d %v %v", off, ts, ok, err)
				}
				if got := readFS(t, fs, file); !bytes.Equal(got, good) {
					t.Fatal("the rebuilt index file differs from the original")
				}
			})
		}
	}
}

func TestIndexEviction(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	o.IndexBytesMax, o.OpenFilesMax = 400, 2
	c := defaultConfig()
	c.SegmentBytes, c.IndexIntervalBytes = 5_000, 512
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", c))
	for i := range 100 {
		w.add(1, 500, int64(i))
	}
	flushAll(t, s)
	for range 3 {
		if got := readAll(t, w.l, 0, w.l.End(), 900); !bytes.Equal(got, w.want) {
			t.Fatal("bytes differ")
		}
	}
	s.indexes.mu.Lock()
	cost := s.indexes.mu.lru.cost
	s.indexes.mu.Unlock()
	if cost > 800 {
		t.Errorf("indexes of sealed segments hold %d bytes", cost)
	}
	s.handles.mu.Lock()
	n := s.handles.mu.lru.n
	s.handles.mu.Unlock()
	if n > 2 {
		t.Errorf("%d files open, want at most 2", n)
	}
}

// TestSealedDamage: damage in the middle of old data is told with its place, and what precedes it stays readable.
func TestSealedDamage(t *testing.T) {
	for _, dropIndex := range []bool{false, true} {
		fs := vfs.NewMem()
		o, _ := testOptions(fs)
		c := defaultConfig()
		c.SegmentBytes, c.IndexIntervalBytes = 10_000, 512
		s := openStore(t, o)
		w := newWriter(t, openLog(t, s, "t-0", c))
		for range 50 {
			w.add(1, 500, 0)
		}
		closeStore(t, s)
		file := segFile("t-0", 0, logSuffix)
		data := readFS(t, fs, file)
		at := w.ends[7] // where the batch of offset 8 begins
		data[at+16] = 9 // magic
		writeFS(t, fs, file, data)
		if dropIndex {
			if err := fs.Remove(segFile("t-0", 0, ".index")); err != nil {
				t.Fatal(err)
			}
		}
		s = openStore(t, o)
		l := openLog(t, s, "t-0", c)
		seen := int64(0)
		err := l.Scan(0, func(h record.Batch) error { seen = h.NextOffset(); return nil })
		var ce *CorruptError
		if !errors.As(err, &ce) || ce.File != file || ce.Position != at || ce.Offset != 8 || seen != 8 {
			t.Fatalf("Scan saw up to %d: %v", seen, err)
		}
		if got := readAll(t, l, 0, 8, 600); !bytes.Equal(got, w.want[:at]) {
			t.Error("what precedes the damage is not readable")
		}
		if err := l.ReadAll(30, func(record.Batch) error { return nil }); err != nil {
			t.Errorf("segments after it: %v", err)
		}
		if got := readFS(t, fs, file); !bytes.Equal(got, data) {
			t.Error("the damaged file was changed")
		}
		closeStore(t, s)
	}
}

func TestReadAllChecksCRC(t *testing.T) {
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	for range 5 {
		w.add(2, 100, 0)
	}
	closeStore(t, s)
	file := segFile("t-0", 0, logSuffix)
	data := readFS(t, fs, file)
	data[w.ends[2]+80] ^= 1
	writeFS(t, fs, file, data)
	s = openStore(t, o)
	l := openLog(t, s, "t-0", defaultConfig())
	n := 0
	err := l.ReadAll(0, func(record.Batch) error { n++; return nil })
	var ce *CorruptError
	if !errors.As(err, &ce) || !errors.Is(err, record.ErrCRC) || ce.Offset != 6 || n != 3 {
		t.Fatalf("after %d batches: %v", n, err)
	}
}

func FuzzIndex(f *testing.F) {
	var ix index
	sum := summary{bytes: 900, next: 40, firstTime: 5, maxTime: 9, maxTimeAt: 20}
	ix.add(10, 300)
	ix.add(20, 600)
	ix.addTime(5, 0)
	ix.addTime(9, 20)
	f.Add(uint16(1), encodeIndex(offsetIndex, 0, ix.offsets, sum))
	f.Add(uint16(2), encodeIndex(timeIndex, 0, ix.times, sum))
	f.Add(uint16(1), []byte{})
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		k := indexKind(kind%2 + 1)
		entries, sum, err := decodeIndex(k, 0, data)
		if err != nil {
			if !errors.Is(err, errIndex) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if again := encodeIndex(k, 0, entries, sum); !bytes.Equal(again, data) {
			t.Fatal("does not encode to itself")
		}
		var x index
		if k == offsetIndex {
			x.offsets = entries
		} else {
			x.times = entries
		}
		for _, v := range []int64{0, 1, sum.bytes, sum.next, 1 << 40} {
			if o, p := x.floor(v); o > max(v, 0) || p > sum.bytes {
				t.Fatalf("floor(%d) = %d at %d", v, o, p)
			}
			x.timeFloor(v)
			x.cut(v, v)
		}
	})
}

// FuzzSegment opens a log whose file holds arbitrary bytes: no panic, and what is read was valid.
func FuzzSegment(f *testing.F) {
	a, b := makeBatch(f, 0, 2, 30, 5), makeBatch(f, 2, 1, 10, 6)
	f.Add([]byte(append(a[:len(a):len(a)], b...)), int64(0))
	f.Add([]byte(append(a[:len(a):len(a)], b[:20]...)), int64(2))
	f.Add([]byte("junk"), int64(1))
	f.Fuzz(func(t *testing.T, content []byte, recoveryPoint int64) {
		fs := vfs.NewMem()
		if err := fs.MkdirAll(testDir + "/t-0"); err != nil {
			t.Fatal(err)
		}
		writeFS(t, fs, segFile("t-0", 0, logSuffix), content)
		o, _ := testOptions(fs)
		s := openStore(t, o)
		defer closeStore(t, s)
		l, err := s.Open("t-0", always(defaultConfig()), max(recoveryPoint, 0), 0)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		next := int64(0)
		if err := l.Scan(0, func(h record.Batch) error { next = h.NextOffset(); return nil }); err != nil {
			t.Fatal(err)
		}
		if next != l.End() || (recoveryPoint > 0 && next < recoveryPoint) {
			t.Fatalf("scan ends at %d, log at %d, recovery point %d", next, l.End(), recoveryPoint)
		}
		if recoveryPoint <= 0 {
			if err := l.ReadAll(0, func(b record.Batch) error { return b.Check() }); err != nil {
				t.Fatal(err)
			}
		}
		_, _, _, _ = l.FindByTimestamp(6) // records inside may be nonsense; it must not panic
		_, _, _, _ = l.MaxTimestamp()
	})
}
