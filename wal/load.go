package wal

import (
	"errors"
	"time"

	"weir/internal/pace"
	"weir/uring"
)

// The log's own writes are paced, too, by what they took before: a group of a mebibyte is nothing to a fast device, and a second to one of 1 MB/s, with
// the metadata's log, which has a second for each of its writes, waiting behind it. So there a group is made small; and one that cannot be, because a single
// entry is large, is written in legs, one after another. Each leg has the deadline of a write: a device that goes on is not taken for a stalled one,
// however much it was given.
//
// A group written in legs is to a crash what any group is that was not whole: it is acknowledged after the last leg, and before that it is a torn tail.

const (
	// startBytes may be in flight before anything is known of the device, or after startRest without a write: with what else may be in front, a write
	// of the metadata's log is done within a second on a device that turns out to do 1 MB/s.
	startBytes = 512 << 10
	startRest  = time.Second
)

// load is what the log has given to the device. It belongs to the committer.
type load struct {
	est      pace.Estimate
	inFlight int64
	metrics  *Metrics
}

// leg is a write of (a part of) a group.
type leg struct {
	bytes int64
	load  int64 // in flight when it was submitted, itself included
	began time.Time
}

func (l *load) init(o *Options) {
	// Twice what may be in flight at all: on a fast device nothing is held back.
	l.est = pace.NewEstimate(2*int64(o.Depth)*int64(max(o.GroupBytesMax, o.PipelineBytes)), startBytes, startRest)
	l.metrics = o.Metrics
}

// room is what may go in flight now. It may be negative.
func (l *load) room() int64 { return l.est.Limit() - l.inFlight }

func (l *load) rested(now time.Time) {
	if l.inFlight == 0 {
		l.est.Rested(now)
	}
}

// landed says that a leg has ended.
func (l *load) landed(g *leg, now time.Time, err error) {
	took := now.Sub(g.began)
	if err == nil || took > pace.Target {
		l.est.Observe(now, g.load, took)
	}
	l.inFlight -= g.bytes
	l.metrics.inFlightMax.Set(float64(l.est.Limit()))
}

// roomy says whether it is time for another group: with nothing in flight always, else not for a sliver.
func (c *committer) roomy() bool { return c.flights == 0 || c.load.room() >= c.load.est.Limit()/2 }

// pushLeg hands the next part of a group to the ring, on a fast device all of it.
func (c *committer) pushLeg(g *group, now time.Time) error {
	n := min(int64(len(g.data)-g.wrote), c.load.est.Limit())
	g.op.Buf, g.op.Off = g.data[g.wrote:g.wrote+int(n)], g.off+int64(g.wrote)
	g.op.Ctx, g.op.Done, g.op.Released = g, groupDone, groupReleased
	if err := c.ring.Push(&g.op); err != nil {
		return err
	}
	g.held = true
	c.load.inFlight += n
	g.leg = leg{bytes: n, load: c.load.inFlight, began: now}
	return nil
}

// continueGroups pushes the next legs of groups that are not written whole. What the ring refuses is tried again when something comes back.
func (c *committer) continueGroups() {
	for _, g := range c.flight[:c.flights] {
		if g.held || g.done {
			continue
		}
		err := c.pushLeg(g, c.w.o.now())
		if err != nil && (c.load.inFlight == 0 || !passes(err)) {
			c.fail(err)
			return
		}
	}
}

// passes: the ring is full, or waits for a slow disk.
func passes(err error) bool { return errors.Is(err, uring.ErrStalled) || errors.Is(err, uring.ErrFull) }
