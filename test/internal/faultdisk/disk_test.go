package faultdisk

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// onEach runs a test on each file system.
func onEach(t *testing.T, test func(t *testing.T, d *Disk)) {
	t.Helper()
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) { test(t, New(t, Options{FS: kind})) })
	}
}

// prewrite makes a file as the write-ahead log does: written with zeroes and synced, then opened for durable writes.
func prewrite(t *testing.T, d *Disk, name string, size int) *os.File {
	t.Helper()
	path := filepath.Join(d.Path(), name)
	f, err := os.Create(path)
	if err == nil {
		_, err = f.Write(make([]byte, size))
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = syncDir(d.Path())
	}
	if err != nil {
		t.Fatal(err)
	}
	return openDurable(t, path)
}

func openDurable(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT|unix.O_DSYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// aligned is memory that direct I/O accepts.
func aligned(t *testing.T, size int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	return b
}

func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("WEIR_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatalf("WEIR_SEED=%q is no number", text)
		}
	}
	t.Logf("WEIR_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// TestDurableWriteSurvives: a write through O_DIRECT|O_DSYNC reaches the disk as a write and a flush, so it is there after a
// power cut that keeps nothing else; the same write without O_DSYNC is not.
func TestDurableWriteSurvives(t *testing.T) {
	onEach(t, func(t *testing.T, d *Disk) {
		rng := newRand(t)
		const size = 64 << 10
		f := prewrite(t, d, "wal", size)
		durable := bytes.Repeat([]byte{1}, 4096)
		buf := aligned(t, 4096)
		copy(buf, durable)
		before := d.Stats()
		if _, err := f.WriteAt(buf, 4096); err != nil {
			t.Fatal(err)
		}
		after := d.Stats()
		if after.Writes == before.Writes || after.Flushes == before.Flushes {
			t.Fatalf("a durable write was %d writes and %d flushes on the disk, want some of each", after.Writes-before.Writes, after.Flushes-before.Flushes)
		}
		plain, err := os.OpenFile(filepath.Join(d.Path(), "wal"), os.O_RDWR|unix.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		copy(buf, bytes.Repeat([]byte{2}, 4096))
		if _, err := plain.WriteAt(buf, 16<<10); err != nil {
			t.Fatal(err)
		}
		_ = plain.Close()
		_ = f.Close()
		if lost := d.PowerCut(rng, 0); lost.Lost == 0 {
			t.Fatalf("the power cut took %+v, want the write without O_DSYNC at least", lost)
		}
		got, err := os.ReadFile(filepath.Join(d.Path(), "wal"))
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, size)
		copy(want[4096:], durable)
		if !bytes.Equal(got, want) {
			t.Fatalf("durable write there: %v, write that was not flushed lost: %v", bytes.Equal(got[4096:8192], durable), got[16<<10] == 0)
		}
	})
}

// TestStall: what a stall holds back does not return until it ends, whatever kind it is.
func TestStall(t *testing.T) {
	for name, kind := range map[string]Kind{"write": Write, "flush": Flush, "read": Read} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, d *Disk) {
				f := prewrite(t, d, "file", 64<<10)
				buf := aligned(t, 4096)
				done := make(chan error, 1)
				d.Stall(kind, 0)
				go func() {
					var err error
					if kind == Read {
						_, err = f.ReadAt(buf, 0)
					} else {
						_, err = f.WriteAt(buf, 0)
					}
					done <- err
				}()
				if !d.AwaitHeld(kind, 20*time.Second) {
					t.Fatalf("no request is held back: %+v", d.Stats())
				}
				select {
				case err := <-done:
					t.Fatalf("it returned (%v) while the disk stood still", err)
				default:
				}
				d.Resume()
				if err := <-done; err != nil {
					t.Fatalf("after the stall: %v", err)
				}
			})
		})
	}
}

// TestStallEnds: a stall for a time delays and does no more.
func TestStallEnds(t *testing.T) {
	onEach(t, func(t *testing.T, d *Disk) {
		f := prewrite(t, d, "file", 64<<10)
		buf := aligned(t, 4096)
		d.Stall(All, 100*time.Millisecond)
		if _, err := f.WriteAt(buf, 0); err != nil {
			t.Fatal(err)
		}
		if st := d.Stats(); st.Held == 0 || st.HeldNow != 0 || st.Failed != 0 {
			t.Fatalf("%+v: want requests that were held back, and none now", st)
		}
	})
}

// TestReadsPassStalledWrites: a write that is held back does not keep reads from the disk.
func TestReadsPassStalledWrites(t *testing.T) {
	onEach(t, func(t *testing.T, d *Disk) {
		f := prewrite(t, d, "file", 64<<10)
		other := prewrite(t, d, "other", 64<<10)
		d.Stall(Write, 0)
		done := make(chan error, 1)
		buf, into := aligned(t, 4096), aligned(t, 4096)
		go func() {
			_, err := f.WriteAt(buf, 0)
			done <- err
		}()
		if !d.AwaitHeld(Write, 20*time.Second) {
			t.Fatal("no write is held back")
		}
		before := d.Stats().Reads
		if _, err := other.ReadAt(into, 0); err != nil {
			t.Fatal(err)
		}
		if d.Stats().Reads == before {
			t.Fatal("the read did not reach the disk")
		}
		runtime.GC() // stops the world: no goroutine may be where it cannot be stopped
		select {
		case err := <-done:
			t.Fatalf("the write returned: %v", err)
		default:
		}
		d.Resume()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestFail(t *testing.T) {
	onEach(t, func(t *testing.T, d *Disk) {
		f := prewrite(t, d, "file", 64<<10)
		buf := aligned(t, 4096)
		d.Fail(Read, syscall.EIO)
		if _, err := f.ReadAt(buf, 0); !errors.Is(err, syscall.EIO) {
			t.Fatalf("read: %v, want EIO", err)
		}
		d.Heal()
		if _, err := f.ReadAt(buf, 0); err != nil {
			t.Fatalf("read after healing: %v", err)
		}
		d.Fail(Write|Flush, syscall.EIO)
		if _, err := f.WriteAt(buf, 0); !errors.Is(err, syscall.EIO) {
			t.Fatalf("write: %v, want EIO", err)
		}
	})
}

// TestRemountWaits: a file that is still open, as one of a process that has just ended may be for a moment, is waited for.
func TestRemountWaits(t *testing.T) {
	d := New(t, Options{})
	name := filepath.Join(d.Path(), "open")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	time.AfterFunc(200*time.Millisecond, func() { closed <- f.Close() })
	d.Remount()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(name); err != nil {
		t.Error(err)
	}
}
