package broker

import (
	"context"
	"errors"
	"time"

	"weir/coordinator/group"
	"weir/internal/clock"
	"weir/internal/lockmeter"
	"weir/replica"
)

// groupRoles follows who leads the partitions of __consumer_offsets: whoever leads one coordinates its groups. A partition is loaded when this node
// becomes its leader and let go of when it is not any more, at once and on the goroutine that applies the metadata; only the
// reading of the log is done elsewhere. A load that fails is tried again for as long as the node leads in that epoch.
type groupRoles struct {
	b     *Broker
	ctx   context.Context // ends when the groups close
	close context.CancelFunc

	mu struct {
		lockmeter.Mutex
		open    bool
		early   []groupRole          // that came before the coordinator was there
		retries map[int32]groupRetry // of loads that failed, by partition
	}
}

// groupRetry is a load that is to be tried again.
type groupRetry struct {
	epoch int32
	timer clock.Timer
}

// groupRole is this node's role in a partition of __consumer_offsets.
type groupRole struct {
	partition int32
	leader    bool
	epoch     int32
}

const (
	groupRetryMin = 250 * time.Millisecond
	groupRetryMax = 15 * time.Second
)

// onRole is replica.Options.OnRole. It may be called before there is a coordinator, and does not block.
func (b *Broker) onRole(p *replica.Partition, leader bool, epoch int32) {
	if p.Topic() == offsetsTopic {
		b.groupRoles.changed(groupRole{p.Index(), leader, epoch})
	}
}

func (g *groupRoles) changed(r groupRole) {
	g.mu.Lock()
	if !g.mu.open {
		g.mu.early = append(g.mu.early, r)
		g.mu.Unlock()
		return
	}
	g.mu.Unlock()
	g.take(r)
}

// start gives the coordinator what came early. It is called once, when b.groups is there.
func (g *groupRoles) start(b *Broker) {
	g.b = b
	g.ctx, g.close = context.WithCancel(context.Background())
	g.mu.retries = map[int32]groupRetry{} // before the first load, which may fail at once
	for {
		g.mu.Lock()
		early := g.mu.early
		g.mu.early = nil
		if len(early) == 0 {
			g.mu.open = true
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		for _, r := range early {
			g.take(r)
		}
	}
}

func (g *groupRoles) take(r groupRole) {
	if !r.leader {
		g.b.groups.Unload(r.partition, r.epoch)
		return
	}
	g.load(r, groupRetryMin)
}

// load claims the partition and reads it in the background.
func (g *groupRoles) load(r groupRole, pause time.Duration) {
	if !g.begin() {
		return
	}
	claim, err := g.b.groups.Claim(r.partition, r.epoch)
	if err != nil {
		g.b.loading.Done()
		if !errors.Is(err, group.ErrOwned) && !errors.Is(err, group.ErrOvertaken) {
			g.b.log.Error("groups cannot be loaded", "topic", offsetsTopic, "partition", r.partition, "epoch", r.epoch, "err", err)
		}
		return
	}
	go func() {
		defer g.b.loading.Done()
		if err := claim.Load(); err != nil && !errors.Is(err, group.ErrOvertaken) && g.ctx.Err() == nil {
			g.b.log.Error("groups cannot be loaded; it is tried again", "topic", offsetsTopic, "partition", r.partition, "epoch", r.epoch, "in", pause, "err", err)
			g.retry(r, pause)
		}
	}()
}

// begin notes a load, for which the end of the groups waits; false: they have ended.
func (g *groupRoles) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx.Err() != nil {
		return false
	}
	g.b.loading.Add(1)
	return true
}

// retry tries a load again after a pause. If the role has changed by then the claim says so.
func (g *groupRoles) retry(r groupRole, pause time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx.Err() != nil {
		return
	}
	if old, ok := g.mu.retries[r.partition]; ok {
		if old.epoch > r.epoch {
			return // this load ended late: the present epoch's has failed meanwhile
		}
		old.timer.Stop()
	}
	timer := g.b.clk.AfterFunc(pause, func() { g.load(r, min(2*pause, groupRetryMax)) })
	g.mu.retries[r.partition] = groupRetry{r.epoch, timer}
}

// stop ends loads and their retries; it does not wait for loads under way.
func (g *groupRoles) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.close()
	for _, t := range g.mu.retries {
		t.timer.Stop()
	}
	clear(g.mu.retries)
}
