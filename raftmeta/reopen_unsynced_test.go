package raftmeta

import (
	"errors"
	"math/rand/v2"
	"path"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"

	"weir/internal/vfs"
	"weir/uring"
)

// TestLogIsNotDroppedBehindAnUnsyncedSnapshot: a snapshot that can be read may have got its name from a write whose last step failed, and lose it again when
// the power goes. The log that it replaces is not dropped before the name is durable.
func TestLogIsNotDroppedBehindAnUnsyncedSnapshot(t *testing.T) {
	const dir = "/data/meta/snapshots"
	mem := vfs.NewMem()
	o := Options{FS: mem, Ring: uring.Options{Backend: uring.BackendPortable}}
	o.setDefaults()
	m := &Meta{o: o, store: storeCovered(t, mem, path.Dir(dir), 12)}
	storeRange(t, m.store, 1, 10, 1)
	open := func(fs vfs.FS) *snapshots {
		s, err := openSnapshots(newDisk(fs, o.Ring, o.IOTimeout), dir, o.Clock, o.Logger, o.Metrics)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	m.snaps = open(mem)
	mem.SetHook(func(op, name string, _ int64, _ int) error {
		if op == "syncdir" && name == dir {
			return syscall.EIO
		}
		return nil
	})
	sink, err := m.snaps.Create(1, 12, 2, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("the snapshot's name is not durable, and its writer hears %v", err)
	}
	list, err := m.snaps.List()
	if err != nil || len(list) != 1 {
		t.Fatalf("%d snapshots, %v: the test does not reach what it is for", len(list), err)
	}
	if err := m.dropReplaced(list[0]); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v, want EIO", err)
	}
	if last, _ := m.store.LastIndex(); last != 10 {
		t.Errorf("the log ends at %d, and nothing durable has replaced it", last)
	}
	mem.SetHook(nil)
	if err := m.dropReplaced(list[0]); err != nil {
		t.Fatal(err)
	}
	if last, _ := m.store.LastIndex(); last != 0 {
		t.Errorf("the log ends at %d, it was not dropped", last)
	}
	list, err = open(mem.CrashClone(rand.New(rand.NewPCG(1, 1)), 0)).List()
	if err != nil || len(list) != 1 || list[0].Index != 12 {
		t.Errorf("after a power cut: snapshots %v, %v, and the log is dropped", list, err)
	}
	if err := m.store.close(); err != nil {
		t.Fatal(err)
	}
}
