package broker

import (
	"context"
	"time"

	"weir/internal/budget"
	"weir/netproto"
	"weir/replica"
)

// What a request's time went on is noted in its Budget by who does the work. A produce's stages are those of the part of it that was done last.

// produceEnd is the part of a produce that was done last: an append, a forward, or neither.
type produceEnd struct {
	append  *replica.Append
	forward *forward
}

// reserved notes the wait for room.
func (p *produce) reserved(waited time.Duration) {
	if waited > 0 {
		now := budget.At(p.b.clk.Now())
		p.r.Budget.Lap(budget.Handle, now-budget.Mark(waited))
		p.r.Budget.Lap(budget.Room, now)
	}
}

// account fills in the budget of a produce that is to be answered.
func (p *produce) account() {
	n := &p.r.Note
	n.Partitions, n.Error = 0, 0
	for i := range p.resp.Topics {
		rows := p.resp.Topics[i].Partitions
		n.Partitions += int32(len(rows))
		for j := range rows {
			if n.Error == 0 {
				n.Error = rows[j].ErrorCode
			}
		}
	}
	if p.end == (produceEnd{}) {
		p.end = p.latest()
	}
	switch {
	case p.end.append != nil:
		p.lapAppend(p.end.append)
	case p.end.forward != nil:
		p.lapForward(p.end.forward)
	}
}

// latest finds the part that was done last when all were done before the request had been looked at to its end.
func (p *produce) latest() (end produceEnd) {
	var at budget.Mark
	for i := range p.appends {
		a := &p.appends[i]
		if done := max(a.Times.Asked, a.Times.Locked, a.Times.Durable); done > at {
			at, end = done, produceEnd{append: a}
		}
	}
	for _, f := range p.away {
		if f.ended > at {
			at, end = f.ended, produceEnd{forward: f}
		}
	}
	return end
}

// lapAppend notes the stages of an append. One that failed or was given up has those that it got to, and the last of them until now.
func (p *produce) lapAppend(a *replica.Append) {
	b, t := &p.r.Budget, &a.Times
	to := a.Ctx.(*target).partition
	p.r.Note.Topic, p.r.Note.Partition = to.Topic(), to.Index()
	b.Lap(budget.Handle, t.Asked)
	b.Lap(budget.Lock, t.Locked)
	if t.Began > 0 {
		b.Lap(budget.WALQueue, t.Began)
	}
	switch {
	case t.Durable == 0 && t.Locked == 0:
	case t.Durable == 0 && t.Began == 0:
		b.Lap(budget.WALQueue, budget.At(p.b.clk.Now()))
	case t.Durable == 0:
		b.Lap(budget.WALWrite, budget.At(p.b.clk.Now()))
	default:
		b.Lap(budget.WALWrite, t.Durable)
		if a.AcksAll && t.Last != p.b.cfg.NodeID {
			b.Lap(budget.Replicate, budget.At(p.b.clk.Now()))
			p.r.Note.Role, p.r.Note.Node = budget.Slowest, t.Last
		}
	}
}

// lapForward notes the stages of a forward.
func (p *produce) lapForward(f *forward) {
	if t := p.b.meta.Image().TopicByID(f.parts[0].id); t != nil {
		p.r.Note.Topic, p.r.Note.Partition = t.Name, p.req.Topics[f.parts[0].topic].Partitions[f.parts[0].partition].Index
	}
	p.r.Note.Role, p.r.Note.Node = budget.Forwarded, f.leader
	p.r.Budget.Lap(budget.Handle, f.began)
	p.r.Budget.Lap(budget.Forward, f.ended)
}

// lapParked notes the wait of a fetch: what it asked for, or for memory.
func (f *fetch) lapParked() {
	if f.starved.Load() {
		f.r.Lap(budget.Room, f.b.clk.Now())
		return
	}
	f.r.Lap(budget.Wait, f.b.clk.Now())
}

// note says which partition a fetch was about: one with an error, else the one that gave most.
func (f *fetch) note(results []fetched) {
	n := &f.r.Note
	n.Partitions = int32(len(results))
	var most *fetched
	for i := range results {
		r := &results[i]
		if r.err != nil {
			n.Error, most = codeOf(r.err), r
			break
		}
		if most == nil || most.size() < r.size() {
			most = r
		}
	}
	if most != nil && most.partition != nil {
		n.Topic, n.Partition = most.partition.Topic(), most.partition.Index()
	}
}

// size is how much there is to send of a partition.
func (r *fetched) size() int {
	if r.rng == nil {
		return 0
	}
	return r.rng.Size()
}

type lapsKey struct{}

// withLaps has what is done with ctx be noted in the budget of a request. One goroutine at a time may use it.
func withLaps(ctx context.Context, r *netproto.Request) context.Context {
	return context.WithValue(ctx, lapsKey{}, r)
}

// lapsOf has what is done with ctx be noted where that of other is.
func lapsOf(ctx, other context.Context) context.Context {
	if r, ok := other.Value(lapsKey{}).(*netproto.Request); ok {
		return withLaps(ctx, r)
	}
	return ctx
}

// lap notes that all since the last mark was stage s, in the budget of the request that ctx is of, if it is of one.
func (b *Broker) lap(ctx context.Context, s budget.Stage) {
	if r, ok := ctx.Value(lapsKey{}).(*netproto.Request); ok {
		r.Lap(s, b.clk.Now())
	}
}
