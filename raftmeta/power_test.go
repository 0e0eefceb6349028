package raftmeta

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"weir/internal/vfs"
)

// mains is a node's electricity: it fails at one of the next operations that change the disk, whatever raft, the log or a snapshot is doing
// there, and from then on nothing succeeds. What is left is what a machine would find.
type mains struct {
	mu   sync.Mutex
	left *vfs.MemFS // not nil: it has failed
}

var errNoPower = errors.New("the power is off")

// arm lets the power fail at the n-th operation from now.
func (m *mains) arm(mem *vfs.MemFS, n int, rng *rand.Rand) {
	mem.SetHook(func(op, _ string, _ int64, _ int) error {
		switch op {
		case "write", "sync", "datasync", "allocate", "truncate", "rename", "remove", "syncdir":
		default:
			return nil
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.left != nil {
			return errNoPower
		}
		if n--; n >= 0 {
			return nil
		}
		m.left = mem.CrashClone(rng, rng.Float64())
		return errNoPower
	})
}

// failed is what is on the disk, nil if the power is on.
func (m *mains) failed() *vfs.MemFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.left
}

// TestPowerCuts cuts the power of single nodes and of all of them between any two operations on their disks, again and again, while they elect
// controllers, commit, take snapshots and install those of others. Nothing that was acknowledged is lost, nobody forgets a vote, no term has two
// controllers, and images of one version are equal. WEIR_SEED is the first seed.
func TestPowerCuts(t *testing.T) {
	first := rand.Uint64()
	if s := os.Getenv("WEIR_SEED"); s != "" {
		var err error
		if first, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(8) {
		seed := first + i
		t.Run(fmt.Sprint(seed), func(t *testing.T) { powerCuts(t, seed) })
	}
}

func powerCuts(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 3))
	clusterWith(t, 3, func(o *Options) { o.TrailingLogs, o.SnapshotBytes = 3, 256<<10 }, func(t *testing.T, r *rig) {
		c := &cuts{rig: r, rng: rng, power: map[int32]*mains{}, acked: map[string][16]byte{}, seen: map[uint64]*Image{}}
		for id := range int32(3) {
			c.connect(id + 1)
		}
		for step := range 60 {
			c.disturb()
			c.propose(step)
			time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
			c.look()
			c.restart(0.6)
		}
		r.net.lose(0)
		for id := range int32(3) {
			c.power[id+1] = nil
			for other := range int32(3) {
				r.net.cut(id+1, other+1, false)
			}
		}
		for _, x := range r.nodes {
			if mem := x.fs.FS.(*vfs.MemFS); x.Meta != nil {
				mem.SetHook(nil)
			}
		}
		c.quiet = true
		c.restart(1)
		for _, x := range r.nodes { // one whose power failed during the last step is poisoned and not up
			if x.Meta != nil && x.Poisoned() != nil {
				t.Fatalf("node %d is poisoned with the power on: %v", x.id, x.Poisoned())
			}
		}
		r.create("end")
		img := r.converged()
		c.look()
		for name, id := range c.acked {
			if got := img.Topic(name); got == nil || got.ID != id {
				t.Errorf("topic %s with id %s was acknowledged, got %+v", name, FormatID(id), got)
			}
		}
		r.checkOffices()
		t.Logf("%d power cuts, %d topics acknowledged, %d there, term %d, %d votes", c.count, len(c.acked), img.NumTopics(), r.leader().Quorum().Term, r.net.voted())
	})
}

// cuts is a run of TestPowerCuts.
type cuts struct {
	*rig
	rng    *rand.Rand
	power  map[int32]*mains
	acked  map[string][16]byte
	seen   map[uint64]*Image
	nextID int64
	count  int
	quiet  bool // no power fails any more
}

// connect gives a node power that will fail some time.
func (c *cuts) connect(id int32) {
	if c.quiet {
		return
	}
	p := &mains{}
	c.power[id] = p
	p.arm(c.nodes[id].fs.FS.(*vfs.MemFS), c.rng.IntN(120), rand.New(rand.NewPCG(c.rng.Uint64(), 4)))
}

func (c *cuts) disturb() {
	id := c.rng.Int32N(3) + 1
	x := c.nodes[id]
	switch c.rng.IntN(9) {
	case 0:
		c.net.isolate(id, true, 1, 2, 3)
	case 1, 2, 3:
		c.net.isolate(id, false, 1, 2, 3)
	case 4:
		c.net.cut(id, c.rng.Int32N(3)+1, c.rng.IntN(2) == 0)
	case 5:
		c.net.lose(c.rng.Float64() * 0.2)
	case 6, 7:
		if x.Meta != nil && x.Poisoned() == nil {
			_ = x.takeSnapshot() // the power may fail
		}
	case 8:
		if lead := c.rng.Int32N(3) + 1; x.Meta != nil && lead != id {
			x.PeerGone(lead) // it may lead, and be there
		}
	}
}

func (c *cuts) propose(step int) {
	for i := range c.rng.IntN(6) {
		name := fmt.Sprintf("t-%d-%d", step, i)
		for _, x := range c.running() {
			results, err := x.Propose(c.t.Context(), CreateTopic{Name: name, Assignment: [][]int32{{1}}}, AllocateProducerIDs{Broker: 1})
			if err != nil {
				continue
			}
			if p := results[1]; p.FirstProducerID < c.nextID {
				c.t.Fatalf("producer id %d was handed out before", p.FirstProducerID)
			} else {
				c.nextID = p.FirstProducerID + p.ProducerIDs
			}
			if results[0].Err == nil {
				c.acked[name] = results[0].Topic.ID
			}
		}
	}
}

// look compares the images that are there with those of the same version that were seen before.
func (c *cuts) look() {
	for _, x := range c.running() {
		img := x.Image()
		if before := c.seen[img.Version]; before == nil {
			c.seen[img.Version] = img
		} else if !before.equal(img) {
			c.t.Fatalf("two images of version %d", img.Version)
		}
	}
}

// restart starts nodes whose power has failed on what is left, each with a probability. The power may fail again while it starts.
func (c *cuts) restart(likely float64) {
	for id := range int32(3) {
		id++
		x := c.nodes[id]
		var left *vfs.MemFS
		if p := c.power[id]; p != nil {
			left = p.failed()
		}
		if left == nil && c.quiet && x.Meta != nil && x.Poisoned() != nil {
			c.t.Fatalf("node %d: %v", id, x.Poisoned())
		}
		if left != nil && x.Meta != nil {
			c.count++
			c.net.attach(addrOf(id), nil)
			_ = x.Close()
			x.Meta = nil
			for _, y := range c.running() {
				y.PeerGone(id)
			}
			x.fs = &faultFS{FS: left}
		}
		for x.Meta == nil && (c.quiet || c.rng.Float64() < likely) {
			c.connect(id)
			if c.open(id) {
				break
			}
			c.count++
			x.fs = &faultFS{FS: c.power[id].failed()}
		}
	}
}

// open starts a node. It says no if the power failed meanwhile.
func (c *cuts) open(id int32) bool {
	o := c.options(id, slices.Collect(func(yield func(Voter) bool) {
		for v := range int32(3) {
			if !yield(Voter{v + 1, addrOf(v + 1)}) {
				return
			}
		}
	}))
	m, err := Open(o)
	if err != nil {
		if p := c.power[id]; p == nil || p.failed() == nil {
			c.t.Fatalf("node %d does not start with the power on: %v", id, err)
		}
		return false
	}
	c.nodes[id].Meta = m
	c.net.attach(o.PeerAddr, m)
	return true
}
