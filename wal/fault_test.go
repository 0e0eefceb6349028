package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/vfs"
	"weir/uring"
)

// isCommit tells a group's write from prewriting, which goes to files with a temporary name.
func isCommit(op, name string) bool { return op == "write" && name == "d/wal-0000.log" }

func TestPoison(t *testing.T) {
	for _, tc := range []struct {
		name  string
		stall bool
		cause error
	}{
		{"failed write", false, syscall.EIO},
		{"write past its deadline", true, uring.ErrDeadline},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fs := newImage()
			o := tinyOptions()
			o.FS, o.PipelineBytes, o.GroupBytesMax, o.WriteTimeout = fs, 1, 8<<10, 50*time.Millisecond
			o.Depth = 3
			r := newRig(t, o)
			r.start()
			r.commit(body(0, 100))
			bad := int64(r.w.End() % (64 << 10))
			letGo := make(chan struct{})
			fs.setHook(func(op, name string, off int64, _ int) error {
				if !isCommit(op, name) || off < bad {
					return nil
				}
				if tc.stall {
					<-letGo
					return nil
				}
				if off == bad {
					return syscall.EIO
				}
				return nil
			})
			accepted := 1
			for i := 1; i <= 30; i++ {
				err := r.w.Append(&Entry{Kind: KindInline, Body: body(i, 3000)})
				if err == nil {
					accepted++
				} else if !errors.Is(err, ErrPoisoned) {
					t.Fatalf("Append: %v", err)
				}
			}
			r.settled(accepted)
			err := r.w.Append(&Entry{Kind: KindInline})
			if !errors.Is(err, ErrPoisoned) || !errors.Is(err, tc.cause) {
				t.Errorf("Append of a poisoned log: %v, want %v because of %v", err, ErrPoisoned, tc.cause)
			}
			close(letGo)
			if err := r.w.Close(); !errors.Is(err, ErrPoisoned) {
				t.Errorf("Close of a poisoned log: %v, want %v", err, ErrPoisoned)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.mu.acked) != 1 || len(r.mu.failed) != accepted-1 || len(r.mu.poisons) != 1 {
				t.Fatalf("%d acknowledged, %d failed of %d, poisoned %d times; want 1, the rest, once",
					len(r.mu.acked), len(r.mu.failed), accepted, len(r.mu.poisons))
			}
			seen := map[*Entry]bool{}
			for i, e := range r.mu.failedBy {
				if seen[e] || !errors.Is(r.mu.failed[i], tc.cause) {
					t.Errorf("entry %d failed twice, or with %v", i, r.mu.failed[i])
				}
				seen[e] = true
			}
		})
	}
}

func TestBackpressure(t *testing.T) {
	fs := newImage()
	o := tinyOptions()
	o.FS, o.QueueBytesMax = fs, 10_000
	r := newRig(t, o)
	r.start()
	letGo := make(chan struct{})
	fs.setHook(func(op, name string, _ int64, _ int) error {
		if isCommit(op, name) {
			<-letGo
		}
		return nil
	})
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		err = r.w.Append(&Entry{Kind: KindInline, Body: body(n, 1000)})
	}
	if !errors.Is(err, ErrBackpressure) || n-1 != 9 {
		t.Fatalf("append %d: %v, want %v after 9 entries of 1028 bytes", n, err, ErrBackpressure)
	}
	close(letGo)
	r.settled(n - 1)
	// Room comes back when OnCommit has returned. The next group's OnCommit is called after that.
	r.append(body(n, 100))
	r.settled(n)
	if got := r.w.Stats().QueueBytes; got > 256 {
		t.Fatalf("%d bytes in the queue after all but the last entry was reported", got)
	}
	r.append(body(n, 9000)) // there is room again
	r.settled(n + 1)
	r.close()
	if got := r.w.Stats().QueueBytes; got != 0 {
		t.Fatalf("%d bytes in the queue of a closed log", got)
	}
}

// watchedRing counts what wakes the committer.
type watchedRing struct {
	uring.Ring
	waits, wakes *atomic.Int64
}

func (w watchedRing) Wait(block bool) error { w.waits.Add(1); return w.Ring.Wait(block) }
func (w watchedRing) Wake()                 { w.wakes.Add(1); w.Ring.Wake() }

func TestIdleDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newImage()
		var ops, waits, wakes atomic.Int64
		fs.setHook(func(string, string, int64, int) error { ops.Add(1); return nil })
		o := tinyOptions()
		o.FS = fs
		o.newRing = func(o uring.Options) (uring.Ring, error) {
			r, err := uring.New(o)
			return watchedRing{r, &waits, &wakes}, err
		}
		r := newRig(t, o)
		r.start()
		r.append(body(1, 100))
		synctest.Wait()
		r.append(body(2, 100))
		synctest.Wait()
		time.Sleep(2 * proofDelay) // the proof that these two were durable
		synctest.Wait()
		before := [...]int64{ops.Load(), waits.Load(), wakes.Load()}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if after := [...]int64{ops.Load(), waits.Load(), wakes.Load()}; after != before {
			t.Errorf("a day of idleness: operations, waits, wakes went from %v to %v", before, after)
		}
		if len(r.mu.acked) != 2 {
			t.Errorf("%d entries committed, want 2", len(r.mu.acked))
		}
		r.close()
	})
}

// TestOneWakePerSleep: however many append while a write is in flight, the committer is woken by its completion alone.
func TestOneWakePerSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newImage()
		var waits, wakes atomic.Int64
		o := tinyOptions()
		o.FS, o.PipelineBytes = fs, 10_000
		o.newRing = func(o uring.Options) (uring.Ring, error) {
			r, err := uring.New(o)
			return watchedRing{r, &waits, &wakes}, err
		}
		r := newRig(t, o)
		r.start()
		synctest.Wait()
		fs.setHook(func(op, name string, _ int64, _ int) error {
			if isCommit(op, name) {
				time.Sleep(time.Millisecond)
			}
			return nil
		})
		wakes.Store(0)
		r.append(body(0, 100))
		synctest.Wait()
		for i := range 50 {
			r.append(body(i, 100))
		}
		synctest.Wait()
		if n := wakes.Load(); n != 1 {
			t.Errorf("%d wakes for 51 appends around one write, want 1", n)
		}
		for i := range 60 {
			r.append(body(i, 100))
		}
		synctest.Wait()
		if n := wakes.Load(); n != 2 {
			t.Errorf("%d wakes when enough for a pipelined write had come, want 2", n)
		}
		r.settled(111)
		r.close()
	})
}

// TestCrashClone runs the log on vfs.Mem, whose crashes also lose directory entries and unsynced files.
func TestCrashClone(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	for round := range 40 {
		fs := vfs.NewMem()
		if err := fs.MkdirAll("/top"); err != nil {
			t.Fatal(err)
		}
		if err := fs.SyncDir("/"); err != nil {
			t.Fatal(err)
		}
		var want [][]byte
		for life := range 4 {
			o := tinyOptions()
			o.FS, o.Dir, o.FilesMax = fs, "/top/d", 8
			r := newRig(t, o)
			got := r.start()
			what := fmt.Sprintf("seed %d, round %d, life %d", seed, round, life)
			if len(got) < len(want) {
				t.Fatalf("%s: %d entries recovered, want %d at least", what, len(got), len(want))
			}
			sameBodies(t, what, got[:len(want)], want)
			n := 1 + rng.IntN(40)
			for i := range n {
				r.append(body(life*100+i, 1+rng.IntN(1500)))
			}
			r.settled(rng.IntN(n + 1))
			r.mu.Lock()
			acked := slices.Clone(r.mu.acked)
			r.mu.Unlock()
			crashed := fs.CrashClone(rng, rng.Float64())
			r.close()
			want = append(got, acked...)
			fs = crashed
		}
	}
}

