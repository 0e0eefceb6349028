// Package cluster runs clusters of real processes through what happens to clusters: nodes die, come back, are replaced and
// restarted under load, requests reach the wrong node. What was acknowledged must be there, whatever happened.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/verify"
	"weir/test/internal/weirproc"
)

func TestMain(m *testing.M) {
	code := m.Run()
	weirproc.RemoveBuilt()
	os.Exit(code)
}

const settle = 30 * time.Second // bounds a hang; it asserts nothing

// small keeps the nodes' directories small: every test makes three of them, with files that are written in full before use.
var small = map[string]string{
	"wal.file.bytes": "4194304", "wal.max.bytes": "33554432", "log.segment.bytes": "4194304", "offsets.topic.num.partitions": "5",
}

func start(t *testing.T, o weirproc.ClusterOptions) *weirproc.Cluster {
	t.Helper()
	if o.Config == nil {
		o.Config = small
	}
	return weirproc.StartCluster(t, o)
}

func newClient(t *testing.T, c *weirproc.Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(verify.Quick(c.Addrs(), opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func newAdmin(t *testing.T, c *weirproc.Cluster) *kadm.Client {
	t.Helper()
	return kadm.NewClient(newClient(t, c))
}

// limit is a context that bounds a hang; no test expects it to end.
func limit(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// createTopic makes a topic of which a record needs two disks to be acknowledged.
func createTopic(t *testing.T, admin *kadm.Client, topic string, partitions int32, replicas int16) {
	t.Helper()
	two := "2"
	resp, err := admin.CreateTopic(limit(t, time.Minute), partitions, replicas, map[string]*string{"min.insync.replicas": &two}, topic)
	if err == nil {
		err = resp.Err
	}
	if err != nil {
		t.Fatalf("create topic %s: %v", topic, err)
	}
}

// eventually waits for what the cluster brings about in the background.
func eventually(t *testing.T, within time.Duration, what string, met func() error) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		err := met()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %v", within, what, err)
		}
	}
}

// fresh makes kadm ask a broker: without topics in question it answers from what its client remembers, however old.
func fresh(t *testing.T) context.Context {
	t.Helper()
	return kadm.WithAuthorizedOps(limit(t, settle))
}

// controller is the node that the cluster says decides.
func controller(t *testing.T, admin *kadm.Client) int32 {
	t.Helper()
	var id int32
	eventually(t, settle, "the cluster has a controller", func() error {
		meta, err := admin.BrokerMetadata(fresh(t))
		if err == nil && meta.Controller < 0 {
			err = errors.New("none in the metadata")
		}
		id = meta.Controller
		return err
	})
	return id
}

// partitions describes a topic's partitions.
func partitions(t *testing.T, admin *kadm.Client, topic string) (kadm.PartitionDetails, error) {
	t.Helper()
	topics, err := admin.ListTopics(limit(t, settle), topic)
	if err != nil {
		return nil, err
	}
	d := topics[topic]
	if d.Err != nil {
		return nil, d.Err
	}
	for _, p := range d.Partitions {
		if p.Err != nil && !errors.Is(p.Err, kerr.ReplicaNotAvailable) {
			return nil, fmt.Errorf("partition %d: %w", p.Partition, p.Err)
		}
	}
	return d.Partitions, nil
}

// awaitInSync waits until every replica of a topic is in sync.
func awaitInSync(t *testing.T, c *weirproc.Cluster, admin *kadm.Client, topic string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			c.Diagnose()
		}
	}()
	eventually(t, time.Minute, "all replicas are in sync", func() error {
		ps, err := partitions(t, admin, topic)
		for _, p := range ps {
			if err == nil && len(p.ISR) < len(p.Replicas) {
				err = fmt.Errorf("partition %d: in sync %v of %v", p.Partition, p.ISR, p.Replicas)
			}
		}
		return err
	})
}

// awaitNodes waits until the cluster shows exactly these nodes as alive.
func awaitNodes(t *testing.T, admin *kadm.Client, want ...int32) {
	t.Helper()
	eventually(t, settle, fmt.Sprintf("the nodes %v are alive and no others", want), func() error {
		brokers, err := admin.ListBrokers(fresh(t))
		if err == nil && !slices.Equal(brokers.NodeIDs(), want) {
			err = fmt.Errorf("alive: %v", brokers.NodeIDs())
		}
		return err
	})
}

// load produces to a topic with several idempotent and plain producers and knows every acknowledgement.
type load struct {
	t         *testing.T
	cluster   *weirproc.Cluster
	ledger    *verify.Ledger
	producers []*verify.Producer
}

func newLoad(t *testing.T, c *weirproc.Cluster, topic string, partitions int32, kinds ...int) *load {
	t.Helper()
	l := &load{t: t, cluster: c, ledger: verify.New(topic, partitions)}
	for i, kind := range kinds {
		p := verify.NewProducer(i, verify.Profiles[kind], l.ledger, partitions, verify.Quick(c.Addrs()))
		t.Cleanup(p.Close)
		l.producers = append(l.producers, p)
	}
	return l
}

func (l *load) start() {
	l.t.Helper()
	for _, p := range l.producers {
		if err := p.Start(); err != nil {
			l.t.Fatal(err)
		}
	}
}

// await waits until n more records were acknowledged.
func (l *load) await(n int) {
	l.t.Helper()
	from, _ := l.ledger.Acknowledged()
	eventually(l.t, time.Minute, fmt.Sprintf("%d more records are acknowledged", n), func() error {
		now, err := l.ledger.Acknowledged()
		if err == nil && now < from+n {
			err = fmt.Errorf("%d so far", now-from)
		}
		return err
	})
}

// check ends the load and reads everything.
func (l *load) check(admin *kadm.Client) {
	l.t.Helper()
	for _, p := range l.producers {
		if err := p.Stop(limit(l.t, time.Minute)); err != nil {
			l.t.Fatal(err)
		}
	}
	l.ledger.Verify(l.t, verify.Quick(l.cluster.Addrs()), admin, map[int32]*verify.Scan{}, settle, l.cluster.DumpAround)
	n, _ := l.ledger.Acknowledged()
	l.t.Logf("%d records acknowledged, all there, in order and once", n)
}
