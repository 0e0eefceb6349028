package segment

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"weir/internal/record"
	"weir/internal/vfs"
)

// addAt appends a batch of one record with this timestamp; -1: none.
func (w *writer) addAt(ts int64) {
	w.t.Helper()
	spec := record.NewSpec()
	spec.BaseOffset = w.l.End()
	b, err := record.Build(spec, []record.Record{{Timestamp: ts, Key: []byte("k"), Value: make([]byte, 100)}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.append(b)
}

// TestRollWithoutTimestamps: where the first batch of a segment has no timestamp its age is that of the segment.
func TestRollWithoutTimestamps(t *testing.T) {
	clk := &handClock{now: time.UnixMilli(1e12)}
	o, _ := testOptions(vfs.NewMem())
	o.Clock = clk
	s := openStore(t, o)
	c := defaultConfig()
	c.SegmentAge = time.Minute
	w := newWriter(t, openLog(t, s, "t-0", c))
	for i, step := range []struct {
		advance time.Duration
		ts      int64
		want    int
	}{
		{0, -1, 1},
		{time.Minute, -1, 1},
		{time.Millisecond, -1, 2},               // a minute and 1 ms after the segment was begun
		{time.Second, 1e12, 2},                  // its first batch still has none
		{time.Hour, 5, 3},                       // so this rolls by the clock,
		{time.Hour, 5 + 60_000, 3},              // and from here on timestamps count,
		{time.Hour, -1, 3},                      // of which this has none
		{0, 5 + 60_001, 4},                      // as in Kafka
		{0, 3, 4},                               // the past does not roll
		{0, 1 << 62, 5}, {0, 1<<62 + 60_000, 5}, // nor does the far future disturb
	} {
		clk.advance(step.advance)
		w.addAt(step.ts)
		if got := w.l.Segments(); got != step.want {
			t.Fatalf("step %d: %d segments, want %d", i, got, step.want)
		}
	}
}

// TestRollJitter: segments of several logs that are begun together roll at different ages, none of them later than without jitter, and each at
// the same age after a restart.
func TestRollJitter(t *testing.T) {
	ages := func(fs *vfs.MemFS) (ages []int64) {
		o, _ := testOptions(fs)
		s := openStore(t, o)
		defer closeStore(t, s)
		c := defaultConfig()
		c.SegmentAge, c.SegmentJitter = 1000*time.Millisecond, 400*time.Millisecond
		for i := range 50 {
			w := newWriter(t, openLog(t, s, fmt.Sprintf("t-%d", i), c))
			ts := int64(1e12)
			for w.addAt(ts); w.l.Segments() == 1; ts++ {
				w.addAt(ts)
			}
			ages = append(ages, ts-1-1e12)
		}
		return ages
	}
	first := ages(vfs.NewMem())
	if slices.Min(first) <= 600 || slices.Max(first) > 1001 || slices.Max(first)-slices.Min(first) < 200 {
		t.Errorf("rolled at ages from %d to %d ms, want spread over 601 to 1001", slices.Min(first), slices.Max(first))
	}
	if again := ages(vfs.NewMem()); !slices.Equal(first, again) {
		t.Errorf("ages differ from those of another run:\n%v\n%v", first, again)
	}
}

// TestRollByIndexSize: segment.index.bytes closes a segment whose indexes are full, the time index one entry earlier.
func TestRollByIndexSize(t *testing.T) {
	for _, c := range []struct {
		limit int64
		times bool // each batch is newer than those before, so that the time index grows
		want  int  // entries in the largest index
	}{
		{8 * 10, false, 10},
		{8*10 + 7, false, 10}, // rounded down
		{12 * 10, true, 9},
		{4, false, 1}, {4, true, 1},
		{0, false, 49},
	} {
		o, _ := testOptions(vfs.NewMem())
		s := openStore(t, o)
		cfg := defaultConfig()
		cfg.IndexIntervalBytes, cfg.IndexBytes = 512, c.limit
		l := openLog(t, s, "t-0", cfg)
		w := newWriter(t, l)
		most := 0
		for i := range 50 {
			ts := int64(7)
			if c.times {
				ts += int64(i)
			}
			w.add(1, 600, ts)
			l.mu.Lock()
			ix := l.activeLocked().ix
			most = max(most, ix.len(), len(ix.times)/timeEntrySize)
			l.mu.Unlock()
		}
		if most != c.want {
			t.Errorf("limit %d, times %v: an index had %d entries, want at most %d", c.limit, c.times, most, c.want)
		}
		closeStore(t, s)
	}
}

// TestRetentionWithoutTimestamps: what has no timestamps expires by when its file was last written.
func TestRetentionWithoutTimestamps(t *testing.T) {
	clk := &handClock{now: time.UnixMilli(1e12)}
	o, _ := testOptions(vfs.NewMem())
	o.Clock = clk
	s := openStore(t, o)
	c := defaultConfig()
	c.SegmentBytes, c.RetentionAge, c.RetentionCheck = 400, time.Minute, time.Second
	w := newWriter(t, openLog(t, s, "t-0", c))
	for range 4 { // two in a segment
		w.addAt(-1)
		clk.advance(10 * time.Second)
	}
	l := w.l
	enforce := func(wantAt time.Duration, wantDeleted int) {
		t.Helper()
		at, ok := l.NextRetention(clk.Now())
		if want := clk.Now().Add(wantAt); !ok || !at.Equal(want) {
			t.Errorf("next at %s, %v; want %s", at, ok, want)
		}
		clk.advance(wantAt - time.Millisecond)
		if n, err := l.EnforceRetention(clk.Now(), l.End()); n != 0 || err != nil {
			t.Errorf("1 ms early: %d, %v", n, err)
		}
		clk.advance(time.Millisecond)
		if n, err := l.EnforceRetention(clk.Now(), l.End()); n != wantDeleted || err != nil {
			t.Errorf("%d, %v; want %d", n, err, wantDeleted)
		}
	}
	// Now it is 40 s after the first; the second was written at 10 s, the fourth at 30 s.
	enforce(30*time.Second+time.Millisecond, 1)
	enforce(20*time.Second, 1)
	if l.LogStart() != 4 || l.End() != 4 {
		t.Errorf("%d to %d, want nothing left", l.LogStart(), l.End())
	}
	if at, ok := l.NextRetention(clk.Now()); ok {
		t.Errorf("an empty log expires at %s", at)
	}
}

// TestRetentionOfTheFuture: a record from the future keeps its segment, and all behind it, until its time has come, and no timer runs wild.
func TestRetentionOfTheFuture(t *testing.T) {
	for _, ts := range []int64{2e12, 1<<63 - 1} {
		clk := &handClock{now: time.UnixMilli(1e12)}
		o, _ := testOptions(vfs.NewMem())
		o.Clock = clk
		s := openStore(t, o)
		c := defaultConfig()
		c.SegmentBytes, c.RetentionAge, c.RetentionCheck = 200, time.Minute, time.Second
		w := newWriter(t, openLog(t, s, "t-0", c))
		w.addAt(ts)
		w.addAt(1)
		w.addAt(2)
		at, ok := w.l.NextRetention(clk.Now())
		if !ok || at.Sub(clk.Now()) < 1e6*time.Second {
			t.Errorf("%d: next at %s", ts, at)
		}
		clk.advance(time.Hour)
		if n, err := w.l.EnforceRetention(clk.Now(), 3); n != 0 || err != nil {
			t.Errorf("%d: %d, %v; want nothing deleted, as in Kafka", ts, n, err)
		}
		if w.l.Segments() != 3 {
			t.Errorf("%d: %d segments: the active one was closed although it could not be deleted", ts, w.l.Segments())
		}
		if ts == 2e12 {
			clk.advance(time.UnixMilli(ts).Add(time.Minute + time.Millisecond).Sub(clk.Now()))
			if n, err := w.l.EnforceRetention(clk.Now(), 3); n != 3 || err != nil {
				t.Errorf("%d, %v; want all 3 deleted", n, err)
			}
		}
		closeStore(t, s)
	}
}

// TestRetentionOfTheActiveSegment: one that alone is expired is closed and deleted, but not before it has lived for RetentionCheck, and not
// beyond the limit.
func TestRetentionOfTheActiveSegment(t *testing.T) {
	for _, c := range []struct {
		what    string
		age     time.Duration
		bytes   int64
		ts      int64 // relative to when it is written
		due     time.Duration
		forever bool
	}{
		{what: "by age", age: time.Hour, bytes: -1, due: time.Hour + time.Millisecond},
		{what: "old records", age: time.Hour, bytes: -1, ts: -1e9, due: time.Minute},
		{what: "age 0", age: 0, bytes: -1, due: time.Minute},
		{what: "size 0", age: -1, bytes: 0, due: time.Minute},
		{what: "size 0 and age", age: time.Hour, bytes: 0, due: time.Minute},
		{what: "size 1", age: -1, bytes: 1, forever: true},
		{what: "neither", age: -1, bytes: -1, forever: true},
	} {
		t.Run(c.what, func(t *testing.T) {
			clk := &handClock{now: time.UnixMilli(1e12)}
			o, _ := testOptions(vfs.NewMem())
			o.Clock = clk
			s := openStore(t, o)
			cfg := defaultConfig()
			cfg.RetentionAge, cfg.RetentionBytes, cfg.RetentionCheck = c.age, c.bytes, time.Minute
			w := newWriter(t, openLog(t, s, "t-0", cfg))
			w.addAt(1e12 + c.ts)
			at, ok := w.l.NextRetention(clk.Now())
			if ok == c.forever || ok && at.Sub(clk.Now()) != c.due {
				t.Fatalf("next in %s, %v; want %s", at.Sub(clk.Now()), ok, c.due)
			}
			if c.forever {
				clk.advance(1000 * time.Hour)
				if n, err := w.l.EnforceRetention(clk.Now(), 1); n != 0 || err != nil {
					t.Errorf("%d, %v; want 0", n, err)
				}
				return
			}
			clk.advance(c.due - time.Millisecond)
			if n, err := w.l.EnforceRetention(clk.Now(), 1); n != 0 || err != nil {
				t.Errorf("1 ms early: %d, %v", n, err)
			}
			clk.advance(time.Millisecond)
			if n, err := w.l.EnforceRetention(clk.Now(), 0); n != 0 || err != nil {
				t.Errorf("beyond the limit: %d, %v", n, err)
			}
			if at, ok := w.l.NextRetention(clk.Now()); !ok || at.Sub(clk.Now()) != time.Minute {
				t.Errorf("tried again at %s, want in a minute", at)
			}
			if n, err := w.l.EnforceRetention(clk.Now(), 1); n != 1 || err != nil {
				t.Errorf("%d, %v; want 1", n, err)
			}
			flushAll(t, s)
			settle(t, s)
			if w.l.LogStart() != 1 || w.l.Size() != 0 || w.l.Segments() != 1 {
				t.Errorf("start %d, %d bytes in %d segments", w.l.LogStart(), w.l.Size(), w.l.Segments())
			}
		})
	}
}

// TestRetentionRoom: it says how much may come until size lets the oldest segment go.
func TestRetentionRoom(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	c := defaultConfig()
	c.SegmentBytes, c.RetentionBytes = 1000, 2000
	w := newWriter(t, openLog(t, s, "t-0", c))
	size := int64(len(w.add(1, 800, 0)))
	if room, ok := w.l.RetentionRoom(); ok {
		t.Errorf("only the active segment, but room for %d", room)
	}
	w.add(1, 800, 0)
	if room, ok := w.l.RetentionRoom(); !ok || room != 2000-size {
		t.Errorf("room %d, %v; want %d", room, ok, 2000-size)
	}
	for room := 2000 - size; room > 0; room -= size {
		if n, err := w.l.EnforceRetention(time.UnixMilli(0), 100); n != 0 || err != nil {
			t.Errorf("room %d: %d, %v; want nothing deleted", room, n, err)
		}
		w.add(1, 800, 0)
	}
	if room, ok := w.l.RetentionRoom(); !ok || room > 0 {
		t.Errorf("room %d, %v; want none", room, ok)
	}
	if n, err := w.l.EnforceRetention(time.UnixMilli(0), 100); n != 1 || err != nil {
		t.Errorf("%d, %v; want 1", n, err)
	}
}
