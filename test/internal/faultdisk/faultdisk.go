// Package faultdisk is a disk for tests that does what bad disks do: it stands still, fails, loses power and with it what
// was not flushed, lies about flushes and runs full. A real ext4 or XFS is on it.
//
//	file system (ext4, XFS)  mounted in a mount namespace of its own
//	loop device              direct I/O, sectors of 512 bytes
//	FUSE file                served by a helper process, which holds the content in memory
//
// The helper is the test's own binary, started again; it and a keeper (helper.go) are alone in the mount namespace, so mounts
// and loop device end with it, and it ends with the test's process. The test's process holds nothing of the disk open: it looks at it by
// Path, which leads through the helper's /proc entry.
//
// What a stalled disk holds: a thread that reads, writes or syncs a file on it, in the kernel, where no signal reaches it, until
// the disk goes on, fails or loses power. So a test touches the files itself only while nothing is stalled.
package faultdisk

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Options say what disk it is.
type Options struct {
	Bytes     int64  // 512 MiB by default; XFS needs 300 MiB. Only what was written takes memory
	FS        string // ext4 (the default) or xfs
	MkfsOpts  []string
	MountOpts string // of mount -o
}

// Disk is a mounted faulty disk. Its methods may be called from any goroutine, but for PowerCut, Cut, Restore and Close,
// which one goroutine calls.
type Disk struct {
	t       testing.TB
	options Options
	dir     string
	helper  *helper
	power   int // counts power cuts; the file of that number is in use

	mu struct {
		sync.Mutex
		closed bool
	}
}

// New makes a disk with an empty file system and removes it with the test. It skips the test where something is missing.
func New(t testing.TB, o Options) *Disk {
	t.Helper()
	if o.Bytes == 0 {
		o.Bytes = 512 << 20
	}
	if o.FS == "" {
		o.FS = "ext4"
	}
	if missing := Missing(o.FS); missing != "" {
		t.Skipf("NOT TESTED: a faulty disk (%s) is not possible here: %s", o.FS, missing)
	}
	sweep(t)
	d := &Disk{t: t, options: o}
	if err := d.start(); err != nil {
		d.Close()
		t.Fatalf("fault disk: %v", err)
	}
	t.Cleanup(d.Close)
	return d
}

func (d *Disk) start() error {
	dir, lock, err := makeDir()
	if err != nil {
		return err
	}
	defer lock.Close()
	d.dir = dir
	if d.helper, err = startHelper(dir, lock, d.options.Bytes); err != nil {
		return err
	}
	return d.up(true)
}

// Path is the mounted file system's root. It stays the same across power cuts; any process may use it.
func (d *Disk) Path() string { return d.helper.path(filepath.Join(d.dir, mountDir)) }

// Stall holds requests of the kinds back, for a time from now or until Resume where it is 0. It replaces an earlier stall, and it
// ends with the test, before what was set up earlier is torn down: a process that the disk holds cannot be waited for.
// A flush that is held back also keeps writes and reads that come after it from reaching the disk, see the decision record.
func (d *Disk) Stall(kinds Kind, duration time.Duration) {
	d.t.Helper()
	d.t.Cleanup(d.release)
	d.must(request{Op: "stall", Kinds: kinds, For: duration})
}

// Resume ends a stall: what was held back is carried out.
func (d *Disk) Resume() {
	d.t.Helper()
	d.must(request{Op: "resume"})
}

// AwaitHeld waits until a stall holds back at least one request of the kinds and reports whether it did in time.
func (d *Disk) AwaitHeld(kinds Kind, wait time.Duration) bool {
	d.t.Helper()
	return d.must(request{Op: "await", Kinds: kinds, For: wait}).Met
}

// Fail lets requests of the kinds fail. Whatever the error, the loop device turns it into EIO.
func (d *Disk) Fail(kinds Kind, errno syscall.Errno) {
	d.t.Helper()
	d.must(request{Op: "fail", Kinds: kinds, Errno: errno})
}

// Heal ends Fail. What the file system made of the failures stays: ext4 may be read-only, XFS shut down.
func (d *Disk) Heal() {
	d.t.Helper()
	d.must(request{Op: "fail"})
}

// LieAboutFlush lets flushes succeed without making anything durable, across power cuts too.
func (d *Disk) LieAboutFlush(lie bool) {
	d.t.Helper()
	d.must(request{Op: "lie", Lie: lie})
}

