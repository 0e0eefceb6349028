package netproto

import (
	"time"

	"weir/internal/budget"
)

// A request's budget begins when its last byte is there, or earlier by as long as its connection was not read for lack of room: that wait is the broker's
// doing, while the time that a client takes to send is not. It ends when the answer is written, or will never be.

// pauses are the waits for room of the frame that a connection's reader is at. It owns them.
type pauses struct {
	d     time.Duration
	until time.Time // the end of the last one
}

// pausedSince notes a wait; a zero time is none.
func (c *Conn) pausedSince(began time.Time) {
	if !began.IsZero() {
		c.paused.until = c.srv.clk.Now()
		c.paused.d += c.paused.until.Sub(began)
	}
}

// begin starts a request's budget when the handler is about to get it.
func (p *pauses) begin(r *Request, now time.Time) {
	b, received := &r.Budget, budget.At(r.Received)
	switch wait := budget.Mark(p.d); {
	case wait == 0:
		b.Begin(received)
	case p.until.After(r.Received): // the frame had been received with those before it
		until := budget.At(p.until)
		b.Begin(min(received, until-wait))
		b.Lap(budget.Queue, until-wait)
		b.Lap(budget.Room, until)
	default:
		b.Begin(received - wait)
		b.Lap(budget.Room, received)
	}
	b.Lap(budget.Queue, budget.At(now))
	*p = pauses{}
}

// written ends the budget of a request whose turn has come.
func (r *Request) written(start, end budget.Mark) {
	r.Budget.Lap(budget.RespondQueue, start)
	if r.payload != nil {
		r.Budget.Lap(budget.RespondWrite, end)
	}
	r.account()
}

// account hands the complete budget over.
func (r *Request) account() {
	s := r.Conn.srv
	s.metrics.observe(r.APIKey, &r.Budget)
	if s.opts.OnDone != nil {
		s.opts.OnDone(r)
	}
}

// Lap says that everything since the request's last mark was stage s.
func (r *Request) Lap(s budget.Stage, now time.Time) { r.Budget.Lap(s, budget.At(now)) }

// Bytes is the size of the request's frame and, in OnDone, of the answer's, 0 if there was none.
func (r *Request) Bytes() (request, response int) {
	if r.payload != nil {
		response = r.payload.frameSize()
	}
	return r.frameSize, response
}

// Dropped reports, in OnDone, that the answer was not sent because the connection had gone.
func (r *Request) Dropped() bool { return r.dropped }
