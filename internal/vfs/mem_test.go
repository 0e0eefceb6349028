package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

func crash(m *MemFS, keep float64) *MemFS { return m.CrashClone(rand.New(rand.NewPCG(1, 2)), keep) }

// The promise of each way to make data durable, at both ends of luck.
func TestCrashKeepsWhatWasSynced(t *testing.T) {
	for _, c := range []struct {
		what string
		do   func(t *testing.T, m *MemFS)
		none string // content of /f after losing all that may be lost; "-" if it is not there
		all  string
	}{
		{"nothing synced", func(t *testing.T, m *MemFS) {
			mustWrite(t, mustOpen(t, m, "/f", Create), "new", 0)
		}, "-", "new"},
		{"file synced, directory not", func(t *testing.T, m *MemFS) {
			f := mustOpen(t, m, "/f", Create)
			mustWrite(t, f, "new", 0)
			must(t, f.Sync())
		}, "-", "new"},
		{"directory synced, file not", func(t *testing.T, m *MemFS) {
			mustWrite(t, mustOpen(t, m, "/f", Create), "new", 0)
			must(t, m.SyncDir("/"))
		}, "", "new"},
		{"all synced", func(t *testing.T, m *MemFS) {
			f := mustOpen(t, m, "/f", Create)
			mustWrite(t, f, "new", 0)
			must(t, f.Datasync())
			must(t, m.SyncDir("/"))
		}, "new", "new"},
		{"synced by the write", func(t *testing.T, m *MemFS) {
			mustWrite(t, mustOpen(t, m, "/f", Create|DSync), "new", 0)
			must(t, m.SyncDir("/"))
		}, "new", "new"},
		{"overwritten after the sync", func(t *testing.T, m *MemFS) {
			f := mustOpen(t, m, "/f", Create)
			mustWrite(t, f, "old", 0)
			must(t, f.Sync())
			must(t, m.SyncDir("/"))
			mustWrite(t, f, "newer", 0)
		}, "old", "newer"},
		{"removed, directory not synced", func(t *testing.T, m *MemFS) {
			mustWrite(t, mustOpen(t, m, "/f", Create|DSync), "old", 0)
			must(t, m.SyncDir("/"))
			must(t, m.Remove("/f"))
		}, "old", "-"},
		{"replaced by rename", func(t *testing.T, m *MemFS) {
			mustWrite(t, mustOpen(t, m, "/f", Create|DSync), "old", 0)
			mustWrite(t, mustOpen(t, m, "/tmp", Create|DSync), "new", 0)
			must(t, m.SyncDir("/"))
			must(t, m.Rename("/tmp", "/f"))
		}, "old", "new"},
		{"cut short", func(t *testing.T, m *MemFS) {
			f := mustOpen(t, m, "/f", Create|DSync)
			mustWrite(t, f, "long", 0)
			must(t, m.SyncDir("/"))
			must(t, f.Truncate(2))
		}, "long", "lo"},
	} {
		t.Run(c.what, func(t *testing.T) {
			m := NewMem()
			c.do(t, m)
			for keep, want := range map[float64]string{0: c.none, 1: c.all} {
				clone := crash(m, keep)
				got := "-"
				if _, err := clone.Stat("/f"); err == nil {
					got = content(t, clone, "/f")
				}
				if got != want {
					t.Errorf("keep %v: got %q, want %q", keep, got, want)
				}
			}
		})
	}
}

// A rename is kept or lost as a whole, and never loses the file.
func TestCrashRenameIsAtomic(t *testing.T) {
	m := NewMem()
	must(t, m.MkdirAll("/a"))
	must(t, m.MkdirAll("/b"))
	mustWrite(t, mustOpen(t, m, "/a/f", Create|DSync), "data", 0)
	must(t, m.SyncDir("/a"))
	must(t, m.Rename("/a/f", "/b/f"))
	seen := map[string]bool{}
	for seed := range uint64(64) {
		clone := m.CrashClone(rand.New(rand.NewPCG(seed, 0)), 0.5)
		where := ""
		for _, name := range []string{"/a/f", "/b/f"} {
			if _, err := clone.Stat(name); err == nil {
				where += name
			}
		}
		seen[where] = true
	}
	if len(seen) != 2 || !seen["/a/f"] || !seen["/b/f"] {
		t.Errorf("after crashes the file was at %v", seen)
	}
	must(t, m.SyncDir("/b"))
	if got := content(t, crash(m, 0), "/b/f"); got != "data" {
		t.Errorf("after SyncDir: %q", got)
	}
}

// modelFile is what MemFS must agree with: a file's bytes now, and those that are durable. Sectors are durable as a whole, even
// past the durable end of the file.
type modelFile struct {
	now     []byte
	size    int // durable
	sectors []byte
}

