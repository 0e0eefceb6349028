package cluster

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/weirproc"
)

// TestForms: three empty directories become one cluster, and a record that it acknowledged is on all its disks.
func TestForms(t *testing.T) {
	c := start(t, weirproc.ClusterOptions{})
	admin := newAdmin(t, c)
	awaitNodes(t, admin, 1, 2, 3)
	ids := map[string]bool{}
	for _, b := range c.Nodes {
		cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addr))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		meta, err := kadm.NewClient(cl).BrokerMetadata(limit(t, settle))
		if err != nil {
			t.Fatalf("metadata from %s: %v", b.Addr, err)
		}
		ids[meta.Cluster] = true
	}
	if len(ids) != 1 {
		t.Fatalf("the nodes tell of the clusters %v", ids)
	}
	createTopic(t, admin, "formed", 3, 3)
	l := newLoad(t, c, "formed", 3, 0, 2)
	l.start()
	l.await(2000)
	l.check(admin)
	awaitInSync(t, c, admin, "formed")
	if out := status(t, c); !strings.Contains(out, "0 under-replicated, 0 offline") || strings.Count(out, "alive") != 3 || !strings.Contains(out, "leader") {
		t.Errorf("weir cluster status:\n%s", out)
	}
	for _, b := range c.Nodes {
		if err := b.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	}
	if err := c.Launch(); err != nil {
		t.Fatalf("all nodes again: %v", err)
	}
	l.check(newAdmin(t, c))
}

// status is what the command says.
func status(t *testing.T, c *weirproc.Cluster) string {
	t.Helper()
	bin, err := weirproc.Binary()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(bin, "cluster", "status", "--brokers", strings.Join(c.Addrs(), ",")).CombinedOutput()
	if err != nil {
		t.Fatalf("weir cluster status: %v\n%s", err, out)
	}
	return string(out)
}

// TestJoins: a node that is no seed becomes one of the cluster, holds replicas, and comes back after a kill.
func TestJoins(t *testing.T) {
	c := start(t, weirproc.ClusterOptions{})
	fourth := c.Add()
	if err := fourth.Launch(); err != nil {
		t.Fatal(err)
	}
	admin := newAdmin(t, c)
	awaitNodes(t, admin, 1, 2, 3, 4)
	createTopic(t, admin, "joined", 4, 4)
	l := newLoad(t, c, "joined", 4, 0)
	l.start()
	l.await(500)
	fourth.Kill()
	l.await(500)
	if err := fourth.Launch(); err != nil {
		t.Fatal(err)
	}
	awaitInSync(t, c, admin, "joined")
	l.check(admin)
}

// TestRefused: nodes that would harm a cluster do not become part of it, say why, and leave it alone.
func TestRefused(t *testing.T) {
	c := start(t, weirproc.ClusterOptions{})
	admin := newAdmin(t, c)
	createTopic(t, admin, "spared", 1, 3)
	l := newLoad(t, c, "spared", 1, 0)
	l.start()
	l.await(100)
	t.Run("another cluster's data", func(t *testing.T) {
		foreign := start(t, weirproc.ClusterOptions{})
		for _, b := range foreign.Nodes {
			if err := b.Stop(); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Node(3).Stop(); err != nil {
			t.Fatal(err)
		}
		refused(t, c.With(3, func(o *weirproc.Options) { o.DataDir = foreign.Node(3).DataDir }), "cluster")
		if err := c.Node(3).Launch(); err != nil {
			t.Fatalf("the node with its own data: %v", err)
		}
	})
	t.Run("a seed's id at another address", func(t *testing.T) {
		refused(t, c.With(2, func(o *weirproc.Options) { o.Peer = weirproc.FreeAddrOn(t, "127.0.0.29") }), "seed-nodes has for this node, 2")
	})
	t.Run("a node id that is taken", func(t *testing.T) {
		fourth := c.Add()
		if err := fourth.Launch(); err != nil {
			t.Fatal(err)
		}
		refused(t, c.With(4, func(o *weirproc.Options) { o.Host = "127.0.0.29"; o.Peer = weirproc.FreeAddrOn(t, o.Host) }), "4")
		awaitNodes(t, admin, 1, 2, 3, 4)
		createTopic(t, admin, "on-the-fourth", 4, 4) // and the node whose id it is still hears of changes
		awaitInSync(t, c, admin, "on-the-fourth")
	})
	t.Run("a directory of another node", func(t *testing.T) {
		if err := c.Node(2).Stop(); err != nil {
			t.Fatal(err)
		}
		refused(t, c.With(1, func(o *weirproc.Options) {
			o.DataDir = c.Node(2).DataDir
			o.Node = 7
			o.Peer = weirproc.FreeAddrOn(t, "127.0.0.29")
		}), "node")
		if err := c.Node(2).Launch(); err != nil {
			t.Fatalf("the node with its own data: %v", err)
		}
	})
	awaitNodes(t, admin, 1, 2, 3, 4)
	awaitInSync(t, c, admin, "spared")
	l.check(admin)
}

// refused: the process ends by itself, with 1 and a reason.
func refused(t *testing.T, b *weirproc.Broker, reason string) {
	t.Helper()
	if err := b.LaunchAsync(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.Exited():
	case <-time.After(time.Minute):
		t.Fatalf("it was not refused; its output:\n%s", b.Logs().Tail(20))
	}
	var exit *exec.ExitError
	if err := b.ExitError(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("it ended with %v, want exit status 1; its output:\n%s", err, b.Logs().Tail(20))
	}
	last := b.Logs().Tail(1)
	if !strings.Contains(last, "weir: ") || !strings.Contains(last, reason) {
		t.Errorf("its last words do not say %q: %s", reason, last)
	}
	t.Logf("refused: %s", strings.TrimSpace(last))
}
