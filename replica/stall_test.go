package replica

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/clock"
	"weir/internal/vfs"
	"weir/segment"
	"weir/uring"
)

// watched is a stallWatch over one area whose age the test sets.
type watched struct {
	stallWatch
	began atomic.Pointer[time.Time] // of the operation in flight; nil: none
	log   []string
}

func newWatched() *watched {
	w := &watched{}
	w.clk, w.limit = clock.Real{}, 2*time.Second
	w.areas = func() []Area {
		began := w.began.Load()
		if began == nil {
			return []Area{{"none", 0}}
		}
		return []Area{{"none", 0}, {"disk", max(time.Since(*began), 1)}}
	}
	note := func(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }
	w.stalled = func(a Area) { note("stalled %s %s", a.Name, a.Oldest) }
	w.healed = func(d time.Duration) { note("healed %s", d) }
	w.resume = func() { note("resume") }
	return w
}

func (w *watched) begin() {
	now := time.Now()
	w.began.Store(&now)
	w.changed()
	synctest.Wait()
}

func (w *watched) end() {
	w.began.Store(nil)
	w.changed()
	synctest.Wait()
}

func (w *watched) sleep(d time.Duration) { time.Sleep(d); synctest.Wait() }

func TestStallWatch(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		name string
		run  func(w *watched)
		want string
	}{
		{"idle", func(w *watched) { w.sleep(time.Hour) }, ""},
		{"shorter than the limit", func(w *watched) {
			for range 20 {
				w.begin()
				w.sleep(1999 * ms)
				w.end()
			}
		}, ""},
		{"stalls and heals", func(w *watched) {
			w.begin()
			w.sleep(10 * time.Second)
			w.end()
			w.sleep(time.Hour)
		}, "stalled disk 2s, healed 10s, resume"},
		{"stalls again", func(w *watched) {
			for range 2 {
				w.begin()
				w.sleep(3 * time.Second)
				w.end()
			}
		}, "stalled disk 2s, healed 3s, resume, stalled disk 2s, healed 3s, resume"},
		// The timer was armed for the first operation and finds the second: it must come back in time for that.
		{"a later operation", func(w *watched) {
			w.begin()
			w.sleep(1500 * ms)
			w.end()
			w.begin()
			w.sleep(2100 * ms)
		}, "stalled disk 2s"},
		{"not healed while another hangs", func(w *watched) {
			w.begin()
			w.sleep(5 * time.Second)
			next := w.began.Load().Add(time.Second) // the oldest came back, the next is 4 s old
			w.began.Store(&next)
			w.changed()
			w.sleep(time.Second)
			w.end()
		}, "stalled disk 2s, healed 6s, resume"},
		{"late work is resumed when the disk is quiet", func(w *watched) {
			w.begin()
			w.sleep(1500 * ms)
			w.late()
			w.sleep(100 * ms)
			w.end()
			w.sleep(time.Hour)
		}, "resume"},
		{"late work is resumed at once on a quiet disk", func(w *watched) { w.late(); synctest.Wait() }, "resume"},
		{"late work that is late again at once", func(w *watched) {
			w.resume = func() { w.log = append(w.log, "resume"); go w.late() }
			w.late()
			w.sleep(5 * time.Second)
			w.close()
		}, "resume, resume, resume"},
		{"late work during a stall is resumed after it", func(w *watched) {
			w.begin()
			w.sleep(3 * time.Second)
			w.late()
			w.sleep(time.Second)
			w.end()
		}, "stalled disk 2s, healed 4s, resume"},
		{"closed", func(w *watched) { w.begin(); w.close(); w.sleep(time.Hour); w.end() }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWatched()
				tc.run(w)
				if got := strings.Join(w.log, ", "); got != tc.want {
					t.Errorf("got  %q\nwant %q", got, tc.want)
				}
				w.close()
			})
		})
	}
}

var waits = map[string]string{"log.dir.stall.action": "wait"}

