package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/verify"
)

// verify reads what came since the last time, and compares the replicas, the groups and the topics with what was acknowledged. Nothing is written
// meanwhile.
func (r *run) verify() {
	t := r.t
	t.Helper()
	opts := verify.Quick(r.cluster.Addrs())
	r.ledger.Verify(t, opts, r.admin, r.scans, settle, r.cluster.DumpAround)
	if err := r.tail.Err(); err != nil {
		t.Fatalf("a consumer: %v", err)
	}
	r.compareReplicas()
	r.await("groups have what they committed, topics are there", func() error { return r.errands.check(r.cluster.Addrs()) })
	r.trim()
}

// replicas are the copies of a partition.
func (r *run) replicas(partition int32) []verify.Replica {
	var all []verify.Replica
	for _, addr := range r.cluster.Addrs() {
		all = append(all, verify.NodeReplica(addr, topic, partition))
	}
	return all
}

// compareReplicas: every node has the same bytes between log start and high watermark, once the followers have been told of these.
func (r *run) compareReplicas() {
	r.t.Helper()
	for partition := range int32(partitions) {
		replicas := r.replicas(partition)
		var start, end int64
		r.await(fmt.Sprintf("the replicas of partition %d have one high watermark", partition), func() error {
			starts, ends, err := verify.Bounds(replicas)
			if err != nil {
				return err
			}
			start, end = slices.Max(starts), slices.Max(ends)
			if slices.Min(ends) != end || slices.Min(starts) != start {
				return fmt.Errorf("log starts %v, high watermarks %v", starts, ends)
			}
			return nil
		})
		if err := verify.SameLogs(replicas, start, end); err != nil {
			r.t.Fatalf("partition %d: %v", partition, err)
		}
	}
}

// trim deletes what was verified of partitions that have become large: the disks are in memory.
func (r *run) trim() {
	t := r.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	dirs, err := r.admin.DescribeAllLogDirs(ctx, nil)
	if err != nil {
		t.Fatalf("sizes of partitions: %v", err)
	}
	before := kadm.Offsets{}
	dirs.Each(func(d kadm.DescribedLogDir) {
		d.Topics.Each(func(p kadm.DescribedLogDirPartition) {
			if p.Topic == topic && p.Size > keptBytesMax {
				before.AddOffset(topic, p.Partition, r.scans[p.Partition].Next, -1)
			}
		})
	})
	if len(before) == 0 {
		return
	}
	deleted, err := r.admin.DeleteRecords(ctx, before)
	if err == nil {
		err = deleted.Error()
	}
	if err != nil {
		t.Fatalf("delete what was verified: %v", err)
	}
	deleted.Each(func(d kadm.DeleteRecordsResponse) {
		r.ledger.Forget(d.Partition, d.LowWatermark)
		r.starts[d.Partition] = d.LowWatermark
	})
}

// again reads everything once more from the log starts: what was right may have been spoiled later.
func (r *run) again() {
	t := r.t
	t.Helper()
	scans := map[int32]*verify.Scan{}
	for p := range int32(partitions) {
		scans[p] = verify.NewScan()
		scans[p].Next, scans[p].Skipped = r.starts[p], r.starts[p] > 0
	}
	r.ledger.Verify(t, verify.Quick(r.cluster.Addrs()), r.admin, scans, settle, r.cluster.DumpAround)
}

// errands are a client that commits offsets of groups, and makes and deletes topics, all the time.
type errands struct {
	admin   *kadm.Client
	commits *verify.Commits
	topics  *verify.Topics
	made    []string // acknowledged and not deleted
	count   int
	failed  error // a finding: not an error that a fault explains
}

const (
	errandGroups  = 4
	errandTopics  = 30 // at a time
	errandTimeout = 20 * time.Second
	errandPrefix  = "errand-"
)

func newErrands(admin *kadm.Client) *errands {
	return &errands{admin: admin, commits: verify.NewCommits(), topics: verify.NewTopics()}
}

// start begins; what it returns ends it.
func (e *errands) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ctx.Err() == nil; n++ {
			e.commit(ctx, fmt.Sprintf("group-%d", n%errandGroups), int32(n/errandGroups%2))
			if n%8 == 0 {
				e.topic(ctx)
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() { cancel(); <-done }
}

// commit commits the next offset and then reads it.
func (e *errands) commit(ctx context.Context, group string, partition int32) {
	ctx, cancel := context.WithTimeout(ctx, errandTimeout)
	defer cancel()
	name := fmt.Sprintf("%s %d", group, partition)
	at := e.commits.Next(name)
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic, partition, at, -1)
	if resp, err := e.admin.CommitOffsets(ctx, group, offsets); err == nil && resp.Error() == nil {
		e.commits.Ack(name, at)
	}
	if err := e.fetch(ctx, group, partition); errors.Is(err, errWrong) {
		e.failed = errors.Join(e.failed, err)
	}
}

var errWrong = errors.New("wrong answer")

func (e *errands) fetch(ctx context.Context, group string, partition int32) error {
	name := fmt.Sprintf("%s %d", group, partition)
	floor, got := e.commits.Floor(name), int64(-1)
	resp, err := e.admin.FetchOffsets(ctx, group)
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		return fmt.Errorf("fetch offsets of %s: %w", group, err)
	}
	if o, ok := resp.Lookup(topic, partition); ok {
		got = o.At
	}
	if err := e.commits.Check(name, floor, got); err != nil {
		return fmt.Errorf("%w: %w", errWrong, err)
	}
	return nil
}

// topic makes a topic, or deletes one if there are enough. One of which it is not known whether it was made stays where it is.
func (e *errands) topic(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, errandTimeout)
	defer cancel()
	if len(e.made) >= errandTopics {
		name := e.made[0]
		e.made = e.made[1:]
		e.topics.Dropping(name)
		if resp, err := e.admin.DeleteTopic(ctx, name); err == nil && resp.Err == nil {
			e.topics.Dropped(name)
		}
		return
	}
	name := fmt.Sprintf("%s%d", errandPrefix, e.count)
	e.count++
	e.topics.Creating(name)
	if resp, err := e.admin.CreateTopic(ctx, 1, nodes, nil, name); err == nil && resp.Err == nil {
		e.topics.Created(name)
		e.made = append(e.made, name)
	}
}

// check compares what every node tells with what was acknowledged.
func (e *errands) check(addrs []string) error {
	if e.failed != nil {
		return e.failed
	}
	ctx, cancel := context.WithTimeout(context.Background(), errandTimeout)
	defer cancel()
	for g := range errandGroups {
		for p := range int32(2) {
			if err := e.fetch(ctx, fmt.Sprintf("group-%d", g), p); err != nil {
				return err
			}
		}
	}
	for _, addr := range addrs {
		if err := e.checkTopics(ctx, addr); err != nil {
			return fmt.Errorf("%s: %w", addr, err)
		}
	}
	return nil
}

func (e *errands) checkTopics(ctx context.Context, addr string) error {
	cl, err := kgo.NewClient(verify.Quick([]string{addr})...)
	if err != nil {
		return err
	}
	defer cl.Close()
	have, err := verify.TopicsOf(ctx, cl, errandPrefix)
	if err != nil {
		return err
	}
	return e.topics.Check(have)
}

func (e *errands) String() string {
	created, dropped := e.topics.Counts()
	commits := int64(0)
	for _, name := range e.commits.Places() {
		commits += e.commits.Floor(name) + 1
	}
	return fmt.Sprintf("%d commits, %d topics made, %d deleted", commits, created, dropped)
}
