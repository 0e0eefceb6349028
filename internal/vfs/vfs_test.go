package vfs

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eachFS runs a test on every file system; dir is an empty directory of it.
func eachFS(t *testing.T, test func(t *testing.T, fsys FS, dir string)) {
	t.Run("os", func(t *testing.T) { test(t, OS{}, t.TempDir()) })
	t.Run("mem", func(t *testing.T) { test(t, NewMem(), "/") })
	t.Run("bounded os", func(t *testing.T) { test(t, Bounded(OS{}, time.Minute, 4), t.TempDir()) })
	t.Run("bounded mem", func(t *testing.T) { test(t, Bounded(NewMem(), time.Minute, 4), "/") })
}

func mustOpen(t *testing.T, fsys FS, name string, flag Flag) File {
	t.Helper()
	f, err := fsys.OpenFile(name, flag)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
			t.Error(err)
		}
	})
	return f
}

func mustWrite(t *testing.T, f File, data string, off int64) {
	t.Helper()
	if n, err := f.WriteAt([]byte(data), off); n != len(data) || err != nil {
		t.Fatalf("write of %q at %d: %d, %v", data, off, n, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, fsys FS, name string) string {
	t.Helper()
	f := mustOpen(t, fsys, name, ReadOnly)
	size, err := f.Size()
	must(t, err)
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); n != len(b) || err != nil && err != io.EOF {
		t.Fatalf("read of %s: %d of %d, %v", name, n, size, err)
	}
	return string(b)
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func TestFileContents(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "f")
		f := mustOpen(t, fsys, name, Create)
		mustWrite(t, f, "hello", 0)
		mustWrite(t, f, "far", 9000)
		must(t, f.Sync())
		must(t, f.Datasync())
		want := "hello" + string(make([]byte, 8995)) + "far"
		if got := content(t, fsys, name); got != want {
			t.Errorf("got %d bytes %.10q, want %d", len(got), got, len(want))
		}
		b := make([]byte, 10)
		if n, err := f.ReadAt(b, 8999); n != 4 || err != io.EOF || string(b[:n]) != "\x00far" {
			t.Errorf("read at the end: %d, %v, %q", n, err, b)
		}
		if n, err := f.ReadAt(b, 20000); n != 0 || err != io.EOF {
			t.Errorf("read past the end: %d, %v", n, err)
		}
		must(t, f.Truncate(3))
		must(t, f.Truncate(6))
		if got := content(t, fsys, name); got != "hel\x00\x00\x00" {
			t.Errorf("after truncate: %q", got)
		}
		must(t, f.Allocate(0, 100))
		if got := content(t, fsys, name); got != "hel"+string(make([]byte, 97)) {
			t.Errorf("after allocate: %q", got)
		}
		must(t, mustOpen(t, fsys, name, Create|Truncate).Sync())
		if got := content(t, fsys, name); got != "" {
			t.Errorf("after truncating open: %q", got)
		}
		if f.Name() != name {
			t.Errorf("name %q", f.Name())
		}
	})
}

func TestFileErrors(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "f")
		_, err := fsys.OpenFile(name, 0)
		wantErr(t, "open of a missing file", err, fs.ErrNotExist)
		wantErr(t, "the same", err, syscall.ENOENT)
		_, err = fsys.OpenFile(filepath.Join(dir, "no", "f"), Create)
		wantErr(t, "create in a missing directory", err, fs.ErrNotExist)
		f := mustOpen(t, fsys, name, Create|Exclusive)
		_, err = fsys.OpenFile(name, Create|Exclusive)
		wantErr(t, "exclusive create", err, fs.ErrExist)
		_, err = mustOpen(t, fsys, name, ReadOnly).WriteAt([]byte("x"), 0)
		wantErr(t, "write to a read-only file", err, syscall.EBADF)
		must(t, f.Close())
		wantErr(t, "second close", f.Close(), fs.ErrClosed)
		_, err = f.ReadAt(make([]byte, 1), 0)
		wantErr(t, "read of a closed file", err, fs.ErrClosed)
		wantErr(t, "datasync of a closed file", f.Datasync(), fs.ErrClosed)
		wantErr(t, "sync of a missing directory", fsys.SyncDir(filepath.Join(dir, "no")), fs.ErrNotExist)
		_, err = fsys.Space(dir)
		must(t, err)
	})
}

