package chaos

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"weir/test/internal/faultdisk"
)

// fault is something that is done to the cluster and, after a time, ends or is ended.
type fault struct {
	name string
	disk bool                                // it needs the faulty disks
	do   func(r *run, rng *rand.Rand) string // what was done, to whom
}

// faults are what can happen. Each draws what it needs from the seed, whatever the processes do.
var faults = []fault{
	{"kill", false, killOne},
	{"kill two", false, killTwo},
	{"kill while it starts", false, killStarting},
	{"restart", false, restart},
	{"pause", false, pause},
	{"isolate", false, isolate},
	{"cut", false, cut},
	{"mute", false, mute},
	{"deafen", false, deafen},
	{"flap", false, flap},
	{"flap one way", false, flapOneWay},
	{"clock jumps", false, clockJumps},
	{"clocks drift", false, clocksDrift},
	{"disk stands still", true, diskStandsStill},
	{"disk pauses", true, diskPauses},
	{"disk fails", true, diskFails},
	{"disk is full", true, diskFull},
	{"power cut", true, powerCut},
	{"power cut of a disk that lies", true, lyingDisk},
}

// pick chooses a node.
func pick(rng *rand.Rand) int32 { return rng.Int32N(nodes) + 1 }

// between draws a time.
func between(rng *rand.Rand, from, to time.Duration) time.Duration {
	return (from + time.Duration(rng.Int64N(int64(to-from)))).Round(time.Millisecond)
}

// lasting waits for a random time.
func lasting(rng *rand.Rand, from, to time.Duration) time.Duration {
	d := between(rng, from, to)
	time.Sleep(d)
	return d
}

func killOne(r *run, rng *rand.Rand) string {
	id := pick(rng)
	r.kill(id)
	return fmt.Sprintf("node %d for %v", id, lasting(rng, 0, 4*time.Second))
}

func killTwo(r *run, rng *rand.Rand) string {
	id := pick(rng)
	for _, other := range others(id) {
		r.kill(other)
	}
	return fmt.Sprintf("all but node %d for %v", id, lasting(rng, 0, 3*time.Second))
}

func killStarting(r *run, rng *rand.Rand) string {
	id := pick(rng)
	r.kill(id)
	if err := r.cluster.Node(id).LaunchAsync(); err != nil {
		r.t.Fatal(err)
	}
	d := lasting(rng, 0, time.Second)
	r.kill(id)
	return fmt.Sprintf("node %d after %v", id, d)
}

func restart(r *run, rng *rand.Rand) string {
	id := pick(rng)
	if r.down[id] {
		return fmt.Sprintf("node %d, which is not there", id)
	}
	r.down[id] = true
	if err := r.cluster.Node(id).Stop(); err != nil {
		r.t.Fatalf("stop node %d: %v", id, err)
	}
	return fmt.Sprintf("node %d", id)
}

func pause(r *run, rng *rand.Rand) string {
	id := pick(rng)
	r.cluster.Node(id).Pause()
	d := lasting(rng, 100*time.Millisecond, 6*time.Second)
	r.cluster.Node(id).Resume()
	return fmt.Sprintf("node %d for %v", id, d)
}

func isolate(r *run, rng *rand.Rand) string {
	id := pick(rng)
	r.net.isolate(id)
	d := lasting(rng, time.Second, 8*time.Second)
	r.net.heal()
	return fmt.Sprintf("node %d for %v", id, d)
}

func cut(r *run, rng *rand.Rand) string {
	id := pick(rng)
	r.net.cut(id, others(id)[0])
	d := lasting(rng, time.Second, 8*time.Second)
	r.net.heal()
	return fmt.Sprintf("nodes %d and %d for %v", id, others(id)[0], d)
}

func mute(r *run, rng *rand.Rand) string {
	id := pick(rng)
	for _, other := range others(id) {
		r.net.oneWay(id, other)
	}
	d := lasting(rng, time.Second, 6*time.Second)
	r.net.heal()
	return fmt.Sprintf("node %d is not heard for %v", id, d)
}

func deafen(r *run, rng *rand.Rand) string {
	id := pick(rng)
	for _, other := range others(id) {
		r.net.oneWay(other, id)
	}
	d := lasting(rng, time.Second, 6*time.Second)
	r.net.heal()
	return fmt.Sprintf("node %d hears nothing for %v", id, d)
}

func flap(r *run, rng *rand.Rand) string {
	id, times := pick(rng), 3+rng.IntN(8)
	for range times {
		r.net.isolate(id)
		lasting(rng, 50*time.Millisecond, 700*time.Millisecond)
		r.net.heal()
		lasting(rng, 50*time.Millisecond, 500*time.Millisecond)
	}
	return fmt.Sprintf("node %d, %d times", id, times)
}

func flapOneWay(r *run, rng *rand.Rand) string {
	from, times := pick(rng), 3+rng.IntN(8)
	to := others(from)[rng.IntN(2)]
	for range times {
		r.net.oneWay(from, to)
		lasting(rng, 50*time.Millisecond, 2*time.Second)
		r.net.heal()
		lasting(rng, 50*time.Millisecond, 500*time.Millisecond)
	}
	return fmt.Sprintf("node %d is not heard by %d, %d times", from, to, times)
}

