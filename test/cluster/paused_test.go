package cluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"weir/test/internal/weirproc"
)

// pauseStallMs is the stall limit of these tests' nodes, and pauseMin the shortest pause: the disk's operations in flight look far too old afterwards.
const (
	pauseStallMs = 500
	pauseMin     = 3 * pauseStallMs * time.Millisecond
)

// TestPausedForLong stops the processes of nodes for longer than log.dir.stall.ms, under load, so that writes of its WAL and of its metadata are in flight. The
// disk has answered meanwhile, so no node may take it for stalled: each lives on, is let back in, cuts what the new leaders do not have, and
// follows.
func TestPausedForLong(t *testing.T) {
	const topic, n = "paused-for-long", 3
	pauses := 9
	if s := os.Getenv("WEIR_TEST_PAUSES"); s != "" {
		var err error
		if pauses, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("WEIR_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("WEIR_SEED=%d WEIR_TEST_PAUSES=%d", seed, pauses)
	rng := rand.New(rand.NewPCG(seed, 0))
	c := start(t, weirproc.ClusterOptions{Config: map[string]string{"log.dir.stall.ms": fmt.Sprint(pauseStallMs), "log.writeback.bytes": "262144"}})
	admin := newAdmin(t, c)
	createTopic(t, admin, topic, n, 3)
	l := newLoad(t, c, topic, n, 0, 1, 3)
	l.start()
	pids := map[int32]int{}
	for id := int32(1); id <= 3; id++ {
		pids[id] = c.Node(id).Pid()
	}
	for i := range pauses {
		id := int32(i%3 + 1)
		l.await(100)
		time.Sleep(time.Duration(rng.Int64N(int64(200 * time.Millisecond))))
		d := pauseMin + time.Duration(rng.Int64N(int64(pauseMin)))
		c.Node(id).Pause()
		time.Sleep(d)
		c.Node(id).Resume()
		awaitInSync(t, c, admin, topic)
		if now := c.Node(id).Pid(); now != pids[id] || !c.Node(id).Running() {
			t.Fatalf("pause %d: node %d ended after it had been stopped for %v: %v\n%s", i, id, d, c.Node(id).ExitError(), c.Node(id).Logs().Tail(20))
		}
	}
	l.await(100)
	l.check(admin)
}
