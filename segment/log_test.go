package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"weir/internal/iobuf"
	"weir/internal/record"
	"weir/internal/vfs"
)

func TestAppendFlushRead(t *testing.T) {
	for _, segBytes := range []int64{1 << 30, 20_000} {
		for _, batch := range []int{10, 3_000, 40_000} {
			t.Run(fmt.Sprintf("segment=%d/batch=%d", segBytes, batch), func(t *testing.T) {
				o, _ := testOptions(vfs.NewMem())
				s := openStore(t, o)
				c := defaultConfig()
				c.SegmentBytes = segBytes
				l := openLog(t, s, "t-0", c)
				w := newWriter(t, l)
				for i := range 60 {
					w.add(1+i%3, batch, int64(i))
					if i == 30 {
						flushAll(t, s)
					}
				}
				for _, flush := range []bool{false, true} {
					if flush {
						flushAll(t, s)
						if l.Flushed() != l.End() {
							t.Fatalf("Flushed %d, End %d", l.Flushed(), l.End())
						}
					}
					for _, maxBytes := range []int{1, 500, 9_000, 100_000, 1 << 30} {
						if got := readAll(t, l, 0, l.End(), maxBytes); !bytes.Equal(got, w.want) {
							t.Fatalf("flushed %v, max %d: read %d bytes, differ from the %d written", flush, maxBytes, len(got), len(w.want))
						}
					}
				}
				if l.Size() != int64(len(w.want)) {
					t.Errorf("Size %d, want %d", l.Size(), len(w.want))
				}
			})
		}
	}
}

// TestReadBounds checks each offset, limit and size against what the batches say.
func TestReadBounds(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	c := defaultConfig()
	c.IndexIntervalBytes = 512
	l := openLog(t, s, "t-0", c)
	w := newWriter(t, l)
	for i := range 25 {
		w.add(3, 60+i, 0)
	}
	check := func(t *testing.T) {
		starts := append([]int64{0}, w.offs...)
		for offset := range l.End() + 1 {
			for limit := offset; limit <= l.End()+1; limit += 2 {
				for _, maxBytes := range []int{0, 1, 400, 1000, 5000, 1 << 20} {
					for _, one := range []bool{false, true} {
						wantFirst, wantNext, size := expectRead(w, starts, offset, limit, maxBytes, one)
						r, err := l.Read(offset, limit, maxBytes, one)
						if err != nil {
							t.Fatal(err)
						}
						if r.FirstOffset() != wantFirst || r.Size() != size || r.NextOffset() != wantNext {
							t.Fatalf("Read(%d, %d, %d, %v): offsets %d to %d, %d bytes; want %d to %d, %d bytes", offset, limit, maxBytes, one,
								r.FirstOffset(), r.NextOffset(), r.Size(), wantFirst, wantNext, size)
						}
						if r.Size() > 0 {
							checkRange(t, r, readRange(r))
						}
						r.Release()
					}
				}
			}
		}
	}
	t.Run("tail", check)
	flushAll(t, s)
	t.Run("file", check)
}

func expectRead(w *writer, starts []int64, offset, limit int64, maxBytes int, one bool) (first, next int64, size int) {
	first, next = offset, offset
	for i := range w.offs {
		if w.offs[i] <= offset {
			continue
		}
		n := int(w.ends[i])
		if i > 0 {
			n -= int(w.ends[i-1])
		}
		if w.offs[i] > limit || (size+n > maxBytes && !(size == 0 && one)) {
			break
		}
		if size == 0 {
			first = starts[i]
		}
		size, next = size+n, w.offs[i]
	}
	return first, next, size
}

