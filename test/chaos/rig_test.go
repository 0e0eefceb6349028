package chaos

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/faultdisk"
	"weir/test/internal/verify"
	"weir/test/internal/weirproc"
)

const (
	topic      = "chaos"
	partitions = 6
	nodes      = 3
	settle     = time.Minute // bounds a hang; it asserts nothing
	diskBytes  = 1 << 30
	// keptBytesMax is from which size of a partition on what was verified is deleted.
	keptBytesMax = 32 << 20
	exitStalled  = 70
)

// run is a cluster under load.
type run struct {
	t         *testing.T
	cluster   *weirproc.Cluster
	net       *network
	disks     map[int32]*faultdisk.Disk // empty where there can be none
	clocks    map[int32]*wallClock
	admin     *kadm.Client
	ledger    *verify.Ledger
	producers []*verify.Producer
	tail      *verify.Tail
	errands   *errands
	scans     map[int32]*verify.Scan
	starts    map[int32]int64 // log starts
	down      map[int32]bool  // nodes that are not there because of a fault
}

// config keeps directories small, and what is waited for short enough to play a part.
var config = map[string]string{
	"wal.file.bytes": "4194304", "wal.max.bytes": "33554432", "log.segment.bytes": "4194304", "offsets.topic.num.partitions": "3",
	"replica.lag.time.max.ms": "5000",
	// A shared machine with disks in memory behind a process stands still for a second by itself.
	"log.dir.stall.ms": "4000",
	// Followers answer consumers, which is how replicas are compared.
	"replica.selector.class": "org.apache.kafka.common.replica.RackAwareReplicaSelector",
}

func start(t *testing.T) *run {
	t.Helper()
	r := &run{
		t: t, net: newNetwork(t), disks: map[int32]*faultdisk.Disk{}, clocks: map[int32]*wallClock{}, scans: map[int32]*verify.Scan{},
		starts: map[int32]int64{}, down: map[int32]bool{}, ledger: verify.New(topic, partitions),
	}
	for id := int32(1); id <= nodes; id++ { // before the cluster, so that it ends before them
		r.clocks[id] = newWallClock(t, id)
	}
	if why := faultdisk.Missing("ext4"); why == "" {
		for id := int32(1); id <= nodes; id++ {
			r.disks[id] = faultdisk.New(t, faultdisk.Options{Bytes: diskBytes})
		}
	} else {
		t.Logf("NOT TESTED: faulty disks: %s", why)
	}
	r.cluster = weirproc.NewCluster(t, weirproc.ClusterOptions{Config: config, EnvOf: func(id int32) []string { return []string{r.clocks[id].env()} }})
	for id, d := range r.disks {
		r.cluster.Node(id).DataDir = filepath.Join(d.Path(), "data")
	}
	if err := r.cluster.Launch(); err != nil {
		t.Fatalf("start the cluster: %v", err)
	}
	r.admin = r.adminOf(1, 2, 3)
	two := "2"
	ctx, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	resp, err := r.admin.CreateTopic(ctx, partitions, nodes, map[string]*string{"min.insync.replicas": &two}, topic)
	if err == nil {
		err = resp.Err
	}
	if err != nil {
		t.Fatalf("create topic: %v", err)
	}
	for i, p := range verify.Profiles {
		pr := verify.NewProducer(i, p, r.ledger, partitions, verify.Quick(r.cluster.Addrs()))
		t.Cleanup(pr.Close)
		r.producers = append(r.producers, pr)
	}
	if r.tail, err = verify.StartTail(r.ledger, partitions, verify.Quick(r.cluster.Addrs())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.tail.Close)
	r.errands = newErrands(r.adminOf(1, 2, 3))
	return r
}

// adminOf is an admin client that asks these nodes first.
func (r *run) adminOf(ids ...int32) *kadm.Client {
	r.t.Helper()
	var addrs []string
	for _, id := range ids {
		addrs = append(addrs, r.cluster.Node(id).Addr)
	}
	cl, err := kgo.NewClient(verify.Quick(addrs)...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(cl.Close)
	return kadm.NewClient(cl)
}

// paces are records a second of each of verify.Profiles, as a disk in memory behind a process can take them together with three nodes on a small machine.
var paces = [][]int{{2000, 40, 1000, 300}, {300, 10, 200, 50}, {8000, 100, 2000, 1000}}

// work lets the clients work while fn does something, and then reads what came.
func (r *run) work(pace []int, fn func()) {
	t := r.t
	t.Helper()
	for i, p := range r.producers {
		p.Pace(pace[i])
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
	}
	stopErrands := r.errands.start()
	fn()
	r.whole()
	stopErrands()
	for _, p := range r.producers {
		ctx, cancel := context.WithTimeout(context.Background(), 2*settle)
		err := p.Stop(ctx)
		cancel()
		if err != nil {
			r.cluster.Diagnose()
			t.Fatal(err)
		}
	}
	r.verify()
}

// kill ends a node with SIGKILL.
func (r *run) kill(id int32) {
	r.down[id] = true
	r.cluster.Node(id).Kill()
}

// requireUp fails where a node has ended that nothing was done to.
func (r *run) requireUp() {
	r.t.Helper()
	for id := int32(1); id <= nodes; id++ {
		if b := r.cluster.Node(id); !r.down[id] && !b.Running() {
			r.t.Errorf("node %d ended by itself with %d; its last words:\n%s", id, exitCode(b), b.Logs().Tail(15))
			r.down[id] = true
		}
	}
}

// whole repairs everything and waits until the cluster is well again.
func (r *run) whole() {
	t := r.t
	t.Helper()
	r.net.heal()
	r.requireUp()
	for _, b := range r.cluster.Nodes {
		b.Resume()
	}
	if err := r.cluster.Launch(); err != nil {
		t.Fatal(err)
	}
	clear(r.down)
	r.await("every replica is in sync and all nodes agree", func() error {
		ps, err := r.describe()
		for _, p := range ps {
			if err == nil && (p.Leader < 0 || len(p.ISR) < nodes) {
				err = fmt.Errorf("partition %d: leader %d, in sync %v", p.Partition, p.Leader, p.ISR)
			}
		}
		if err == nil {
			err = verify.SameLeaders(r.cluster.Addrs(), topic)
		}
		return err
	})
}

func (r *run) describe() (kadm.PartitionDetails, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	topics, err := r.admin.ListTopics(ctx, topic)
	if err == nil {
		err = topics[topic].Err
	}
	return topics[topic].Partitions, err
}

func (r *run) await(what string, met func() error) {
	r.t.Helper()
	defer func() {
		if r.t.Failed() {
			r.cluster.Diagnose()
		}
	}()
	for deadline := time.Now().Add(settle); ; time.Sleep(50 * time.Millisecond) {
		err := met()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("not within %v: %s: %v", settle, what, err)
		}
	}
}

func (r *run) acknowledged() int {
	n, _ := r.ledger.Acknowledged()
	return n
}

// exitCode is how a node's process ended, -1 for by a signal.
func exitCode(b *weirproc.Broker) int {
	var exit *exec.ExitError
	if errors.As(b.ExitError(), &exit) {
		return exit.ExitCode()
	}
	return 0
}
