package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"weir/raftmeta"
)

// TestCatchUpBudget: what is not in sync gets its bytes a second, an answer is taken whole, and nothing is saved up for long.
func TestCatchUpBudget(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(1_700_000_000_000 + int64(ms)) }
	b := catchUpBudget{perSecond: 1000}
	if wait := b.take(0, at(0)); wait != 0 {
		t.Errorf("waits %s at first", wait)
	}
	if wait := b.take(1250, at(0)); wait < time.Second || wait > 1010*time.Millisecond {
		t.Errorf("waits %s after 1250 bytes of 250", wait)
	}
	if wait := b.take(0, at(500)); wait < 500*time.Millisecond || wait > 510*time.Millisecond {
		t.Errorf("waits %s half a second later", wait)
	}
	if wait := b.take(0, at(1010)); wait != 0 {
		t.Errorf("waits %s when it is over", wait)
	}
	b.take(0, at(3_600_000))
	if wait := b.take(251, at(3_600_000)); wait == 0 {
		t.Error("an idle hour was saved up")
	}
	unbounded := &catchUpBudget{}
	for range 2 {
		if wait := unbounded.take(1<<30, at(0)); wait != 0 {
			t.Errorf("without a bound it waits %s", wait)
		}
	}
}

// TestGrowthIsFree: only what brings a follower closer to its leader counts for the budget.
func TestGrowthIsFree(t *testing.T) {
	fl := &followed{leaderHW: -1}
	for _, c := range []struct {
		name         string
		asked, end   int64
		hw           int64
		bytes        int
		cost, credit int
	}{
		{"nothing is known of growth at first", 0, 10, 1000, 500, 500, 0},
		{"the leader stands still", 10, 20, 1000, 500, 500, 0},
		{"it grows half as fast", 20, 30, 1005, 500, 250, 0},
		{"it grows twice as fast", 30, 40, 1025, 500, 0, 500},
		{"what was left over is free, too", 40, 50, 1030, 600, 0, 200},
		{"a high watermark from before", 50, 60, 1020, 500, 300, 0},
		{"nothing came", 60, 60, 1030, 0, 0, 0},
	} {
		fl.asked.Offset = c.asked
		if got := fl.cost(c.hw, c.end, c.bytes); got != c.cost || fl.credit != c.credit {
			t.Errorf("%s: costs %d, credit %d; want %d, %d", c.name, got, fl.credit, c.cost, c.credit)
		}
	}
}

// TestCatchesUpUnderLoad: with a budget far below what is produced a replica that fell out comes back all the same.
func TestCatchesUpUnderLoad(t *testing.T) {
	c := newCluster(t, 3, map[string]string{"replica.catchup.bytes.per.sec": "2000000"})
	defer c.close()
	c.decide(raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: [][]int32{{1, 2, 3}}})
	c.isolate(3, true)
	c.elect("t", 0, 1, 1, 2)
	big := string(make([]byte, 5000))
	m := &node{t: t, Manager: c.up(1)}
	p := m.ByName("t", 0)
	for range 300 {
		m.mustAppend(p, valueBatch(t, big))
	}
	c.isolate(3, false)
	for bytes := 0; len(p.ISR()) < 3; bytes += 5000 {
		if _, err := c.produce("t", 0, 1, valueBatch(t, big)); err != nil {
			t.Fatal(err)
		}
		if bytes > 300_000_000 {
			t.Fatalf("it does not catch up: %d of %d", c.up(3).ByName("t", 0).End(), p.End())
		}
	}
	c.same("t", 0, 1, 2, 3)
}

// TestLaggardLeaves: a follower that lives and does not fetch is taken out of the ISR by its leader, and what waits for it goes on.
func TestLaggardLeaves(t *testing.T) {
	c := newCluster(t, 3, map[string]string{"replica.lag.time.max.ms": "100", "replica.fetch.wait.max.ms": "50"})
	defer c.close()
	c.decide(raftmeta.CreateTopic{Name: "t", ID: [16]byte{1}, Assignment: [][]int32{{1, 2, 3}}, Configs: threeInSync})
	if _, err := c.produce("t", 0, 1, valueBatch(t, "0")); err != nil {
		t.Fatal(err)
	}
	c.isolate(3, true)
	if _, err := c.produce("t", 0, 1, valueBatch(t, "1")); err != nil {
		t.Fatal(err)
	}
	if isr := c.up(1).ByName("t", 0).ISR(); !slices.Equal(isr, []int32{1, 2}) {
		t.Errorf("ISR %v after a record was acknowledged without node 3", isr)
	}
	c.isolate(3, false)
	c.until("node 3 is in sync", func() bool { return slices.Contains(c.up(1).ByName("t", 0).ISR(), 3) })
	c.same("t", 0, 1, 2, 3)
}

