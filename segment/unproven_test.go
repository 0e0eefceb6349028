package segment

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"weir/internal/record"
	"weir/internal/vfs"
)

// TestDamageBeyondTheRecoveryPointIsHealed: the newest file is sealed, synced and has its index, but no checkpoint says so: the WAL still has what lies
// beyond the old recovery point, so damage there is cut away, body or header, and comes back.
func TestDamageBeyondTheRecoveryPointIsHealed(t *testing.T) {
	for name, at := range map[string]int64{"body": 470 + record.HeaderSize + 20, "length": 470 + 8} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			o, _ := testOptions(mem)
			s := openStore(t, o)
			c := defaultConfig()
			c.SegmentBytes = 1600
			w := newWriter(t, openLog(t, s, "t-0", c))
			all := []record.Batch{w.add(1, 400, 5)}
			flushAll(t, s) // the recovery point is 1
			var full atomic.Bool
			full.Store(true)
			mem.SetHook(failOn(&full, "write", checkpointFile, syscall.ENOSPC))
			for range 2 {
				all = append(all, w.add(1, 400, 5))
			}
			w.l.mu.Lock()
			w.l.sealActiveLocked(w.l.activeLocked())
			w.l.mu.Unlock()
			if err := s.FlushAll(context.Background()); !errors.Is(err, ErrNoSpace) {
				t.Fatalf("FlushAll: %v", err)
			}
			quiesce(t, s)
			file := segFile("t-0", 0, logSuffix)
			if _, err := mem.Stat(segFile("t-0", 0, offsetIndex.suffix())); err != nil {
				t.Fatalf("the index is not saved: %v", err)
			}
			crashed := mem.CrashClone(rand.New(rand.NewPCG(1, 1)), 1)
			full.Store(false)
			closeStore(t, s)

			damageFile(t, crashed, file, func(b []byte) []byte { b[at] ^= 0x10; return b })
			for life := range 2 { // the second finds what the first has left
				o, _ = testOptions(crashed)
				s = openStore(t, o)
				l := openLog(t, s, "t-0", c)
				for i, b := range all[1:] {
					if err := l.Recovered(b, uint64(10+i)); err != nil {
						t.Fatalf("life %d: %v", life, err)
					}
				}
				if got, want := readAll(t, l, 0, 3, 1<<20), bytes.Join([][]byte{all[0], all[1], all[2]}, nil); !bytes.Equal(got, want) {
					t.Fatalf("life %d: read %d bytes, want %d", life, len(got), len(want))
				}
				next := crashed.CrashClone(rand.New(rand.NewPCG(1, 1)), 1)
				closeStore(t, s)
				crashed = next
			}
		})
	}
}

// TestDamagedLengthBeforeTheRecoveryPoint: a header below the recovery point claims more offsets than there are. What is behind it must not be
// taken for a torn end.
func TestDamagedLengthBeforeTheRecoveryPoint(t *testing.T) {
	mem := vfs.NewMem()
	o, _ := testOptions(mem)
	s := openStore(t, o)
	w := newWriter(t, openLog(t, s, "t-0", defaultConfig()))
	second := int64(0)
	for i := range 4 {
		n := len(w.add(2, 100, 5))
		if i == 0 {
			second = int64(n)
		}
	}
	flushAll(t, s)
	crashed := mem.CrashClone(rand.New(rand.NewPCG(1, 1)), 1)
	closeStore(t, s)
	file := segFile("t-0", 0, logSuffix)
	const lastOffsetDelta = 23
	damageFile(t, crashed, file, func(b []byte) []byte { b[second+lastOffsetDelta+3] ^= 0x10; return b })
	before, err := crashed.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	o, _ = testOptions(crashed)
	s = openStore(t, o)
	points, err := s.LoadCheckpoint()
	if err != nil || points["t-0"].RecoveryPoint != 8 {
		t.Fatalf("checkpoint %+v, %v; want recovery point 8", points, err)
	}
	if l, err := s.Open("t-0", always(defaultConfig()), 8, 0); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("opened, log ends at %d: %v; want %v", l.End(), err, ErrCorrupt)
	}
	if after, err := crashed.Stat(file); err != nil || after.Size() != before.Size() {
		t.Fatalf("file has %d bytes, want %d as before: %v", after.Size(), before.Size(), err)
	}
}
