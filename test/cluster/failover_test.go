package cluster

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"weir/test/internal/verify"
	"weir/test/internal/weirproc"
)

// gapMax is generous: what is asserted is that a dead node does not stop the others, not how fast this machine is today.
const gapMax = 30 * time.Second

// TestKillNode kills one node after another with SIGKILL, each in another role, under load: what was acknowledged is there, and all
// partitions can be written to again soon.
func TestKillNode(t *testing.T) {
	const topic, n = "killed", 3
	c := start(t, weirproc.ClusterOptions{})
	admin := newAdmin(t, c)
	createTopic(t, admin, topic, n, 3)
	createTopic(t, admin, "metered", n, 3)
	l := newLoad(t, c, topic, n, 0, 3)
	l.start()
	m := startMeter(t, c, "metered", n)
	leads := func(id int32) bool { return slices.Contains(leaders(t, admin, "metered"), id) }
	roles := []struct {
		name string
		pick func() int32
	}{
		{"the controller", func() int32 { return controller(t, admin) }},
		{"a leader that is not the controller", func() int32 {
			return other(controller(t, admin), leads)
		}},
		{"a node that leads nothing metered, if there is one", func() int32 {
			return other(-1, func(id int32) bool { return !leads(id) })
		}},
	}
	for _, role := range roles {
		awaitInSync(t, c, admin, topic)
		awaitInSync(t, c, admin, "metered")
		id := role.pick()
		l.await(200)
		m.reset(t)
		c.Node(id).Kill()
		l.await(200)
		gaps := m.worst(t)
		t.Logf("killed node %d, %s: not writable for at most %v (%v)", id, role.name, longest(gaps), gaps)
		if longest(gaps) > gapMax {
			t.Errorf("killing %s stopped writing for %v", role.name, longest(gaps))
		}
		if err := c.Node(id).Launch(); err != nil {
			t.Fatalf("node %d again: %v", id, err)
		}
	}
	awaitInSync(t, c, admin, topic)
	m.stop(t)
	l.check(admin)
}

// other is the first node that is not one and meets a condition, else any that is not that one.
func other(not int32, met func(int32) bool) int32 {
	ids := []int32{1, 2, 3}
	for _, id := range ids {
		if id != not && met(id) {
			return id
		}
	}
	return ids[slices.IndexFunc(ids, func(id int32) bool { return id != not })]
}

// leaders are a topic's leaders by partition.
func leaders(t *testing.T, admin *kadm.Client, topic string) []int32 {
	t.Helper()
	var out []int32
	eventually(t, settle, "every partition has a leader", func() error {
		ps, err := partitions(t, admin, topic)
		out = nil
		for _, p := range ps.Sorted() {
			if p.Leader < 0 && err == nil {
				err = fmt.Errorf("partition %d has none", p.Partition)
			}
			out = append(out, p.Leader)
		}
		return err
	})
	return out
}

// TestPausedNode: a node that hangs and wakes up again later, believing it still leads, does no harm.
func TestPausedNode(t *testing.T) {
	const topic, n = "paused", 3
	c := start(t, weirproc.ClusterOptions{})
	admin := newAdmin(t, c)
	createTopic(t, admin, topic, n, 3)
	l := newLoad(t, c, topic, n, 0, 3)
	l.start()
	for _, id := range []int32{controller(t, admin), other(controller(t, admin), func(id int32) bool { return slices.Contains(leaders(t, admin, topic), id) })} {
		l.await(200)
		c.Node(id).Pause()
		begun := time.Now()
		rest := c.Node(id%3 + 1).Addr
		eventually(t, time.Minute, fmt.Sprintf("node %d leads nothing any more", id), func() error { return verify.NotLedBy(id, rest, topic) })
		t.Logf("node %d hangs: the others lead everything after %v", id, time.Since(begun).Round(time.Millisecond))
		c.Node(id).Resume()
		awaitInSync(t, c, admin, topic)
	}
	l.check(admin)
}

// TestAllKilled: a power cut of everything at once loses nothing.
func TestAllKilled(t *testing.T) {
	const topic, n = "dark", 3
	c := start(t, weirproc.ClusterOptions{})
	createTopic(t, newAdmin(t, c), topic, n, 3)
	l := newLoad(t, c, topic, n, 0, 1, 3)
	for range 2 {
		l.start()
		l.await(500)
		c.Kill()
		if err := c.Launch(); err != nil {
			t.Fatal(err)
		}
		for _, p := range l.producers {
			if err := p.Stop(limit(t, time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.start()
	l.await(100)
	l.check(newAdmin(t, c))
}
