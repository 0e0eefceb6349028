package segment

import (
	"testing"
	"time"

	"weir/internal/vfs"
)

func TestCompactionLags(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	cfg := compactConfig()
	cfg.MinCompactionLag, cfg.MinDirtyRatio = time.Minute, 0.1
	l := openLog(t, s, "t-0", cfg)
	w := newWriter(t, l)
	now := compactNow.UnixMilli()
	w.put(now-100_000, "a=1", "a=2")
	w.seal()
	w.put(now-30_000, "a=3")
	w.seal()
	w.put(now-90_000, "a=4") // older, but behind a segment that is too young
	w.seal()
	state, err := l.CompactionState(compactNow, l.End())
	if want := compactNow.Add(30*time.Second + time.Millisecond); err != nil || !state.Due || !state.Next.Equal(want) {
		t.Errorf("state %+v, %v: want due, and again at %v", state, err, want)
	}
	mustCompact(t, l, compactOptions(l, compactNow))
	if got, want := shown(records(t, l)), "1:a=2 2:a=3 3:a=4"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if state, err = l.CompactionState(compactNow, 1); err != nil || state.Due || !state.Blocked {
		t.Errorf("below a high watermark of 1 there is nothing: %+v, %v", state, err)
	}
}

func TestMaxCompactionLagWinsOverTheRatio(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	cfg := compactConfig()
	cfg.MaxCompactionLag, cfg.MinDirtyRatio = time.Minute, 1
	l := openLog(t, s, "t-0", cfg)
	w := newWriter(t, l)
	now := compactNow.UnixMilli()
	w.put(now, "a=1", "a=2")
	state, err := l.CompactionState(compactNow, l.End())
	deadline := compactNow.Add(time.Minute + time.Millisecond)
	if err != nil || state.Due || !state.Watched || !state.Next.Equal(deadline) {
		t.Errorf("active: %+v, %v, want a look at %v", state, err, deadline)
	}
	w.seal()
	if state, err = l.CompactionState(compactNow, l.End()); err != nil || state.Due || !state.Next.Equal(deadline) {
		t.Errorf("sealed: %+v, %v, want a look at %v", state, err, deadline)
	}
	if state, err = l.CompactionState(deadline, l.End()); err != nil || !state.Due {
		t.Errorf("at the deadline: %+v, %v", state, err)
	}
	w.put(now+1, "b=1")
	l.mu.Lock()
	l.activeLocked().began = compactNow // it is not as young as the test is
	l.mu.Unlock()
	if state, err = l.CompactionState(deadline.Add(time.Second), l.End()); err != nil || l.Segments() != 3 {
		t.Errorf("the active segment was not sealed in time: %d segments, %+v, %v", l.Segments(), state, err)
	}
}

// cleanup.policy=compact,delete: what is compacted expires like the rest, and compaction goes on with what is left.
func TestCompactAndDelete(t *testing.T) {
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	s := openStore(t, o)
	cfg := compactConfig()
	cfg.Delete, cfg.RetentionAge, cfg.SegmentBytes = true, time.Minute, 180
	l := openLog(t, s, "t-0", cfg)
	w := newWriter(t, l)
	now := compactNow.UnixMilli()
	w.put(now-100_000, "a=1", "a=2", "old=1", "older=1", "x=1", "y=1")
	w.seal()
	w.put(now-10_000, "a=3", "b=1", "c=1", "d=1", "e=1", "f=1")
	w.seal()
	w.put(now-5_000, "b=2", "g=1", "h=1", "i=1", "j=1")
	w.seal()
	mustCompact(t, l, compactOptions(l, compactNow))
	if got, want := shown(records(t, l)), "2:old=1 3:older=1 4:x=1 5:y=1 6:a=3 8:c=1 9:d=1 10:e=1 11:f=1 12:b=2 13:g=1 14:h=1 15:i=1 16:j=1"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	if n, err := l.EnforceRetention(compactNow, l.End()); err != nil || n != 1 || l.LogStart() != 6 {
		t.Fatalf("%d segments deleted, log start %d, %v", n, l.LogStart(), err)
	}
	waitIdle(t, s)
	w.put(now, "a=4", "k=1")
	w.seal()
	mustCompact(t, l, compactOptions(l, compactNow))
	const want = "8:c=1 9:d=1 10:e=1 11:f=1 12:b=2 13:g=1 14:h=1 15:i=1 16:j=1 17:a=4 18:k=1"
	if got := shown(records(t, l)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	closeStore(t, s)
	s = openStore(t, o)
	if l = openLog(t, s, "t-0", cfg); l.LogStart() != 6 || shown(records(t, l)) != want {
		t.Errorf("after a restart: log start %d, %s", l.LogStart(), shown(records(t, l)))
	}
}
