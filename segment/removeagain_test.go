package segment

import (
	"context"
	"strings"
	"testing"
	"time"

	"weir/internal/vfs"
)

// TestReplicaLeavesAgainWhileItsDirectoryGoes: a replica leaves, comes back and leaves again before the directory of its first life has been renamed.
func TestReplicaLeavesAgainWhileItsDirectoryGoes(t *testing.T) {
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	w.add(1, 100, 0)
	flushAll(t, s)
	renaming, goOn := make(chan struct{}), make(chan struct{})
	mem.SetHook(func(op, name string, _ int64, _ int) error {
		if op == "rename" && !strings.Contains(name, checkpointFile) {
			close(renaming)
			<-goOn
		}
		return nil
	})
	s.RemoveHeld(w.l)(w.lsn + 1)
	select {
	case <-renaming: // a slow disk, or many directories before it
	case <-time.After(5 * time.Second):
		t.Fatal("no rename")
	}
	l, err := s.Open("t-0", always(defaultConfig()), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.RemoveHeld(l)(w.lsn + 2)
	close(goOn)
	waitIdle(t, s)
	mem.SetHook(nil)
	list, err := mem.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.IsDir() {
			t.Errorf("%s is left", e.Name())
		}
	}
	closeStore(t, s)
}

// TestReplicaLeavesWhileItsFlushWaitsForTheName: the log of the second life is removed while its first flush waits for the first life's directory to go.
func TestReplicaLeavesWhileItsFlushWaitsForTheName(t *testing.T) {
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	w.add(1, 100, 0)
	flushAll(t, s)
	removed := s.RemoveHeld(w.l) // its entry is in the WAL's queue
	l, err := s.Open("t-0", always(defaultConfig()), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	w2 := newWriter(t, l)
	w2.lsn = 10000
	for range 5 {
		w2.add(1, 200, 0)
	}
	flushed := make(chan error, 1)
	go func() { flushed <- s.FlushAll(context.Background()) }()
	time.Sleep(200 * time.Millisecond) // it waits in ownName
	removed2 := s.RemoveHeld(l)
	removed(10000)
	removed2(20000)
	t.Log("flush:", <-flushed)
	waitIdle(t, s)
	list, err := mem.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.IsDir() {
			t.Errorf("%s is left", e.Name())
		}
	}
	// The third life has nothing of the second one.
	l3, err := s.Open("t-0", always(defaultConfig()), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	w3 := newWriter(t, l3)
	w3.lsn = 30000
	w3.add(1, 200, 0)
	flushAll(t, s)
	closeStore(t, s)
	s = openStore(t, o)
	points, err := s.LoadCheckpoint()
	if err != nil {
		t.Fatal(err)
	}
	p := points["t-0"]
	l4, err := s.Open("t-0", always(defaultConfig()), p.RecoveryPoint, p.LogStart)
	if err != nil {
		t.Fatal(err)
	}
	if l4.End() != w3.l.End() {
		t.Errorf("after a restart the third life ends at %d, it ended at %d", l4.End(), w3.l.End())
	}
	closeStore(t, s)
}
