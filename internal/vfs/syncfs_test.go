package vfs

import (
	"errors"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestSyncerMakesAllDurable: after Sync a crash loses nothing that was done before it, and what came later may be lost.
func TestSyncerMakesAllDurable(t *testing.T) {
	m := NewMem()
	bounded := Bounded(m, time.Minute, 2)
	if err := bounded.MkdirAll("/a/b"); err != nil {
		t.Fatal(err)
	}
	s, err := OpenSyncer(bounded, "/a")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string) {
		f, err := bounded.OpenFile(name, Create)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("data"), 0); err != nil {
			t.Fatal(err)
		}
	}
	write("/a/b/one")
	write("/a/two")
	if err := bounded.Rename("/a/two", "/a/three"); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	write("/a/late")
	clone := m.CrashClone(rand.New(rand.NewPCG(1, 1)), 0)
	for name, want := range map[string]int64{"/a/b/one": 4, "/a/three": 4, "/a/two": -1, "/a/late": -1} {
		info, err := clone.Stat(name)
		switch {
		case want < 0 && err == nil:
			t.Errorf("%s survived a crash that was to lose it", name)
		case want >= 0 && err != nil:
			t.Errorf("%s after a crash: %v", name, err)
		case want >= 0 && info.Size() != want:
			t.Errorf("%s has %d bytes after a crash, want %d", name, info.Size(), want)
		}
	}
	m.SetHook(func(op, _ string, _ int64, _ int) error {
		if op == "syncfs" {
			return syscall.EIO
		}
		return nil
	})
	if err := s.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("sync with a failing disk: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestSyncerOfTheKernel: either it works or it says why there is none.
func TestSyncerOfTheKernel(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenSyncer(Bounded(OS{}, time.Minute, 2), dir)
	if err != nil {
		if !errors.Is(err, ErrNoSyncer) {
			t.Fatal(err)
		}
		t.Logf("%v", err)
		return
	}
	if err := os.WriteFile(dir+"/file", []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Sync(); err == nil {
		t.Error("a closed Syncer syncs")
	}
}

func TestNoSyncer(t *testing.T) {
	if _, err := OpenSyncer(struct{ FS }{NewMem()}, "/"); !errors.Is(err, ErrNoSyncer) {
		t.Errorf("of a file system that has none: %v", err)
	}
	if _, err := OpenSyncer(OS{}, "/proc/self"); !errors.Is(err, ErrNoSyncer) {
		t.Errorf("of /proc: %v", err)
	}
}

func TestParseRelease(t *testing.T) {
	for release, want := range map[string][2]int{
		"6.18.44-fc-v595": {6, 18}, "5.17-rc1": {5, 17}, "4.19.0": {4, 19}, "": {0, 0}, "linux": {0, 0}, "7": {0, 0},
	} {
		if major, minor := parseRelease(release); major != want[0] || minor != want[1] {
			t.Errorf("%q is %d.%d, want %d.%d", release, major, minor, want[0], want[1])
		}
	}
}

func TestUnbounded(t *testing.T) {
	m := NewMem()
	if Unbounded(Bounded(m, time.Second, 1)) != FS(m) || Unbounded(m) != FS(m) {
		t.Error("Unbounded does not return what Bounded wrapped")
	}
}
