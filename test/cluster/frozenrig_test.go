package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/test/internal/faultdisk"
	"weir/test/internal/verify"
	"weir/test/internal/weirproc"
)

const (
	// defaultStallMs is log.dir.stall.ms where a stall is the question: Weir's default, which these tests are about.
	defaultStallMs = "2000"
	probed         = "probed"
	metered        = "metered"
)

// measured is producers that wait for answers most of the time: what is looked at is how long answers take, and a machine whose cores
// are all taken by producers tells nothing about that.
var measured = []verify.Profile{
	{Name: "idempotent", Idempotent: true, ValueMax: 2000, Buffered: 12, Codec: kgo.NoCompression()},
	{Name: "plain", InFlight: 1, ValueMax: 2000, Buffered: 12, Codec: kgo.NoCompression()},
}

// diskRig is three nodes, each with its data directory on a disk of its own that can stand still.
type diskRig struct {
	t       *testing.T
	disks   map[int32]*faultdisk.Disk
	cluster *weirproc.Cluster
	client  *kgo.Client
	admin   *kadm.Client
	topics  []string
	loads   []*load
}

func newDiskRig(t *testing.T) *diskRig {
	t.Helper()
	r := &diskRig{t: t, disks: map[int32]*faultdisk.Disk{}}
	for id := range int32(3) { // before the cluster, so that it ends before them
		r.disks[id+1] = faultdisk.New(t, faultdisk.Options{})
	}
	config := map[string]string{"log.dir.stall.ms": defaultStallMs}
	for key, value := range small {
		config[key] = value
	}
	r.cluster = weirproc.NewCluster(t, weirproc.ClusterOptions{Config: config})
	for id, d := range r.disks {
		r.cluster.Node(id).DataDir = filepath.Join(d.Path(), "data")
	}
	if err := r.cluster.Launch(); err != nil {
		t.Fatalf("start the cluster: %v", err)
	}
	r.client = newClient(t, r.cluster)
	r.admin = kadm.NewClient(r.client)
	awaitNodes(t, r.admin, 1, 2, 3)
	return r
}

// create makes a topic whose i-th partition is led by the i-th of the leaders; every node has a replica.
func (r *diskRig) create(topic string, leaders ...int32) {
	r.t.Helper()
	var replicas [][]int32
	for _, leader := range leaders {
		replicas = append(replicas, []int32{leader, leader%3 + 1, (leader+1)%3 + 1})
	}
	r.createOn(topic, replicas)
}

// createOn makes a topic with these replicas for each partition, the leader first.
func (r *diskRig) createOn(topic string, replicas [][]int32) {
	r.t.Helper()
	createAssigned(r.t, r.client, topic, replicas)
	r.topics = append(r.topics, topic)
	awaitInSync(r.t, r.cluster, r.admin, topic)
}

// createAssigned makes a topic with these replicas for each partition, the leader first. A record needs two disks to be acknowledged.
func createAssigned(t *testing.T, client *kgo.Client, topic string, replicas [][]int32) {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 30_000
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, -1, -1
	for partition, ids := range replicas {
		ra := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		ra.Partition, ra.Replicas = int32(partition), ids
		rt.ReplicaAssignment = append(rt.ReplicaAssignment, ra)
	}
	two := "2"
	rc := kmsg.NewCreateTopicsRequestTopicConfig()
	rc.Name, rc.Value = "min.insync.replicas", &two
	rt.Configs = append(rt.Configs, rc)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(limit(t, time.Minute), client)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		t.Fatalf("create topic %s: %v", topic, err)
	}
}

// work creates topics whose partitions these nodes lead, and starts idempotent and plain producers to them.
func (r *diskRig) work(leaders ...int32) {
	r.t.Helper()
	for i, kinds := range [][]int{{0}, {1}, {0, 1}} {
		topic := fmt.Sprintf("worked-%d", i)
		r.create(topic, leaders...)
		l := &load{t: r.t, cluster: r.cluster, ledger: verify.New(topic, int32(len(leaders)))}
		for index, kind := range kinds {
			p := verify.NewProducer(index, measured[kind], l.ledger, int32(len(leaders)), verify.Quick(r.cluster.Addrs()))
			r.t.Cleanup(p.Close)
			l.producers = append(l.producers, p)
		}
		r.loads = append(r.loads, l)
	}
	r.resumeWork()
}

func (r *diskRig) resumeWork() {
	r.t.Helper()
	for _, l := range r.loads {
		l.start()
	}
	for _, l := range r.loads {
		l.await(200)
	}
}

// check ends the load and reads everything that was ever acknowledged.
func (r *diskRig) check(when string) {
	r.t.Helper()
	total := 0
	for _, l := range r.loads {
		l.check(r.admin)
		n, _ := l.ledger.Acknowledged()
		total += n
	}
	r.t.Logf("%s: %d records acknowledged, 0 lost", when, total)
}

// freeze lets a node's disk stand still for ever, and waits until it holds back something: the node has met it.
func (r *diskRig) freeze(id int32) time.Time {
	r.t.Helper()
	begun := time.Now()
	r.disks[id].Stall(faultdisk.Write|faultdisk.Flush, 0)
	if !r.disks[id].AwaitHeld(faultdisk.Write|faultdisk.Flush, settle) {
		r.t.Fatalf("node %d wrote nothing within %v", id, settle)
	}
	return begun
}

