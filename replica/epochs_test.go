package replica

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"weir/internal/record"
	"weir/replica/machine"
)

// epochsInLog is what the batches say.
func epochsInLog(t *testing.T, p *Partition) []machine.EpochStart {
	t.Helper()
	var e machine.Epochs
	err := p.log.Scan(p.log.LogStart(), func(h record.Batch) error {
		if latest, _, ok := e.Latest(); !ok || latest < h.LeaderEpoch() {
			e.Assign(h.LeaderEpoch(), h.BaseOffset())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return e.All()
}

// TestEpochsSurvive: whatever the file of leader epochs is after a crash - missing, behind, damaged - the history that is read is that of the log's batches.
func TestEpochsSurvive(t *testing.T) {
	seed := uint64(envNumber(t, "WEIR_SEED", int(time.Now().UnixNano()&0x7fffffff)))
	t.Logf("WEIR_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	c := newCluster(t, 2, nil)
	defer c.close()
	c.decide(createTwo)
	leader := int32(1)
	for round := range 12 {
		for i := range rng.IntN(4) {
			if _, err := c.produce("t", 0, leader, valueBatch(t, fmt.Sprint(round, i))); err != nil {
				t.Fatal(err)
			}
		}
		c.same("t", 0, 1, 2)
		id := int32(rng.IntN(2)) + 1
		other := 3 - id
		c.crash(id, rng)
		name := "/d/topics/" + dirName("t", 0, createTwo.ID) + "/" + epochsFile
		switch rng.IntN(4) {
		case 0:
			if err := c.nodes[id].disk.Remove(name); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		case 1:
			if f, err := c.nodes[id].disk.OpenFile(name, 0); err == nil {
				if err := errors.Join(f.Truncate(3), f.Close()); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.elect("t", 0, other, other)
		if _, err := c.produce("t", 0, other, valueBatch(t, "alone")); err != nil {
			t.Fatal(err)
		}
		c.nodes[id].start()
		p := c.up(id).ByName("t", 0)
		if err := p.loadEpochs(); err != nil {
			t.Fatal(err)
		}
		c.until("it is in sync again", func() bool { return len(c.up(other).ByName("t", 0).ISR()) == 2 })
		c.same("t", 0, 1, 2)
		leader = int32(rng.IntN(2)) + 1
		c.elect("t", 0, leader, 1, 2)
		for node := int32(1); node <= 2; node++ {
			p := c.up(node).ByName("t", 0)
			p.mu.Lock()
			have := p.mu.epochs.Below(p.log.End())
			p.mu.Unlock()
			if want := epochsInLog(t, p); !slices.Equal(have.All(), want) {
				t.Fatalf("round %d: node %d has %v, its batches say %v", round, node, have.All(), want)
			}
		}
	}
}

// TestEpochsOfOneReplica: a partition without others has no file; its history is read from its batches when it is asked for.
func TestEpochsOfOneReplica(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir, nil)
	n.propose(createOne)
	n.mustAppend(n.ByName("t", 0), valueBatch(t, "0"))
	n.close()
	n = openNode(t, dir, nil)
	defer n.close()
	p := n.ByName("t", 0)
	n.mustAppend(p, valueBatch(t, "1"))
	if p.epochsLoaded.Load() {
		t.Error("epochs were read though nobody asked")
	}
	if end, err := p.EndOffsetForEpoch(-1, 0); err != nil || end != (EpochEnd{0, 2}) {
		t.Errorf("epoch 0: %+v, %v", end, err)
	}
	if epoch := p.EpochAt(1); epoch != 0 {
		t.Errorf("epoch %d at offset 1", epoch)
	}
}

func FuzzDecodeHighWatermarks(f *testing.F) {
	f.Add([]byte("0\n0\n"))
	f.Add([]byte("0\n2\na-0.x 5 1\nb-0.y 7 0\n"))
	f.Add([]byte("0\n1\na-0.x 5\n"))
	f.Add([]byte("0\n2\na 5 1\na 5 1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := decodeHighWatermarks(data)
		if err != nil {
			return
		}
		again, err := decodeHighWatermarks(encodeHighWatermarks(all))
		if err != nil || len(again) != len(all) {
			t.Fatalf("%q: %v, then %v, %v", data, all, again, err)
		}
		for dir, r := range all {
			if r.offset < 0 || again[dir] != r {
				t.Fatalf("%q: %v, then %v", data, r, again[dir])
			}
		}
	})
}

// TestBelieved: a remembered high watermark counts as far as the log has the epoch that it was written with.
func TestBelieved(t *testing.T) {
	c := newCluster(t, 2, nil)
	defer c.close()
	c.decide(createTwo)
	for i := range 3 {
		if _, err := c.produce("t", 0, 1, valueBatch(t, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	c.elect("t", 0, 1, 1, 2)
	if _, err := c.produce("t", 0, 1, valueBatch(t, "3")); err != nil {
		t.Fatal(err)
	}
	p := c.up(1).ByName("t", 0) // offsets 0 to 2 in epoch 1, 3 in epoch 2, or so
	before, after := p.EpochAt(2), p.EpochAt(3)
	for _, x := range []struct {
		r    remembered
		want int64
	}{
		{remembered{2, before}, 2}, {remembered{4, after}, 4},
		{remembered{4, before}, 3}, // another leader wrote what is at 3
		{remembered{9, after}, 4}, {remembered{4, after + 5}, 0},
	} {
		if got := min(p.believed(x.r), p.End()); got != x.want {
			t.Errorf("%+v: %d, want %d", x.r, got, x.want)
		}
	}
}

// TestEpochWithoutBatches: a leader that wrote nothing in its epoch follows one whose newest batches are of an older epoch.
func TestEpochWithoutBatches(t *testing.T) {
	c := newCluster(t, 2, nil)
	defer c.close()
	c.decide(createTwo)
	if _, err := c.produce("t", 0, 1, valueBatch(t, "0")); err != nil {
		t.Fatal(err)
	}
	c.same("t", 0, 1, 2)
	c.elect("t", 0, 1, 1) // epoch 1
	c.isolate(2, true)
	for i := 1; i < 4; i++ {
		if _, err := c.produce("t", 0, 1, valueBatch(t, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	c.isolate(1, true)
	c.isolate(2, false)
	c.elect("t", 0, 2, 2) // epoch 2, an unclean election, and nothing is written
	c.isolate(2, true)
	c.isolate(1, false)
	c.elect("t", 0, 1, 1) // epoch 3, which has what was lost
	c.isolate(2, false)
	c.until("node 2 is in sync", func() bool { return len(c.up(1).ByName("t", 0).ISR()) == 2 })
	if got := c.same("t", 0, 1, 2); len(got) != 4 || got[3] != "3/1:3" {
		t.Errorf("%q", got)
	}
	p := c.up(2).ByName("t", 0)
	for offset, want := range []int32{0, 1, 1, 1} {
		if got := p.EpochAt(int64(offset)); got != want {
			t.Errorf("offset %d is of epoch %d on the follower, want %d", offset, got, want)
		}
	}
}
