package segment

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"weir/internal/iobuf"
	"weir/internal/record"
	"weir/internal/vfs"
	"weir/uring"
)

// TestRealFiles runs the whole way on the kernel, on each engine it offers: mapped reads, rolling, deletion, reopening.
func TestRealFiles(t *testing.T) {
	for _, backend := range []string{uring.BackendAuto, uring.BackendPortable} {
		t.Run("backend="+backend, func(t *testing.T) {
			o := StoreOptions{FS: vfs.OS{}, Dir: t.TempDir() + "/data", Engine: uring.Options{Backend: backend}, FlushAge: time.Hour, IOTimeout: 20 * time.Second}
			c := defaultConfig()
			c.SegmentBytes = 3 << 20
			s := openStore(t, o)
			w := newWriter(t, openLog(t, s, "t-0", c))
			for i := range 300 {
				w.add(1+i%4, 100+(i%7)*9000, int64(i))
			}
			flushAll(t, s)
			if got := readAll(t, w.l, 0, w.l.End(), 300_000); !bytes.Equal(got, w.want) {
				t.Fatal("bytes differ")
			}
			held, err := w.l.Read(0, w.l.End(), 1<<20, true)
			if err != nil || !held.Cold() {
				t.Fatalf("%v, cold %v", err, held.Cold())
			}
			if err := w.l.AdvanceLogStart(w.l.End() / 2); err != nil {
				t.Fatal(err)
			}
			settle(t, s)
			if w.l.Segments() >= 7 {
				t.Errorf("%d segments left", w.l.Segments())
			}
			checkRange(t, held, readRange(held)) // its file is deleted
			held.Release()
			start, end := w.l.LogStart(), w.l.End()
			closeStore(t, s)
			s = openStore(t, o)
			l := openLog(t, s, "t-0", c)
			if l.LogStart() != start || l.End() != end {
				t.Fatalf("reopened: %d to %d, want %d to %d", l.LogStart(), l.End(), start, end)
			}
			got := readAll(t, l, start, end, 300_000)
			if !bytes.HasSuffix(w.want, got) {
				t.Fatal("bytes differ after reopening")
			}
		})
	}
}

// TestManyLogs: memory of many logs with a little in each tail stays small, and goes with the flush.
func TestManyLogs(t *testing.T) {
	const logs = 2000
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	c := always(defaultConfig())
	before := iobuf.InUse()
	all := make([]*Log, logs)
	for i := range all {
		l, err := s.Open(fmt.Sprintf("t-%d", i), c, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		all[i] = l
		b := makeBatch(t, 0, 1, 100, 0)
		if err := s.Reserve(context.Background(), len(b)); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(b, nil); err != nil {
			t.Fatal(err)
		}
		l.Commit(1, uint64(i))
	}
	if per := (iobuf.InUse() - before) / logs; per > chunkBytesMin {
		t.Errorf("%d bytes of tail memory for each log", per)
	}
	flushAll(t, s)
	closeStore(t, s) // the engine gives the last write's memory back a moment after it reports the write
	if left := iobuf.InUse() - before; left != 0 {
		t.Errorf("%d bytes of tail memory left", left)
	}
}

func TestAppendAllocations(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	o.FlushBytes = 1 << 30
	s := openStore(t, o)
	l := openLog(t, s, "t-0", defaultConfig())
	b := makeBatch(t, 0, 1, 100, 0)
	next := int64(0)
	one := func() {
		record.Batch(b).SetBaseOffset(next)
		if err := s.Reserve(context.Background(), len(b)); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(b, nil); err != nil {
			t.Fatal(err)
		}
		next++
		l.Commit(next, uint64(next))
	}
	for range 1000 {
		one()
	}
	if n := testing.AllocsPerRun(20_000, one); n > 0 {
		t.Errorf("%v allocations per append and commit", n)
	}
}