func TestDirectories(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys FS, dir string) {
		at := func(name string) string { return filepath.Join(dir, name) }
		must(t, fsys.MkdirAll(at("a/b")))
		must(t, fsys.MkdirAll(at("a/b")))
		for _, name := range []string{"a/z", "a/b/x", "a/b/y"} {
			mustWrite(t, mustOpen(t, fsys, at(name), Create), name, 0)
		}
		must(t, fsys.SyncDir(at("a")))
		list := func(name string) string {
			entries, err := fsys.List(at(name))
			must(t, err)
			s := ""
			for _, e := range entries {
				s += e.Name()
				if e.IsDir() {
					s += "/"
				}
				s += " "
			}
			return s
		}
		if got := list("a"); got != "b/ z " {
			t.Errorf("list: %q", got)
		}
		must(t, fsys.Rename(at("a/b/x"), at("a/z")))
		if got := content(t, fsys, at("a/z")); got != "a/b/x" {
			t.Errorf("after rename: %q", got)
		}
		wantErr(t, "rename of a missing file", fsys.Rename(at("a/b/x"), at("a/q")), fs.ErrNotExist)
		must(t, fsys.Rename(at("a/b"), at("c")))
		if got := list("") + list("c"); got != "a/ c/ y " {
			t.Errorf("after renaming a directory: %q", got)
		}
		wantErr(t, "remove of a full directory", fsys.Remove(at("c")), syscall.ENOTEMPTY)
		wantErr(t, "remove of nothing", fsys.Remove(at("nothing")), fs.ErrNotExist)
		must(t, fsys.Remove(at("c/y")))
		must(t, fsys.Remove(at("c")))
		must(t, fsys.RemoveAll(at("a")))
		must(t, fsys.RemoveAll(at("a")))
		if got := list(""); got != "" {
			t.Errorf("after removal: %q", got)
		}
		if _, err := fsys.Stat(at("a")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat of a removed directory: %v", err)
		}
	})
}

func TestStat(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "f")
		mustWrite(t, mustOpen(t, fsys, name, Create), "12345", 0)
		fi, err := fsys.Stat(name)
		must(t, err)
		if fi.Size() != 5 || fi.IsDir() || fi.Name() != "f" || !fi.Mode().IsRegular() {
			t.Errorf("file: %d, %v, %q, %v", fi.Size(), fi.IsDir(), fi.Name(), fi.Mode())
		}
		fi, err = fsys.Stat(dir)
		must(t, err)
		if !fi.IsDir() || !fi.Mode().IsDir() {
			t.Errorf("directory: %v", fi.Mode())
		}
	})
}

func TestLock(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys FS, dir string) {
		name := filepath.Join(dir, "LOCK")
		l, err := fsys.Lock(name)
		must(t, err)
		_, err = fsys.Lock(name)
		wantErr(t, "second lock", err, ErrLocked)
		must(t, l.Close())
		l, err = fsys.Lock(name)
		must(t, err)
		must(t, l.Close())
	})
}

func TestDirect(t *testing.T) {
	eachFS(t, func(t *testing.T, fsys FS, dir string) {
		f, err := fsys.OpenFile(filepath.Join(dir, "f"), Create|Direct|DSync)
		if errors.Is(err, ErrNoDirect) {
			t.Skip(err)
		}
		must(t, err)
		mem, err := unix.Mmap(-1, 0, 2*BlockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		must(t, err)
		t.Cleanup(func() { must(t, unix.Munmap(mem)) })
		if n, err := f.WriteAt(mem, 0); n != len(mem) || err != nil {
			t.Errorf("aligned write: %d, %v", n, err)
		}
		if f.Fd() == -1 { // a disk may be more lenient
			_, err := f.WriteAt(mem[:100], 0)
			wantErr(t, "odd length", err, syscall.EINVAL)
			_, err = f.WriteAt(mem[:BlockSize], 512)
			wantErr(t, "odd offset", err, syscall.EINVAL)
			_, err = f.ReadAt(mem[8:8+BlockSize], 0)
			wantErr(t, "odd buffer", err, syscall.EINVAL)
		}
		must(t, f.Close())
	})
}

// O_DIRECT is refused at open by file systems that cannot; the answer must be told from other mistakes.
func TestNoDirect(t *testing.T) {
	const procFile = "/proc/self/status" // no file of proc can
	_, err := OS{}.OpenFile(procFile, ReadOnly|Direct)
	wantErr(t, "direct open in proc", err, ErrNoDirect)
	_, err = OS{}.OpenFile(procFile+"x", ReadOnly|Direct)
	wantErr(t, "direct open of a missing file", err, fs.ErrNotExist)
}

func TestSpace(t *testing.T) {
	s, err := OS{}.Space(t.TempDir())
	must(t, err)
	if s.Total == 0 || s.Available > s.Total {
		t.Errorf("space %+v", s)
	}
	_, err = OS{}.Space("/no/such/place")
	wantErr(t, "space of nothing", err, fs.ErrNotExist)
}

func TestFdAfterClose(t *testing.T) {
	f := mustOpen(t, OS{}, filepath.Join(t.TempDir(), "f"), Create)
	if f.Fd() < 0 {
		t.Errorf("fd %d", f.Fd())
	}
	must(t, f.Close())
	if f.Fd() != closedFd {
		t.Errorf("fd %d after close", f.Fd())
	}
}
