package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/internal/budget"
	"weir/netproto"
)

// origin is who sent a request in the first place.
type origin struct{ host, clientID string }

// What follows the header of a KeyForward request, version 0: how long the caller waits (ms, int32), client host and client id (each int16 length
// and bytes), the key of the attempts (16 bytes), API key and version (int16 each), and the body of the client's request as it is. Its response: a status (1 byte), the version of the
// metadata that has to be applied to see the outcome (int64), and the body of the answer.
const forwardVersion = 0

// Statuses of a forwarded request. All but forwardDone and forwardInDoubt say that nothing was done.
const (
	forwardDone          = 0
	forwardNotController = 1 // another node is, or none
	forwardNotReady      = 2 // the node starts or stops
	forwardMalformed     = 3 // not understood
	forwardInDoubt       = 4 // the node failed while it was at it
)

var (
	errNotController = errors.New("the node is not the controller")
	errNotReady      = errors.New("the node is not ready")
	errNotUnderstood = errors.New("the node does not understand the request")
	errInDoubt       = errors.New("the controller does not know what became of the request")
)

// forwardErrors are the errors behind the statuses.
var forwardErrors = map[byte]error{
	forwardNotController: errNotController, forwardNotReady: errNotReady, forwardMalformed: errNotUnderstood,
	forwardInDoubt: errInDoubt,
}

// nothingDone says that an error leaves no doubt: the request had no effect.
func nothingDone(err error) bool {
	if pe, ok := errors.AsType[*netproto.PeerError](err); ok {
		return !pe.Sent
	}
	return is(err, []error{errNoController, errNotController, errNotReady, errNotUnderstood})
}

// forwarded is a request in its envelope.
type forwarded struct {
	from    origin
	wait    time.Duration
	attempt attemptKey
	key     int16
	version int16
	body    []byte
}

func (f *forwarded) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(f.wait.Milliseconds()))
	b = appendString(b, f.from.host)
	b = appendString(b, f.from.clientID)
	b = append(b, f.attempt[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(f.key))
	b = binary.BigEndian.AppendUint16(b, uint16(f.version))
	return append(b, f.body...)
}

// parse reads what append wrote; body is a view.
func (f *forwarded) parse(b []byte) error {
	r := reader{b: b}
	f.wait = time.Duration(int32(r.uint32())) * time.Millisecond
	f.from.host, f.from.clientID = r.string(), r.string()
	copy(f.attempt[:], r.take(len(f.attempt)))
	f.key, f.version = int16(r.uint16()), int16(r.uint16())
	f.body = r.b
	if r.short {
		return fmt.Errorf("%w: forwarded request of %d bytes", netproto.ErrMalformed, len(b))
	}
	return nil
}

// forward sends a request to the controller and waits until its outcome is applied here.
func (b *Broker) forward(ctx context.Context, controller int32, a *api, req kmsg.Request, from origin, attempt attemptKey) (kmsg.Response, error) {
	f := forwarded{from: from, wait: b.requestTimeout(), attempt: attempt, key: req.Key(), version: req.GetVersion(), body: req.AppendTo(nil)}
	if deadline, ok := ctx.Deadline(); ok {
		f.wait = max(deadline.Sub(b.clk.Now()), 0)
	}
	asked, cancel := b.whileController(ctx, controller)
	answer, err := b.peers.Call(asked, controller, netproto.ClassAdmin, netproto.KeyForward, forwardVersion, f.append(nil))
	cancel()
	if err != nil {
		return nil, fmt.Errorf("forward %s to controller %d: %w", a.name, controller, err)
	}
	defer answer.Release()
	b.lap(ctx, budget.Forward)
	resp, version, err := forwardedAnswer(req, answer.Body)
	if err != nil {
		return nil, fmt.Errorf("forward %s to controller %d: %w", a.name, controller, err)
	}
	// The outcome is certain; that this node is late to see it is no reason to tell the client otherwise.
	err = b.meta.Await(ctx, version)
	if b.lap(ctx, budget.Apply); err != nil {
		b.faults.Warn("a change is not applied here yet", a.name, "api", a.name, "controller", controller, "version", version, "error", err)
	}
	return resp, nil
}

// movedGrace is how long a node that is not the controller any more has to say what became of a request.
const movedGrace = time.Second

// whileController is a context that ends, too, when another node has been the controller for a while: one that stands still answers nothing.
func (b *Broker) whileController(ctx context.Context, controller int32) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			next := b.controllers.after(b.controllers.count())
			if now := b.controllerNow(); now >= 0 && now != controller {
				break
			}
			select {
			case <-next:
			case <-ctx.Done():
				return
			}
		}
		defer b.clk.AfterFunc(movedGrace, cancel).Stop()
		<-ctx.Done()
	}()
	return ctx, cancel
}

// forwardedAnswer decodes the controller's answer to req.
func forwardedAnswer(req kmsg.Request, b []byte) (resp kmsg.Response, version uint64, err error) {
	r := reader{b: b}
	status := r.byte()
	version = r.uint64()
	if r.short {
		return nil, 0, fmt.Errorf("%w: answer of %d bytes", netproto.ErrMalformed, len(b))
	}
	if status != forwardDone {
		if err := forwardErrors[status]; err != nil {
			return nil, 0, err
		}
		return nil, 0, fmt.Errorf("%w: status %d", netproto.ErrMalformed, status)
	}
	resp = req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	if err := resp.ReadFrom(r.b); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", netproto.ErrMalformed, err)
	}
	return resp, version, nil
}

// serveForwarded serves a request that another node's client sent, and returns the answer for that node. It may wait, but not when node has ended.
func (b *Broker) serveForwarded(node context.Context, body []byte) []byte {
	var f forwarded
	if err := f.parse(body); err != nil {
		return forwardStatus(forwardMalformed)
	}
	a := apisByKey[f.key]
	if a == nil || a.admin == nil || f.version < a.min || f.version > a.max {
		return forwardStatus(forwardMalformed)
	}
	req, err := netproto.DecodeKmsg(&netproto.Request{APIKey: f.key, Version: f.version, Body: f.body})
	if err != nil {
		return forwardStatus(forwardMalformed)
	}
	if !b.meta.Leading() {
		return forwardStatus(forwardNotController)
	}
	ctx, cancel := context.WithTimeout(b.untilStalled(), min(f.wait, b.requestTimeout()))
	defer cancel()
	defer context.AfterFunc(node, cancel)()
	ctx = lapsOf(ctx, node)
	resp, err := b.runAdmin(ctx, a, req, f.from.host, f.attempt)
	for status, because := range forwardErrors {
		if errors.Is(err, because) {
			return forwardStatus(status)
		}
	}
	resp.SetVersion(f.version)
	out := append([]byte(nil), forwardDone)
	out = binary.BigEndian.AppendUint64(out, b.meta.Image().Version)
	return resp.AppendTo(out)
}

// forwardStatus is the answer that has no body.
func forwardStatus(status byte) []byte { return append([]byte{status}, make([]byte, 8)...) }
