package raftmeta

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"weir/internal/vfs"
)

// TestCrash cuts the power at random moments and starts again, over and over on what is left. All that Propose has
// acknowledged must be there, with its id; what it has not may be there or not; and no producer id is ever handed out twice.
func TestCrash(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	mem := vfs.NewMem()
	acked := make(map[string][16]byte)
	nextID := int64(0)
	for life := range 12 {
		o := testOptions("/data")
		o.FS = mem
		o.SnapshotBytes, o.TrailingLogs = 256<<10, 4
		m := open(t, o)
		img := m.Image()
		for name, id := range acked {
			if got := img.Topic(name); got == nil || got.ID != id {
				t.Fatalf("life %d: topic %s with id %s was acknowledged, got %+v", life, name, FormatID(id), got)
			}
		}
		if img.NextProducerID() < nextID {
			t.Fatalf("life %d: next producer id is %d, but %d was acknowledged", life, img.NextProducerID(), nextID)
		}
		for i := range rng.IntN(120) {
			name := fmt.Sprintf("t-%d-%d", life, i)
			r := propose(t, m, CreateTopic{Name: name, Partitions: 3}, AllocateProducerIDs{Broker: 1})
			acked[name] = r[0].Topic.ID
			if r[1].FirstProducerID < nextID {
				t.Fatalf("producer id %d was handed out before", r[1].FirstProducerID)
			}
			nextID = r[1].FirstProducerID + r[1].ProducerIDs
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { // changes under way when the power goes
			for i := 0; ; i++ {
				if _, err := m.Propose(ctx, CreateTopic{Name: fmt.Sprintf("u-%d-%d", life, i), Partitions: 1}); err != nil {
					ended <- err
					return
				}
			}
		}()
		crashed := mem.CrashClone(rng, rng.Float64())
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		shut(t, m)
		mem = crashed
	}
}

// TestStartsAloneDoNotFillTheLog: each start takes a new file of the log, whether anything is proposed or not.
func TestStartsAloneDoNotFillTheLog(t *testing.T) {
	o := testOptions("/data")
	o.FS = vfs.NewMem()
	for range 4 * o.FilesMax {
		m := open(t, o)
		if m.store.heldBytes() >= m.o.SnapshotBytes { // the one that was asked for may not outrun Close
			if err := m.takeSnapshot(); err != nil {
				t.Fatal(err)
			}
		}
		shut(t, m)
	}
}
