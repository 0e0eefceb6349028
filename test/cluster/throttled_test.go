package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	throttleRoot   = "/sys/fs/cgroup/blkio" // of cgroup v1
	throttlePrefix = "weir-throttle-"       // the number of the test's process follows
	throttleBytes  = 1 << 20                // a second
	throttleTopics = 100
	busyBytes      = 32 << 10 // three producers of such records have a disk of 1 MB/s never idle
)

// TestThrottledDisk: a node's disk takes 1 MB/s while 100 topics with 3 partitions are created through another node and a little is
// produced. That is the second failure we came from: a metadata lock held across file creation on a slow disk, 30 s for a topic. Here
// creation waits for no more than the disks of a majority, nobody holds a lock while the disk is waited for, nothing misses its deadline, nobody takes the slow
// disk for a stalled one, and who has nothing to do with that node notices nothing.
//
// Busy is the same while three producers with large records never let this disk idle: what the node itself writes in the background (segments, new files of
// its logs) has to make way for what somebody waits for.
//
// The limit is on what the node's process writes and syncs itself: its logs, and its segments, as it syncs them. What the kernel writes for it later is not
// counted to it. It lasts as long as the creation.
func TestThrottledDisk(t *testing.T) {
	for _, c := range []struct {
		name  string
		pick  func(controller int32) int32
		every time.Duration
		bytes int
	}{
		{"controller", self, 20 * time.Millisecond, 100},
		{"follower", next, 20 * time.Millisecond, 100},
		{"busy controller", self, time.Millisecond, busyBytes},
		{"busy follower", next, time.Millisecond, busyBytes},
	} {
		t.Run(c.name, func(t *testing.T) {
			requireThrottle(t)
			r := newDiskRig(t)
			ruler := controller(t, r.admin)
			testThrottled(t, r, ruler, c.pick(ruler), c.every, c.bytes)
		})
	}
}

func testThrottled(t *testing.T, r *diskRig, ruler, id int32, every time.Duration, bytes int) {
	via := other(id, func(n int32) bool { return n != ruler })
	ids := []int32{next(id), next(next(id))} // the others
	r.createOn("with", [][]int32{{ids[0], ids[1], id}, {ids[1], id, ids[0]}, {id, ids[0], ids[1]}})
	r.createOn("without", [][]int32{{ids[0], ids[1]}, {ids[1], ids[0]}})
	at := map[int32]string{0: r.cluster.Node(ids[0]).Addr, 1: r.cluster.Node(ids[1]).Addr}
	without := startProber(t, "without", at, 10*time.Millisecond, 100)
	with := startProber(t, "with", map[int32]string{0: at[0], 1: at[1], 2: r.cluster.Node(id).Addr}, every, bytes)
	before := time.Now()
	time.Sleep(3 * time.Second) // what is normal

	held := scrapeLocks(t, r.cluster.Node(id))
	g := throttle(t, r.disks[id].Path(), r.cluster.Node(id).Pid())
	eyes := r.startBeats(ids...)
	begun := time.Now()
	var took []time.Duration
	var refused []string
	for i := range throttleTopics {
		c := r.createMeanwhile(via, fmt.Sprintf("made-%03d", i))
		<-c.finished
		if c.err != nil {
			t.Fatal(c.err)
		}
		took, refused = append(took, c.took), append(refused, c.answers...)
	}
	ended := time.Now()
	written, lives := g.written(), r.cluster.Node(id).Running()
	t.Logf("node %d throttled to 1 MB/s (controller %d, topics through node %d): topics with 3 partitions, 3 replicas: %s; refused %v; all in %v; it wrote %.2f MiB a second, and lives: %t",
		id, ruler, via, percentiles(took), refused, ended.Sub(begun).Round(time.Millisecond), float64(written)/(1<<20)/ended.Sub(begun).Seconds(), lives)
	if lives {
		requireShortHolds(t, r.cluster.Node(id), held)
	}
	if written == 0 {
		t.Error("nothing that the node wrote was throttled: this test shows nothing")
	}
	t.Logf("worst heartbeat gap of the others since: %s", eyes.report())
	t.Logf("produce, with the throttled node among the replicas: before %s; since %s; errors %s", with.between(before, begun), with.between(begun, ended), with.errors(t))
	failed := without.errors(t)
	t.Logf("produce, without it: before %s; since %s; errors %s", without.between(before, begun), without.between(begun, ended), failed)
	if failed != "map[]" {
		t.Errorf("who has nothing to do with the throttled node saw %s", failed)
	}
	if failed := with.errors(t); !lives || len(refused) > 0 || failed != "map[]" {
		t.Errorf("node %d: it lives: %t; topics refused: %v; who produces to it saw %s", id, lives, refused, failed)
	}
	with.stop()
	without.stop()
	g.lift()
	if err := r.cluster.Launch(); err != nil { // if it ended
		t.Fatal(err)
	}
	awaitNodes(t, r.admin, 1, 2, 3)
	for _, topic := range []string{"with", "without", "made-000", fmt.Sprintf("made-%03d", throttleTopics-1)} {
		awaitInSync(t, r.cluster, r.admin, topic)
	}
}

