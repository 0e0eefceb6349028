package wal

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weir/internal/clock"
	"weir/internal/pace"
	"weir/internal/vfs"
)

// slowDevice is what a log's writes go to: they take time by their bytes, of a clock that only they move.
type slowDevice struct {
	clock.Real // timers
	mu         struct {
		sync.Mutex
		now   time.Time
		rate  float64 // bytes per second
		other int64   // somebody else's bytes in front of each write
		wrote []int   // sizes of writes to the log's files
		fail  int     // the write with this number fails
	}
}

func newSlowDevice(rate float64) *slowDevice {
	d := &slowDevice{}
	d.mu.now, d.mu.rate, d.mu.fail = time.Unix(1000, 0), rate, -1
	return d
}

func (d *slowDevice) Now() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.now
}

func (d *slowDevice) set(rate float64, other int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.rate, d.mu.other, d.mu.wrote = rate, other, nil
}

func (d *slowDevice) failAt(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.fail, d.mu.wrote = n, nil
}

func (d *slowDevice) sizes() []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]int(nil), d.mu.wrote...)
}

func (d *slowDevice) hook(op, name string, off int64, n int) error {
	if op != "write" {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.now = d.mu.now.Add(time.Duration(float64(int64(n)+d.mu.other) / d.mu.rate * float64(time.Second)))
	if !strings.HasSuffix(name, ".log") {
		return nil // a file that is being made, or the proof
	}
	d.mu.wrote = append(d.mu.wrote, n)
	if len(d.mu.wrote) == d.mu.fail+1 {
		return syscall.EIO
	}
	return nil
}

// slowRig is a log on a device with that rate, which it finds slow only once it writes.
func slowRig(t *testing.T, rate float64) (*rig, *slowDevice, *vfs.MemFS) {
	t.Helper()
	fsys := vfs.NewMem()
	d := newSlowDevice(1e12)
	fsys.SetHook(d.hook)
	r := newRig(t, slowOptions(fsys, d))
	r.start()
	d.set(rate, 0)
	return r, d, fsys
}

func slowOptions(fsys vfs.FS, d *slowDevice) Options {
	o := tinyOptions()
	o.FS, o.now, o.Pace = fsys, d.Now, pace.New(d, nil)
	o.FileBytes, o.GroupBytesMax, o.Depth, o.SpareFiles = 8<<20, 1<<20, 4, 0
	return o
}

func requireAtMost(t *testing.T, what string, sizes []int, most int) {
	t.Helper()
	for i, n := range sizes {
		if n > most {
			t.Errorf("%s: write %d of %d has %d bytes, want at most %d: %v", what, i, len(sizes), n, most, sizes)
			return
		}
	}
}

func sum(sizes []int) (n int) {
	for _, s := range sizes {
		n += s
	}
	return n
}

// TestSlowDevice: on a device of 1 MB/s a write is never more than what that does in about 130 ms, however large an entry is and however many wait;
// what was written is whole; and when the device is fast again groups are as large as ever.
func TestSlowDevice(t *testing.T) {
	r, d, fsys := slowRig(t, 1e6)
	var want [][]byte
	add := func(n, size int) {
		for range n {
			b := body(len(want), size)
			want = append(want, b)
			r.append(b)
		}
		r.settled(len(want))
	}

	add(1, 3<<19)
	sizes := d.sizes()
	if sizes[0] == blockBytes { // the file's header
		sizes = sizes[1:]
	}
	requireAtMost(t, "an entry of 1.5 MiB, at first", sizes[:1], startBytes)
	requireAtMost(t, "an entry of 1.5 MiB", sizes[1:], 2*pace.Floor)
	if got, want := sum(sizes), padded(groupFrameBytes+(&Entry{Head: []byte("head"), Body: want[0]}).frameSize()); got != want {
		t.Errorf("the group has %d bytes, its legs have %d", want, got)
	}

	d.set(1e6, 0)
	before := r.w.Stats().Groups
	add(300, 4000)
	requireAtMost(t, "300 entries of 4 KB", d.sizes(), 2*pace.Floor)
	if n := r.w.Stats().Groups - before; n < 300*4000/(2*pace.Floor) {
		t.Errorf("300 entries of 4 KB made %d groups: the first waits for the legs of the last", n)
	}

	d.set(1e6, 64<<10) // with somebody else's 64 KiB in front of each
	add(2, 1<<19)
	requireAtMost(t, "two entries of 512 KiB", d.sizes(), 2*pace.Floor)

	d.set(1e9, 0)
	add(4, 1<<20)
	d.set(1e9, 0)
	add(1, 1<<20)
	if sizes := d.sizes(); len(sizes) > 2 { // a header may be among them
		t.Errorf("an entry of 1 MiB was written as %v on a fast device", sizes)
	}
	r.close()

	fsys.SetHook(nil)
	again := newRig(t, slowOptions(fsys, d))
	got := again.start()
	if len(got) != len(want) {
		t.Fatalf("%d entries after a restart, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("entry %d differs after a restart", i)
		}
	}
	again.close()
}

// TestFastDeviceHasNoLegs: a device that is fast gets what it is given in one piece once it is known, and at first in a few.
func TestFastDeviceHasNoLegs(t *testing.T) {
	r, d, _ := slowRig(t, 1e9)
	r.commit(body(0, 1<<20))
	if n := len(d.sizes()); n > 3 {
		t.Errorf("the first entry of 1 MiB was written as %v", d.sizes())
	}
	r.commit(body(1, 1<<20))
	d.set(1e9, 0)
	r.commit(body(2, 1<<20))
	if n := len(d.sizes()); n != 1 {
		t.Errorf("the third entry of 1 MiB was written as %v", d.sizes())
	}
	r.close()
}

// TestLegFails: a leg that fails poisons the log, its entry fails once, and a restart finds what was acknowledged and no more.
func TestLegFails(t *testing.T) {
	for leg := range 6 {
		r, d, fsys := slowRig(t, 1e6)
		first := body(0, 100)
		r.commit(first)
		r.commit(body(1, 1<<19)) // now it is known to be slow
		d.failAt(leg)
		r.commit(body(2, 3<<19))
		if len(r.mu.acked) != 2 || len(r.mu.failed) != 1 || !errors.Is(r.mu.failed[0], ErrPoisoned) || len(r.mu.poisons) != 1 {
			t.Fatalf("leg %d fails: %d acknowledged, failed %v, poisoned %d times", leg, len(r.mu.acked), r.mu.failed, len(r.mu.poisons))
		}
		if n := len(d.sizes()); n != leg+1 {
			t.Errorf("leg %d fails: %d writes, want %d", leg, n, leg+1)
		}
		if err := r.w.Close(); !errors.Is(err, ErrPoisoned) {
			t.Fatalf("Close: %v", err)
		}
		fsys.SetHook(nil)
		again := newRig(t, slowOptions(fsys, d))
		if got := again.start(); len(got) != 2 || !bytes.Equal(got[0], first) {
			t.Fatalf("leg %d failed: %d entries after a restart, want 2", leg, len(got))
		}
		again.close()
	}
}

// TestMakingFilesIsPaced: the zeroes of a new file are given to a slow device a little at a time.
func TestMakingFilesIsPaced(t *testing.T) {
	fsys := vfs.NewMem()
	d := newSlowDevice(1e6)
	var mu sync.Mutex
	var wrote []int
	fsys.SetHook(func(op, name string, off int64, n int) error {
		if op == "write" && strings.HasSuffix(name, tmpSuffix) {
			mu.Lock()
			wrote = append(wrote, n)
			mu.Unlock()
		}
		return d.hook(op, name, off, n)
	})
	r := newRig(t, slowOptions(fsys, d))
	r.start()
	mu.Lock()
	sizes := append([]int(nil), wrote...)
	mu.Unlock()
	requireAtMost(t, "zeroes, at first", sizes[:1], pace.Start)
	requireAtMost(t, "zeroes", sizes[1:], 2*pace.Floor)
	r.close()
}
