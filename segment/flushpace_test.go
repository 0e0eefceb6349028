package segment

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/clock"
	"weir/internal/iobuf"
	"weir/internal/pace"
	"weir/internal/vfs"
)

// slowDisk is a disk behind a page cache: a write only makes bytes dirty, a sync writes them, which takes time of a clock that only it moves. It knows how
// much each sync put into the device's queue at once, which is what a durable write of somebody else would have waited for.
type slowDisk struct {
	clock.Real // timers
	mu         struct {
		sync.Mutex
		now   time.Time
		rate  float64 // bytes per second
		dirty map[string]int64
		syncs []int64 // what was dirty on the whole disk when something was synced
	}
}

func newSlowDisk(rate float64) *slowDisk {
	d := &slowDisk{}
	d.mu.now, d.mu.rate, d.mu.dirty = time.Unix(1000, 0), rate, map[string]int64{}
	return d
}

func (d *slowDisk) Now() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.now
}

func (d *slowDisk) hook(op, name string, _ int64, n int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch op {
	case "write":
		d.mu.dirty[name] += (int64(n) + pageBytes - 1) / pageBytes * pageBytes
	case "sync", "datasync", "syncfs":
		total := int64(0)
		for _, n := range d.mu.dirty {
			total += n
		}
		if total == 0 {
			return nil
		}
		wrote := d.mu.dirty[name]
		delete(d.mu.dirty, name)
		if op == "syncfs" {
			wrote = total
			clear(d.mu.dirty)
		}
		d.mu.syncs = append(d.mu.syncs, total)
		d.mu.now = d.mu.now.Add(time.Duration(float64(wrote) / d.mu.rate * float64(time.Second)))
	}
	return nil
}

func (d *slowDisk) queued() []int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]int64(nil), d.mu.syncs...)
}

func (d *slowDisk) unsynced(name string) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.dirty[name]
}

func slowStore(t *testing.T, rate float64, change func(*StoreOptions)) (*Store, *slowDisk, *vfs.MemFS) {
	t.Helper()
	fs := vfs.NewMem()
	o, _ := testOptions(fs)
	d := newSlowDisk(rate)
	o.Pace, o.FlushBytes = pace.New(d, nil), 1<<30
	if change != nil {
		change(&o)
	}
	s := openStore(t, o)
	fs.SetHook(d.hook)
	return s, d, fs
}

// TestFlushOnSlowDisk: whatever is written behind the WAL, at 1 MB/s there is never more of it in front of a durable write than the disk does in a
// moment: about 130 ms, a quarter of a second at first. Without a pace it would be up to 16 s.
func TestFlushOnSlowDisk(t *testing.T) {
	for _, c := range []struct {
		name string
		work func(t *testing.T, s *Store, d *slowDisk, fs *vfs.MemFS)
	}{
		{"a log with many batches", func(t *testing.T, s *Store, d *slowDisk, fs *vfs.MemFS) {
			w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
			for range 200 {
				w.add(1, 20<<10, 0)
			}
			flushAll(t, s)
			requireFile(t, fs, w)
		}},
		{"a log with large batches", func(t *testing.T, s *Store, d *slowDisk, fs *vfs.MemFS) {
			w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
			for range 3 {
				w.add(1, 1<<20+1000, 0)
			}
			flushAll(t, s)
			requireFile(t, fs, w)
		}},
		{"many logs with little", func(t *testing.T, s *Store, d *slowDisk, fs *vfs.MemFS) {
			ws := manyLogs(t, s, 300, defaultConfig())
			for _, w := range ws {
				w.add(1, 3000, 0)
			}
			flushAll(t, s)
			requireFile(t, fs, ws...)
		}},
		{"few logs with little", func(t *testing.T, s *Store, d *slowDisk, fs *vfs.MemFS) { // each is synced by itself
			ws := manyLogs(t, s, 12, defaultConfig())
			for _, w := range ws {
				w.add(1, 30000, 0)
			}
			flushAll(t, s)
			requireFile(t, fs, ws...)
		}},
		{"some logs with much among them", func(t *testing.T, s *Store, d *slowDisk, fs *vfs.MemFS) {
			ws := manyLogs(t, s, 40, defaultConfig())
			for i, w := range ws {
				w.add(1, 1000, 0)
				if i%7 == 3 {
					w.add(1, 300<<10, 0)
				}
			}
			flushAll(t, s)
			requireFile(t, fs, ws...)
		}},
		{"a small file that is large", func(t *testing.T, s *Store, d *slowDisk, fs *vfs.MemFS) {
			data := bytes.Repeat([]byte("index"), 500_000)
			if err := s.writeFile(testDir+"/a", data); err != nil {
				t.Fatal(err)
			}
			if err := s.putFile(testDir+"/b", data); err != nil {
				t.Fatal(err)
			}
			if n := d.unsynced(testDir + "/b" + tmpSuffix); n > 2*pace.Floor+pageBytes {
				t.Errorf("%d bytes of a file that need not be durable were left to the kernel", n)
			}
			for _, name := range []string{"/a", "/b"} {
				if got := readFS(t, fs, testDir+name); !bytes.Equal(got, data) {
					t.Errorf("%s has %d bytes, or other ones, want %d", name, len(got), len(data))
				}
			}
		}},
		{"compaction", func(t *testing.T, s *Store, _ *slowDisk, _ *vfs.MemFS) {
			c := compactConfig()
			c.SegmentBytes = 4 << 20
			l := openLog(t, s, "t-0", c)
			w := newWriter(t, l)
			for i := range 60 {
				w.put(int64(i), fmt.Sprintf("k%d=%s", i, strings.Repeat("v", 50<<10)))
			}
			w.seal()
			flushAll(t, s)
			o := compactOptions(l, time.Unix(2000, 0))
			o.WriteBytes, o.ReadBytes = 1<<20, 1<<20
			if _, err := l.Compact(context.Background(), o); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, d, fs := slowStore(t, 1e6, nil)
			c.work(t, s, d, fs)
			queued := d.queued()
			if len(queued) < 3 {
				t.Fatalf("the disk had %v to write at once: too little to tell", queued)
			}
			// Until a step of Start bytes was slow, which may be several syncs, nothing is known.
			const most, atFirst = 2*pace.Floor + pageBytes, pace.Start + pageBytes
			at := 0
			for at < len(queued) && queued[at] <= most {
				at++
			}
			for first := at; at < len(queued) && queued[at] > most && (at == first && queued[at] <= atFirst || at > first && queued[at] < queued[at-1]); {
				at++
			}
			if large := slices.Max(append([]int64{0}, queued[at:]...)); large > most {
				t.Errorf("the disk had %d bytes to write at once, want at most %d, and %d at first: %v", large, most, atFirst, queued)
			}
		})
	}
}