func TestReadOutOfRange(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	l := openLog(t, s, "t-0", defaultConfig())
	w := newWriter(t, l)
	w.add(5, 10, 0)
	if err := l.AdvanceLogStart(3); err != nil {
		t.Fatal(err)
	}
	for _, offset := range []int64{-1, 0, 2, 6} {
		_, err := l.Read(offset, 100, 100, true)
		var oe *OffsetError
		if !errors.As(err, &oe) || !errors.Is(err, ErrOffsetOutOfRange) || oe.Start != 3 || oe.End != 5 {
			t.Errorf("Read(%d): %v", offset, err)
		}
	}
	r, err := l.Read(5, 100, 100, true)
	if err != nil || r.Size() != 0 || r.NextOffset() != 5 {
		t.Fatalf("Read at the end: %v, %+v", err, r)
	}
	r.Release()
}

func TestAppendRefuses(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	l := openLog(t, s, "t-0", defaultConfig())
	b := makeBatch(t, 7, 1, 10, 0)
	if _, err := l.Append(b, nil); !errors.Is(err, ErrGap) {
		t.Errorf("gap: %v", err)
	}
	if _, err := l.Append(b[:len(b)-1], nil); !errors.Is(err, record.ErrInvalid) {
		t.Errorf("cut short: %v", err)
	}
	s.Remove(l)
	if _, err := l.Append(makeBatch(t, 0, 1, 10, 0), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestKeepsSource: a large batch stays in the caller's buffer, a small one is copied.
func TestKeepsSource(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	s := openStore(t, o)
	l := openLog(t, s, "t-0", defaultConfig())
	before := iobuf.InUse()
	for _, size := range []int{100, keepBytes} {
		b := makeBatch(t, l.End(), 1, size, 0)
		src := iobuf.Get(len(b) + 50)
		in := src.Bytes()[20 : 20+len(b)]
		copy(in, b)
		if err := s.Reserve(context.Background(), len(b)); err != nil {
			t.Fatal(err)
		}
		got, err := l.Append(in, src)
		if err != nil {
			t.Fatal(err)
		}
		if same := &got[0] == &in[0]; same != (len(b) >= keepBytes) {
			t.Errorf("%d bytes: kept in place is %v", len(b), same)
		}
		src.Release()
		l.Commit(l.End(), uint64(size))
	}
	r, err := l.Read(1, 2, 1<<20, true)
	if err != nil {
		t.Fatal(err)
	}
	flushAll(t, s)
	checkRange(t, r, readRange(r)) // still valid though flushed
	r.Release()
	if used := s.budget.used(); used != 0 {
		t.Errorf("%d bytes still reserved", used)
	}
	closeStore(t, s) // the engine gives the last write's memory back a moment after it reports the write
	if left := iobuf.InUse() - before; left != 0 {
		t.Errorf("%d bytes of tail memory left after the flush", left)
	}
}

// TestConcurrent appends, commits late, flushes, and reads what is committed, all at once.
func TestConcurrent(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	o.FlushBytes = 20_000
	o.TailBytesMax = 200_000
	s := openStore(t, o)
	c := defaultConfig()
	c.SegmentBytes = 60_000
	const logs, batches = 4, 400
	var wg sync.WaitGroup
	for i := range logs {
		l := openLog(t, s, fmt.Sprintf("t-%d", i), c)
		var committed atomic.Int64
		commits := make(chan int64, 64)
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			defer close(commits)
			for range batches {
				b := makeBatch(t, l.End(), 1+rng.IntN(3), rng.IntN(1500), 0)
				if err := s.Reserve(context.Background(), len(b)); err != nil {
					t.Error(err)
					return
				}
				if _, err := l.Append(b, nil); err != nil {
					t.Error(err)
					return
				}
				commits <- b.NextOffset()
			}
		})
		wg.Go(func() {
			lsn := uint64(1)
			for next := range commits {
				l.Commit(next, lsn)
				committed.Store(next)
				lsn++
			}
			committed.Add(1 << 40) // done
		})
		wg.Go(func() { readBehind(t, l, &committed) })
	}
	wg.Wait()
	flushAll(t, s)
}

func readBehind(t *testing.T, l *Log, committed *atomic.Int64) {
	var offset int64
	for {
		limit := committed.Load()
		done := limit >= 1<<40
		limit &= 1<<40 - 1
		r, err := l.Read(offset, limit, 7000, true)
		if err != nil {
			t.Error(err)
			return
		}
		if r.Size() > 0 {
			checkRange(t, r, readRange(r))
		}
		offset = r.NextOffset()
		r.Release()
		if done && offset == limit {
			return
		}
	}
}