// clockJumps sets one node's clock and leaves it so.
func clockJumps(r *run, rng *rand.Rand) string {
	id, offset := pick(rng), between(rng, -stepMax, stepMax)
	r.clocks[id].set(offset)
	return fmt.Sprintf("node %d shows %v more", id, offset)
}

// clocksDrift has two clocks run apart, fast.
func clocksDrift(r *run, rng *rand.Rand) string {
	id, by, steps := pick(rng), between(rng, -time.Minute, time.Minute), 10+rng.IntN(100)
	for i := range steps {
		r.clocks[id].set(time.Duration(i) * by)
		r.clocks[others(id)[0]].set(-time.Duration(i) * by)
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Sprintf("node %d by %v in %d steps, node %d the other way", id, by, steps, others(id)[0])
}

// pickUp chooses a node that is there. Where none is, the cluster is repaired first.
func (r *run) pickUp(rng *rand.Rand) int32 {
	id := pick(rng)
	if len(r.down) == nodes {
		r.whole()
	}
	for r.down[id] {
		id = id%nodes + 1
	}
	return id
}

// requireStalled waits until a node has ended because of its disk, which may hold it until release.
func (r *run) requireStalled(id int32, release func()) {
	r.t.Helper()
	b := r.cluster.Node(id)
	r.down[id] = true
	release()
	select {
	case <-b.Exited():
	case <-time.After(settle):
		r.t.Fatalf("node %d still runs %v after its disk was healed", id, settle)
	}
	if code := exitCode(b); code != exitStalled {
		r.t.Errorf("node %d ended with %d, want %d; its last words:\n%s", id, code, exitStalled, b.Logs().Tail(15))
	}
}

// diskStandsStill: no write and no flush returns until the node has given up.
func diskStandsStill(r *run, rng *rand.Rand) string {
	id := r.pickUp(rng)
	kinds := []faultdisk.Kind{faultdisk.Write | faultdisk.Flush, faultdisk.All, faultdisk.Flush, faultdisk.Write}[rng.IntN(4)]
	d := r.disks[id]
	begun := time.Now()
	d.Stall(kinds, 0)
	if !d.AwaitHeld(kinds, settle) {
		r.t.Fatalf("node %d wrote nothing within %v", id, settle)
	}
	r.await(fmt.Sprintf("node %d has called exit", id), func() error { return ended(r.cluster.Node(id)) })
	after := time.Since(begun).Round(time.Millisecond)
	lasting(rng, 0, 2*time.Second)
	r.requireStalled(id, d.Resume)
	return fmt.Sprintf("node %d, which ended after %v", id, after)
}

// diskPauses: it stands still for less than the node bears.
func diskPauses(r *run, rng *rand.Rand) string {
	id, d := r.pickUp(rng), between(rng, 50*time.Millisecond, 1200*time.Millisecond)
	r.disks[id].Stall(faultdisk.Write|faultdisk.Flush, d)
	time.Sleep(d)
	lasting(rng, 0, 500*time.Millisecond)
	return fmt.Sprintf("node %d for %v", id, d)
}

// diskFails: writes or flushes fail until the node has given up. The file system is mounted anew, as it may have turned read-only.
func diskFails(r *run, rng *rand.Rand) string {
	id := r.pickUp(rng)
	kinds := []faultdisk.Kind{faultdisk.Write | faultdisk.Flush, faultdisk.Flush, faultdisk.Write}[rng.IntN(3)]
	d := r.disks[id]
	begun := time.Now()
	d.Fail(kinds, syscall.EIO)
	r.requireStalled(id, func() {})
	after := time.Since(begun).Round(time.Millisecond)
	d.Heal()
	d.Remount()
	return fmt.Sprintf("node %d, which ended after %v", id, after)
}

// diskFull: somebody else takes all room but a little.
func diskFull(r *run, rng *rand.Rand) string {
	id, left := r.pickUp(rng), rng.Int64N(24<<20)
	r.disks[id].FillExcept(left)
	d := lasting(rng, 500*time.Millisecond, 6*time.Second)
	r.disks[id].Drain()
	return fmt.Sprintf("node %d, all but %d KiB, for %v", id, left>>10, d)
}

// powerCut: what a node has not flushed may be gone, sector by sector.
func powerCut(r *run, rng *rand.Rand) string {
	id, keep := r.pickUp(rng), rng.Float64()
	lost := r.disks[id].Cut(rng, keep)
	r.kill(id)
	if err := r.disks[id].Restore(); err != nil {
		r.t.Fatalf("the disk of node %d: %v", id, err)
	}
	return fmt.Sprintf("node %d lost %d of %d sectors, for %v", id, lost.Lost, lost.Sectors, lasting(rng, 0, 3*time.Second))
}

// lyingDisk: a node whose disk flushed nothing comes back with an older state than it told anybody. One such node is what replication is for; more are
// not, nor is one while others are not there.
func lyingDisk(r *run, rng *rand.Rand) string {
	r.whole()
	id := pick(rng)
	d := r.disks[id]
	d.LieAboutFlush(true)
	lied := lasting(rng, 200*time.Millisecond, 2*time.Second)
	lost := d.Cut(rng, 0)
	r.kill(id)
	d.LieAboutFlush(false)
	if err := d.Restore(); err != nil {
		r.t.Fatalf("the disk of node %d: %v", id, err)
	}
	lasting(rng, 0, 3*time.Second)
	r.whole()
	return fmt.Sprintf("node %d lied for %v and lost %d sectors", id, lied, lost.Lost)
}