func TestConcurrentAppendsAndReleases(t *testing.T) {
	o := tinyOptions()
	o.FS, o.QueueBytesMax = newImage(), 8<<20
	r := newRig(t, o)
	r.start()
	const producers, each = 8, 300
	done := make(chan int)
	for p := range producers {
		go func() {
			n := 0
			for i := range each {
				es := []*Entry{{Kind: KindInline, Body: body(p<<32|2*i, 200)}, {Kind: KindInline, Body: body(p<<32|2*i+1, 300)}}
				if err := r.w.AppendBatch(es); err != nil {
					t.Errorf("AppendBatch: %v", err)
					break
				}
				n += 2
				r.w.Release(r.w.Durable())
				r.w.Stats()
				r.w.OldestIO()
			}
			done <- n
		}()
	}
	total := 0
	for range producers {
		total += <-done
	}
	for r.mu.Lock(); len(r.mu.acked) < total; {
		r.mu.Unlock()
		r.w.Release(r.w.Durable())
		r.mu.Lock()
		if len(r.mu.acked) < total {
			r.mu.cond.Wait()
		}
	}
	next := map[uint64]uint64{}
	for _, b := range r.mu.acked {
		id := uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
		seq := uint64(b[4])<<24 | uint64(b[5])<<16 | uint64(b[6])<<8 | uint64(b[7])
		if seq != next[id] {
			t.Fatalf("producer %d: entry %d, want %d", id, seq, next[id])
		}
		next[id]++
	}
	r.mu.Unlock()
	r.close()
}

func TestFileSizeIsKept(t *testing.T) {
	fs := newImage()
	o := tinyOptions()
	o.FS = fs
	r := newRig(t, o)
	r.start()
	r.commit(body(1, 100))
	r.close()
	o.FileBytes = 128 << 10
	r = newRig(t, o)
	sameBodies(t, "other FileBytes", r.start(), [][]byte{body(1, 100)})
	if r.w.files.bytes != 64<<10 {
		t.Fatalf("file size %d, want the old one", r.w.files.bytes)
	}
	r.commit(body(2, 100))
	r.close()
}

func TestOptionsAreChecked(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"no directory":   func(o *Options) { o.Dir = "" },
		"odd file size":  func(o *Options) { o.FileBytes = 64<<10 + 1 },
		"tiny files":     func(o *Options) { o.FileBytes = 4096 },
		"one file":       func(o *Options) { o.FilesMax = 1 },
		"too deep":       func(o *Options) { o.Depth = 9 },
		"small groups":   func(o *Options) { o.GroupBytesMax = 100 },
		"negative bound": func(o *Options) { o.QueueBytesMax = -1 },
		"many spares":    func(o *Options) { o.SpareFiles = 4 },
	} {
		o := tinyOptions()
		o.FS = newImage()
		o.OnCommit = func([]*Entry, error) {}
		change(&o)
		if w, err := Open(o); !errors.Is(err, ErrMisuse) {
			t.Errorf("%s: %v, %v; want %v", name, w, err, ErrMisuse)
		}
	}
}

// TestRecoverySyncsWhatItRead: after a crash of the process alone, what recovery reads may be in the device's cache only. It must be
// durable before the next header says that it is.
func TestRecoverySyncsWhatItRead(t *testing.T) {
	fs := newImage()
	o := tinyOptions()
	o.FS = fs
	r := newRig(t, o)
	r.start()
	r.commit(body(1, 100))
	r.close()
	var mu sync.Mutex
	var ops []string
	fs.setHook(func(op, name string, _ int64, _ int) error {
		mu.Lock()
		defer mu.Unlock()
		if op == "sync" && name == "d/wal-0000.log" || op == "write" && name == "d/wal-0001.log" {
			ops = append(ops, op)
		}
		return nil
	})
	r = newRig(t, o)
	r.start()
	r.commit(body(2, 100))
	r.close()
	if len(ops) < 2 || ops[0] != "sync" || ops[1] != "write" {
		t.Fatalf("operations on the old and the new file: %v, want a sync before the first write", ops)
	}
	fs.setHook(func(op, name string, _ int64, _ int) error {
		if op == "sync" {
			return syscall.EIO
		}
		return nil
	})
	r = newRig(t, o)
	if err := r.w.Start(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Start after a failed sync: %v, want %v", err, syscall.EIO)
	}
	r.close()
}

// TestRealDisk runs on the kernel's file system and whatever ring it offers, with direct I/O where it can.
func TestRealDisk(t *testing.T) {
	o := Options{FS: vfs.OS{}, Dir: t.TempDir() + "/log", FileBytes: 256 << 10, FilesMax: 4, LockThread: true}
	var want [][]byte
	for life := range 3 {
		r := newRig(t, o)
		sameBodies(t, "real disk", r.start(), want)
		for i := range 50 {
			b := body(life*100+i, i*40)
			r.append(b)
			want = append(want, b)
		}
		r.settled(50)
		r.close()
	}
}