func (f *modelFile) durable() []byte { return grown(slices.Clone(f.sectors), f.size)[:f.size] }

func (f *modelFile) write(b []byte, off int, durable bool) {
	f.now = grown(f.now, off+len(b))
	copy(f.now[off:], b)
	if durable {
		f.size = max(f.size, off+len(b))
		lo, hi := off&^(sectorBytes-1), (off+len(b)+sectorBytes-1)&^(sectorBytes-1)
		f.sectors = grown(f.sectors, hi)
		clear(f.sectors[lo:hi])
		copy(f.sectors[lo:hi], f.now[lo:])
	}
}

func (f *modelFile) sync() { f.sectors, f.size = slices.Clone(f.now), len(f.now) }

func grown(b []byte, size int) []byte {
	if len(b) >= size {
		return b
	}
	return append(b, make([]byte, size-len(b))...)
}

func (f *modelFile) truncate(size int) {
	if size < len(f.now) {
		f.now = slices.Clone(f.now[:size])
	}
	f.now = grown(f.now, size)
}

// possible tells what is impossible about got as the file's content after a crash.
func (f *modelFile) possible(got []byte) error {
	lo, hi := min(len(f.now), f.size), max(len(f.now), f.size)
	if len(got) < lo || len(got) > hi {
		return fmt.Errorf("%d bytes, want %d to %d", len(got), lo, hi)
	}
	now, durable := grown(slices.Clone(f.now), len(got)), grown(slices.Clone(f.sectors), len(got))
	for at := 0; at < len(got); at += sectorBytes {
		end := min(at+sectorBytes, len(got))
		if g := got[at:end]; !slices.Equal(g, now[at:end]) && !slices.Equal(g, durable[at:end]) {
			return fmt.Errorf("sector at %d is neither as written nor as synced", at)
		}
	}
	return nil
}

func TestCrashProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := NewMem()
		plain, err := m.OpenFile("/f", Create)
		if err != nil {
			rt.Fatal(err)
		}
		dsync, err := m.OpenFile("/f", DSync)
		if err != nil {
			rt.Fatal(err)
		}
		if err := m.SyncDir("/"); err != nil {
			rt.Fatal(err)
		}
		var model modelFile
		var fill byte
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) {
				off, n := rapid.IntRange(0, 20_000).Draw(rt, "off"), rapid.IntRange(1, 9000).Draw(rt, "n")
				fill = (fill + 1) % 5 // zeroes too
				f, durable := plain, rapid.Bool().Draw(rt, "dsync")
				if durable {
					f = dsync
				}
				b := []byte(strings.Repeat(string(rune(fill)), n))
				if _, err := f.WriteAt(b, int64(off)); err != nil {
					rt.Fatal(err)
				}
				model.write(b, off, durable)
			},
			"truncate": func(rt *rapid.T) {
				size := rapid.IntRange(0, 25_000).Draw(rt, "size")
				if err := plain.Truncate(int64(size)); err != nil {
					rt.Fatal(err)
				}
				model.truncate(size)
			},
			"sync": func(rt *rapid.T) {
				if err := plain.Datasync(); err != nil {
					rt.Fatal(err)
				}
				model.sync()
			},
			"": func(rt *rapid.T) {
				now, none, all := whole(rt, m), whole(rt, crash(m, 0)), whole(rt, crash(m, 1))
				some := whole(rt, m.CrashClone(rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0)), 0.5))
				if !slices.Equal(now, model.now) || !slices.Equal(all, model.now) {
					rt.Fatalf("content: %d bytes, with all kept %d, want %d", len(now), len(all), len(model.now))
				}
				if !slices.Equal(none, model.durable()) {
					rt.Fatalf("with nothing kept: %d bytes, want %d", len(none), model.size)
				}
				if err := model.possible(some); err != nil {
					rt.Fatalf("with some kept: %v", err)
				}
			},
		})
	})
}

func whole(rt *rapid.T, m *MemFS) []byte {
	f, err := m.OpenFile("/f", ReadOnly)
	if err != nil {
		rt.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		rt.Fatal(err)
	}
	b := make([]byte, size)
	if n, _ := f.ReadAt(b, 0); n != len(b) {
		rt.Fatalf("read %d of %d", n, len(b))
	}
	return b
}