// TestStallIsWaitedOut: who waits is told, nobody else is taken, what is in memory is served, and when the disk answers the log goes on
// without a hole: what was under way is there, a retry of it is recognised, and order is kept.
func TestStallIsWaitedOut(t *testing.T) {
	onMem(t, waits, func(t *testing.T, n *node, g *gate, disk *vfs.MemFS) {
		p := n.ByName("t", 0)
		for seq := range int32(3) {
			n.mustAppend(p, batchOf(t, 0, 77, 0, seq, 1))
		}
		g.shut(dataWAL)
		began := time.Now()
		first := n.begin(p, batchOf(t, 0, 77, 0, 3, 1))
		time.Sleep(300 * time.Millisecond) // by now nothing more is given to the disk
		second := n.begin(p, batchOf(t, 0, 77, 0, 4, 1))
		retry := n.begin(p, batchOf(t, 0, 77, 0, 3, 1))
		for name, ended := range map[string]<-chan *Append{"in flight": first, "queued": second, "retry": retry} {
			if a := <-ended; !errors.Is(a.Err, ErrStalled) || !errors.Is(a.Err, ErrStorage) {
				t.Errorf("%s: %v, want %v", name, a.Err, ErrStalled)
			}
		}
		if took := time.Since(began); took < 2*time.Second || took > 2100*time.Millisecond {
			t.Errorf("told after %s, want 2 s", took)
		}
		began = time.Now()
		if err := n.Reserve(10, time.Minute); !errors.Is(err, ErrStalled) {
			t.Errorf("Reserve on a stalled disk: %v", err)
		}
		if err := n.TryReserveKept(10); !errors.Is(err, ErrStalled) {
			t.Errorf("TryReserve on a stalled disk: %v", err)
		}
		done := make(chan *Append, 1)
		if ok, err := n.store.TryReserve(len(batchOf(t, 0, 77, 0, 5, 1))); !ok || err != nil {
			t.Fatal(ok, err)
		}
		p.Append(&Append{Batch: batchOf(t, 0, 77, 0, 5, 1), Done: func(a *Append) { done <- a }})
		if a := <-done; !errors.Is(a.Err, ErrStalled) {
			t.Errorf("an append that had its room: %v", a.Err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("refused after %s, want at once", took)
		}
		r, err := p.Read(0, p.HighWatermark(), 1<<20, true)
		if err != nil || r.Size() == 0 || p.HighWatermark() != 3 {
			t.Fatalf("read of the tail during the stall: %v, high watermark %d", err, p.HighWatermark())
		}
		r.Release()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n.Failure() != nil {
			t.Fatalf("the node gave up: %v", n.Failure())
		}

		g.open(nil)
		synctest.Wait()
		if n.Down() != nil {
			t.Fatalf("the disk answers, and still: %v", n.Down())
		}
		if hw := p.HighWatermark(); hw != 5 {
			t.Errorf("high watermark %d, want 5: what was under way is durable now", hw)
		}
		if a := n.append(p, batchOf(t, 0, 77, 0, 4, 1)); a.Err != nil || a.BaseOffset != 4 {
			t.Errorf("retry after the stall: offset %d, %v, want the original's 4", a.BaseOffset, a.Err)
		}
		if off := n.mustAppend(p, batchOf(t, 0, 77, 0, 5, 1)); off != 5 {
			t.Errorf("next: offset %d, want 5", off)
		}
		n = n.reopen(disk)
		defer n.close()
		if got := n.values(n.ByName("t", 0)); len(got) != 6 {
			t.Errorf("%d records after a restart, want 6", len(got))
		}
		if a := n.append(n.ByName("t", 0), batchOf(t, 0, 77, 0, 5, 1)); a.Err != nil || a.BaseOffset != 5 {
			t.Errorf("retry after a restart: offset %d, %v", a.BaseOffset, a.Err)
		}
	})
}

// A stall shorter than the limit makes appends slow and nothing else.
func TestShortStallsOnlyDelay(t *testing.T) {
	for action := range map[string]bool{"exit": true, "wait": true} {
		onMem(t, map[string]string{"log.dir.stall.action": action}, func(t *testing.T, n *node, g *gate, _ *vfs.MemFS) {
			defer n.close()
			p := n.ByName("t", 0)
			for i := range 20 {
				g.shut(func(op, name string) bool { return dataWAL(op, name) || segmentWrites(op, name) })
				var ended []<-chan *Append
				for range 3 {
					ended = append(ended, n.begin(p, valueBatch(t, "x")))
					time.Sleep(200 * time.Millisecond)
				}
				time.Sleep(time.Duration(i) * 70 * time.Millisecond) // 0.6 s to 1.93 s in all
				g.open(nil)
				for _, c := range ended {
					if a := <-c; a.Err != nil {
						t.Fatalf("stall %d: %v", i, a.Err)
					}
				}
				time.Sleep(time.Second)
			}
			if p.HighWatermark() != 60 || n.Failure() != nil {
				t.Errorf("high watermark %d, want 60; failure %v", p.HighWatermark(), n.Failure())
			}
		})
	}
}

// With action exit the node gives up at the limit.
func TestStallEndsTheNode(t *testing.T) {
	for name, match := range map[string]func(op, name string) bool{"log": dataWAL, "segments": segmentWrites} {
		t.Run(name, func(t *testing.T) {
			onMem(t, map[string]string{"log.writeback.ms": "100"}, func(t *testing.T, n *node, g *gate, _ *vfs.MemFS) {
				p := n.ByName("t", 0)
				g.shut(match)
				began := time.Now()
				n.begin(p, valueBatch(t, "x"))
				err := <-n.Failed()
				if took := time.Since(began); took < 2*time.Second || took > 2300*time.Millisecond {
					t.Errorf("failed after %s, want 2 s", took)
				}
				if !errors.Is(err, ErrStorage) || !(errors.Is(err, ErrStalled) || segment.IsLate(err)) {
					t.Errorf("failed with %v", err)
				}
				if err := n.Reserve(1, time.Minute); !errors.Is(err, ErrStorage) {
					t.Errorf("Reserve afterwards: %v", err)
				}
				g.open(nil) // it is too late
				time.Sleep(time.Hour)
				if err := n.Reserve(1, time.Minute); !errors.Is(err, ErrStorage) {
					t.Errorf("Reserve after the stall: %v", err)
				}
				n.closeFailed()
			})
		})
	}
}

// Segments are written when the disk answers again: the WAL does not grow for ever, and nothing is lost.
func TestStalledFlushIsTriedAgain(t *testing.T) {
	extra := map[string]string{"log.dir.stall.action": "wait", "log.writeback.ms": "100"}
	onMem(t, extra, func(t *testing.T, n *node, g *gate, disk *vfs.MemFS) {
		p := n.ByName("t", 0)
		g.shut(segmentWrites)
		ended := n.begin(p, valueBatch(t, "one"))
		if a := <-ended; a.Err != nil {
			t.Fatalf("the log is not stalled: %v", a.Err)
		}
		time.Sleep(time.Minute)
		if err := n.Reserve(1, time.Second); !errors.Is(err, ErrStalled) {
			t.Errorf("Reserve: %v, want %v", err, ErrStalled)
		}
		g.open(nil)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n.Down() != nil {
			t.Fatal(n.Down())
		}
		n.mustAppend(p, valueBatch(t, "two"))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if left := n.store.TailBytes(); left != 0 {
			t.Errorf("%d bytes are still not in a segment", left)
		}
		n = n.reopen(disk)
		defer n.close()
		if got := n.values(n.ByName("t", 0)); fmt.Sprint(got) != "[one two]" {
			t.Errorf("after a restart: %v", got)
		}
	})
}

// An I/O error is final, whenever it arrives: it is never taken for a stall that passed.
func TestIOErrorIsFinal(t *testing.T) {
	for _, tc := range []struct {
		name  string
		stall bool // the error comes at the end of a stall
		match func(op, name string) bool
	}{
		{"log", false, dataWAL}, {"log, late", true, dataWAL},
		{"segment", false, func(op, name string) bool { return op == "write" && segmentWrites(op, name) }},
		{"sync", false, func(op, name string) bool { return op == "datasync" && segmentWrites(op, name) }},
		{"sync, late", true, func(op, name string) bool { return op == "datasync" && segmentWrites(op, name) }},
		{"directory, late", true, func(op, name string) bool { return op == "syncdir" && segmentWrites(op, name) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			extra := map[string]string{"log.dir.stall.action": "wait", "log.writeback.ms": "100"}
			onMem(t, extra, func(t *testing.T, n *node, g *gate, _ *vfs.MemFS) {
				if tc.stall {
					g.shut(tc.match)
				} else {
					g.breakWith(syscall.EIO, tc.match)
				}
				p := n.ByName("t", 0)
				ended := n.begin(p, valueBatch(t, "x"))
				if tc.stall {
					time.Sleep(time.Minute)
					if n.Failure() != nil {
						t.Fatalf("a stall alone ended it: %v", n.Failure())
					}
					g.open(syscall.EIO)
				}
				err := <-n.Failed()
				if !errors.Is(err, ErrStorage) || !errors.Is(err, syscall.EIO) {
					t.Errorf("failed with %v, want EIO", err)
				}
				<-ended
				if err := n.Reserve(1, time.Minute); !errors.Is(err, syscall.EIO) {
					t.Errorf("Reserve: %v, want EIO", err)
				}
				time.Sleep(time.Hour)
				if err := n.Reserve(1, time.Minute); !errors.Is(err, syscall.EIO) {
					t.Errorf("Reserve an hour later: %v, want EIO", err)
				}
				g.mend()
				n.closeFailed()
			})
		})
	}
}

// A full disk is no failed one: produce is taken again when there is room.
func TestFullDiskIsNoFailure(t *testing.T) {
	onMem(t, map[string]string{"log.writeback.ms": "100"}, func(t *testing.T, n *node, g *gate, _ *vfs.MemFS) {
		defer n.close()
		p := n.ByName("t", 0)
		g.breakWith(syscall.ENOSPC, func(op, name string) bool { return op == "write" && segmentWrites(op, name) })
		n.mustAppend(p, valueBatch(t, "x"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if n.Failure() != nil || n.store.TailBytes() == 0 {
			t.Fatalf("failure %v, %d bytes unflushed", n.Failure(), n.store.TailBytes())
		}
		if err := n.Reserve(1, time.Second); !errors.Is(err, ErrDiskFull) {
			t.Errorf("Reserve: %v, want %v", err, ErrDiskFull)
		}
		g.mend()
		time.Sleep(retryMax)
		synctest.Wait()
		n.mustAppend(p, valueBatch(t, "y"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if left := n.store.TailBytes(); left != 0 {
			t.Errorf("%d bytes are not in a segment although there is room", left)
		}
	})
}

// GiveUp answers early, and changes nothing about the batch.
func TestGiveUp(t *testing.T) {
	onMem(t, map[string]string{"log.dir.stall.ms": "20000"}, func(t *testing.T, n *node, g *gate, _ *vfs.MemFS) {
		defer n.close()
		p := n.ByName("t", 0)
		mine := errors.New("my time is up")
		start := func(seq int32) (*Append, chan *Append) {
			b := batchOf(t, 0, 9, 0, seq, 1)
			if err := n.Reserve(len(b), 0); err != nil {
				t.Fatal(err)
			}
			done := make(chan *Append, 2)
			a := &Append{Batch: b, Done: func(a *Append) { done <- a }}
			p.Append(a)
			return a, done
		}
		g.shut(dataWAL)
		first, firstDone := start(0)
		second, secondDone := start(1)
		retry, retryDone := start(0)
		for _, a := range []*Append{retry, first} {
			if !p.GiveUp(a, mine) || p.GiveUp(a, mine) {
				t.Error("given up other than once")
			}
		}
		g.open(nil)
		synctest.Wait()
		if a := <-secondDone; a.Err != nil || a.BaseOffset != 1 {
			t.Errorf("the one that waited on: %v, offset %d", a.Err, a.BaseOffset)
		}
		if p.GiveUp(second, mine) {
			t.Error("given up after its end")
		}
		for _, done := range []chan *Append{firstDone, retryDone} {
			if a := <-done; a.Err != mine || len(done) != 0 {
				t.Errorf("the one that gave up: %v, told %d times more", a.Err, len(done))
			}
		}
		if p.HighWatermark() != 2 {
			t.Errorf("high watermark %d, want 2", p.HighWatermark())
		}
		again, againDone := start(0)
		if a := <-againDone; a.Err != nil || again.BaseOffset != 0 || p.End() != 2 {
			t.Errorf("retry: %v, offset %d, end %d", a.Err, again.BaseOffset, p.End())
		}
	})
}

// Closing a node whose disk hangs is bounded, also where stalls are waited out.
func TestCloseDuringStall(t *testing.T) {
	onMem(t, waits, func(t *testing.T, n *node, g *gate, _ *vfs.MemFS) {
		p := n.ByName("t", 0)
		g.shut(func(op, name string) bool { return dataWAL(op, name) || segmentWrites(op, name) })
		ended := n.begin(p, valueBatch(t, "x"))
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		began := time.Now()
		err := n.Manager.Close(ctx)
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("closed after %s", took)
		}
		if !errors.Is(err, uring.ErrDeadline) {
			t.Errorf("closed with %v, want %v", err, uring.ErrDeadline)
		}
		if a := <-ended; a.Err == nil {
			t.Error("acknowledged on a stalled disk")
		}
		g.open(nil)
		n.meta.Close()
	})
}
