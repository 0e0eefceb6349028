package raftmeta

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"weir/internal/vfs"
	"weir/uring"
)

// TestGateBounds: by number and by bytes, but for what is not a caller's; and each place is free again when its holder leaves.
func TestGateBounds(t *testing.T) {
	g := newGate(3, 100)
	steps := []struct {
		leaves bool
		bytes  int
		full   bool
	}{
		{bytes: 250}, {bytes: 1, full: true}, {bytes: 0}, {leaves: true}, {leaves: true, bytes: 250}, // one that is too large gets in alone
		{bytes: 60}, {bytes: 41, full: true}, {bytes: 40}, {bytes: 1, full: true}, {leaves: true, bytes: 40},
		{bytes: 1}, {bytes: 1}, {bytes: 1, full: true}, {bytes: 0}, {leaves: true}, {leaves: true, bytes: 1}, {bytes: 39},
	}
	for i, s := range steps {
		if s.leaves {
			g.leave(s.bytes)
			continue
		}
		if err := g.enter(s.bytes); errors.Is(err, ErrBackpressure) != s.full || !s.full && err != nil {
			t.Fatalf("step %d: %d bytes: got %v, full is to be %v", i, s.bytes, err, s.full)
		}
	}
}

// TestProposeIsBounded: while the log stands still changes gather up to a bound; from there on callers hear at once that it is full, and when the log goes
// on what was taken is done and there is room again.
func TestProposeIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs, o := faultOptions("/data")
		fs.FS = vfs.NewMem()
		o.ProposalsMax, o.StoreTimeout = 8, time.Minute
		o.ProposeTimeout = time.Minute
		m := open(t, o)
		defer shut(t, m)
		release := make(chan struct{})
		fs.inject("wal-", func() error { <-release; return nil })
		ended := make(chan error, o.ProposalsMax)
		for range o.ProposalsMax {
			go func() {
				_, err := m.Propose(t.Context(), AllocateProducerIDs{Broker: 1})
				ended <- err
			}()
		}
		synctest.Wait()
		began := time.Now()
		for range 3 {
			if _, err := m.Propose(t.Context(), AllocateProducerIDs{Broker: 1}); !errors.Is(err, ErrBackpressure) || time.Since(began) != 0 {
				t.Fatalf("got %v after %s, want ErrBackpressure at once", err, time.Since(began))
			}
		}
		if err := m.gate.enter(0); err != nil {
			t.Fatalf("the office has no room: %v", err)
		}
		m.gate.leave(0)
		fs.heal()
		close(release)
		for range o.ProposalsMax {
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
		}
		if r := propose(t, m, AllocateProducerIDs{Broker: 1}); r[0].FirstProducerID != int64(o.ProposalsMax)*ProducerIDBlock {
			t.Fatalf("producer ids from %d: not all that was taken was done, once", r[0].FirstProducerID)
		}
	})
}

// TestAwaitIsBounded: those who wait for a version.
func TestAwaitIsBounded(t *testing.T) {
	p := newPublisher()
	var last *waiter
	for range waitersMax {
		w, err := p.wait(1)
		if err != nil || w == nil {
			t.Fatal(w, err)
		}
		last = w
	}
	if _, err := p.wait(1); !errors.Is(err, ErrBackpressure) {
		t.Fatalf("got %v, want ErrBackpressure", err)
	}
	p.giveUp(last)
	if _, err := p.wait(1); err != nil {
		t.Fatalf("there is room again: %v", err)
	}
}

// TestSnapshotIsBounded: one that is too large fails before it is in memory, and leaves no file.
func TestSnapshotIsBounded(t *testing.T) {
	mem := vfs.NewMem()
	o := Options{FS: mem, Ring: uring.Options{Backend: uring.BackendPortable}}
	o.setDefaults()
	s, err := openSnapshots(newDisk(o.FS, o.Ring, o.IOTimeout), "/s", o.Clock, o.Logger, o.Metrics)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := s.Create(1, 5, 1, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sink.Write(make([]byte, snapshotBytesMax)); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), sink.ID()) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	if err := sink.Cancel(); err != nil {
		t.Fatal(err)
	}
	if names, err := mem.List("/s"); err != nil || len(names) != 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}