// What happens to a clone does not reach the original, nor the other way round.
func TestCrashCloneIsApart(t *testing.T) {
	m := NewMem()
	f := mustOpen(t, m, "/f", Create|DSync)
	mustWrite(t, f, strings.Repeat("x", 5000), 0)
	must(t, m.SyncDir("/"))
	m.SetHook(func(string, string, int64, int) error { return errors.New("the original's hook") })
	clone := crash(m, 0.5)
	m.SetHook(nil)
	g := mustOpen(t, clone, "/f", DSync)
	mustWrite(t, g, "clone", 0)
	mustWrite(t, f, "ORIGI", 0)
	if got := content(t, m, "/f")[:6]; got != "ORIGIx" {
		t.Errorf("original: %q", got)
	}
	if got := content(t, clone, "/f")[:6]; got != "clonex" {
		t.Errorf("clone: %q", got)
	}
	again := crash(clone, 0)
	if got := content(t, again, "/f")[:6]; got != "clonex" {
		t.Errorf("clone of the clone: %q", got)
	}
}

func TestHookFailsOperations(t *testing.T) {
	m := NewMem()
	f := mustOpen(t, m, "/f", Create)
	var failing string
	m.SetHook(func(op, name string, off int64, n int) error {
		if op == failing {
			return syscall.EIO
		}
		return nil
	})
	run := map[string]func() error{
		"open":      func() error { _, err := m.OpenFile("/g", Create); return err },
		"remove":    func() error { return m.Remove("/f") },
		"removeall": func() error { return m.RemoveAll("/f") },
		"rename":    func() error { return m.Rename("/f", "/h") },
		"mkdirall":  func() error { return m.MkdirAll("/d") },
		"list":      func() error { _, err := m.List("/"); return err },
		"stat":      func() error { _, err := m.Stat("/f"); return err },
		"syncdir":   func() error { return m.SyncDir("/") },
		"space":     func() error { _, err := m.Space("/"); return err },
		"lock":      func() error { _, err := m.Lock("/l"); return err },
		"read":      func() error { _, err := f.ReadAt(make([]byte, 1), 0); return err },
		"write":     func() error { _, err := f.WriteAt(make([]byte, 1), 0); return err },
		"sync":      f.Sync,
		"datasync":  f.Datasync,
		"allocate":  func() error { return f.Allocate(0, 10) },
		"truncate":  func() error { return f.Truncate(10) },
		"size":      func() error { _, err := f.Size(); return err },
		"close":     f.Close,
	}
	for _, failing = range sortedKeys(run) {
		err := run[failing]()
		var perr *fs.PathError
		if !errors.Is(err, syscall.EIO) || !errors.As(err, &perr) || perr.Op != failing {
			t.Errorf("%s: %v", failing, err)
		}
	}
	m.SetHook(nil)
	if got := content(t, m, "/f"); got != "" {
		t.Errorf("a failed operation changed the file: %q", got)
	}
}

func TestCapacity(t *testing.T) {
	m := NewMem()
	m.SetCapacity(10_000)
	f := mustOpen(t, m, "/f", Create)
	mustWrite(t, f, strings.Repeat("x", 9000), 0)
	_, err := f.WriteAt(make([]byte, 2000), 9000)
	wantErr(t, "write beyond", err, syscall.ENOSPC)
	wantErr(t, "allocate beyond", f.Allocate(0, 20_000), syscall.ENOSPC)
	wantErr(t, "truncate beyond", f.Truncate(20_000), syscall.ENOSPC)
	mustWrite(t, f, "overwriting needs no room", 0)
	s, err := m.Space("/")
	must(t, err)
	if s != (Space{Total: 10_000, Available: 1000}) {
		t.Errorf("space %+v", s)
	}
	must(t, m.Remove("/f"))
	mustWrite(t, mustOpen(t, m, "/g", Create), strings.Repeat("y", 10_000), 0)
}

// Files prewritten with zeroes take no memory worth speaking of.
func TestZeroesTakeNoMemory(t *testing.T) {
	m := NewMem()
	f := mustOpen(t, m, "/f", Create|DSync)
	zeroes := make([]byte, 1<<20)
	for off := range int64(64) {
		_, err := f.WriteAt(zeroes, off<<20)
		must(t, err)
	}
	for i, b := range m.mu.entries["/f"].mu.blocks {
		if b != nil {
			t.Fatalf("block %d is held", i)
		}
	}
}

func TestOSMatchesMemOnRemovedOpenFile(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys FS, dir string) {
		name := dir + "/f"
		f := mustOpen(t, fsys, name, Create)
		mustWrite(t, f, "still here", 0)
		must(t, fsys.Remove(name))
		b := make([]byte, 5)
		if n, err := f.ReadAt(b, 0); n != 5 || err != nil || string(b) != "still" {
			t.Errorf("read of a removed file: %d, %v, %q", n, err, b)
		}
		if _, err := fsys.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("stat: %v", err)
		}
	})
}