// TestLeaderLogStart: followers' logs begin where the leader's does, and one that lies before it altogether begins anew.
func TestLeaderLogStart(t *testing.T) {
	c := newCluster(t, 2, nil)
	defer c.close()
	c.decide(createTwo)
	for i := range 6 {
		if _, err := c.produce("t", 0, 1, valueBatch(t, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	trim := func(to int64) {
		t.Helper()
		done := make(chan error, 1)
		d := []Deletion{{Partition: c.up(1).ByName("t", 0), Offset: to}}
		if !c.up(1).DeleteRecords(d, func(err error) { done <- err }) || d[0].Err != nil {
			t.Fatal(d[0].Err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	trim(3)
	if _, err := c.produce("t", 0, 1, valueBatch(t, "6")); err != nil {
		t.Fatal(err)
	}
	c.until("the follower's log begins at 3", func() bool { return c.up(2).ByName("t", 0).LogStart() == 3 })
	leader := c.up(1).ByName("t", 0)
	c.until("the low watermark is 3", func() bool { return leader.LowWatermark() == 3 })
	c.isolate(2, true)
	c.elect("t", 0, 1, 1)
	for i := 7; i < 12; i++ {
		if _, err := c.produce("t", 0, 1, valueBatch(t, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	trim(10)
	c.isolate(2, false)
	c.until("node 2 is in sync", func() bool { return len(leader.ISR()) == 2 })
	if got := c.same("t", 0, 1, 2); len(got) != 2 || c.up(2).ByName("t", 0).LogStart() != 10 {
		t.Errorf("%q, log start %d", got, c.up(2).ByName("t", 0).LogStart())
	}
}

// failingControl answers with errors until it is told to stop.
type failingControl struct {
	*clusterNode
	fails atomic.Int32
}

func (f *failingControl) AlterISR(ctx context.Context, changes []ISRChange) ([]ISRResult, error) {
	switch f.fails.Add(-1) {
	case 4, 3:
		return nil, errors.New("no controller")
	case 2:
		return []ISRResult{}, nil // does not fit
	case 1:
		results := make([]ISRResult, len(changes))
		for i := range results {
			results[i].Err = ErrNotReplica
		}
		return results, nil
	}
	return f.clusterNode.AlterISR(ctx, changes)
}

// TestProposalsAreRepeated: an ISR change is proposed until it is taken, whatever the controller says meanwhile.
func TestProposalsAreRepeated(t *testing.T) {
	c := newCluster(t, 2, nil)
	defer c.close()
	c.decide(createTwo)
	control := &failingControl{clusterNode: c.nodes[1]}
	control.fails.Store(5)
	c.up(1).control = control
	c.elect("t", 0, 1, 1)
	c.until("node 2 is in sync", func() bool { return len(c.up(1).ByName("t", 0).ISR()) == 2 })
	if left := control.fails.Load(); left > 0 {
		t.Errorf("%d failures were not met", left)
	}
	if _, err := c.produce("t", 0, 1, valueBatch(t, "0")); err != nil {
		t.Fatal(err)
	}
}

// TestNewPartitionIsFetchedAtOnce: a fetch that is parked at the leader does not hold up partitions that come meanwhile.
func TestNewPartitionIsFetchedAtOnce(t *testing.T) {
	c := newCluster(t, 2, map[string]string{"replica.fetch.wait.max.ms": "3600000", "replica.lag.time.max.ms": "7200000"})
	c.fetchWait = time.Hour
	defer c.close()
	for i := range 5 {
		c.decide(raftmeta.CreateTopic{Name: fmt.Sprint("t", i), ID: [16]byte{byte(i + 1)}, Assignment: [][]int32{{1, 2}, {1, 2}}})
		for index := range int32(2) {
			if _, err := c.produce(fmt.Sprint("t", i), index, 1, valueBatch(t, "0")); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestFullTail: a follower whose disk takes nothing stops fetching when its memory for unflushed data is full; it goes on when the disk does.
func TestFullTail(t *testing.T) {
	c := newCluster(t, 2, map[string]string{"log.tail.max.bytes": "1048576", "log.writeback.bytes": "16384"})
	defer c.close()
	c.decide(createTwo)
	if _, err := c.produce("t", 0, 1, valueBatch(t, "0")); err != nil {
		t.Fatal(err)
	}
	c.same("t", 0, 1, 2)
	g := &gate{}
	c.nodes[2].disk.SetHook(g.hook)
	g.shut(segmentWrites)
	big := string(make([]byte, 20_000))
	for range 80 {
		m := &node{t: t, Manager: c.up(1)}
		m.mustAppend(m.ByName("t", 0), valueBatch(t, big)) // acks=1: the leader goes on alone
	}
	follower := c.up(2)
	c.until("the follower's memory is full", func() bool { return follower.store.TailBytes() > 900_000 })
	if used := follower.store.TailBytes(); used > 1048576 {
		t.Errorf("the follower holds %d bytes, log.tail.max.bytes is 1048576", used)
	}
	g.open(nil)
	c.same("t", 0, 1, 2)
}
