package cluster

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"weir/test/internal/weirproc"
)

// TestTakeOut: docs/operations/cluster.md's way to take a node out, with the commands that it names, under load.
func TestTakeOut(t *testing.T) {
	c := start(t, weirproc.ClusterOptions{})
	fourth := c.Add()
	if err := fourth.Launch(); err != nil {
		t.Fatal(err)
	}
	admin := newAdmin(t, c)
	awaitNodes(t, admin, 1, 2, 3, 4)
	createTopic(t, admin, "moved", 8, 3)
	l := newLoad(t, c, "moved", 8, 0)
	l.start()
	l.await(200)
	if out, err := weir(t, c, "unregister", "4"); err == nil {
		t.Errorf("a node with replicas was unregistered: %s", out)
	}
	if out, err := weir(t, c, "decommission", "1"); err == nil || !strings.Contains(out, "votes on the metadata") {
		t.Errorf("decommission of a node that votes: %v: %s", err, out)
	}
	if out, err := weir(t, c, "decommission", "4", "--dry-run"); err != nil || !strings.Contains(out, "would begin to move") {
		t.Errorf("decommission --dry-run: %v: %s", err, out)
	}
	if out, err := weir(t, c, "decommission"); err != nil || !strings.Contains(out, "no node is being decommissioned") {
		t.Errorf("after a dry run: %v: %s", err, out)
	}
	if out, err := weir(t, c, "decommission", "4", "--wait"); err != nil || !strings.Contains(out, "node 4 holds nothing") {
		t.Fatalf("decommission: %v: %s", err, out)
	}
	if out, err := weir(t, c, "decommission"); err != nil || !strings.Contains(out, "4") {
		t.Errorf("the node is not listed as one that leaves: %v: %s", err, out)
	}
	createTopic(t, admin, "new", 8, 3)
	l.await(200)
	requireWithout4(t, admin, "moved")
	requireWithout4(t, admin, "new")
	if err := fourth.Stop(); err != nil {
		t.Fatal(err)
	}
	if out, err := weir(t, c, "unregister", "4"); err != nil || !strings.Contains(out, "node 4 is forgotten") {
		t.Errorf("unregister: %v: %s", err, out)
	}
	if out := status(t, c); !strings.Contains(out, "3 nodes") {
		t.Errorf("status:\n%s", out)
	}
	l.check(admin)
}

// requireWithout4: a topic's partitions have three replicas, none of them on node 4.
func requireWithout4(t *testing.T, admin *kadm.Client, topic string) {
	t.Helper()
	ps, err := partitions(t, admin, topic)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ps {
		if len(p.Replicas) != 3 || slices.Contains(p.Replicas, 4) {
			t.Errorf("partition %d of %q has replicas %v", p.Partition, topic, p.Replicas)
		}
	}
}

// weir runs weir cluster against the seeds.
func weir(t *testing.T, c *weirproc.Cluster, args ...string) (string, error) {
	t.Helper()
	bin, err := weirproc.Binary()
	if err != nil {
		t.Fatal(err)
	}
	args = append(append([]string{"cluster"}, args...), "--brokers", strings.Join(c.Addrs()[:3], ","))
	out, err := exec.Command(bin, args...).CombinedOutput()
	return string(out), err
}