func TestReserveBackpressure(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	o.TailBytesMax = 1000
	s := openStore(t, o)
	l := openLog(t, s, "t-0", defaultConfig())
	b := makeBatch(t, 0, 1, 800, 0)
	if err := s.Reserve(context.Background(), len(b)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(b, nil); err != nil {
		t.Fatal(err)
	}
	// Nothing is committed, so nothing can be flushed: the reservation has to fail when its context ends.
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error, 1)
	go func() { failed <- s.Reserve(ctx, 500) }()
	cancel()
	if err := <-failed; !errors.Is(err, ErrTailFull) || !errors.Is(err, context.Canceled) {
		t.Fatalf("Reserve: %v", err)
	}
	// Once committed, pressure alone gets it flushed and the reservation granted.
	granted := make(chan error, 1)
	go func() { granted <- s.Reserve(context.Background(), 500) }()
	l.Commit(1, 1)
	if err := <-granted; err != nil {
		t.Fatal(err)
	}
	s.Unreserve(500)
}

// What is kept is there when producers have filled the budget and wait for more; it has a bound, and is paid back to all.
func TestReserveKept(t *testing.T) {
	o, _ := testOptions(vfs.NewMem())
	o.TailBytesMax = 1600
	s := openStore(t, o)
	if ok, err := s.TryReserve(1600); !ok || err != nil {
		t.Fatalf("an empty budget: %v, %v", ok, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error, 1)
	go func() { failed <- s.Reserve(ctx, 50) }()
	for _, want := range []bool{true, true, false} {
		if ok, err := s.TryReserveKept(50); ok != want || err != nil {
			t.Fatalf("kept: %v, %v, want %v", ok, err, want)
		}
	}
	if ok, err := s.TryReserve(1); ok || err != nil {
		t.Fatalf("a producer got what is kept: %v, %v", ok, err)
	}
	s.Unreserve(100)
	if ok, _ := s.TryReserve(1); ok {
		t.Fatal("a producer got room with the budget full")
	}
	cancel()
	if err := <-failed; !errors.Is(err, ErrTailFull) {
		t.Fatalf("Reserve: %v", err)
	}
	s.Unreserve(1600)
	if ok, err := s.TryReserveKept(5000); !ok || err != nil {
		t.Fatalf("one batch always fits an empty budget: %v, %v", ok, err)
	}
	s.Unreserve(5000)
}

func TestOnFlushedOrder(t *testing.T) {
	o, ev := testOptions(vfs.NewMem())
	s := openStore(t, o)
	a, b := openLog(t, s, "a-0", defaultConfig()), openLog(t, s, "b-0", defaultConfig())
	put := func(l *Log, lsn uint64) {
		batch := makeBatch(t, l.End(), 1, 10, 0)
		if err := s.Reserve(context.Background(), len(batch)); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(batch, nil); err != nil {
			t.Fatal(err)
		}
		l.Commit(l.End(), lsn)
	}
	put(a, 10)
	put(b, 20)
	put(a, 30)
	flushed := make(chan struct{}, 10)
	s.opt.OnFlushed = func(lsn uint64, _ bool) {
		ev.mu.Lock()
		ev.flushed = append(ev.flushed, lsn)
		ev.mu.Unlock()
		flushed <- struct{}{}
	}
	s.FlushBelow(15)
	<-flushed
	if got, _ := ev.lastFlushed(); got != 20 {
		t.Errorf("after flushing below 15: WAL needed from %d, want 20", got)
	}
	if a.Flushed() != 2 || b.Flushed() != 0 {
		t.Errorf("flushed a %d b %d, want 2 and 0", a.Flushed(), b.Flushed())
	}
	flushAll(t, s)
	if got, _ := ev.lastFlushed(); got != 30 {
		t.Errorf("after flushing all: WAL needed from %d, want 30", got)
	}
}
