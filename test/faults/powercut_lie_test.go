package faults

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// TestPowerCutLyingDisk shows that TestPowerCut can fail: a disk that lies about flushes loses what the broker
// acknowledged in good faith, and each of the checks says so.
func TestPowerCutLyingDisk(t *testing.T) {
	skipOnReference(t)
	seed := uint64(envInt(t, "WEIR_SEED", int(time.Now().UnixNano()&0x7fffffff)))
	t.Logf("WEIR_SEED=%d", seed)
	for i, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			c := newCutRun(t, fs, rand.New(rand.NewPCG(seed, uint64(i))))
			c.newLogs(0)
			c.workUntilAcknowledged()
			c.disk.LieAboutFlush(true)
			c.workUntilAcknowledged()
			lost := c.disk.Cut(c.rng, 0)
			c.broker.Kill()
			if err := c.disk.Restore(); err != nil {
				t.Fatal(err)
			}
			c.launch(0, c.broker.Launch)
			c.connect()
			t.Logf("lost: %+v", lost)
			c.requireLossSeen()
		})
	}
}

// workUntilAcknowledged lets the clients work until each was told of something new, and ends in order.
func (c *cutRun) workUntilAcknowledged() {
	t := c.t
	t.Helper()
	before := c.counts()
	stop := c.load()
	eventually(t, time.Minute, "every client was told of something new", func() bool {
		for i, n := range c.counts() {
			if n == before[i] {
				return false
			}
		}
		return true
	})
	stop()
	for _, l := range c.logs {
		for _, p := range l.producers {
			if err := p.Stop(limit(t, time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
		l.verify(t, c.broker.Addr, c.admin)
	}
	// The last things that are told to these are changes for sure.
	ctx := limit(t, time.Minute)
	for g := range commitGroups {
		c.commits.commit(ctx, g)
	}
	for _, o := range c.topics {
		for _, topic := range o.topics {
			if topic.is.settled == "" {
				o.create(ctx, topic)
			}
		}
	}
}

// counts is what each of the clients was told so far.
func (c *cutRun) counts() []int64 {
	counts := []int64{c.commits.count.Load()}
	for _, l := range c.logs {
		for _, p := range l.producers {
			counts = append(counts, p.Acks.Load())
		}
	}
	for _, o := range c.topics {
		counts = append(counts, o.created.Load())
	}
	return counts
}

// requireLossSeen: every check reports what is missing.
func (c *cutRun) requireLossSeen() {
	t := c.t
	t.Helper()
	for _, l := range c.logs {
		var found []string
		for partition, end := range endOffsets(t, c.admin, l.ledger.Topic) {
			if err := l.ledger.LostBeyond(partition, end); err != nil {
				found = append(found, err.Error())
			}
		}
		if len(found) == 0 {
			t.Errorf("no loss found in topic %s", l.ledger.Topic)
		}
		t.Logf("as expected: %s", strings.Join(found, "; "))
	}
	ctx := limit(t, time.Minute)
	if err := c.commits.verify(ctx); err == nil || !strings.HasPrefix(err.Error(), "LOST") {
		t.Errorf("lost commits: found %v", err)
	} else {
		t.Logf("as expected: %v", err)
	}
	for _, o := range c.topics {
		if err := o.verify(ctx); err == nil || !strings.HasPrefix(err.Error(), "LOST") {
			t.Errorf("lost topics: found %v", err)
		} else {
			t.Logf("as expected: %v", err)
		}
	}
}