// requireThrottle skips where a process's writes cannot be throttled.
func requireThrottle(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(throttleRoot, "blkio.throttle.write_bps_device")); err != nil {
		t.Skipf("NOT TESTED: a throttled disk needs the blkio controller of cgroup v1: %v", err)
	}
	// What a test that was killed left: its processes died with it.
	left, err := filepath.Glob(filepath.Join(throttleRoot, throttlePrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range left {
		number, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), throttlePrefix), "-")
		if pid, err := strconv.Atoi(number); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			t.Logf("%s was left by a test that died: %v", dir, os.Remove(dir))
		}
	}
}

// throttled is a control group that a node is in.
type throttled struct {
	t      *testing.T
	dir    string
	device string // major:minor
	pid    int
}

// throttle limits what a process writes to the disk that path is on, until lift or the test's end.
func throttle(t *testing.T, path string, pid int) *throttled {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatalf("device of %s: %v", path, err)
	}
	dir, err := os.MkdirTemp(throttleRoot, throttlePrefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		t.Skipf("NOT TESTED: a control group cannot be made: %v", err)
	}
	g := &throttled{t: t, dir: dir, pid: pid, device: fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))}
	t.Cleanup(g.lift)
	g.write(filepath.Join(dir, "blkio.throttle.write_bps_device"), fmt.Sprintf("%s %d", g.device, throttleBytes))
	g.write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(g.pid))
	return g
}

func (g *throttled) write(file, text string) {
	g.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0); err != nil {
		g.t.Fatalf("throttle: %v", err)
	}
}

// lift ends the limit and removes the group.
func (g *throttled) lift() {
	if g.dir == "" {
		return
	}
	dir := g.dir
	g.dir = ""
	errs := []error{os.WriteFile(filepath.Join(dir, "blkio.throttle.write_bps_device"), []byte(g.device+" 0"), 0)}
	if err := os.WriteFile(filepath.Join(throttleRoot, "cgroup.procs"), []byte(strconv.Itoa(g.pid)), 0); !errors.Is(err, syscall.ESRCH) { // it may have ended
		errs = append(errs, err)
	}
	removed := os.Remove(dir)
	for deadline := time.Now().Add(settle); errors.Is(removed, syscall.EBUSY) && time.Now().Before(deadline); removed = os.Remove(dir) {
		time.Sleep(50 * time.Millisecond) // a process that ends leaves its group a moment later
	}
	if err := errors.Join(append(errs, removed)...); err != nil {
		g.t.Errorf("lift the limit: %v", err)
	}
}

// written is how many bytes the group has written to the device.
func (g *throttled) written() int64 {
	g.t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, "blkio.throttle.io_service_bytes"))
	if err != nil {
		g.t.Fatalf("throttle: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, g.device+" Write "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			if err != nil {
				g.t.Fatalf("throttle: %q: %v", line, err)
			}
			return n
		}
	}
	return 0
}
