package faultdisk

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLyingDiskLosesDurableWrites: what an application was told to be durable is gone.
func TestLyingDiskLosesDurableWrites(t *testing.T) {
	onEach(t, func(t *testing.T, d *Disk) {
		rng := newRand(t)
		f := prewrite(t, d, "wal", 64<<10)
		buf := aligned(t, 4096)
		copy(buf, bytes.Repeat([]byte{1}, 4096))
		for _, lie := range []bool{false, true} {
			d.LieAboutFlush(lie)
			offset := int64(0)
			if lie {
				offset = 16 << 10
			}
			if _, err := f.WriteAt(buf, offset); err != nil {
				t.Fatal(err)
			}
		}
		_ = f.Close()
		d.PowerCut(rng, 0)
		d.LieAboutFlush(false)
		got, err := os.ReadFile(filepath.Join(d.Path(), "wal"))
		if err != nil {
			t.Fatal(err)
		}
		if got[0] != 1 || got[16<<10] != 0 || d.Stats().Lies == 0 {
			t.Fatalf("write before the lie %d, after it %d (%+v); want 1 and 0", got[0], got[16<<10], d.Stats())
		}
	})
}

// TestTornWrite: a write that was not flushed may be there in part, in sectors of 512 bytes.
func TestTornWrite(t *testing.T) {
	onEach(t, func(t *testing.T, d *Disk) {
		rng := newRand(t)
		const size = 1 << 20
		_ = prewrite(t, d, "file", size).Close()
		f, err := os.OpenFile(filepath.Join(d.Path(), "file"), os.O_RDWR|unix.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		buf := aligned(t, size)
		for i := range buf {
			buf[i] = 1
		}
		if _, err := f.WriteAt(buf, 0); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		d.PowerCut(rng, 0.5)
		got, err := os.ReadFile(filepath.Join(d.Path(), "file"))
		if err != nil {
			t.Fatal(err)
		}
		kept, torn := 0, false
		for at := 0; at < size; at += sectorBytes {
			sector := got[at : at+sectorBytes]
			if !bytes.Equal(sector, bytes.Repeat(sector[:1], sectorBytes)) {
				t.Fatalf("the sector at %d is torn within", at)
			}
			kept += int(sector[0])
			torn = torn || at%4096 != 0 && sector[0] != got[at-1]
		}
		if total := size / sectorBytes; kept < total/3 || kept > total*2/3 || !torn {
			t.Fatalf("%d of %d sectors kept, some block torn: %v; want about half and blocks torn", kept, total, torn)
		}
	})
}

// TestSyncedFilesSurvive: the file system keeps its promise on this disk, whatever a power cut leaves of what was not flushed:
// files that were synced, and whose directory was, are there with their content after its journal was replayed.
func TestSyncedFilesSurvive(t *testing.T) {
	onEach(t, func(t *testing.T, d *Disk) {
		rng := newRand(t)
		var synced []string
		for cycle, keep := range []float64{0, 0.5, 1, rng.Float64(), rng.Float64()} {
			dir := filepath.Join(d.Path(), fmt.Sprintf("cycle-%d", cycle))
			made := make(chan string, 10000)
			go makeFiles(dir, made)
			name, ok := <-made
			for wait := time.After(time.Duration(rng.IntN(100)) * time.Millisecond); ok; {
				synced = append(synced, name)
				select {
				case <-wait:
					ok = false
				case name, ok = <-made:
				}
			}
			d.Cut(rng, keep)
			for name := range made { // until an operation fails
				synced = append(synced, name)
			}
			if err := d.Restore(); err != nil {
				t.Fatalf("cycle %d, keep %v: %v", cycle, keep, err)
			}
			for _, name := range synced {
				content, err := os.ReadFile(name)
				if err != nil || !bytes.Equal(content, contentOf(name)) {
					t.Fatalf("cycle %d, keep %v: %s: %d bytes, %v", cycle, keep, name, len(content), err)
				}
			}
			t.Logf("cycle %d, keep %.2f: %d files synced so far", cycle, keep, len(synced))
		}
	})
}

func contentOf(name string) []byte { return bytes.Repeat([]byte(name), 100) }

// makeFiles makes and syncs files until the disk has no power.
func makeFiles(dir string, made chan<- string) {
	defer close(made)
	if os.Mkdir(dir, 0o755) != nil || syncDir(filepath.Dir(dir)) != nil {
		return
	}
	for i := range cap(made) {
		name := filepath.Join(dir, fmt.Sprint(i))
		f, err := os.Create(name)
		if err != nil {
			return
		}
		_, err = f.Write(contentOf(name))
		if err == nil {
			err = f.Sync()
		}
		_ = f.Close()
		if err != nil || syncDir(dir) != nil {
			return
		}
		made <- name
	}
}

// TestCutUnderUse: power can be cut while files are open; those are dead, and the path leads to what the cut left.
func TestCutUnderUse(t *testing.T) {
	onEach(t, func(t *testing.T, d *Disk) {
		rng := newRand(t)
		f := prewrite(t, d, "file", 64<<10)
		buf := aligned(t, 4096)
		d.PowerCut(rng, 1)
		if _, err := f.WriteAt(buf, 0); err == nil {
			t.Fatal("a file from before the power cut can be written")
		}
		again := openDurable(t, filepath.Join(d.Path(), "file"))
		if _, err := again.WriteAt(buf, 0); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRemountReadsFromTheDisk(t *testing.T) {
	onEach(t, func(t *testing.T, d *Disk) {
		if err := os.WriteFile(filepath.Join(d.Path(), "file"), bytes.Repeat([]byte{1}, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		d.Remount()
		before := d.Stats().ReadBytes
		f, err := os.Open(filepath.Join(d.Path(), "file"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if n, err := io.Copy(io.Discard, f); n != 1<<20 || err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
		if read := d.Stats().ReadBytes - before; read < 1<<20 {
			t.Fatalf("%d bytes came from the disk, want all", read)
		}
	})
}

func TestFull(t *testing.T) {
	onEach(t, func(t *testing.T, d *Disk) {
		const leave = 8 << 20
		d.FillExcept(leave)
		if free := d.Free(); free < leave-1<<20 || free > leave+1<<20 {
			t.Fatalf("%d bytes free, want about %d", free, leave)
		}
		if err := os.WriteFile(filepath.Join(d.Path(), "file"), make([]byte, 16<<20), 0o600); err == nil {
			t.Fatal("16 MiB fit into 8")
		}
		d.Drain()
		if err := os.WriteFile(filepath.Join(d.Path(), "file"), make([]byte, 16<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	})
}

// TestManyDisks: more disks at a time than the kernel has loop devices at its start.
func TestManyDisks(t *testing.T) {
	var disks []*Disk
	for range 10 {
		disks = append(disks, New(t, Options{Bytes: 32 << 20}))
	}
	for i, d := range disks {
		f := prewrite(t, d, "file", 4096)
		buf := aligned(t, 4096)
		buf[0] = byte(i + 1)
		if _, err := f.WriteAt(buf, 0); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		d.PowerCut(rand.New(rand.NewPCG(1, uint64(i))), 0)
	}
	for i, d := range disks {
		if got, err := os.ReadFile(filepath.Join(d.Path(), "file")); err != nil || got[0] != byte(i+1) {
			t.Fatalf("disk %d holds %d, %v", i, got[0], err)
		}
	}
}
