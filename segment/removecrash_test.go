package segment

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"weir/internal/vfs"
)

// TestReplicaLeavesAndPowerGoes: a replica leaves, the power goes between the rename of its directory and the checkpoint, and it is given back to the node while that is down.
func TestReplicaLeavesAndPowerGoes(t *testing.T) {
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	o.IOTimeout = time.Minute
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	for range 10 {
		w.add(1, 100, 0)
	}
	flushAll(t, s) // the checkpoint says 10
	gone := make(chan struct{})
	var clone *vfs.MemFS
	renamed := false
	mem.SetHook(func(op, name string, _ int64, _ int) error {
		switch {
		case op == "write" && strings.Contains(name, checkpointFile): // a slow disk
			select {
			case <-gone:
			case <-time.After(300 * time.Millisecond):
				t.Log("the rename waits for the checkpoint")
			}
		case op == "rename" && !strings.Contains(name, checkpointFile):
			renamed = true
		case op == "remove" && renamed && clone == nil: // it has been made durable
			clone = mem.CrashClone(rand.New(rand.NewPCG(1, 1)), 0)
			close(gone)
		}
		return nil
	})
	removed := s.RemoveHeld(w.l)
	removed(w.lsn + 1)
	waitIdle(t, s)
	mem.SetHook(nil)
	closeStore(t, s)
	if clone == nil {
		t.Fatal("no clone was taken: the directory never went")
	}
	o.FS = clone
	s, err := NewStore(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	points, err := s.LoadCheckpoint()
	if err != nil {
		t.Fatal(err)
	}
	p := points["t-0"]
	l, err := s.Open("t-0", always(defaultConfig()), p.RecoveryPoint, p.LogStart)
	if err != nil {
		t.Fatalf("checkpoint %+v: the start is refused: %v", p, err)
	}
	if err := l.RecoveredTruncate(0, true, w.lsn+1); err != nil {
		t.Fatal(err)
	}
}