// Stats are the disk's counts.
func (d *Disk) Stats() Stats {
	d.t.Helper()
	return d.must(request{Op: "stats"}).Stats
}

// Loss is what a power cut took.
type Loss = loss

// PowerCut is Cut and Restore: it may be called while processes use the file system, which then have dead files.
func (d *Disk) PowerCut(rng *rand.Rand, keep float64) Loss {
	d.t.Helper()
	lost := d.Cut(rng, keep)
	if err := d.Restore(); err != nil {
		d.t.Fatalf("after a power cut: %v", err)
	}
	return lost
}

// Cut takes the power away: every request fails from now on. What was flushed stays; each sector of 512 bytes that was
// written since the last flush keeps what was written last with the probability keep. Of the others, where keep is 0
// each has its flushed content, else that or anything it held since. The processes that use the disk are to be killed then.
func (d *Disk) Cut(rng *rand.Rand, keep float64) Loss {
	d.t.Helper()
	a := d.must(request{Op: "cut", Seed: rng.Uint64(), Keep: keep})
	d.power = a.Power
	return a.Loss
}

// Restore mounts what a Cut has left; the file system's journal is replayed. An error may be the file system's: it could not
// be mounted.
func (d *Disk) Restore() error {
	d.down()
	return d.up(false)
}

// Remount unmounts and mounts the file system, so that nothing of it is in memory. No process may use it.
func (d *Disk) Remount() {
	d.t.Helper()
	if err := d.unmount(); err != nil {
		d.t.Fatalf("fault disk: %v", err)
	}
	if err := d.up(false); err != nil {
		d.t.Fatalf("fault disk: %v", err)
	}
}

// unmount waits for the kernel: what a process had in flight with io_uring may hold its files for a while after it was waited for.
func (d *Disk) unmount() error {
	for deadline := time.Now().Add(commandWait); ; time.Sleep(20 * time.Millisecond) {
		_, err := d.run("umount", filepath.Join(d.dir, mountDir))
		if err == nil || !strings.Contains(err.Error(), "busy") || time.Now().After(deadline) {
			return err
		}
	}
}

// FillExcept takes all room but so many bytes with a file of someone else's, and Drain gives it back.
func (d *Disk) FillExcept(leave int64) {
	d.t.Helper()
	f, err := os.OpenFile(d.filler(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		d.t.Fatalf("fault disk: fill: %v", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		d.t.Fatalf("fault disk: fill: %v", err)
	}
	size := info.Size()
	// In steps: what a file system needs for itself comes off the free room too.
	for step := int64(64 << 20); step >= 64<<10; step /= 2 {
		for d.Free()-step >= leave && unix.Fallocate(int(f.Fd()), 0, size, step) == nil {
			size += step
		}
	}
}

// Drain removes what FillExcept wrote.
func (d *Disk) Drain() {
	d.t.Helper()
	if err := os.Remove(d.filler()); err != nil {
		d.t.Fatalf("fault disk: drain: %v", err)
	}
}

// Free is how many bytes the file system has left.
func (d *Disk) Free() int64 {
	d.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(d.Path(), &st); err != nil {
		d.t.Fatalf("fault disk: free room: %v", err)
	}
	return int64(st.Bavail) * st.Bsize
}

func (d *Disk) filler() string { return filepath.Join(d.Path(), "someone-elses-file") }

// release lets everything that the disk holds go on.
func (d *Disk) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.helper == nil || d.mu.closed {
		return
	}
	for _, op := range []string{"resume", "fail"} {
		if _, err := call(d.helper.socket(), request{Op: op}); err != nil {
			d.t.Logf("fault disk: %v", err)
		}
	}
}

// Close removes the disk. It may be called more than once and whatever state the disk is in.
func (d *Disk) Close() {
	d.release()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.closed || d.dir == "" {
		return
	}
	d.mu.closed = true
	if d.helper != nil {
		d.down()
		if err := d.helper.end(); err != nil {
			d.t.Errorf("fault disk: %v", err)
		}
	}
	if err := removeDir(d.dir); err != nil {
		d.t.Errorf("fault disk: %v", err)
	}
}

func (d *Disk) must(r request) answer {
	d.t.Helper()
	a, err := call(d.helper.socket(), r)
	if err != nil {
		d.t.Fatalf("%v", fmt.Errorf("%w; the disk's process said: %s", err, d.helper.said()))
	}
	return a
}
