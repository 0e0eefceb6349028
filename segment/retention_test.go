package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/clock"
	"weir/internal/record"
	"weir/internal/vfs"
)

// logFiles returns the base names of a log's segment files.
func logFiles(t testing.TB, fsys vfs.FS, dir string) []string {
	t.Helper()
	list, err := fsys.List(testDir + "/" + dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		if base, ok := parseSegmentName(e.Name()); ok {
			out = append(out, fmt.Sprint(base))
		}
	}
	return out
}

func settle(t testing.TB, s *Store) {
	t.Helper()
	if err := s.waitBackground(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestRollByAge(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	c := defaultConfig()
	c.SegmentAge = time.Second
	l := openLog(t, s, "t-0", c)
	w := newWriter(t, l)
	var rolls []int64
	l.OnRoll(func(base int64) { rolls = append(rolls, base) })
	for _, ts := range []int64{10_000, 10_500, 11_000, 11_001, 9_000, 12_001, 12_002} {
		w.add(1, 10, ts)
	}
	if l.Segments() != 3 {
		t.Errorf("%d segments, want 3", l.Segments())
	}
	flushAll(t, s)
	if !slices.Equal(rolls, []int64{3, 6}) {
		t.Errorf("OnRoll saw %v, want [3 6]", rolls)
	}
}

func TestRollByOffsets(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	l := openLog(t, s, "t-0", defaultConfig())
	w := newWriter(t, l)
	w.add(1, 10, 0)
	// A batch of few records may span many offsets, as after compaction.
	b := makeBatch(t, 1, 1, 10, 0)
	b[23], b[24], b[25], b[26] = 0x7f, 0xff, 0xff, 0xff
	b.StampCRC()
	w.append(b)
	w.add(1, 10, 0)
	flushAll(t, s)
	if l.Segments() != 3 {
		t.Errorf("%d segments, want 3", l.Segments())
	}
	if got := readAll(t, l, 0, l.End(), 1<<20); !bytes.Equal(got, w.want) {
		t.Error("bytes differ")
	}
}

func TestRetentionBySize(t *testing.T) {
	fsys := vfs.NewMem()
	o, _ := testOptions(fsys)
	s := openStore(t, o)
	c := defaultConfig()
	c.SegmentBytes, c.RetentionBytes = 1000, 2500
	w := newWriter(t, openLog(t, s, "t-0", c))
	for range 10 {
		w.add(1, 800, 0) // one per segment
	}
	flushAll(t, s)
	held, err := w.l.Read(0, 10, 1, true)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.l.EnforceRetention(time.UnixMilli(0), 4); n != 4 || err != nil {
		t.Fatalf("below the limit: %d, %v; want 4", n, err)
	}
	if n, err := w.l.EnforceRetention(time.UnixMilli(0), 10); n != 3 || err != nil {
		t.Fatalf("%d, %v; want 3", n, err)
	}
	if n, err := w.l.EnforceRetention(time.UnixMilli(0), 10); n != 0 || err != nil {
		t.Fatalf("again: %d, %v", n, err)
	}
	settle(t, s)
	if got := logFiles(t, fsys, "t-0"); !slices.Equal(got, []string{"7", "8", "9"}) {
		t.Errorf("files %v", got)
	}
	if w.l.LogStart() != 7 || w.l.Segments() != 3 {
		t.Errorf("start %d, %d segments", w.l.LogStart(), w.l.Segments())
	}
	checkRange(t, held, readRange(held)) // deleted, but still held
	held.Release()
	c.Delete = false
	c.RetentionBytes = 0
	if n, err := w.l.EnforceRetention(time.UnixMilli(0), 10); n != 0 || err != nil {
		t.Errorf("without the delete policy: %d, %v", n, err)
	}
}

func TestRetentionByAge(t *testing.T) {
	fsys := vfs.NewMem()
	o, _ := testOptions(fsys)
	o.Clock = &handClock{now: time.UnixMilli(0)}
	c := defaultConfig()
	c.SegmentBytes, c.RetentionAge = 1000, time.Minute
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", c))
	for i := range 5 {
		w.add(1, 800, int64(i)*10_000)
	}
	closeStore(t, s)
	s = openStore(t, o)
	l := openLog(t, s, "t-0", c)
	now := time.UnixMilli(75_000)
	if at, ok := l.NextRetention(now); !ok || !at.Equal(now) {
		t.Errorf("NextRetention of a segment not looked into: %v, %v", at, ok)
	}
	if n, err := l.EnforceRetention(now, 0); n != 0 || err != nil {
		t.Fatalf("above the limit: %d, %v", n, err)
	}
	if at, ok := l.NextRetention(now); !ok || !at.After(now) {
		t.Errorf("NextRetention of what may not be deleted yet: %v, %v", at, ok)
	}
	if n, err := l.EnforceRetention(now, 5); n != 2 || err != nil {
		t.Fatalf("%d, %v; want 2", n, err)
	}
	if at, ok := l.NextRetention(now); !ok || at.UnixMilli() != 80_001 {
		t.Errorf("NextRetention: %d, %v; want 80001", at.UnixMilli(), ok)
	}
	settle(t, s)
	if got := logFiles(t, fsys, "t-0"); !slices.Equal(got, []string{"2", "3", "4"}) {
		t.Errorf("files %v", got)
	}
	// All expired: the active segment goes too, and the end is not forgotten.
	if n, err := l.EnforceRetention(time.UnixMilli(1e6), 5); n != 3 || err != nil {
		t.Fatalf("%d, %v; want 3", n, err)
	}
	settle(t, s)
	if l.LogStart() != 5 || l.End() != 5 {
		t.Errorf("start %d end %d, want 5 and 5", l.LogStart(), l.End())
	}
	closeStore(t, s)
	s = openStore(t, o)
	l = openLog(t, s, "t-0", c)
	if l.LogStart() != 5 || l.End() != 5 || l.Segments() != 1 {
		t.Errorf("reopened: start %d end %d segments %d", l.LogStart(), l.End(), l.Segments())
	}
}

func TestAdvanceLogStartDeletes(t *testing.T) {
	fsys := vfs.NewMem()
	o, _ := testOptions(fsys)
	c := defaultConfig()
	c.SegmentBytes = 1000
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", c))
	for range 5 {
		w.add(2, 400, 0)
	}
	if err := w.l.AdvanceLogStart(11); !errors.Is(err, ErrOffsetOutOfRange) {
		t.Errorf("beyond the end: %v", err)
	}
	if err := w.l.AdvanceLogStart(5); err != nil { // nothing is flushed yet
		t.Fatal(err)
	}
	settle(t, s)
	if w.l.Segments() != 5 {
		t.Errorf("%d segments; unflushed ones must stay", w.l.Segments())
	}
	flushAll(t, s)
	settle(t, s)
	if got := logFiles(t, fsys, "t-0"); !slices.Equal(got, []string{"4", "6", "8"}) {
		t.Errorf("files %v", got)
	}
	if err := w.l.AdvanceLogStart(10); err != nil {
		t.Fatal(err)
	}
	settle(t, s)
	closeStore(t, s)
	s = openStore(t, o)
	l := openLog(t, s, "t-0", c)
	if l.LogStart() != 10 || l.End() != 10 {
		t.Errorf("start %d end %d, want 10 and 10", l.LogStart(), l.End())
	}
}

func TestRemove(t *testing.T) {
	fsys := vfs.NewMem()
	o, _ := testOptions(fsys)
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	w.add(1, 100, 0)
	flushAll(t, s)
	// Something is still on its way through the WAL: its bytes must stay until the Commit.
	b := makeBatch(t, 1, 1, 100, 0)
	if err := s.Reserve(context.Background(), len(b)); err != nil {
		t.Fatal(err)
	}
	inWAL, err := w.l.Append(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Remove(w.l)
	s.Remove(w.l)
	settle(t, s)
	if !bytes.Equal(inWAL, b) {
		t.Error("bytes that the WAL reads were released")
	}
	w.l.Commit(2, 5)
	if used := s.budget.used(); used != 0 {
		t.Errorf("%d bytes still reserved", used)
	}
	if got := s.Dirs(); len(got) != 0 {
		t.Errorf("directories %v", got)
	}
	if list, _ := fsys.List(testDir); len(list) != 1 { // the checkpoint
		t.Errorf("left over: %v", list)
	}
	if _, err := w.l.Read(0, 1, 1, true); !errors.Is(err, ErrClosed) {
		t.Errorf("Read: %v", err)
	}
	l := openLog(t, s, "t-0", defaultConfig())
	if l.End() != 0 {
		t.Errorf("a new log under the old name ends at %d", l.End())
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	fsys := vfs.NewMem()
	for _, dir := range []string{"/a-0.deleted", "/b-0"} {
		if err := fsys.MkdirAll(testDir + dir); err != nil {
			t.Fatal(err)
		}
		writeFS(t, fsys, testDir+dir+"/x", []byte("x"))
	}
	o, _ := testOptions(fsys)
	s := openStore(t, o)
	if err := s.RemoveDir("b-0"); err != nil {
		t.Fatal(err)
	}
	settle(t, s)
	if list, _ := fsys.List(testDir); len(list) != 0 {
		t.Errorf("left over: %v", list)
	}
}

func TestSideFiles(t *testing.T) {
	fsys := vfs.NewMem()
	o, _ := testOptions(fsys)
	s := openStore(t, o)
	l := openLog(t, s, "t-0", defaultConfig())
	if names, err := l.ListSide(".snapshot"); len(names) != 0 || err != nil {
		t.Errorf("ListSide of a new log: %v, %v", names, err)
	}
	for _, name := range []string{"2.snapshot", "1.snapshot", "other"} {
		if err := l.WriteSide(name, []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.WriteSide("1.snapshot", []byte("new")); err != nil {
		t.Fatal(err)
	}
	if got, err := l.ReadSide("1.snapshot"); string(got) != "new" || err != nil {
		t.Errorf("ReadSide: %q, %v", got, err)
	}
	if names, err := l.ListSide(".snapshot"); !slices.Equal(names, []string{"1.snapshot", "2.snapshot"}) || err != nil {
		t.Errorf("ListSide: %v, %v", names, err)
	}
	if err := errors.Join(l.RemoveSide("1.snapshot"), l.RemoveSide("1.snapshot")); err != nil {
		t.Errorf("RemoveSide: %v", err)
	}
	if _, err := l.ReadSide("1.snapshot"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadSide of a removed file: %v", err)
	}
	for _, name := range []string{"", "../x", "a/b", ".x", "0.log", "0.index", "0.timeindex", "x.tmp"} {
		if err := l.WriteSide(name, nil); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("WriteSide(%q): %v", name, err)
		}
	}
}

// handClock is a clock that the test moves.
type handClock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[*handTimer]bool
}

type handTimer struct {
	c  *handClock
	at time.Time
	f  func()
}

func (c *handClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *handClock) AfterFunc(d time.Duration, f func()) clock.Timer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timers == nil {
		c.timers = make(map[*handTimer]bool)
	}
	t := &handTimer{c: c, at: c.now.Add(d), f: f}
	c.timers[t] = true
	return t
}

func (t *handTimer) Stop() bool {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	was := t.c.timers[t]
	delete(t.c.timers, t)
	return was
}

func (t *handTimer) Reset(d time.Duration) bool {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	was := t.c.timers[t]
	t.at, t.c.timers[t] = t.c.now.Add(d), true
	return was
}

func (c *handClock) advance(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	var due []func()
	for t := range c.timers {
		if !t.at.After(c.now) {
			due = append(due, t.f)
			delete(c.timers, t)
		}
	}
	c.mu.Unlock()
	for _, f := range due {
		f()
	}
}

func (c *handClock) pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.timers)
}

// TestFlushByAge also shows that a store with nothing to flush has no timer and does no I/O.
func TestFlushByAge(t *testing.T) {
	fsys := vfs.NewMem()
	o, _ := testOptions(fsys)
	c := &handClock{now: time.UnixMilli(1e9)}
	o.Clock, o.FlushAge = c, 5*time.Second
	flushed := make(chan uint64, 10)
	o.OnFlushed = func(lsn uint64, _ bool) { flushed <- lsn }
	s := openStore(t, o)
	if n := c.pending(); n != 0 {
		t.Errorf("%d timers in a new store", n)
	}
	a, b := newWriter(t, openLog(t, s, "a-0", defaultConfig())), newWriter(t, openLog(t, s, "b-0", defaultConfig()))
	a.add(1, 10, 0)
	c.advance(3 * time.Second)
	b.lsn = a.lsn
	b.add(1, 10, 0)
	if n := c.pending(); n != 1 {
		t.Errorf("%d timers, want one", n)
	}
	c.advance(2 * time.Second)
	if lsn := <-flushed; lsn != b.lsn {
		t.Errorf("WAL needed from %d, want %d", lsn, b.lsn)
	}
	if a.l.Flushed() != 1 || b.l.Flushed() != 0 {
		t.Errorf("flushed a %d, b %d; want 1 and 0", a.l.Flushed(), b.l.Flushed())
	}
	flushAll(t, s)
	<-flushed
	var ops []string
	fsys.SetHook(func(op, name string, _ int64, _ int) error {
		if !strings.HasPrefix(op, "close") {
			ops = append(ops, op)
		}
		return nil
	})
	c.advance(time.Minute)
	c.advance(time.Minute)
	fsys.SetHook(nil)
	if n := c.pending(); n != 0 || len(ops) != 0 {
		t.Errorf("idle: %d timers, operations %v", n, ops)
	}
}

func TestScanAcrossFileAndTail(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	c := defaultConfig()
	c.SegmentBytes = 3000
	w := newWriter(t, openLog(t, s, "t-0", c))
	for i := range 40 {
		w.add(2, 200, 0)
		if i == 25 {
			flushAll(t, s)
		}
	}
	for _, from := range []int64{0, 1, 33, 50, 52, 53, 79, 80} {
		want := from - from%2
		if err := w.l.Scan(from, func(h record.Batch) error {
			if h.BaseOffset() != want || len(h) != record.HeaderSize {
				t.Errorf("from %d: header of offset %d, want %d", from, h.BaseOffset(), want)
			}
			want = h.NextOffset()
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if want != 80 {
			t.Errorf("from %d: ended at %d", from, want)
		}
	}
	var all []byte
	if err := w.l.ReadAll(0, func(b record.Batch) error { all = append(all, b...); return nil }); err != nil || !bytes.Equal(all, w.want) {
		t.Errorf("ReadAll: %v, %d bytes of %d", err, len(all), len(w.want))
	}
	stop := errors.New("stop")
	if err := w.l.ReadAll(0, func(record.Batch) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("fn's error: %v", err)
	}
}
