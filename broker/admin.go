package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/budget"
	"weir/internal/clock"
)

// An administrative request is served where the controller is. The broker that a client asked forwards it there (forward.go). It is sent again if
// the answer, or the connection, says that nothing was done, and, in a form that does nothing twice, if that is not known (repeat.go). The client is
// answered when this node has applied what the controller did.

// adminCall is an administrative request on the controller: the same whether a client of this node sent it or another node forwarded it.
type adminCall struct {
	b    *Broker
	ctx  context.Context // ends when nobody waits any more
	peer string          // the client, for the log
	key  attemptKey
	// moved is set by a request that found nothing to do here, because another node should be the controller for it; doubt by one of which
	// it is not known what it did. See settled.
	moved bool
	doubt error
}

// adminHandler serves an administrative request on the controller. It may wait.
type adminHandler func(a *adminCall, req kmsg.Request) kmsg.Response

// adminFailure is the answer that tells one error of everything that a request asked for.
type adminFailure func(req kmsg.Request, code int16, message *string) kmsg.Response

var errNoController = errors.New("no controller is known")

// forwardRetry is how long a request waits for another controller before it tries the one that could not be reached once more.
const forwardRetry = 250 * time.Millisecond

// administer serves an administrative request of a client.
func (c *call) administer(a *api, req kmsg.Request) {
	ctx, cancel := c.b.adminContext(req)
	defer cancel()
	ctx = withLaps(ctx, c.r)
	c.reply(c.b.administer(ctx, a, req, origin{host: c.r.Conn.RemoteAddr(), clientID: c.r.ClientID}))
}

// createTopics has the controller create topics for this broker itself, and returns those that there are not, with the reason. One that somebody else has made
// meanwhile is fine.
func (b *Broker) createTopics(ctx context.Context, topics []kmsg.CreateTopicsRequestTopic) (failed map[string]error) {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.Topics = createTopicsVersion, topics
	if deadline, ok := ctx.Deadline(); ok {
		req.TimeoutMillis = int32(deadline.Sub(b.clk.Now()).Milliseconds())
	}
	resp := b.administer(ctx, apisByKey[createTopicsKey], req, origin{host: fmt.Sprintf("broker %d", b.cfg.NodeID)})
	for _, row := range resp.(*kmsg.CreateTopicsResponse).Topics {
		err := kerr.ErrorForCode(row.ErrorCode)
		if err == nil || errors.Is(err, kerr.TopicAlreadyExists) {
			continue
		}
		if row.ErrorMessage != nil {
			err = fmt.Errorf("%w: %s", err, *row.ErrorMessage)
		}
		if failed == nil {
			failed = map[string]error{}
		}
		failed[row.Topic] = err
	}
	return failed
}

const (
	createTopicsKey     = 19
	createTopicsVersion = 7
)

// adminContext bounds an administrative request: by the time that the client waits, by the broker's own bound, and by a disk that stalls, which would
// have the client wait for nothing.
func (b *Broker) adminContext(req kmsg.Request) (context.Context, context.CancelFunc) {
	limit := b.requestTimeout()
	if timed, ok := req.(kmsg.TimeoutRequest); ok && timed.Timeout() > 0 {
		limit = min(limit, time.Duration(timed.Timeout())*time.Millisecond)
	}
	return context.WithTimeout(b.untilStalled(), limit)
}

// administer has the controller serve a request, wherever it is, and waits until this node has applied the outcome. It tries again as long as ctx
// lasts.
func (b *Broker) administer(ctx context.Context, a *api, req kmsg.Request, from origin) kmsg.Response {
	last := errNoController
	b.lap(ctx, budget.Handle)
	try := b.newAttempts(a, req)
	for {
		changes := b.controllers.count()
		switch controller := b.controllerNow(); {
		case controller == b.cfg.NodeID:
			resp, err := b.runAdmin(ctx, a, try.request(req), from.host, try.key)
			if err == nil {
				return try.answer(resp)
			}
			if last = err; !try.failed(err) {
				return resp
			}
		case controller >= 0:
			resp, err := b.forward(ctx, controller, a, try.request(req), from, try.key)
			b.life.metrics.forward(err)
			if err == nil {
				return try.answer(resp)
			}
			if last = err; !try.failed(err) {
				return b.adminFailed(ctx, a, req, from, last)
			}
		}
		known := b.controllers.wait(ctx, b.clk, changes, forwardRetry)
		if b.lap(ctx, budget.Propose); !known {
			if try.doubt != nil {
				last = fmt.Errorf("%w; then: %v", try.doubt, last) // the first attempt decides what is certain
			}
			return b.adminFailed(ctx, a, req, from, last)
		}
	}
}

// adminFailed is the answer to a request that the controller did not answer. What may have been done is a timeout for the client.
func (b *Broker) adminFailed(ctx context.Context, a *api, req kmsg.Request, from origin, err error) kmsg.Response {
	code := kerr.RequestTimedOut.Code
	if nothingDone(err) {
		code = kerr.NotController.Code
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	if down := b.down(); down != nil {
		code = metaCode(down)
	}
	b.faults.Warn("administrative request failed", a.name, "api", a.name, "error", err, "peer", from.host)
	return a.fail(req, code, message(err))
}

// runAdmin serves a request on this node, which is the controller. The error says that another node has to be asked, because nothing was done
// (nothingDone), or because this one could not find out what was.
func (b *Broker) runAdmin(ctx context.Context, a *api, req kmsg.Request, peer string, key attemptKey) (kmsg.Response, error) {
	if err := b.down(); err != nil {
		return a.fail(req, metaCode(err), message(err)), fmt.Errorf("%w: %w", errNotReady, err)
	}
	call := &adminCall{b: b, ctx: ctx, peer: peer, key: key}
	resp := a.admin(call, req)
	switch {
	case call.doubt != nil:
		return resp, fmt.Errorf("%w: %w", errInDoubt, call.doubt)
	case call.moved:
		return resp, errNotController
	}
	return resp, nil
}

// controllerNow is the controller as far as this node knows, -1 if it knows none that has taken office. A single node is its own.
func (b *Broker) controllerNow() int32 {
	if !b.clustered() {
		return b.cfg.NodeID
	}
	id := b.meta.Image().ControllerID
	if id == b.cfg.NodeID && !b.meta.Leading() {
		return -1
	}
	return id
}

// changes counts events, and wakes who waits for the next one.
type changes struct {
	mu struct {
		sync.Mutex
		n    uint64
		next chan struct{} // closed with the next event; nil: nobody waits
	}
}

// happened counts one more.
func (c *changes) happened() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.n++
	if c.mu.next != nil {
		close(c.mu.next)
		c.mu.next = nil
	}
}

func (c *changes) count() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.n
}

// after returns a channel that is closed once there were more than n events.
func (c *changes) after(n uint64) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.n > n {
		return closedChannel
	}
	if c.mu.next == nil {
		c.mu.next = make(chan struct{})
	}
	return c.mu.next
}

// wait returns once there were more than n events or limit has passed; false: ctx ended before.
func (c *changes) wait(ctx context.Context, clk clock.Clock, n uint64, limit time.Duration) bool {
	late := make(chan struct{})
	t := clk.AfterFunc(limit, func() { close(late) })
	defer t.Stop()
	select {
	case <-c.after(n):
	case <-late:
	case <-ctx.Done():
		return false
	}
	return ctx.Err() == nil
}

var closedChannel = func() chan struct{} { c := make(chan struct{}); close(c); return c }()