func requireFile(t *testing.T, fs *vfs.MemFS, ws ...*writer) {
	t.Helper()
	requireFlushed(t, ws)
	for _, w := range ws {
		if got := readFS(t, fs, segFile(w.l.Dir(), 0, logSuffix)); !bytes.Equal(got, w.want) {
			t.Errorf("the file of %s has %d bytes, or other ones, want %d", w.l.Dir(), len(got), len(w.want))
		}
	}
}

// TestFlushOnFastDisk: a fast disk is given as much between two syncs as ever, after a few steps.
func TestFlushOnFastDisk(t *testing.T) {
	s, d, fs := slowStore(t, 1e9, func(o *StoreOptions) { o.Flushers = 1 })
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	const bytes = 48 << 20
	for len(w.want) < bytes {
		w.add(1, 512<<10, 0)
	}
	flushAll(t, s)
	requireFile(t, fs, w)
	n := 0
	for _, b := range d.queued() {
		if b > pageBytes { // not those of small files
			n++
		}
	}
	if n > bytes/roundBytes+6 {
		t.Errorf("%d syncs for %d bytes, want at most %d: %v", n, bytes, bytes/roundBytes+6, d.queued())
	}
}

// TestSplitPieces: pieces are taken in order and cut where the step ends; nothing is lost and every part holds its memory.
func TestSplitPieces(t *testing.T) {
	for n := int64(1); n <= 31; n++ {
		var pieces []piece
		var want []byte
		for i, size := range []int{7, 1, 12, 10} {
			buf := iobuf.Get(size)
			for k := range buf.Bytes() {
				buf.Bytes()[k] = byte(16*i + k)
			}
			pieces = append(pieces, piece{buf: buf, data: buf.Bytes(), pos: int64(len(want))})
			want = append(want, buf.Bytes()...)
		}
		var got []byte
		for left := pieces; len(left) > 0; {
			head, rest := splitPieces(left, n)
			if b := bytesOf(head); b > n || b == 0 || len(rest) > 0 && b != n {
				t.Fatalf("split at %d: %d bytes, and %d pieces left", n, b, len(rest))
			}
			for _, p := range head {
				if p.pos != int64(len(got)) {
					t.Fatalf("split at %d: a piece at %d follows byte %d", n, p.pos, len(got))
				}
				got = append(got, p.data...)
				p.buf.Release()
			}
			left = rest
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("split at %d: %v, want %v", n, got, want)
		}
	}
}