// heal lets the disk go on, requires that the node ended because of it, and starts it again.
func (r *diskRig) heal(id int32) {
	r.t.Helper()
	b := r.cluster.Node(id)
	held := b.Running()
	r.disks[id].Resume()
	select {
	case <-b.Exited():
	case <-time.After(settle):
		r.t.Fatalf("node %d still runs %v after its disk was healed", id, settle)
	}
	code := 0
	var exit *exec.ExitError
	if errors.As(b.ExitError(), &exit) {
		code = exit.ExitCode()
	}
	r.t.Logf("node %d ended with %d (held by the kernel until its disk was healed: %t)", id, code, held)
	if code != 70 {
		r.t.Errorf("node %d ended with %d, want 70", id, code)
	}
	if err := b.Launch(); err != nil {
		r.t.Fatalf("node %d again: %v", id, err)
	}
	for _, topic := range r.topics {
		awaitInSync(r.t, r.cluster, r.admin, topic)
	}
}

// electPreferred gives every partition back to its first replica.
func (r *diskRig) electPreferred() {
	r.t.Helper()
	results, err := r.admin.ElectLeaders(limit(r.t, settle), kadm.ElectPreferredReplica, nil)
	if err != nil {
		r.t.Fatalf("elect preferred leaders: %v", err)
	}
	for _, partitions := range results {
		for _, p := range partitions {
			if p.Err != nil && !errors.Is(p.Err, kerr.ElectionNotNeeded) {
				r.t.Fatalf("elect the preferred leader of %s-%d: %v", p.Topic, p.Partition, p.Err)
			}
		}
	}
}

// acceptsNothing is nil if nobody is served at an address: connections are refused or reset.
func acceptsNothing(addr string) error {
	const patience = 2 * time.Second
	conn, err := net.DialTimeout("tcp", addr, patience)
	var timeout net.Error
	if err != nil {
		if errors.As(err, &timeout) && timeout.Timeout() {
			return fmt.Errorf("dial %s: neither accepted nor refused: %w", addr, err)
		}
		return nil
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("deadline: %w", err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("%s accepts connections and keeps them", addr)
	}
	return nil
}

// gone is nil if a node's process has ended, or has called exit and is held by the kernel, and none of its addresses is served.
func (r *diskRig) gone(id int32) error {
	b := r.cluster.Node(id)
	if b.Running() && weirproc.State(b.Pid()) != "Z" {
		return fmt.Errorf("process %d runs", b.Pid())
	}
	for _, addr := range []string{b.Addr, r.cluster.Peer(id), b.HTTP} {
		if err := acceptsNothing(addr); err != nil {
			return err
		}
	}
	return nil
}

// out is nil if a node decides nothing, leads nothing and does not count as alive, as another one tells. It is asked anew each time: kadm answers
// from what its client remembers.
func (r *diskRig) out(id, via int32) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.cluster.Node(via).Addr))
	if err != nil {
		return err
	}
	defer cl.Close()
	answer, err := cl.SeedBrokers()[0].Request(limit(r.t, settle), kmsg.NewPtrMetadataRequest()) // of all topics
	if err != nil {
		return err
	}
	meta := answer.(*kmsg.MetadataResponse)
	if meta.ControllerID < 0 || meta.ControllerID == id {
		return fmt.Errorf("the controller is %d", meta.ControllerID)
	}
	for _, b := range meta.Brokers {
		if b.NodeID == id {
			return fmt.Errorf("node %d counts as alive", id)
		}
	}
	if len(meta.Topics) < len(r.topics) {
		return fmt.Errorf("%d topics", len(meta.Topics))
	}
	for _, rt := range meta.Topics {
		for _, p := range rt.Partitions {
			if p.Leader < 0 || p.Leader == id {
				return fmt.Errorf("%s-%d is led by %d", *rt.Topic, p.Partition, p.Leader)
			}
		}
	}
	return nil
}

// preferred is nil if each partition of a topic is led by its first replica.
func (r *diskRig) preferred(topic string) error {
	ps, err := partitions(r.t, r.admin, topic)
	for _, p := range ps {
		if err == nil && p.Leader != p.Replicas[0] {
			err = fmt.Errorf("partition %d of %v is led by %d", p.Partition, p.Replicas, p.Leader)
		}
	}
	return err
}

// creation is a topic being made while a disk stands still.
type creation struct {
	took     time.Duration
	answers  []string // errors before it succeeded
	finished chan struct{}
	err      error
}

// createMeanwhile asks one node for a topic, again where that fails, in the background.
func (r *diskRig) createMeanwhile(via int32, topic string) *creation {
	c := &creation{finished: make(chan struct{})}
	ctx := limit(r.t, frozenMax)
	addr := r.cluster.Node(via).Addr
	go func() {
		defer close(c.finished)
		begun := time.Now()
		c.err = c.run(ctx, addr, topic)
		c.took = time.Since(begun).Round(time.Millisecond)
	}()
	r.t.Cleanup(func() { <-c.finished })
	return c
}

func (c *creation) run(ctx context.Context, addr, topic string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	defer cl.Close()
	for {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.TimeoutMillis = 30_000
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, 3, 3
		req.Topics = append(req.Topics, rt)
		resp, err := cl.SeedBrokers()[0].Request(ctx, req)
		if err == nil {
			err = kerr.ErrorForCode(resp.(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode)
		}
		if err == nil || errors.Is(err, kerr.TopicAlreadyExists) && len(c.answers) > 0 { // an earlier try made it
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("create topic %s, %d tries: %w", topic, len(c.answers)+1, err)
		}
		what, _, _ := strings.Cut(err.Error(), ":")
		c.answers = append(c.answers, what)
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// require waits for the topic.
func (c *creation) require(t *testing.T) string {
	t.Helper()
	<-c.finished
	if c.err != nil {
		t.Fatal(c.err)
	}
	return fmt.Sprintf("%v (refused before: %v)", c.took, c.answers)
}
