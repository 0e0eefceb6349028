package wal

import (
	"testing"

	"weir/internal/vfs"
)

// A thread that was changed for the committer is never given back to other goroutines; one that is not the committer's own is not changed.
func TestOnThread(t *testing.T) {
	for _, locked := range []bool{true, false} {
		calls := 0
		w, err := Open(Options{
			FS: vfs.OS{}, Dir: t.TempDir() + "/log", FileBytes: 256 << 10, FilesMax: 4,
			OnCommit: func([]*Entry, error) {}, LockThread: locked, OnThread: func() { calls++ },
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Start(); err != nil {
			t.Fatal(err)
		}
		if want := map[bool]int{true: 1}[locked]; calls != want {
			t.Errorf("locked %v: called %d times, want %d", locked, calls, want)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}
