package chaos

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/test/internal/verify"
)

// clockOffsetEnv is internal/clock's, of a binary with the tag clockstep.
const clockOffsetEnv = "WEIR_TEST_CLOCK_OFFSET"

// stepMax is how far a clock is off at most. Beyond a day a leader forgets idempotent producers (producer.id.expiration.ms), as Kafka does, and the
// producers' records are dated half a day back.
const stepMax = 6 * time.Hour

// wallClock sets one node's wall clock, across its restarts.
type wallClock struct {
	t    *testing.T
	file *os.File
}

func newWallClock(t *testing.T, id int32) *wallClock {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), fmt.Sprintf("clock-%d", id)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	c := &wallClock{t, f}
	c.set(0)
	return c
}

// set makes the node's wall clock show so much more than the machine's. One write of eight bytes is seen whole.
func (c *wallClock) set(offset time.Duration) {
	c.t.Helper()
	if _, err := c.file.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(offset)), 0); err != nil {
		c.t.Fatal(err)
	}
}

func (c *wallClock) env() string { return clockOffsetEnv + "=" + c.file.Name() }

// setAll sets every node's clock.
func (r *run) setAll(offset time.Duration) {
	for _, c := range r.clocks {
		c.set(offset)
	}
}

// calm is what must not change because a clock does.
type calm struct {
	Leaders map[int32][2]int32 // leader and epoch by partition
	Fenced  float64
}

func (r *run) calm() calm {
	r.t.Helper()
	ps, err := r.describe()
	if err != nil {
		r.t.Fatal(err)
	}
	c := calm{Leaders: map[int32][2]int32{}}
	for _, p := range ps {
		c.Leaders[p.Partition] = [2]int32{p.Leader, p.LeaderEpoch}
		if len(p.ISR) < nodes {
			c.Fenced++
		}
	}
	return c
}

// TestClockSteps: the wall clocks of nodes jump by hours, one by one and together, forward and back, and drift, under load. Nobody is fenced, no leader
// changes, no session of a group ends, no connection is closed as idle, nothing is deleted; and what is read afterwards is what was sent.
func TestClockSteps(t *testing.T) {
	if !inside(t) {
		return
	}
	r := start(t)
	r.requireClockStep()
	m := r.joinGroup()
	r.work(paces[1], func() {
		r.whole()
		before := r.calm()
		for _, step := range []time.Duration{stepMax, -stepMax, 0, time.Second, -time.Second, 0} {
			for id := int32(1); id <= nodes; id++ {
				r.clocks[id].set(step)
				r.moreIsAcknowledged(100)
			}
			r.setAll(0)
			r.setAll(step)
			r.moreIsAcknowledged(100)
		}
		for at := -stepMax; at < stepMax; at += 10 * time.Minute { // a drift that no NTP allows
			r.setAll(at)
			r.clocks[1].set(-at)
			time.Sleep(20 * time.Millisecond)
		}
		r.moreIsAcknowledged(500)
		time.Sleep(3 * time.Second) // twice the session of a broker
		after := r.calm()
		for p, was := range before.Leaders {
			if now := after.Leaders[p]; now != was {
				t.Errorf("partition %d was led by %d in epoch %d, and now by %d in epoch %d", p, was[0], was[1], now[0], now[1])
			}
		}
		if after.Fenced != before.Fenced {
			t.Errorf("partitions that are not fully in sync: %v before, %v after", before.Fenced, after.Fenced)
		}
		m.requireCalm(t)
	})
	r.again()
	t.Logf("%d records acknowledged, none lost; %v", r.acknowledged(), r.errands)
}

// requireClockStep: the step reaches the broker, or nothing here tests anything.
func (r *run) requireClockStep() {
	t := r.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	const name = "stamped"
	logAppend := "LogAppendTime"
	resp, err := r.admin.CreateTopic(ctx, 1, nodes, map[string]*string{"message.timestamp.type": &logAppend}, name)
	if err == nil {
		err = resp.Err
	}
	if err != nil {
		t.Fatalf("create topic: %v", err)
	}
	cl, err := kgo.NewClient(verify.Quick(r.cluster.Addrs(), kgo.ConsumeTopics(name))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i, step := range []time.Duration{0, stepMax, -stepMax} {
		r.setAll(step)
		at := time.Now()
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: name, Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatalf("produce: %v", err)
		}
		for read := false; !read; {
			fetches := cl.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				t.Fatalf("consume: %v", err)
			}
			fetches.EachRecord(func(rec *kgo.Record) {
				if read = true; rec.Timestamp.Sub(at.Add(step)).Abs() > time.Hour {
					t.Errorf("record %d, with a clock that is off by %v, is stamped %v at %v", i, step, rec.Timestamp, at)
				}
			})
		}
	}
	r.setAll(0)
}

func (r *run) moreIsAcknowledged(n int) {
	r.t.Helper()
	before := r.acknowledged()
	r.await(fmt.Sprintf("%d more records are acknowledged", n), func() error {
		if now := r.acknowledged(); now < before+n {
			return fmt.Errorf("%d so far", now-before)
		}
		return nil
	})
}

// member is of a group, with a session that a clock could end.
type member struct {
	admin *kadm.Client
	lost  chan string
}

func (r *run) joinGroup() *member {
	r.t.Helper()
	m := &member{admin: r.admin, lost: make(chan string, 16)}
	joined := make(chan struct{}, 16)
	cl, err := kgo.NewClient(verify.Quick(r.cluster.Addrs(), kgo.ConsumerGroup("clocked"), kgo.ConsumeTopics(topic), kgo.SessionTimeout(10*time.Second),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) { joined <- struct{}{} }),
		kgo.OnPartitionsRevoked(func(context.Context, *kgo.Client, map[string][]int32) { m.lost <- "revoked" }),
		kgo.OnPartitionsLost(func(context.Context, *kgo.Client, map[string][]int32) { m.lost <- "lost" }))...)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	r.t.Cleanup(func() { cancel(); <-done; cl.Close() })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			cl.PollFetches(ctx)
		}
	}()
	select {
	case <-joined:
	case <-time.After(settle):
		r.t.Fatal("nobody joined the group")
	}
	return m
}

// requireCalm: the member was never thrown out, and is in the group.
func (m *member) requireCalm(t *testing.T) {
	t.Helper()
	select {
	case how := <-m.lost:
		t.Errorf("the group's member lost its partitions: %s", how)
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	groups, err := m.admin.DescribeGroups(ctx, "clocked")
	if err == nil {
		err = groups.Error()
	}
	if err == nil && !slices.ContainsFunc(groups.Sorted(), func(g kadm.DescribedGroup) bool { return g.State == "Stable" && len(g.Members) == 1 }) {
		err = errors.New("it is not stable with one member")
	}
	if err != nil {
		t.Errorf("the group: %v", err)
	}
}
