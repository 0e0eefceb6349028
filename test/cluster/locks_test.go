package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/promhist"
	"weir/test/internal/weirproc"
)

// TestLockHolds: three nodes that produce, replicate, fetch, commit and create topics; every hot lock of theirs is in the metrics, and with what it was held for. What
// this asserts is that nothing is left out; that the 99th percentile of the holds is less than 1 ms, on a throttled disk too, is TestThrottledDisk's.
func TestLockHolds(t *testing.T) {
	c := start(t, weirproc.ClusterOptions{})
	admin := newAdmin(t, c)
	awaitNodes(t, admin, 1, 2, 3)
	createTopic(t, admin, "locks", 12, 3)
	consumer := newClient(t, c, kgo.ConsumeTopics("locks"), kgo.ConsumerGroup("locks"))
	l := newLoad(t, c, "locks", 12, 0, 1, 2)
	l.start()
	for i := range 20 {
		createTopic(t, admin, fmt.Sprintf("more-%d", i), 3, 3)
	}
	for read := 0; read < 5000; {
		fetches := consumer.PollFetches(limit(t, settle))
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		read += fetches.NumRecords()
		if err := consumer.CommitUncommittedOffsets(limit(t, settle)); err != nil {
			t.Fatal(err)
		}
	}
	l.await(20000)
	l.check(admin)
	want := []string{
		"partition", "partitions", "roles", "waiters", "followers", "segment_log", "segment_files", "segment_flush", "read_memory", "wal_queue", "wal_files",
		"disk_queue", "metadata", "raft", "controller", "group", "group_timers", "fetch_session", "purgatory", "connection", "server", "peers",
	}
	slices.Sort(want)
	held := map[string]float64{} // on all nodes: not each coordinates a group
	for _, b := range c.Nodes {
		scrape := b.Metrics()
		if got := promhist.Values(scrape, "weir_lock_hold_seconds", "lock"); !slices.Equal(got, want) {
			t.Errorf("node %s has the locks %v, want %v", b.Addr, got, want)
		}
		reportHolds(t, b.Addr, scrape)
		for _, lock := range want {
			h, err := promhist.Of(scrape, "weir_lock_hold_seconds", "lock="+lock)
			if err != nil {
				t.Fatalf("node %s: %v", b.Addr, err)
			}
			held[lock] += h.Count()
		}
	}
	for _, lock := range want {
		if held[lock] == 0 {
			t.Errorf("nobody held a lock of the class %s: not one of them was given its class", lock)
		}
	}
}

// reportHolds logs what the locks of a node were held for.
func reportHolds(t *testing.T, node string, scrape map[string]float64) {
	t.Helper()
	var text strings.Builder
	for _, lock := range promhist.Values(scrape, "weir_lock_hold_seconds", "lock") {
		hold, err := promhist.Of(scrape, "weir_lock_hold_seconds", "lock="+lock)
		if err != nil {
			t.Fatal(err)
		}
		above, err := hold.Above(0.001)
		if err != nil {
			t.Fatal(err)
		}
		wait, err := promhist.Of(scrape, "weir_lock_wait_seconds", "lock="+lock)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "\n%-14s %9.0f holds, p99 %8.3f ms, %5.0f above 1 ms, longest %8.3f ms; %7.0f waits, p99 %8.3f ms", lock, hold.Count(), 1000*hold.Quantile(0.99), above,
			1000*scrape[`weir_lock_hold_longest_seconds{lock="`+lock+`"}`], wait.Count(), 1000*wait.Quantile(0.99))
	}
	t.Logf("node %s:%s", node, text.String())
}
