package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weir/controller/machine"
	"weir/internal/config"
	"weir/raftmeta"
)

// proposeTimeout bounds one Propose, should Meta not do it sooner.
const proposeTimeout = 10 * time.Second

// landing is what came of a plan's commands.
type landing struct {
	plan    *machine.Plan
	results []raftmeta.Result
	err     error
}

// run owns the machine. It looks at the mail when there is some, decides unless a change is under way, and waits.
func (c *Controller) run() {
	defer close(c.done)
	for {
		select {
		case <-c.mail.wake:
			c.collect()
		case l := <-c.landed:
			c.collect() // the images that the change made are there
			c.land(l)
		case <-c.ctx.Done():
			c.end()
			return
		}
		c.decide()
		c.arm()
	}
}

// collect shows the machine what has happened. The time is read after the mail is taken: what is in it is not of the future.
func (c *Controller) collect() {
	all := c.mail.take()
	now := c.o.Clock.Now()
	due := all.due
	if due.IsZero() && !c.armed.IsZero() && now.After(c.armed) {
		due = c.armed // the timer's goroutine has not run yet: this may be the first thing that does after a standstill
	}
	if !all.due.IsZero() {
		c.armed = time.Time{}
	}
	if !due.IsZero() {
		c.m.Woke(due, now)
	}
	if all.latest != nil {
		c.m.Observe(all.latest, nil, now)
	}
	c.changeOffice(all.term, all.leading, now)
	for _, n := range all.news {
		c.m.Observe(n.img, n.delta, now)
	}
	for _, g := range all.gone {
		c.m.PeerGone(g.node, g.at)
	}
	for _, r := range all.requests {
		if h, ok := r.Op.(*machine.Heartbeat); ok {
			if a, err, wait := c.m.Heard(h, now); !wait {
				c.reply(machine.Answer{Token: r.Token, Value: a, Err: err})
				continue
			}
		}
		c.waiting = append(c.waiting, r)
	}
}

func (c *Controller) changeOffice(term uint64, leading bool, now time.Time) {
	if leading == c.m.InOffice() && (!leading || term == c.term) {
		return
	}
	if c.m.InOffice() {
		c.o.Logger.Info("controller left office", "term", c.term)
		c.m.LeaveOffice()
		c.refuse(fmt.Errorf("%w: term %d is over", ErrNotController, c.term))
	}
	c.term = term
	if leading {
		c.m.TakeOffice(now)
		s := c.m.Stats()
		c.o.Logger.Info("controller took office", "term", term, "brokers", s.Active, "fenced", s.Fenced, "offline_partitions", s.Offline)
	}
	c.o.Metrics.setActive(leading)
}

// refuse answers everybody who waits and whom no plan has.
func (c *Controller) refuse(err error) {
	for _, r := range c.waiting {
		c.reply(machine.Answer{Token: r.Token, Err: err})
	}
	c.waiting = nil
}

// decide makes a plan and starts what it wants done, unless something is under way: that has to be known first.
func (c *Controller) decide() {
	if c.flight {
		return
	}
	began := c.o.Clock.Now()
	wanted := c.wanted()
	plan := c.m.Decide(wanted, began)
	c.waiting = plan.Later
	if len(wanted) > 0 || len(plan.Entries) > 0 {
		c.o.Metrics.decideSeconds.Observe(c.o.Clock.Now().Sub(began).Seconds())
	}
	for _, a := range plan.Answers {
		c.reply(a)
	}
	c.o.Metrics.observe(c.m)
	if len(plan.Entries) > 0 {
		c.flight = true
		go c.fly(plan)
	}
}

// wanted are the requests that somebody still waits for.
func (c *Controller) wanted() []machine.Request {
	kept := c.waiting[:0]
	for _, r := range c.waiting {
		if token := r.Token.(*request); token.ctx.Err() != nil {
			c.reply(machine.Answer{Token: r.Token, Err: token.ctx.Err()})
			continue
		}
		kept = append(kept, r)
	}
	return kept
}

// fly commits a plan's entries, on a goroutine of its own. One that failed is the last: what follows may depend on it.
func (c *Controller) fly(plan *machine.Plan) {
	l := landing{plan: plan}
	began := c.o.Clock.Now()
	for _, entry := range plan.Entries {
		ctx, cancel := context.WithTimeout(c.ctx, proposeTimeout)
		results, err := c.o.Meta.Propose(ctx, entry...)
		cancel()
		if err != nil {
			l.err = err
			if errors.Is(err, raftmeta.ErrNotLeader) {
				l.err = fmt.Errorf("%w: %w", ErrNotController, err)
			}
			break
		}
		l.results = append(l.results, results...)
	}
	c.o.Metrics.proposeSeconds.Observe(c.o.Clock.Now().Sub(began).Seconds())
	c.landed <- l
}

// land takes the outcome of a plan in.
func (c *Controller) land(l landing) {
	c.flight = false
	for _, a := range c.m.Complete(l.plan, l.results, l.err, c.o.Clock.Now()) {
		c.reply(a)
	}
	c.report(l)
}

func (c *Controller) report(l landing) {
	if l.err != nil {
		c.o.Metrics.failures.Inc()
		c.o.Logger.Warn("change of the cluster failed, what still has to be is decided anew", "commands_done", len(l.results), "entries", len(l.plan.Entries), "error", l.err)
		return
	}
	c.o.Metrics.count(l.plan)
	img := c.o.Meta.Image()
	for _, id := range l.plan.Fenced {
		if b := img.Broker(id); b != nil && b.ShuttingDown {
			c.o.Logger.Info("broker has left in good order", "broker", id)
			continue
		}
		c.o.Logger.Warn("broker fenced: it is not heard of, or asks for it; others lead what it led", "broker", id)
	}
	for _, id := range l.plan.Unfenced {
		c.o.Logger.Info("broker unfenced", "broker", id)
	}
	elected := 0
	for _, n := range l.plan.Elections {
		elected += n
	}
	if elected > 0 {
		c.o.Logger.Info("leaders elected", "partitions", elected, "unclean", l.plan.Elections[machine.ElectUnclean])
	}
}

// reply answers a request, once. The channel has room: nobody else sends.
func (c *Controller) reply(a machine.Answer) {
	r := a.Token.(*request)
	r.answer <- a
	requests, beats := 1, 0
	if r.beat {
		requests, beats = 0, 1
	}
	c.o.Metrics.queue.Set(float64(c.mail.answered(requests, beats)))
}

// arm sets the timer for what is due next. One that fires too early does no harm, so a session that goes on moves nothing.
func (c *Controller) arm() {
	at, ok := c.m.Deadline()
	if ok && c.flight { // nothing is decided before it lands; the timer only tells whether this process runs
		if tick := c.o.Clock.Now().Add(config.Millis(c.o.Config.BrokerSessionTimeoutMs) / 4); at.Before(tick) {
			at = tick
		}
	}
	if !ok {
		if c.timer != nil && !c.armed.IsZero() {
			c.timer.Stop()
			c.armed = time.Time{}
		}
		return
	}
	if !c.armed.IsZero() && !at.Before(c.armed) {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.armed = at
	c.timer = c.o.Clock.AfterFunc(max(0, at.Sub(c.o.Clock.Now())), func() { c.mail.fired(at) })
}

// end answers everybody.
func (c *Controller) end() {
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.flight {
		c.land(<-c.landed) // the context has ended, so Propose does
	}
	c.waiting = append(c.waiting, c.mail.take().requests...)
	c.refuse(ErrClosed)
	c.o.Metrics.setActive(false)
}
